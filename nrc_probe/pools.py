"""Two thread pools in one process, OpenBLAS's and torch's OpenMP, that should not fight.

After its work each pool spins for a while, waiting for more, on the cores that the other one needs.
Where the two take turns, as a forward pass and BLAS products do, that costs more than the work. So the
command line keeps OpenBLAS to one thread and uses threads of its own; OpenBLAS reads that once, when
numpy and scipy load it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
_EARLY = {"OPENBLAS_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}


def keep_blas_to_one_thread() -> None:
    """Leave the cores to torch and to us; does nothing once numpy, scipy or torch are imported."""
    if not sys.modules.keys() & {"numpy", "scipy", "torch"}:
        for name, value in _EARLY.items():
            os.environ.setdefault(name, value)


def blas_has_one_thread() -> bool:
    """Whether OpenBLAS was told to keep to one thread."""
    return os.environ.get("OPENBLAS_NUM_THREADS") == "1"


def side_by_side(work: Callable[[Item], Outcome], items: Iterable[Item], threads: int) -> Iterator[Outcome]:
    """What `work` makes of each item, in their order, with `threads` of them in work at a time.

    Items are drawn in the caller's own thread, and only when their turn has come.
    """
    if threads <= 1:
        yield from map(work, items)
        return
    from collections import deque
    from concurrent.futures import Future, ThreadPoolExecutor  # late: `--help` needs neither

    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Outcome]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
