"""Result files and folders of them -> a Study; what is broken is named, not fatal."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nrc_probe.discovery import natural
from nrc_probe.errors import ConfigError, DataError, ProbeError
from nrc_probe.files import FILE, from_home, kind_of
from nrc_probe.report.study import Broken, Study, group_runs, with_thresholds
from nrc_probe.report.trainings import Found
from nrc_probe.result import SCHEMA, Result, Thresholds

_FAILED = ".failed.json"
_EXPECTED = "expected results as JSON (analyze --json)"


def read_results(
    *paths: str | Path,
    thresholds: Mapping[str, float] | None = None,
) -> Study:
    """Result files, and folders with such files at any depth, as runs in natural order.

    thresholds: judge the conditions by these ("nrc1", ...) instead of by what each result recorded.
    In folders, files that cannot be read and folders that cannot be listed stand in the study's `unread`,
    recorded failures in `failed`.
    Raises DataError for a path that is not there, a named file that is no result, or no result at all.
    """
    found: dict[Path, Found] = {}
    failed: list[Broken] = []
    unread: list[Broken] = []
    others, seen = 0, set[Path]()
    for path, named in _listed(paths, unread):
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        if path.name.endswith(_FAILED):
            failed.append(_failure(path))
            continue
        try:
            result = _read(path)
        except DataError as error:
            if named:
                raise
            unread.append(Broken(str(path), str(error).removeprefix(f"{path}: ")))
            continue
        if result is None and named:
            raise DataError(f"{path}: expected a result of schema {SCHEMA}, got JSON about something else")
        if result is None:
            others += 1
        else:
            found[path.resolve()] = Found(_judged(result, thresholds), path)
    if not found:
        raise DataError(_nothing(paths, failed, unread, others))
    return Study(group_runs(found.values()), tuple(failed), tuple(unread), others, tuple(found))


def _listed(paths: Sequence[str | Path], unread: list[Broken]) -> Iterator[tuple[Path, bool]]:
    """Files, and whether each was named itself; what keeps from looking into folders goes to `unread`."""
    for path in map(from_home, paths):
        kind = _kind(path)
        if kind == "a folder":
            inside, beyond = _inside(path)
            unread += beyond
            yield from ((file, False) for file in inside)
        elif kind == FILE:
            yield path, True
        else:
            got = kind or "no such file or folder"
            raise DataError(f"{path}: {got}; {_EXPECTED}")


def _inside(folder: Path) -> tuple[list[Path], list[Broken]]:
    """JSON files at any depth, in natural order, and what might be such a file or hold some.

    Links to folders are not followed. Raises DataError where `folder` itself cannot be listed.
    """
    files: list[Path] = []
    beyond: list[Broken] = []

    def refused(error: OSError) -> None:
        place, reason = Path(error.filename or folder), error.strerror or str(error)
        if place == folder:
            raise DataError(f"{folder}: the folder cannot be listed: {reason}") from error
        beyond.append(Broken(str(place), f"the folder cannot be listed: {reason}"))

    for place, _, names in os.walk(folder, onerror=refused):
        for path in (Path(place, name) for name in names if name.endswith(".json")):
            reason = _no_file(path)
            if reason is None:
                files.append(path)
            else:
                beyond.append(Broken(str(path), reason))
    return sorted(files, key=natural), sorted(beyond, key=lambda broken: natural(Path(broken.path)))


def _no_file(path: Path) -> str | None:
    """Why a path that a folder lists is no file; None where it is one."""
    try:
        kind = kind_of(path)
    except OSError as error:
        return error.strerror or str(error)
    return None if kind == FILE else f"expected a file, got {kind or 'a link to nothing'}"


def _kind(path: Path) -> str | None:
    try:
        return kind_of(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; expected results as JSON") from error


def _read(path: Path) -> Result | None:
    """The result in a file; None where it is JSON about something else in a folder."""
    try:
        text = path.read_text(encoding="utf-8")
        body = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        way_out = "run the analysis again" if path.suffix == ".json" else _EXPECTED
        raise DataError(f"{path}: {reason or f'not JSON ({error})'}; {way_out}") from error
    if not isinstance(body, dict) or "schema" not in body:
        return None
    try:
        return Result.from_json(text)
    except ProbeError as error:
        raise DataError(f"{path}: {error}") from error


def _failure(path: Path) -> Broken:
    """What a recorded failure says; a record that cannot be read says so itself."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        return Broken(str(body.get("checkpoint", path)), str(body.get("reason", "no reason was recorded")))
    except (OSError, ValueError, AttributeError, RecursionError):
        return Broken(str(path), "the record of the failure cannot be read")


def _judged(result: Result, thresholds: Mapping[str, float] | None) -> Result:
    if not thresholds:
        return result
    for name, value in thresholds.items():
        if not math.isfinite(value):
            raise ConfigError(f"threshold {name} must be a number, got {value!r}")
        if name not in Thresholds.__dataclass_fields__:
            known = ", ".join(Thresholds.__dataclass_fields__)
            raise ConfigError(f"threshold '{name}' is unknown; there are: {known}")
    return with_thresholds(result, replace(result.settings.thresholds, **thresholds))


def _nothing(
    paths: Sequence[str | Path],
    failed: Sequence[Broken],
    unread: Sequence[Broken],
    others: int,
) -> str:
    counts = ((len(failed), "recorded failures"), (len(unread), "unreadable"), (others, "other JSON files"))
    there = ", ".join(f"{count} {kind}" for count, kind in counts if count) or "no JSON file"
    where = ", ".join(map(str, paths)) or "no path"
    way_out = "make them with 'nrc-probe analyze --json'"
    return f"{where}: expected results of schema {SCHEMA}, found {there} ({way_out})"
