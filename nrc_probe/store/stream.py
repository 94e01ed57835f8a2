"""Rows on their way into a growing data set, whole chunks at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nrc_probe.dataset.rows import block_rows, spans
from nrc_probe.errors import StoreError
from nrc_probe.store.layout import (
    chunk_rows,
    compression_options,
    file_type,
    label,
    torch_type,
    word_sum,
    write_label,
)

_SUMS_CHUNK, _SUM_BYTES = 1024, 8


def checks_name(name: str) -> str:
    """Where the check sums of the chunks of data set `name` lie."""
    return f"{name}_checksums"


def checked_blocks(group: Any, name: str) -> Iterator[np.ndarray[Any, Any]]:
    """The rows of a data set in whole chunks, each chunk read once and held against its check sum, if it has.

    Raises StoreError where one differs.
    """
    dataset = group[name]
    sums = group[checks_name(name)][()] if checks_name(name) in group else None
    chunk = dataset.chunks[0] if dataset.chunks else 1
    rows = block_rows(dataset.shape, dataset.dtype.itemsize, chunk)
    if sums is not None and sums.shape != (-(-len(dataset) // chunk),):
        raise StoreError(f"'{dataset.name}': expected a check sum a chunk of {chunk} rows, got {sums.shape}")
    for span in spans(len(dataset), rows):
        values = dataset[span]
        if sums is not None:
            _check(values, sums[span.start // chunk :], f"'{dataset.name}'", span.start, chunk)
        yield values


def _check(
    values: np.ndarray[Any, Any], sums: np.ndarray[Any, Any], name: str, start: int, chunk: int
) -> None:
    for expected, span in zip(sums, spans(len(values), chunk), strict=False):
        if expected != word_sum(values[span]):
            raise StoreError(
                f"{name}, rows {start + span.start} to {start + span.stop - 1}: damaged, "
                "their check sum differs"
            )


class Stream:
    """One data set (n, d), its chunk in the making, and the check sums of the chunks that are written."""

    def __init__(self, group: Any, name: str, start: int = 0) -> None:
        """start: how many of its rows will not be shown again."""
        self._dataset, self._checks = group[name], group[checks_name(name)]
        self._filters = bool(self._dataset.id.get_create_plist().get_nfilters())
        self._chunk = torch.empty(self._dataset.chunks, dtype=torch_type(label(self._dataset, "dtype")))
        self._filled = 0
        self._sums: list[np.uint64] = []
        self.written = self._there = int(self._dataset.shape[0])
        """Rows in the file, whole chunks."""
        self._passed_over = self._there - start
        self._shown = start

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self._chunk.shape[1]

    def bytes_to_come(self, samples: int, rows: int) -> int:
        """What `rows` samples add to the file, before compression, as far as the first `samples` tell.

        The last chunk is as large as the others, and so is that of check sums.
        """
        each = self._shown / samples if samples else 1.0
        chunks = -(-max(0, round(each * rows) - self._there) // len(self._chunk))
        chunks_of_sums = -(-chunks // _SUMS_CHUNK)
        return chunks * self._chunk.nbytes + chunks_of_sums * _SUMS_CHUNK * _SUM_BYTES

    def add(self, rows: Tensor) -> bool:
        """Take in (m, d); False where a number is too large for the type in which it is stored."""
        self._shown += len(rows)
        known = min(self._passed_over, len(rows))
        self._passed_over -= known
        rows, fits = rows[known:], True
        narrow = torch.finfo(self._chunk.dtype).max < torch.finfo(rows.dtype).max
        as_it_is = rows.dtype == self._chunk.dtype and rows.device.type == "cpu" and rows.is_contiguous()
        while len(rows):
            piece = rows[: len(self._chunk) - self._filled]
            if as_it_is and len(piece) == len(self._chunk):
                self._write(piece, len(piece))
            else:
                fits = self._keep(piece, narrow) and fits
            rows = rows[len(piece) :]
        return fits

    def _keep(self, piece: Tensor, narrow: bool) -> bool:
        """Put rows into the chunk, and the chunk into the file once it is full; False as for `add`."""
        room = self._chunk[self._filled : self._filled + len(piece)]
        room.copy_(piece)
        fits = not (narrow and bool(room.isinf().any()))
        self._filled += len(piece)
        if self._filled == len(self._chunk):
            self._write(self._chunk, self._filled)
            self._filled = 0
        return fits

    def finish(self) -> None:
        """Write the rows that fill no chunk, and all check sums."""
        if self._filled:
            self._chunk[self._filled :] = 0
            self._write(self._chunk, self._filled)
        self.save_sums()

    def save_sums(self) -> None:
        """Write the check sums of the chunks that were written since the last time."""
        first = self._checks.shape[0]
        if self._sums:
            self._checks.resize(first + len(self._sums), 0)
            self._checks[first:] = self._sums
            self._sums = []

    def _write(self, chunk: Tensor, filled: int) -> None:
        first = self.written
        self.written += filled
        self._dataset.id.set_extent((self.written, self.width))
        values = _as_stored(chunk)
        if self._filters:
            self._dataset[first:] = values[:filled]
        else:  # past HDF5's own copy of a chunk
            self._dataset.id.write_direct_chunk((first, 0), values)
        self._sums.append(word_sum(values[:filled]))


def create_rows(group: Any, name: str, width: int, dtype: str, compression: str, rows: int | None) -> Stream:
    """A new data set (0, width), for about `rows` rows, and what fills it."""
    dataset = group.create_dataset(
        name,
        (0, width),
        file_type(dtype),
        maxshape=(None, width),
        chunks=(chunk_rows(width, dtype, rows), width),
        **compression_options(compression),
    )
    write_label(dataset, "dtype", dtype)
    group.create_dataset(checks_name(name), (0,), "<u8", maxshape=(None,), chunks=(_SUMS_CHUNK,))
    return Stream(group, name)


def _as_stored(chunk: Tensor) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = (
        chunk.view(torch.uint16) if chunk.dtype == torch.bfloat16 else chunk
    ).numpy()
    return array
