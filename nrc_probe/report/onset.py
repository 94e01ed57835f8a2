"""When collapse sets in, and when the error has settled: two epochs to set side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nrc_probe.errors import ConfigError
from nrc_probe.report.study import Run

SETTLED_WITHIN = 0.1
"""Share of the final error within which an error counts as settled."""


def check_within(within: float) -> None:
    """Raise ConfigError unless this can be a share of an error."""
    if not 0 < within < math.inf:
        raise ConfigError(f"settled_within must be a number above 0, got {within:g}")


def holds_from(run: Run, layer: str, condition: str = "nrc1") -> int | None:
    """First time from which a layer meets a condition at every later checkpoint; None where it never does.

    A checkpoint in which the layer is missing, or its number undefined, does not meet it.
    """
    met = [_meets(run, k, layer, condition) for k in range(len(run.results))]
    return _first_of_tail(met, run.times)


def settled_from(run: Run, errors: Sequence[float], within: float = SETTLED_WITHIN) -> int | None:
    """First time from which an error stays within a share of its final value, above or below.

    errors: one a checkpoint, in squared target units; nan where undefined.
    None where the last is undefined, or 0: a share of it has no meaning.
    """
    final = errors[-1]
    if not (math.isfinite(final) and final > 0):
        return None
    return _first_of_tail([abs(error - final) <= within * final for error in errors], run.times)


def training_errors(run: Run) -> list[float]:
    """The network's own error at each checkpoint, on the rows that were analysed."""
    return [result.model_mse for result in run.results]


def heldout_errors(run: Run) -> list[float] | None:
    """The network's error on held-out rows at each checkpoint; None where none has such rows."""
    if all(result.heldout is None for result in run.results):
        return None
    return [result.heldout.model_mse if result.heldout else math.nan for result in run.results]


def _meets(run: Run, checkpoint: int, layer: str, condition: str) -> bool:
    return any(
        scored.name == layer and scored.conditions[condition] for scored in run.results[checkpoint].layers
    )


def _first_of_tail(held: Sequence[bool], times: Sequence[int]) -> int | None:
    """The time of the first of the trues at the end; None where the last is false."""
    start = len(held)
    while start and held[start - 1]:
        start -= 1
    return times[start] if start < len(held) else None
