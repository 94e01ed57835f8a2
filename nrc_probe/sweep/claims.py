"""Who works on what: lock files that hold between processes and machines, and outlive none of them.

A claim is a file that only one process can create (O_EXCL). It names its owner. On the same machine
an owner that no longer runs has lost it at once; of an owner elsewhere only the file's age tells,
which the owner renews. A lost claim is taken over by whoever holds the kernel's lock (flock) on it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from uuid import uuid4

from nrc_probe.files import FILE, kind_of

_HEARTBEAT_SECONDS = 15.0
_SILENT_SECONDS = 150.0
"""After so long without a heartbeat an owner on another machine counts as gone."""
_WRITING_SECONDS = 2.0
"""So old, a claim that names no owner was left by one that died while writing it."""
_OWNER_BYTES = 4096
"""More than any owner writes."""


@dataclass(eq=False)
class Claim:
    """The right to work on one thing, until it is released."""

    path: Path
    token: str
    """Unique; also the mark of the owner's temporary files beside the claim."""
    _released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Give the right back; a claim that others took over meanwhile stays theirs."""
        self._released.set()
        if _owner(self.path).get("token") == self.token:
            self.path.unlink(missing_ok=True)

    def renew_now_and_then(self) -> None:
        """Keep the file young, in a thread of its own, until the claim is released."""
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._released.wait(_HEARTBEAT_SECONDS):
            try:
                os.utime(self.path)
            except OSError:
                return


def take(path: Path) -> Claim | None:
    """The claim at `path`; None where somebody who still runs has it.

    Raises OSError where the folder cannot be written.
    """
    claim = _create(path)
    if claim is None and _clear_if_lost(path):
        claim = _create(path)
    if claim:
        claim.renew_now_and_then()
    return claim


def _create(path: Path) -> Claim | None:
    token = uuid4().hex[:12]
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return None
    try:
        _write(handle, path, json.dumps({"token": token, **_myself()}).encode())
        # a process that was stopped between these lines may have lost the claim meanwhile
        return Claim(path, token) if _is_at(handle, path) else None
    finally:
        os.close(handle)


def _write(handle: int, path: Path, content: bytes) -> None:
    """Write all of it, or leave no claim: what a full disk cuts short names no owner."""
    try:
        while content:
            content = content[os.write(handle, content) :]
    except OSError:
        if _is_at(handle, path):
            path.unlink(missing_ok=True)
        raise


def _clear_if_lost(path: Path) -> bool:
    """Remove a claim, and the temporary files of its owner, if the owner is gone."""
    if not _is_lost(path):
        return False
    if not _is_file(path):
        return _remove_what_is_no_claim(path)
    with _alone_with(path) as still_there:
        if not (still_there and _is_lost(path)):
            return False
        token = _owner(path).get("token")
        if isinstance(token, str) and token.isalnum():
            for left in path.parent.glob(f".*.{token}.*.tmp"):
                left.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        return True


def _remove_what_is_no_claim(path: Path) -> bool:
    """Remove a link, pipe or the like, which no process left as a claim; OSError for a folder.

    Under the kernel's lock on the folder: whoever comes second must not remove the first one's claim.
    """
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not _is_lost(path) or _is_file(path):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(handle)


@contextmanager
def _alone_with(path: Path) -> Iterator[bool]:
    """Holding the kernel's lock on the file at `path`; whether it is still the file there."""
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield _is_at(handle, path)
    finally:
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


# ---- owners


def _is_lost(path: Path) -> bool:
    """Whether the owner of an existing claim is gone; False where the claim is."""
    if not _is_file(path):
        return os.path.lexists(path)
    owner = _owner(path)
    if owner.get("place") == _place() and isinstance(owner.get("pid"), int):
        return not _runs(owner)
    patience = _SILENT_SECONDS if owner else _WRITING_SECONDS
    try:
        # or as far in the future: a clock was set back since, and nobody renews it
        return abs(_now(path.parent) - path.stat().st_mtime) > patience
    except OSError:
        return False


def _is_file(path: Path) -> bool:
    """Whether a file lies at `path` itself: a claim is no link, pipe or folder."""
    try:
        return not path.is_symlink() and kind_of(path) == FILE
    except OSError:
        return False


def _owner(path: Path) -> Mapping[str, object]:
    """What the claim says of its owner; empty where it cannot be read."""
    try:
        if not _is_file(path):
            return {}
        with path.open("rb") as file:
            owner = json.loads(file.read(_OWNER_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _myself() -> dict[str, object]:
    pid = os.getpid()
    return {"place": _place(), "pid": pid, "started": _started(pid)}


def _runs(owner: Mapping[str, object]) -> bool:
    pid = owner["pid"]
    assert isinstance(pid, int)
    if pid < 1:
        return False  # to the kernel 0 and -1 mean many processes, which do run
    silent: list[str | None] = [""]
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        silent.append(None)  # it runs, under another user, whom the system may hide
    started = _started(pid)
    return started in silent or started == owner.get("started")


def _started(pid: int) -> str | None:
    """When the process started, in the kernel's words: a number may be given to another process.

    None for a process that has ended; "" where the system does not say.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else ""
    except OSError:
        return ""
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started  # Z: dead, and not yet waited for by its parent


@cache
def _place() -> str:
    """What tells machines apart, also after a restart, and containers, which number processes anew."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _now(folder: Path) -> float:
    """The time on the clock that dates the files in `folder`, perhaps another machine's."""
    with tempfile.TemporaryFile(dir=folder) as file:  # without a name, which a kill would leave
        return os.fstat(file.fileno()).st_mtime
