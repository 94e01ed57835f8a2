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

import numpy as np
import torch
from torch import Tensor

from nrc_probe.pools import blas_has_one_thread

_AHEAD = 2
"""Batches that may wait for a lane, or be in it: one is multiplied while the next is written."""
_MOST_LANES = 8
_COLUMN_BLOCKS = 8
_SMALL = 128
"""Below this width one whole product is faster than several small ones."""


class Lane:
    """Adds products to running totals, in the order given: at once, or in a thread of its own.

    It lends the memory that batches are written to, so that no layer keeps a buffer.
    """

    def __init__(self, thread: ThreadPoolExecutor | None = None) -> None:
        self._thread = thread
        self._lent: deque[tuple[Future[None], Tensor]] = deque()
        self._free: list[Tensor] = []

    def room(self, rows: int, width: int, like: Tensor) -> Tensor:
        """Memory for a batch, (rows, width), of `like`'s type and device; waits until there is some."""
        if len(self._lent) >= _AHEAD:
            self._return_oldest()
        memory = self._free.pop() if self._free else like.new_empty(0)
        fits = memory.numel() >= rows * width and memory.dtype == like.dtype
        memory = memory if fits else like.new_empty(rows * width)
        return memory[: rows * width].view(rows, width)

    def add(self, rows: Tensor, total: Tensor) -> None:
        """Add the upper triangle of rowsᵀ rows to `total`; `rows` is what `room` gave."""
        if self._thread is None:
            add_upper_product(rows, total)
            self._free.append(rows.flatten())
        else:
            self._lent.append((self._thread.submit(add_upper_product, rows, total), rows.flatten()))

    def wait(self) -> None:
        """Until every product has been added. Raises what went wrong in the thread."""
        while self._lent:
            self._return_oldest()

    def _return_oldest(self) -> None:
        done, memory = self._lent.popleft()
        done.result()
        self._free.append(memory)


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
    if rows.device.type == "cpu" and (blas_has_one_thread() or torch.get_num_threads() == 1):
        _add_by_blas(rows, total)
    else:
        _add_by_blocks(rows, total)


def _add_by_blas(rows: Tensor, total: Tensor) -> None:
    array, sums = rows.numpy(), total.numpy()
    # numpy takes BLAS's symmetric update for AᵀA, and lets other threads go on meanwhile
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow is found, and named, in the sums
        np.add(sums, array.T @ array, out=sums)


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
