"""A data set whose batches stay in memory between passes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from nrc_probe.dataset.dataset import Dataset
from nrc_probe.dataset.preparing import Batch, map_tensors

_BYTES = (8, 8)
"""Of one prepared input, at most, and one target."""


def bytes_in_memory(dataset: Dataset) -> int | None:
    """Bytes of all prepared rows; None where the data are not in a file, or do not say."""
    if dataset.sha256 is None or dataset.n is None or dataset.input_shape is None:
        return None
    per_input, per_target = _BYTES
    return dataset.n * (math.prod(dataset.input_shape) * per_input + dataset.target_dim * per_target)


def keep_rows(dataset: Dataset) -> Dataset:
    """The same data set, of a file; its prepared batches stay in memory once they were all read."""
    kept: dict[tuple[int, int | None], list[Batch]] = {}

    def stream(batch_size: int, limit: int | None) -> Iterator[Batch]:
        if (batch_size, limit) in kept:
            yield from map(_lent, kept[batch_size, limit])
            return
        batches = []
        for batch in dataset.batches(batch_size, limit):
            batches.append(batch)
            yield _lent(batch)
        kept.clear()  # one cutting at a time: the bound holds
        kept[batch_size, limit] = batches

    return replace(dataset, _stream=stream)


def _lent(batch: Batch) -> Batch:
    """The batch with copies of its inputs: a network may write into them."""
    inputs, targets = batch
    return map_tensors(inputs, Tensor.clone), targets
