"""Sums of rowsᵀ rows: made by the caller, or by threads beside a forward pass.

A forward pass and the products of its features cost about the same. Split over all cores, both would
wait for their slowest part after every small step, and the thread pools of torch and BLAS would spin on
each other's cores. So where BLAS keeps to one thread, half of the threads are lanes, each of which
makes whole products of its own layers while torch goes on with the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nrc_probe.lapack import add_gram
from nrc_probe.pools import blas_has_one_thread

_AHEAD = 3
"""Batches that may wait for a lane, or be in it; a caller who has more multiplies them meanwhile."""
_MOST_LANES = 8
_ROWS = 2048
"""Rows that are shifted and multiplied at once: bounds the buffers, whatever the batch size."""
_CACHED_ROWS = 576
"""Rows of one float64 product, so few that they are still in the cache when they are read."""
_COLUMN_BLOCKS = 8
_SMALL = 128
"""Below this width one whole product is faster than several small ones."""


@dataclass(frozen=True, eq=False)
class Rows:
    """One batch side by side: features, targets, and a column of ones, whose products are sums.

    Products are made in the type of `shift` and on its device.
    """

    features: Tensor
    """(n, d), any float type."""
    targets: Tensor
    """(n, t)"""
    shift: Tensor
    """(d + t,), subtracted before anything is multiplied."""

    @property
    def columns(self) -> int:
        """Width w = d + t + 1 of the rows."""
        return len(self.shift) + 1

    def write(self, start: int, out: Tensor) -> None:
        """Write the rows from `start` on to `out`, (m, w)."""
        stop, d, both = start + len(out), self.features.shape[1], len(self.shift)
        _subtract(self.features[start:stop], self.shift[:d], out[:, :d])
        _subtract(self.targets[start:stop], self.shift[d:], out[:, d:both])
        out[:, both] = 1


def _subtract(values: Tensor, shift: Tensor, out: Tensor) -> None:
    if torch.promote_types(values.dtype, out.dtype) == out.dtype:
        out.copy_(values).sub_(shift)  # half as dear as torch's own conversion beside a subtraction
    else:
        torch.sub(values, shift, out=out)


class Lane:
    """Adds products to running totals, in the order given: at once, or in a thread of its own.

    It owns the memory that batches are written to, so that no layer keeps a buffer.
    """

    def __init__(self, thread: ThreadPoolExecutor | None = None) -> None:
        self._thread = thread
        self._pending: deque[_Pending] = deque()
        self._free: list[Tensor] = []
        """Memory for batches that go to the thread."""
        self._own: Tensor | None = None
        """Memory for rows that the caller multiplies."""

    def add(self, rows: Rows, total: Tensor) -> None:
        """Add the upper triangle of rowsᵀ rows, (w, w), to `total`; the rest of it has no meaning.

        total: (w, w), float64, contiguous. What `rows` holds may change afterwards.
        """
        for start in range(0, len(rows.features), _ROWS):
            stop = min(start + _ROWS, len(rows.features))
            self._settle(total)
            if self._thread and len(self._pending) < _AHEAD:
                self._hand_over(self._thread, rows, start, stop, total)
            else:
                self._add_at_once(rows, start, stop, total)

    def wait(self) -> None:
        """Until every product has been added, with a hand from the caller. Raises what went wrong."""
        for one in reversed(self._pending):
            if one.done.cancel():  # not begun yet, and the only one that goes to its total
                add_upper_product(one.batch, one.total)
        while self._pending:
            self._take_back()

    def _hand_over(
        self, thread: ThreadPoolExecutor, rows: Rows, start: int, stop: int, total: Tensor
    ) -> None:
        memory = _room(self._free.pop() if self._free else None, stop - start, rows)
        batch = _as_batch(memory, stop - start, rows)
        rows.write(start, batch)
        done = thread.submit(add_upper_product, batch, total)
        self._pending.append(_Pending(done, memory, batch, total))

    def _add_at_once(self, rows: Rows, start: int, stop: int, total: Tensor) -> None:
        step = min(_rows_at_once(rows.shift), stop - start)
        self._own = _room(self._own, step, rows)
        for first in range(start, stop, step):
            batch = _as_batch(self._own, min(step, stop - first), rows)
            rows.write(first, batch)
            add_upper_product(batch, total)

    def _settle(self, total: Tensor) -> None:
        """Take back what is done; wait for products that would change `total` out of turn."""
        while self._pending and (
            self._pending[0].done.done() or any(one.total is total for one in self._pending)
        ):
            self._take_back()

    def _take_back(self) -> None:
        oldest = self._pending.popleft()
        if not oldest.done.cancelled():
            oldest.done.result()
        self._free.append(oldest.memory)


@dataclass(frozen=True, eq=False)
class _Pending:
    done: Future[None]
    memory: Tensor
    batch: Tensor
    total: Tensor


def _room(memory: Tensor | None, rows: int, like: Rows) -> Tensor:
    """`memory`, or new where it is too small for a batch or of another kind."""
    size, kind = rows * like.columns, like.shift
    if memory is None or (memory.dtype, memory.device) != (kind.dtype, kind.device) or len(memory) < size:
        return kind.new_empty(size)
    return memory


def _as_batch(memory: Tensor, rows: int, like: Rows) -> Tensor:
    return memory[: rows * like.columns].view(rows, like.columns)


@contextmanager
def lanes_beside_torch(device: torch.device) -> Iterator[Sequence[Lane]]:
    """Lanes for products while torch runs on the threads that are left; all is undone afterwards.

    One lane that is no thread of its own where products run on a device, where torch has one thread,
    or where BLAS has several, which would take the cores from torch.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or not blas_has_one_thread():
        yield (Lane(),)
        return
    count = min(threads // 2, _MOST_LANES)
    workers = [ThreadPoolExecutor(1, thread_name_prefix="products") for _ in range(count)]
    try:
        torch.set_num_threads(threads - count)
        lanes = tuple(map(Lane, workers))
        yield lanes
        for lane in lanes:
            lane.wait()
    finally:
        torch.set_num_threads(threads)
        for worker in workers:
            worker.shutdown(cancel_futures=True)


def add_upper_product(rows: Tensor, total: Tensor) -> None:
    """Add the upper triangle of rowsᵀ rows, (w, w), to `total`; the rest of it has no meaning.

    rows: (n, w), contiguous, float32 or float64, the type that they are multiplied in. total: (w, w),
    float64. On the CPU BLAS does half the work of a whole product; elsewhere, or where BLAS's threads
    would fight torch's, block columns do, of which eight make nine sixteenths.
    """
    if not _by_blas(rows):
        _add_by_blocks(rows, total)
    elif rows.dtype == total.dtype:
        for part in torch.split(rows, _CACHED_ROWS):  # as at once: the same sums to the last digit
            add_gram(part.numpy(), total.numpy())
    else:
        _add_float32(rows.numpy(), total.numpy())


def _rows_at_once(like: Tensor) -> int:
    return _CACHED_ROWS if like.dtype == torch.float64 and _by_blas(like) else _ROWS


def _by_blas(like: Tensor) -> bool:
    return like.device.type == "cpu" and (blas_has_one_thread() or torch.get_num_threads() == 1)


def _add_float32(rows: np.ndarray, total: np.ndarray) -> None:
    # numpy takes BLAS's symmetric update for AᵀA, and lets other threads go on meanwhile
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow is found, and named, in the sums
        np.add(total, rows.T @ rows, out=total)


def _add_by_blocks(rows: Tensor, total: Tensor) -> None:
    width = rows.shape[1]
    step = width if width <= _SMALL else -(-width // _COLUMN_BLOCKS)
    for start in range(0, width, step):
        stop = min(start + step, width)
        left, right, sums = rows[:, start:stop].T, rows[:, start:], total[start:stop, start:]
        if rows.dtype == total.dtype:
            sums.addmm_(left, right)
        else:
            sums += left @ right  # in float64: float32 sums would lose what the products kept
