"""When collapse sets in, and when the error has settled: two epochs to set side by side.

The last checkpoint alone shows neither: nothing after it says whether a condition stays met, and every
error is within any share of itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from nrc_probe.errors import ConfigError
from nrc_probe.report.study import Run

SETTLED_WITHIN = 0.1
"""Share of the final error within which an error counts as settled."""
LAST_ONLY = "last only"
"""What is met at the last checkpoint and not at the one before, wherever that is shown."""
NOT_SETTLED = "not settled within these checkpoints"
"""The same of an error."""


def check_within(within: float) -> None:
    """Raise ConfigError unless this can be a share of an error."""
    if not 0 < within < math.inf:
        raise ConfigError(f"settled_within must be a number above 0, got {within:g}")


def holds_from(run: Run, layer: str, condition: str = "nrc1") -> int | None:
    """First time from which a layer meets a condition at every later checkpoint, of which there is one.

    None where it never does; see `is_last_only`. A checkpoint in which the layer is missing, or its
    number undefined, does not meet it.
    """
    return _first_of_tail(_met(run, layer, condition), run.times)


def is_last_only(run: Run, layer: str, condition: str = "nrc1") -> bool:
    """Whether a layer meets a condition at the last of several checkpoints, and not at the one before."""
    return _met(run, layer, condition)[-2:] == [False, True]


def settled_from(run: Run, errors: Sequence[float], within: float = SETTLED_WITHIN) -> int | None:
    """First time, before the last, from which an error stays within a share of its final value.

    Above it or below. errors: one a checkpoint, in squared target units; nan where undefined.
    None where it has not settled, and where it cannot (`can_settle`).
    """
    if not can_settle(errors):
        return None
    final = errors[-1]
    return _first_of_tail([abs(error - final) <= within * final for error in errors], run.times)


def can_settle(errors: Sequence[float]) -> bool:
    """Whether the last error is defined and not 0: a share of it has no meaning otherwise."""
    return math.isfinite(errors[-1]) and errors[-1] > 0


def training_errors(run: Run) -> list[float]:
    """The network's own error at each checkpoint, on the rows that were analysed."""
    return [result.model_mse for result in run.results]


def heldout_errors(run: Run) -> list[float] | None:
    """The network's error on held-out rows at each checkpoint; None where none has such rows."""
    if all(result.heldout is None for result in run.results):
        return None
    return [result.heldout.model_mse if result.heldout else math.nan for result in run.results]


def _met(run: Run, layer: str, condition: str) -> list[bool]:
    """Whether a layer meets a condition, at each checkpoint."""
    return [
        any(scored.name == layer and scored.conditions[condition] for scored in result.layers)
        for result in run.results
    ]


def _first_of_tail(held: Sequence[bool], times: Sequence[int]) -> int | None:
    """The time of the first of the trues at the end; None where the last is false, or the only one."""
    start = len(held)
    while start and held[start - 1]:
        start -= 1
    return times[start] if start < len(held) - 1 else None
