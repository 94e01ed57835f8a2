"""Results of many checkpoints -> runs: one training each, its checkpoints in the order of training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from nrc_probe.plain import printable
from nrc_probe.report.trainings import Copy, Found, Training, trainings
from nrc_probe.result import LayerResult, Result, Thresholds, conditions_met


@dataclass(frozen=True)
class Broken:
    """A file that holds no result, and why."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class Run:
    """Checkpoints of one training, scored with the same data and settings."""

    name: str
    """What tells this run from the others: its weight decay, its folder, ..."""
    folder: str
    results: tuple[Result, ...]
    """At least one, in the order of training."""
    labels: tuple[str, ...]
    """File names of the checkpoints."""
    clock: str
    """What `times` counts: "epoch", "step", or "checkpoint" where neither is known."""
    times: tuple[int, ...]
    copies: tuple[Copy, ...] = ()
    """What was left out, since another file says the same of the same checkpoint."""

    @property
    def final(self) -> Result:
        """The last checkpoint's result."""
        return self.results[-1]

    @property
    def thresholds(self) -> Thresholds:
        """The same in all of the run's results."""
        return self.final.settings.thresholds


@dataclass(frozen=True, eq=False, repr=False)  # a notebook should not print every number
class Study:
    """All runs, and the files that gave none."""

    runs: tuple[Run, ...]
    failed: tuple[Broken, ...] = ()
    """Checkpoints that could not be scored, with the reason that was recorded."""
    unread: tuple[Broken, ...] = ()
    """Files that look like results and cannot be read, and folders that cannot be listed."""
    others: int = 0
    """How many JSON files are about something else."""
    sources: tuple[Path, ...] = ()
    """The result files."""

    def __repr__(self) -> str:
        names = ", ".join(run.name for run in self.runs)
        return printable(f"<Study of {len(self.results)} results in {len(self.runs)} runs: {names}>")

    @property
    def results(self) -> tuple[Result, ...]:
        """Every result, run by run."""
        return tuple(result for run in self.runs for result in run.results)


def group_runs(found: Iterable[Found]) -> tuple[Run, ...]:
    """The runs, in natural order of their folders and weight decays; checkpoints by epoch, else by name."""
    groups = trainings(found)
    names = [_only_name(groups[0].members)] if len(groups) == 1 else _names([t.members[0] for t in groups])
    return tuple(_run(name, training) for name, training in zip(names, groups, strict=True))


def study_of(results: Result | Sequence[Result] | Study) -> Study:
    """One result, or several, as a study."""
    if isinstance(results, Study):
        return results
    several = [results] if isinstance(results, Result) else results
    return Study(group_runs(Found(result) for result in several))


def with_thresholds(result: Result, at: Thresholds) -> Result:
    """The same numbers, their conditions judged anew."""
    layers = tuple(replace(layer, conditions=_judged(layer, at)) for layer in result.layers)
    return replace(result, layers=layers, settings=replace(result.settings, thresholds=at))


def layer_names(results: Iterable[Result]) -> list[str]:
    """Names of all layers, in run order of the result that has most of them; others' own ones follow."""
    most_first = sorted(results, key=lambda result: -len(result.layers))
    return list(dict.fromkeys(layer.name for result in most_first for layer in result.layers))


# ----------------------------------------------------------------------------------------- grouping


def _judged(layer: LayerResult, at: Thresholds) -> dict[str, bool]:
    return conditions_met(layer.nrc1, layer.nrc2, layer.nrc3, layer.nrc4_ratio, at, layer.undecided)


def _run(name: str, training: Training) -> Run:
    members = training.members
    clock = _clock([item.result for item in members])
    if clock != "checkpoint":
        members = tuple(sorted(members, key=lambda item: getattr(item.result.checkpoint, clock)))
    results = tuple(item.result for item in members)
    times = (
        range(1, len(results) + 1)
        if clock == "checkpoint"
        else [getattr(result.checkpoint, clock) for result in results]
    )
    labels = tuple(item.place.name for item in members)
    return Run(name, str(members[0].place.parent), results, labels, clock, tuple(times), training.copies)


def _clock(results: Sequence[Result]) -> str:
    for name in ("epoch", "step"):
        if all(getattr(result.checkpoint, name) is not None for result in results):
            return name
    return "checkpoint"


# ------------------------------------------------------------------------------------------- naming


def _only_name(members: Sequence[Found]) -> str:
    """The folder's name; the checkpoint's where there is no folder and no other checkpoint."""
    place = members[0].place
    return place.parent.name or (place.name if len(members) == 1 else "run")


def _names(members: Sequence[Found]) -> list[str]:
    """The shortest words that tell the runs apart: weight decay alone, else the folder and more."""
    facets = _facets(members)
    if _all_differ(facets[0]):
        return facets[0]
    told = [""] * len(members)
    for facet in (facets[1], facets[0], *facets[2:]):
        longer = [f"{old}, {new}" if old else new for old, new in zip(told, facet, strict=True)]
        if len(set(longer)) > len(set(told)):
            told = longer
    return told if _all_differ(told) else [f"{name or 'run'} #{k}" for k, name in enumerate(told, 1)]


def _all_differ(texts: Sequence[str]) -> bool:
    return len(set(texts)) == len(texts)


def _facets(members: Sequence[Found]) -> list[list[str]]:
    results = [item.result for item in members]
    return [
        [_decay(result) for result in results],
        _apart([item.place.parent for item in members]),
        [result.model.summary for result in results],
        [f"data {result.data.path or 'in memory'}" for result in results],
        [f"rank {result.settings.rank}" for result in results],
        [f"{result.settings.pooling} pooling" for result in results],
        [f"rcond {result.settings.rcond:g}" for result in results],
        [f"{result.settings.precision}" for result in results],
        [f"{result.data.n} rows" for result in results],
        _apart([item.folder for item in members]),
    ]


def _decay(result: Result) -> str:
    decay = result.checkpoint.weight_decay
    return "weight decay unknown" if decay is None else f"weight decay {decay:g}"


def _apart(folders: Sequence[PurePath]) -> list[str]:
    """The folders without the part that all of them share."""
    parts = [folder.parts for folder in folders]
    common = _common(parts)
    return [
        "/".join(part[common:]) or folder.name or "." for part, folder in zip(parts, folders, strict=True)
    ]


def _common(parts: Sequence[tuple[str, ...]]) -> int:
    """How many leading parts are the same everywhere."""
    for place, column in enumerate(zip(*parts, strict=False)):
        if len(set(column)) > 1:
            return place
    return min(map(len, parts))
