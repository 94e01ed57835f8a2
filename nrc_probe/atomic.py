"""Files appear whole or not at all: written to temporary siblings, then renamed."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nrc_probe.errors import OutputError
from nrc_probe.files import FILE, kind_of

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@contextmanager
def replacing(path: Path, mark: str = "") -> Iterator[Path]:
    """A temporary sibling to write to; it takes the place of `path` at the end, or goes on errors.

    A link stays, its target is replaced. mark: stands in the temporary's name, `.NAME.MARK.RANDOM.tmp`,
    for whoever clears up after a process that was killed. Raises OutputError where `path` cannot be
    written.
    """
    check_writable(path)
    with _refused(path):
        target = path.resolve()
        # the name is cut: with what is added it must not become longer than a name may be
        prefix = f".{target.name[:32]}.{mark}." if mark else f".{target.name[:32]}."
        temporary = target.with_name(f"{prefix}{secrets.token_hex(4)}.tmp")
        try:  # not mkstemp: interrupted before it tells the name, it would leave the file
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, mark: str = "") -> None:
    """Write `text` as UTF-8, whole or not at all; mark as in `replacing`. Raises OutputError."""
    with replacing(path, mark) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_all(contents: Mapping[Path, bytes]) -> None:
    """Write each content to its path. No file is touched before all can be. Raises OutputError."""
    with ExitStack() as renames:
        for path, content in contents.items():
            renames.enter_context(replacing(path)).write_bytes(content)


def check_writable(path: Path) -> None:
    """Raise OutputError where `path` could not be written: worth knowing before a long pass.

    Only a file has a place to take: what is written to a pipe or a device is never whole. What a
    link leads to would be replaced: it must be named like the link, as a data set is not.
    """
    with _refused(path):
        kind = kind_of(path)
        if kind not in (None, FILE):
            raise OutputError(_refusal(path, f"it is {kind}"))
        target = Path(os.path.realpath(path))
        if target.suffix != path.suffix and path.is_symlink():
            raise OutputError(_refusal(path, f"it is a link to '{target}', no {path.suffix} file"))
        folder = path.resolve().parent if path.is_symlink() else path.parent
        if not folder.is_dir():
            raise OutputError(_refusal(path, f"there is no folder '{folder}'"))
        if not os.access(folder, os.W_OK):
            raise OutputError(_refusal(path, f"the folder '{folder}' is not writable"))


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Turn what the system says against writing into an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(_refusal(path, error.strerror or str(error), way_out(error))) from error


def way_out(error: BaseException) -> str:
    """What to do where the system refuses to write."""
    full = isinstance(error, OSError) and error.errno in _FULL
    return "free some space, or name another file" if full else "name another file"


def _refusal(path: Path, reason: str, way: str = "name another file") -> str:
    return f"cannot write '{path}': {reason} ({way})"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
