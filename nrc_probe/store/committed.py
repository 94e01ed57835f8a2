"""A file that holds its last commit, whenever its process dies.

What is written beyond the committed size goes to the file at once: nothing there counts yet. What would
change committed bytes waits in memory. A commit writes these changes and the new size to a journal, which
takes its place beside the file by one rename, and then to the file itself; opening the file anew does the
latter once more. So only the rename decides, and it happens or it does not.

HDF5 writes through it, as through any Python file: large data directly, its own tables in commits. It is
about the death of a process; a machine that loses power may lose what its system had not yet written.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nrc_probe.errors import StoreError
from nrc_probe.files import FILE, kind_of

_NAME, _VERSION = b"nrcjrnl", b"2"
_HEAD = struct.Struct("<8sQQ")
"""Name and version, committed size, number of changes."""
_CHECK = struct.Struct("<I")
"""CRC-32 of all that precedes it: the journal's last bytes."""
_CHANGE = struct.Struct("<QQ")
"""Offset and length, before the bytes."""

_WAY_OUT = "remove it, or name another output"
_BEGIN_ANEW = "remove both, and begin anew"

Change = tuple[int, bytes]
"""Where, and what stands there."""


def journal_of(path: Path) -> Path:
    """Where the journal of `path` lies."""
    return path.with_name(f"{path.name}.journal")


def new_journal_of(path: Path) -> Path:
    """Where the next journal of `path` lies until it is whole; a kill may leave it."""
    return path.with_name(f"{path.name}.journal.new")


class CommittedView:
    """The last commit of a file, as a file object for h5py to read; the file is not touched."""

    def __init__(self, path: Path) -> None:
        """Raises StoreError where nothing was committed, OSError as open does."""
        self._size, changes = read_journal(path)
        self._changes = list(changes)
        self._place = 0
        self._handle = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        """Let the file go."""
        os.close(self._handle)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        """As of any file."""
        return self._place

    def readinto(self, buffer: memoryview) -> int:
        """As of any file, with the changes that are not in it yet; zeros behind its end."""
        view = memoryview(buffer).cast("B")
        content = os.pread(self._handle, len(view), self._place)
        view[: len(content)] = content
        view[len(content) :] = bytes(len(view) - len(content))
        _patch(view, self._place, self._changes)
        self._place += len(view)
        return len(view)

    def read(self, size: int) -> bytes:
        """As of any file; h5py tells by it that this is one."""
        content = bytearray(size)
        self.readinto(memoryview(content))
        return bytes(content)

    def flush(self) -> None:
        """Nothing waits that should not."""


