"""Where raw batches (inputs, targets) come from: two arrays, or a live data set or iterable."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from nrc_probe.dataset.naming import Choice
from nrc_probe.dataset.preparing import Batch, map_tensors
from nrc_probe.dataset.rows import (
    Array,
    numpy_array,
    rebatch,
    tensor_array,
    to_tensor,
    torch_dtype,
)
from nrc_probe.errors import DataError
from nrc_probe.memory import check_memory

_SAMPLE_ROWS = 10_000
_SAMPLE_BYTES = 2**26
_EXPECTED = "expected a torch Dataset or DataLoader, an iterable of batches (x, y), or two arrays"


@dataclass(frozen=True, eq=False)  # eq=False: it holds tensors
class Source:
    """Raw batches, and what can be said about them before the first pass."""

    n: int | None
    """Rows, where known."""
    shape: tuple[int, ...] | None
    """Of the inputs, rows first; None where they are not one tensor."""
    dtype: str
    """Of the inputs as stored: "uint8", "float32", ..."""
    sample: Tensor
    """The targets of the first rows, as stored."""
    pairs: Callable[[int, int | None], Iterator[Batch]]
    """(batch size, limit) -> raw batches."""
    is_live: bool = False
    """Whether inputs keep the form and type in which they come."""
    is_once: bool = False
    """Whether only one pass is possible."""
    notes: tuple[str, ...] = ()
    reading: str | None = None
    """Which parts of a file the rows are; None where they come from none."""


def array_source(choice: Choice, place: str) -> Source:
    """Two arrays of equally many rows; DataError where they are not numbers, or do not match."""
    for role, array in (("inputs", choice.inputs), ("targets", choice.targets)):
        _check_array(array, role, place)
    inputs, targets = choice.inputs, choice.targets
    if inputs.shape[0] != targets.shape[0]:
        raise DataError(
            f"{place}: inputs '{inputs.name}' have {inputs.shape[0]} rows, "
            f"targets '{targets.name}' have {targets.shape[0]}; expected as many"
        )
    if len(targets.shape) > 2:
        raise DataError(
            f"{place}: targets '{targets.name}' have shape {targets.shape}; expected (n,) or (n, t)"
        )
    notes = choice.notes
    if len(inputs.shape) == 1:
        inputs = _as_column(inputs)
        notes = (*notes, f"inputs ({inputs.shape[0]},) read as one column")

    row_bytes = sum(_row_bytes(array) for array in (inputs, targets))

    def pairs(size: int, limit: int | None) -> Iterator[Batch]:
        rows = min(size, limit or size, inputs.shape[0])
        check_memory(rows * row_bytes, f"{place}: a batch of {rows} rows")
        streams = (rebatch(array.blocks(), size, limit) for array in (inputs, targets))
        return zip(*streams, strict=True)

    width = math.prod(targets.shape[1:])
    check_memory(8 * width**2, f"{place}: the covariance of targets '{targets.name}', {width} wide,")
    rows = max(1, min(_SAMPLE_ROWS, _SAMPLE_BYTES // _row_bytes(targets)))
    sample = next(rebatch(targets.blocks(), rows, rows))
    return Source(
        inputs.shape[0], inputs.shape, inputs.dtype, sample, pairs, notes=notes, reading=choice.reading
    )


def _row_bytes(array: Array) -> int:
    """Of one row, in float64: what it is computed in at most."""
    return 8 * math.prod(array.shape[1:])


def _check_array(array: Array, role: str, place: str) -> None:
    if not array.is_numeric:
        raise DataError(f"{place}: {role} '{array.name}' hold {array.dtype}; expected real numbers")
    if not array.shape:
        raise DataError(f"{place}: {role} '{array.name}' are a single number; expected rows")
    if 0 in array.shape:
        empty = "no rows" if array.shape[0] == 0 else "no values in a row"
        raise DataError(f"{place}: {role} '{array.name}' have shape {array.shape}: {empty}")


def _as_column(array: Array) -> Array:
    return replace(
        array,
        shape=(array.shape[0], 1),
        blocks=lambda: (block[:, None] for block in array.blocks()),
    )


def as_arrays(source: object) -> Mapping[str, Array] | None:
    """The arrays of a pair (x, y) or of a mapping, by name; None for anything else."""
    if isinstance(source, tuple) and len(source) == 2:
        source = dict(zip(("x", "y"), source, strict=True))
    if not isinstance(source, Mapping) or not all(hasattr(part, "shape") for part in source.values()):
        return None
    return {
        str(name): tensor_array(str(name), part)
        if isinstance(part, Tensor)
        else numpy_array(str(name), np.asarray(part))
        for name, part in source.items()
    }


def live_source(source: object, place: str) -> Source:
    """A data set of samples, collated by torch; or an iterable of batches, taken as they come."""
    made, is_once = _batches_of(source, place)

    def pairs(size: int, limit: int | None) -> Iterator[Batch]:
        return _limited(_checked(made(size), place), limit)

    first = next(_checked(made(1), place), None)
    if first is None:
        raise DataError(f"{place}: no batches, the iterable is empty")
    inputs, targets = first
    is_tensor = isinstance(inputs, Tensor)
    return Source(
        n=_length(source),
        shape=tuple(inputs.shape) if is_tensor else None,
        dtype=torch_dtype(inputs) if is_tensor else "",
        sample=targets,
        pairs=pairs,
        is_live=True,
        is_once=is_once,
    )


def _batches_of(source: object, place: str) -> tuple[Callable[[int], Iterator[Any]], bool]:
    """What makes an iterator over the batches, of a given size; whether it can only once."""
    if _holds_samples(source):
        return lambda size: iter(DataLoader(source, batch_size=size)), False  # type: ignore[arg-type]
    if not isinstance(source, Iterable) or isinstance(source, Mapping | str | Tensor | np.ndarray):
        raise DataError(f"{place}: got a {type(source).__name__}; {_EXPECTED}")
    if isinstance(source, Iterator):
        return _once(source, place), True
    return lambda _: iter(source), False


def _holds_samples(source: object) -> bool:
    if isinstance(source, TorchDataset):
        return True
    sequence = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    return sequence and not isinstance(source, list | tuple | Mapping | str | Tensor | np.ndarray)


def _once(iterator: Iterator[Any], place: str) -> Callable[[int], Iterator[Any]]:
    """A look at the first batch, then one pass from the start; a second pass is refused."""
    seen: list[Any] = []
    passes = 0

    def start(_: int) -> Iterator[Any]:
        nonlocal passes
        passes += 1
        if passes == 1:
            seen.extend([first] if (first := next(iterator, None)) is not None else [])
            return iter(seen)
        if passes == 2:
            return chain(seen, iterator)
        raise DataError(
            f"{place}: this iterator is used up, it gives its batches once; "
            "pass a list, a DataLoader, or a function that makes it"
        )

    return start


def _checked(batches: Iterator[Any], place: str) -> Iterator[Batch]:
    """The batches as (inputs, targets) tensors with equally many rows."""
    number, width = 0, None
    while True:
        try:
            pair = _split(next(batches))
            width = _same_width(pair[1], width)
        except StopIteration:
            return
        except DataError as error:
            raise DataError(f"{place}: batch {number}: {error}") from error
        except Exception as error:  # the user's data set may fail in any way
            reason = f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}"
            raise DataError(f"{place}: batch {number} could not be made ({reason})") from error
        yield pair
        number += 1


def _split(batch: Any) -> Batch:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        size = f" of {len(batch)}" if isinstance(batch, Sized) else ""
        raise DataError(f"got a {type(batch).__name__}{size}; expected a pair (x, y)")
    inputs = _tensors(batch[0])
    targets = batch[1] if isinstance(batch[1], Tensor) else to_tensor(np.asarray(batch[1]))
    first = next(_leaves(inputs), None)
    if first is None or not first.ndim or not targets.ndim:
        raise DataError("got a single sample; expected tensors of several, rows first")
    if len(first) != len(targets):
        raise DataError(f"{len(first)} rows of inputs, {len(targets)} of targets; expected as many")
    return inputs, targets


def _same_width(targets: Tensor, expected: tuple[int, ...] | None) -> tuple[int, ...]:
    width = tuple(targets.shape[1:])
    if expected not in (None, width):
        raise DataError(f"one target has shape {width}, in the first batch {expected}")
    return width


def _leaves(tree: Any) -> Iterator[Tensor]:
    """The tensors in a tuple, list or mapping, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping | tuple | list):
        for part in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _leaves(part)


def _tensors(tree: Any) -> Any:
    """A tree with its numpy arrays as tensors."""
    if isinstance(tree, np.ndarray):
        return to_tensor(tree)
    if isinstance(tree, Mapping):
        return {key: _tensors(value) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        return tuple(_tensors(value) for value in tree)
    return tree


def _limited(pairs: Iterator[Batch], limit: int | None) -> Iterator[Batch]:
    if limit is None:
        yield from pairs
        return
    left = limit
    for inputs, targets in pairs:
        yield map_tensors(inputs, lambda part: part[:left]), targets[:left]  # noqa: B023  # used at once
        left -= len(targets)
        if left <= 0:
            return


def _length(source: object) -> int | None:
    """Rows of a data set, a loader that visits each of its rows once, or a list of batches."""
    if isinstance(source, DataLoader):
        plain = type(source.batch_sampler) is BatchSampler and not source.drop_last
        return _sized(source.sampler) if plain else None
    if isinstance(source, list | tuple):
        return sum(len(batch[1]) for batch in source)
    return _sized(source) if _holds_samples(source) and not isinstance(source, IterableDataset) else None


def _sized(source: object) -> int | None:
    return len(source) if isinstance(source, Sized) else None
