"""Which results are of one training, and which only repeat what another file says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePath

from nrc_probe.discovery import natural
from nrc_probe.result import Result

_Known = Mapping[object, set[object]]
"""What a folder of results says of each checkpoint and each epoch."""


@dataclass(frozen=True, eq=False)
class Found:
    """A result and the file it came from; None where it was never in one."""

    result: Result
    source: Path | None = None

    @property
    def place(self) -> PurePath:
        """The checkpoint's path, else the result file's."""
        return PurePath(self.result.checkpoint.path or self.source or "module")

    @property
    def folder(self) -> PurePath:
        """The folder of results: the file's own, without the end that the checkpoint's folder shares."""
        own = list(self.source.parent.parts) if self.source else []
        ends = list(self.place.parent.parts)
        while own and ends and own[-1] == ends[-1]:
            own.pop()
            ends.pop()
        return PurePath(*own)


@dataclass(frozen=True, eq=False)
class Copy:
    """A result of the same checkpoint, data and settings as another file's: no more evidence."""

    item: Found
    of: Found


@dataclass(frozen=True, eq=False)
class Training:
    """The results of one training, and the copies that were left out."""

    members: tuple[Found, ...]
    copies: tuple[Copy, ...]


def trainings(found: Iterable[Found]) -> list[Training]:
    """Results by training, in natural order of checkpoints' folders and weight decays, within it of names."""
    ordered = sorted(found, key=lambda item: (_order(item), natural(item.place)))
    groups: dict[tuple[object, ...], list[Found]] = {}
    for item in ordered:
        groups.setdefault(_kinship(item), []).append(item)
    return [_training(members) for group in groups.values() for members in _apart(group)]


def _order(item: Found) -> tuple[object, ...]:
    decay = item.result.checkpoint.weight_decay
    return (natural(item.place.parent), math.inf if decay is None else decay)


def _kinship(item: Found) -> tuple[object, ...]:
    """What checkpoints of one training share. Not the learning rate: schedules change it."""
    result = item.result
    return (
        item.place.parent,
        result.checkpoint.weight_decay,
        result.model.summary,
        (result.data.path, result.data.sha256),
        result.settings,
    )


def _apart(members: list[Found]) -> list[list[Found]]:
    """Kin by training: paths are often relative, so that folders of results tell two trainings apart.

    Folders that say different things of one checkpoint, or of one epoch, are of different trainings;
    with such ones about, only a folder that repeats another belongs to it.
    """
    folders: dict[object, dict[object, set[object]]] = {}
    for item in members:
        known = folders.setdefault(_own_folder(item), {})
        for time in _times(item):
            known.setdefault(time, set()).add(_evidence(item.result))
    if all(all(_agreements(a, b)) for a, b in combinations(folders.values(), 2)):
        return [members]
    several: list[dict[object, set[object]]] = []
    number_of = {folder: _joined(several, known) for folder, known in folders.items()}
    groups: dict[int, list[Found]] = {}
    for item in members:
        groups.setdefault(number_of[_own_folder(item)], []).append(item)
    return list(groups.values())


def _joined(several: list[dict[object, set[object]]], known: _Known) -> int:
    """The number of the training that a folder repeats, or of a new one; what it says is added there."""
    number = 0
    for told in several:
        agreements = _agreements(told, known)
        if agreements and all(agreements):
            break
        number += 1
    else:
        several.append({})
    for time, evidence in known.items():
        several[number].setdefault(time, set()).update(evidence)
    return number


def _agreements(one: _Known, other: _Known) -> list[bool]:
    """Of each checkpoint and epoch that both know: whether they say the same."""
    return [not one[time].isdisjoint(other[time]) for time in one.keys() & other.keys()]


def _own_folder(item: Found) -> Path | None:
    return item.source and item.source.parent


def _times(item: Found) -> Iterator[object]:
    """What there is one of in a training."""
    yield item.place
    if item.result.checkpoint.epoch is not None:
        yield item.result.checkpoint.epoch


def _evidence(result: Result) -> object:
    """What two results share of which one adds nothing to the other.

    Digests say what was read; where one is unknown, only the same numbers add nothing.
    """
    heldout = result.heldout
    read = [result.data, *([heldout.data] if heldout else [])]
    digests = (result.checkpoint.sha256, *(data.sha256 for data in read))
    forms = tuple((data.n, data.input_shape, data.target_dim, data.standardized) for data in read)
    numbers = repr((result.layers, heldout)) if None in digests else ""
    return (digests, forms, numbers)


def _training(members: Sequence[Found]) -> Training:
    seen: dict[object, Found] = {}
    copies = []
    for item in members:
        if item.source is None:  # given in Python: as many as were given
            continue
        first = seen.setdefault((item.place, _evidence(item.result)), item)
        if first is not item:
            copies.append(Copy(item, first))
    left_out = {id(copy.item) for copy in copies}
    return Training(tuple(item for item in members if id(item) not in left_out), tuple(copies))
