"""Files appear whole or not at all: written to a temporary sibling, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nrc_probe.errors import OutputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling to write to; it takes the place of `path` at the end, or goes on an error.

    Raises OutputError where `path` cannot be written.
    """
    check_writable(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
    except OSError as error:
        raise OutputError(_refusal(path, error.strerror or str(error))) from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(_refusal(path, error.strerror or str(error))) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all. Raises OutputError."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(path: Path) -> None:
    """Raise OutputError where `path` could not be written: worth knowing before a long pass."""
    if path.is_dir():
        raise OutputError(_refusal(path, "it is a folder"))
    if not path.parent.is_dir():
        raise OutputError(_refusal(path, f"there is no folder '{path.parent}'"))
    if not os.access(path.parent, os.W_OK):
        raise OutputError(_refusal(path, f"the folder '{path.parent}' is not writable"))


def _refusal(path: Path, reason: str) -> str:
    return f"cannot write '{path}': {reason} (name another file)"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
