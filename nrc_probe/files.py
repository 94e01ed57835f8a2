"""What a path means and leads to. Only files are read: a pipe or a device may never end, or begin."""

from __future__ import annotations

import os
import stat
from pathlib import Path

FILE = "a file"
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind_of(path: Path) -> str | None:
    """`FILE`, "a folder", "a pipe", ..., links followed; None where nothing is there.

    Raises OSError where that cannot be found out, as of a link that leads to itself.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name with a null in it
        return None
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def shown(path: str) -> str:
    """`path` as it is shown: "runs/../data.npz" leads to "data.npz", unless runs is a link elsewhere."""
    return os.path.normpath(path) if ".." in Path(path).parts else path


def from_home(path: str | Path) -> Path:
    """`path` with a leading ~ written out; a user who is not there leaves it as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (pathlib's raises RuntimeError for such users)
