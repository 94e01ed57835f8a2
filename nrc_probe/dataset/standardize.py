"""Mean and deviation of inputs and targets: measured in one pass or read from a file; applied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nrc_probe.dataset.readers import read_contents
from nrc_probe.dataset.rows import Array
from nrc_probe.dataset.tables import Table
from nrc_probe.errors import DataError

ROLES = ("inputs", "targets")
_FILE_NAMES = {"inputs": ("inputs", "x"), "targets": ("targets", "y")}


@dataclass(frozen=True, eq=False)  # eq=False: `==` on tensors has no single answer
class Statistics:
    """What standardising subtracts and divides by: (mean, deviation), in the data's own units.

    None where the data are left as they are. A deviation of 0 divides by 1. All float64.
    """

    inputs: tuple[Tensor, Tensor] | None = None
    """(d,) each for inputs (n, d); one number a channel for inputs (n, channels, ...)."""
    targets: tuple[Tensor, Tensor] | None = None
    """(t,) each."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Which of "inputs" and "targets" are standardised."""
        return tuple(role for role in ROLES if getattr(self, role) is not None)


class Spread:
    """Accumulates mean and population deviation (ddof 0) of columns, one pass, any block sizes.

    Rows are shifted by the first one: a constant column then has a deviation of exactly 0.
    Source: Chan, Golub & LeVeque 1983.
    """

    def __init__(self) -> None:
        self._n = 0
        self._shift = self._mean = self._scatter = torch.zeros((), dtype=torch.float64)

    def add(self, block: Tensor) -> None:
        """Take in (n, c) or (n, channels, ...); the trailing dimensions count as rows."""
        rows = _by_channel(block)
        if not self._n:
            self._shift = rows[0].clone()
        rows = rows - self._shift
        mean = rows.mean(0)
        before, self._n = self._n, self._n + len(rows)
        delta = mean - self._mean
        between = delta**2 * (before * len(rows) / self._n)
        self._scatter = self._scatter + (rows - mean).square_().sum(0) + between
        self._mean = self._mean + delta * (len(rows) / self._n)

    def finish(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation, (c,) each."""
        return self._shift + self._mean, (self._scatter / self._n).sqrt()


def _by_channel(block: Tensor) -> Tensor:
    """(n, c) float64 from (n,), (n, c) or (n, c, ...)."""
    values = block.detach().cpu().double()
    if values.ndim == 1:
        return values[:, None]
    return values.movedim(1, -1).reshape(-1, values.shape[1])


def measure(batches: Iterable[tuple[object, Tensor]], roles: Iterable[str], place: str) -> Statistics:
    """The data's own statistics, from one pass over the batches (inputs, targets)."""
    spreads = {role: Spread() for role in roles}
    for inputs, targets in batches:
        values = {"inputs": inputs, "targets": targets}
        for role, spread in spreads.items():
            value = values[role]
            if not isinstance(value, Tensor):
                raise DataError(
                    f"{place}: {role} are a {type(value).__name__}, not one tensor: "
                    "standardise them in the data set itself"
                )
            spread.add(value)
    return Statistics(**{role: spread.finish() for role, spread in spreads.items()})


def apply(values: Tensor, statistics: tuple[Tensor, Tensor] | None) -> Tensor:
    """(values - mean) / deviation in float64; without statistics, the values."""
    if statistics is None:
        return values
    mean, deviation = (_along(part.to(values.device), values) for part in statistics)
    return (values.double() - mean) / torch.where(deviation == 0, 1.0, deviation)


def _along(part: Tensor, values: Tensor) -> Tensor:
    """`part` (c,) shaped to run along dimension 1 of `values`; other shapes fit as they are."""
    return part.reshape(-1, *[1] * (values.ndim - 2)) if part.ndim == 1 < values.ndim else part


def constant_notes(statistics: Statistics) -> tuple[str, ...]:
    """One line for inputs, one for targets, where a column does not vary."""
    notes = []
    for role in statistics.roles:
        places = (getattr(statistics, role)[1].flatten() == 0).nonzero().flatten().tolist()
        if places:
            shown = ", ".join(map(str, places[:8])) + (", ..." if len(places) > 8 else "")
            notes.append(f"{role}: {len(places)} constant (column {shown}): centred, not scaled")
    return tuple(notes)


def read_statistics(path: Path, place: str) -> tuple[Statistics, tuple[str, ...]]:
    """The statistics a file holds as inputs_mean, inputs_std, targets_mean, targets_std; notes.

    x_ and y_ do as well. A file may hold one of the two pairs; half a pair is an error.
    """
    arrays = read_contents(path, place)
    if isinstance(arrays, Table):
        raise DataError(f"{place}: a table; expected a file that holds {_expected()}")
    found = {role: _pair(arrays, role, place) for role in ROLES}
    if not any(found.values()):
        ambiguous = " (which of the two, 'mean' and 'std' do not say)" if "mean" in arrays else ""
        raise DataError(f"{place}: expected {_expected()}; it has {', '.join(arrays) or 'none'}{ambiguous}")
    missing = [role for role in ROLES if found[role] is None]
    notes = tuple(f"{place} holds no {role}_mean: {role} left as they are" for role in missing)
    return Statistics(**found), notes


def _expected() -> str:
    return ", ".join(f"{role}_{part}" for role in ROLES for part in ("mean", "std"))


def _pair(arrays: Mapping[str, Array], role: str, place: str) -> tuple[Tensor, Tensor] | None:
    mean, std = (
        next((f"{word}_{part}" for word in _FILE_NAMES[role] if f"{word}_{part}" in arrays), None)
        for part in ("mean", "std")
    )
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        absent = f"{role}_{'mean' if mean is None else 'std'}"
        raise DataError(f"{place}: has no {absent}; it has {', '.join(arrays)}")
    pair = _values(arrays[mean], place), _values(arrays[std], place)
    if not all(bool(part.isfinite().all()) for part in pair) or bool((pair[1] < 0).any()):
        raise DataError(f"{place}: {mean} and {std}: expected finite numbers, none of {std} below 0")
    return pair


def _values(array: Array, place: str) -> Tensor:
    if not array.is_numeric or 0 in array.shape:
        raise DataError(f"{place}: '{array.name}' holds {array.dtype} {array.shape}; expected numbers")
    values = torch.cat([block.double() for block in array.blocks()])
    return values.reshape(-1) if max(values.shape) == values.numel() else values


def check_fit(
    pair: tuple[Tensor, Tensor] | None, shape: tuple[int, ...] | None, role: str, place: str
) -> None:
    """Raise DataError unless the statistics fit samples of `shape`: one number, c numbers, or all.

    shape: None where the samples are not one tensor.
    """
    for part in pair or ():
        if shape is None:
            raise DataError(f"{place}: {role} are not one tensor: standardise them in the data set")
        if part.numel() != 1 and tuple(part.shape) not in (shape[:1], shape):
            raise DataError(
                f"{place}: one sample of the {role} has shape {shape}, "
                f"their mean or deviation {tuple(part.shape)}; expected {shape[:1]} or {shape}"
            )
