"""Two thread pools in one process, OpenBLAS's and torch's OpenMP, that should not fight.

After its work each pool spins for a while, waiting for more, on the cores that the other one needs.
Where the two take turns, as a forward pass and BLAS products do, that costs more than the work.
Told to sleep early instead, they share the cores; but both read that once, when they are loaded.
"""

from __future__ import annotations

import os
import sys

_SLEEP_EARLY = {"OPENBLAS_THREAD_TIMEOUT": "14", "GOMP_SPINCOUNT": "1000"}
_told = False


def let_pools_sleep() -> None:
    """Tell both pools to sleep early; of no effect once numpy, scipy or torch are imported."""
    global _told
    if not sys.modules.keys() & {"numpy", "scipy", "torch"}:
        for name, value in _SLEEP_EARLY.items():
            os.environ.setdefault(name, value)
        _told = True


def pools_sleep() -> bool:
    """Whether the pools were told in time, so that they may take turns."""
    return _told
