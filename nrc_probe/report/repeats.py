"""Which results are no more evidence, and which run may mix trainings, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath

from nrc_probe.report.study import Run, Study


def repeats(study: Study) -> Iterator[str]:
    """A sentence a folder of copies, and a sentence a run with different files of one path."""
    copies = [copy for run in study.runs for copy in run.copies]
    pairs = Counter((copy.item.folder, copy.of.folder) for copy in copies)
    for (folder, other), count in pairs.items():
        yield _copied(folder, other, count)
    for run in study.runs:
        yield from _mixed(run)


def _copied(folder: PurePath, other: PurePath, count: int) -> str:
    kind, repeat = ("1 result", "repeats") if count == 1 else (f"{count} results", "repeat")
    whose = "others there" if folder == other else f"{other}"
    return f"{folder}: {kind} left out, which {repeat} {whose}: the same checkpoints, data and settings"


def _mixed(run: Run) -> Iterator[str]:
    files = {(result.checkpoint.path, result.checkpoint.sha256) for result in run.results}
    several = [path for path, count in Counter(path for path, _ in files).items() if path and count > 1]
    if several:
        more = f" and {len(several) - 1} more paths" if len(several) > 1 else ""
        yield f"{run.name}: results of different files at {min(several)}{more}; the run may mix trainings"
