"""A folder -> the checkpoints below it, in natural order. By their names alone: no file is opened."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PurePosixPath

from nrc_probe.checkpoint import SUFFIXES
from nrc_probe.errors import CheckpointError
from nrc_probe.files import FILE, kind_of

_INDEX = ".safetensors.index.json"
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]\d+)?)", re.IGNORECASE)

NaturalKey = tuple[tuple[tuple[int, float, str], ...], ...]


def find_checkpoints(
    folder: Path, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[PurePosixPath]:
    """Paths of the checkpoints below `folder`, relative to it, in natural order: 2 before 10.

    include, exclude: globs on the relative path or the name; an empty `include` takes all.
    Shards stand for themselves only where no index names them. A folder that is named like a
    checkpoint and holds none counts as a (broken) one, and so does a folder that cannot be listed,
    or a link that leads to itself. What is hidden is left out, and so are links to folders.
    Raises CheckpointError where `folder` is none, or cannot be listed.
    """
    if not folder.is_dir():
        what = "a file (use 'nrc-probe analyze')" if folder.exists() else "nothing there"
        raise CheckpointError(f"{folder}: expected a folder of checkpoints, got {what}")
    try:
        found = set(_below(folder))
    except OSError as error:
        place = error.filename or folder
        raise CheckpointError(f"{place}: the folder cannot be listed: {error.strerror or error}") from error
    relative = (PurePosixPath(path.relative_to(folder).as_posix()) for path in found)
    return sorted((path for path in relative if _wanted(path, include, exclude)), key=natural)


def matches(path: PurePosixPath, pattern: str) -> bool:
    """Whether a glob means this path: the whole of it, its name, or a folder that it lies in."""
    return any(
        fnmatchcase(text, pattern.rstrip("/"))
        for text in (path.name, str(path), *map(str, path.parents[:-1]))
    )


def natural(path: PurePath) -> NaturalKey:
    """A key that sorts numbers in names by their value, decimals and 1e-3 included."""
    return tuple(_pieces(part) for part in path.parts)


def _pieces(part: str) -> tuple[tuple[int, float, str], ...]:
    # a number sorts before a text; equal numbers, such as 01 and 1, by how they are written
    pieces = _NUMBER.split(part)
    return tuple(
        (0, float(piece), piece) if place % 2 else (1, 0.0, piece)
        for place, piece in enumerate(pieces)
        if piece
    )


def _wanted(path: PurePosixPath, include: Sequence[str], exclude: Sequence[str]) -> bool:
    taken = not include or any(matches(path, pattern) for pattern in include)
    return taken and not any(matches(path, pattern) for pattern in exclude)


def _below(folder: Path) -> Iterator[Path]:
    """Checkpoints in `folder` and the folders in it; an unreadable folder is an OSError."""
    with os.scandir(folder) as listing:
        entries = [entry for entry in listing if not entry.name.startswith(".")]
    names = [entry.name for entry in entries if _is_named_like_one(entry.name)]
    shards = _shards(folder, [name for name in names if name.endswith(_INDEX)])
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _inside(path) or ([path] if entry.name in names else [])
        elif entry.name in names and entry.name not in shards and not _leads_to_folder(entry):
            yield path


def _inside(folder: Path) -> list[Path]:
    """As `_below`; a folder that cannot be listed stands for what it holds: opening it says why."""
    try:
        return list(_below(folder))
    except FileNotFoundError:
        return []  # removed meanwhile
    except OSError:
        return [folder]


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself, say: opening it says what is wrong
        return False


def _is_named_like_one(name: str) -> bool:
    return name.endswith(SUFFIXES)


def _shards(folder: Path, indices: Iterable[str]) -> set[str]:
    """Names of the files in `folder` that are parts of what one of these indices describes."""
    shards: set[str] = set()
    for name in indices:
        try:
            if kind_of(folder / name) != FILE:
                continue
            places = json.loads((folder / name).read_bytes())["weight_map"]
            shards |= {place for place in places.values() if isinstance(place, str)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # opening it will say what is wrong
    return shards