class CommittedFile(CommittedView):
    """A file object for h5py to write; `commit` makes what was written so far the file's content.

    It stays locked against other processes until it is closed.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        """`create`: begin an empty file. Otherwise the last commit is restored; there must be one.

        Raises StoreError where another process writes the file, where it is a link or no ordinary file
        of one name, or where nothing was committed; OSError as open does.
        """
        self.failure: OSError | None = None
        """The first refusal to write: afterwards nothing is written, and `commit` raises it."""
        self._path, self._journal = path, journal_of(path)
        self._changes, self._place, self._size, self._committed = [], 0, 0, 0
        if create and not path.exists():  # whatever its journal is about, it is not the new file
            self._journal.unlink(missing_ok=True)
        _check_no_link(path)
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | (os.O_CREAT if create else 0)
        self._handle = os.open(path, flags, 0o666)
        try:
            _check_own(self._handle, path)
            _lock(self._handle, path)
            _check_still_there(self._handle, path)
            if create:
                _check_uncommitted(path)
                if os.fstat(self._handle).st_size:  # ext4 flushes a file that was truncated as it is closed
                    os.ftruncate(self._handle, 0)
            else:
                self._size, changes = read_journal(path)
                self._changes = list(changes)
                self._apply()
        except BaseException:
            os.close(self._handle)
            raise

    def status(self) -> os.stat_result:
        """Which file it is, whatever its name."""
        return os.fstat(self._handle)

    def commit(self) -> None:
        """Make all that was written so far the content that survives. Raises OSError."""
        if self.failure:
            raise self.failure
        waiting = new_journal_of(self._path)
        waiting.write_bytes(_packed(self._size, self._changes))
        waiting.replace(self._journal)
        self._apply()

    def give_up(self) -> None:
        """Write nothing more: closing the HDF5 file then changes nothing."""
        self.failure = self.failure or OSError("given up")

    def write(self, content: memoryview) -> int:
        """As of any file, but refusals are noted, not raised: HDF5 would be left amid its work."""
        view = memoryview(content).cast("B")
        inside = max(0, min(len(view), self._committed - self._place))
        if inside:
            self._changes.append((self._place, bytes(view[:inside])))
        self._attempt(lambda: _write_all(self._handle, view[inside:], self._place + inside))
        self._place += len(view)
        self._size = max(self._size, self._place)
        return len(view)

    def truncate(self, size: int) -> int:
        """As of any file; what was committed stays until the next commit. Refusals as of `write`."""
        self._size = size
        self._attempt(lambda: os.ftruncate(self._handle, max(size, self._committed)))
        return size

    def _attempt(self, change: Callable[[], None]) -> None:
        if self.failure is None:
            try:
                change()
            except OSError as error:
                self.failure = error

    def _apply(self) -> None:
        for offset, content in self._changes:
            _write_all(self._handle, memoryview(content), offset)
        os.ftruncate(self._handle, self._size)
        self._committed, self._changes = self._size, []


def read_journal(path: Path) -> tuple[int, Sequence[Change]]:
    """The size of the last commit of `path`, and the changes that it may lack.

    Raises StoreError where there is no journal, or it is not whole.
    """
    if kind_of(journal_of(path)) not in (FILE, None):  # a pipe may never end
        raise StoreError(f"{path}: its journal '{journal_of(path).name}' is no ordinary file (remove it)")
    place = f"{path}: its journal '{journal_of(path).name}'"
    try:
        content = journal_of(path).read_bytes()
        if content.startswith(_NAME) and not content.startswith(_NAME + _VERSION):
            raise StoreError(f"{place} is of another version of nrc-probe ({_BEGIN_ANEW})")
        whole, check = content[: -_CHECK.size], content[-_CHECK.size :]
        magic, size, count = _HEAD.unpack_from(whole)
        if magic != _NAME + _VERSION or _CHECK.unpack(check) != (zlib.crc32(whole),):
            raise ValueError
        return size, list(_unpacked(whole[_HEAD.size :], count))
    except FileNotFoundError as error:
        raise StoreError(f"{place} is missing ({_BEGIN_ANEW})") from error
    except (ValueError, struct.error) as error:
        raise StoreError(f"{place} is damaged ({_BEGIN_ANEW})") from error


def _packed(size: int, changes: Sequence[Change]) -> bytes:
    rest = b"".join(_CHANGE.pack(offset, len(content)) + content for offset, content in changes)
    whole = _HEAD.pack(_NAME + _VERSION, size, len(changes)) + rest
    return whole + _CHECK.pack(zlib.crc32(whole))


def _unpacked(rest: bytes, count: int) -> Iterator[Change]:
    place = 0
    for _ in range(count):
        offset, length = _CHANGE.unpack_from(rest, place)
        place += _CHANGE.size
        yield offset, rest[place : place + length]
        place += length


def _patch(view: memoryview, start: int, changes: Sequence[Change]) -> None:
    """Put into `view`, which shows the file from `start`, the changes that meet it."""
    for offset, content in changes:
        first, last = max(offset, start), min(offset + len(content), start + len(view))
        if first < last:
            view[first - start : last - start] = content[first - offset : last - offset]


def _write_all(handle: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def _check_no_link(path: Path) -> None:
    if path.is_symlink():
        raise StoreError(f"{path}: is a link: what it leads to would be written over ({_WAY_OUT})")


def _check_own(handle: int, path: Path) -> None:
    """Raise StoreError where what is open has other names too, or is no ordinary file."""
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path}: expected an ordinary file ({_WAY_OUT})")
    if found.st_nlink > 1:
        raise StoreError(f"{path}: has {found.st_nlink} names: the others would be written over ({_WAY_OUT})")


def _check_still_there(handle: int, path: Path) -> None:
    """Raise StoreError where what is open has lost its name before it was locked: it may be whole."""
    try:
        there = os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        there = False
    if not there:
        raise StoreError(f"{path}: another process has just finished or removed it (try again)")


def _check_uncommitted(path: Path) -> None:
    """Raise StoreError where others have committed something while they were not looked for."""
    if journal_of(path).exists():
        raise StoreError(f"{path}: another process has just written it (try again)")


def _lock(handle: int, path: Path) -> None:
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock

        flock(handle, LOCK_EX | LOCK_NB)
    except BlockingIOError as error:
        raise StoreError(f"{path}: another process is writing it (wait, or name another file)") from error
    except (ImportError, OSError):  # there are no locks here: two writers are the user's own affair
        return
