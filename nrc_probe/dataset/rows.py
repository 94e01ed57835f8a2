"""The rows of an array that may be larger than memory: read block by block, cut into batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Blocks = Generator[Tensor, None, None]

BLOCK_BYTES = 4 * 2**20
"""What one read aims at: large enough to stream well, small enough to forget."""

_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.float64}
_NUMBERS = frozenset(
    str(dtype).removeprefix("torch.")
    for dtype in (
        *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    )
)


@dataclass(frozen=True, eq=False)  # eq=False: two readers of rows have no cheap equality
class Array:
    """A named array of which the rows can be read, in order, any number of times."""

    name: str
    shape: tuple[int, ...]
    """Rows first; () for a scalar."""
    dtype: str
    """"float32", "bfloat16", "int64", ...; for what is not a number, the file's own word."""
    blocks: Callable[[], Blocks]
    """Each call reads the rows anew: tensors (m, ...) of a bounded size; a scalar is one row."""

    @property
    def is_numeric(self) -> bool:
        """Whether the values are real numbers: no text, no objects, nothing complex."""
        return self.dtype in _NUMBERS

    def __str__(self) -> str:
        return f"{self.name} {self.shape}"


def numpy_array(name: str, array: np.ndarray[Any, Any]) -> Array:
    """An array in memory or mapped into it, read by blocks of rows."""

    def blocks() -> Blocks:
        for rows in spans(len(array), block_rows(array.shape, array.dtype.itemsize)):
            yield to_tensor(array[rows])

    return Array(name, array.shape, numpy_dtype(array.dtype), blocks)


def tensor_array(name: str, tensor: Tensor) -> Array:
    """A tensor as an Array of a single block: batches are cut from it without a copy."""
    dtype = torch_dtype(tensor) if tensor.layout == torch.strided else str(tensor.layout)
    rows = tensor.detach() if tensor.ndim else tensor.detach().reshape(1)
    return Array(name, tuple(tensor.shape), dtype, lambda: (widen(part.cpu()) for part in [rows]))


def numpy_dtype(dtype: np.dtype[Any]) -> str:
    """The name of a numpy type, whatever its byte order: "float32", "object", "str160"."""
    return dtype.newbyteorder("=").name


def torch_dtype(tensor: Tensor) -> str:
    """The name of a tensor's type, as numpy would write it."""
    return str(tensor.dtype).removeprefix("torch.")


def to_tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """The same numbers as a tensor of its own memory, in a type that torch computes with."""
    native = array.dtype.newbyteorder("=")
    return widen(torch.from_numpy(np.array(array, dtype=native, order="C")))


def widen(tensor: Tensor) -> Tensor:
    """The same numbers, where torch can only store the type: in the next type it computes with."""
    return tensor.to(_WIDER.get(tensor.dtype, tensor.dtype))


def block_rows(shape: tuple[int, ...], itemsize: int, chunk: int = 1) -> int:
    """How many rows make one block: about BLOCK_BYTES, in whole chunks, at least one chunk."""
    row_bytes = max(1, math.prod(shape[1:]) * itemsize)
    return max(1, BLOCK_BYTES // row_bytes // chunk) * chunk


def spans(n: int, rows: int) -> Iterator[slice]:
    """Slices of at most `rows` rows that cover n rows in order."""
    return (slice(start, min(start + rows, n)) for start in range(0, n, rows))


def rebatch(blocks: Blocks, size: int, limit: int | None = None) -> Iterator[Tensor]:
    """The rows of `blocks`, in order, `size` at a time; the last batch may be smaller.

    limit: rows after which nothing more is read.
    """
    parts: list[Tensor] = []
    held = 0
    for piece in _pieces(_first(blocks, limit), size):
        parts.append(piece)
        held += len(piece)
        if held == size:
            yield _joined(parts)
            parts, held = [], 0
    if parts:
        yield _joined(parts)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _pieces(blocks: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The blocks, cut wherever a multiple of `size` rows ends."""
    filled = 0
    for block in blocks:
        start = 0
        while start < len(block):
            piece = block[start : start + size - filled]
            yield piece
            start += len(piece)
            filled = (filled + len(piece)) % size


def _first(blocks: Blocks, limit: int | None) -> Iterator[Tensor]:
    """The first `limit` rows; the reader is closed as soon as it has given them."""
    left = math.inf if limit is None else limit
    with closing(blocks):  # at once, not when it is collected: it may hold a file
        while left > 0:
            block = next(blocks, None)
            if block is None:
                return
            yield block if len(block) <= left else block[: int(left)]
            left -= len(block)
