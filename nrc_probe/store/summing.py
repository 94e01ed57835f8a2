"""Rows of features, targets and outputs, read block by block -> moments."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from nrc_probe.capture import first_not_finite
from nrc_probe.dataset.rows import Blocks, rebatch
from nrc_probe.errors import DataError, StoreError
from nrc_probe.forward import check_targets, obstacle
from nrc_probe.moments import MomentAccumulator, Moments

Tick = Callable[[int], None]
"""Told how many more rows were read."""


def layer_moments(
    features: Blocks, targets: Blocks, width: int, target_dim: int, rows: int, precision: str, tick: Tick
) -> Moments | str:
    """The moments of one layer, or why there are none. Reads `rows` rows at a time, in order."""
    sums = MomentAccumulator(width, target_dim, precision=precision)
    for h, y in _together(features, targets, rows):
        place = first_not_finite(h, sums.n)
        if place:
            return f"its input is not finite ({place})"
        sums.update(h, _finite_targets(y, sums.n))
        tick(len(h))
    moments = sums.finish()
    return obstacle(moments, precision) or moments


def error_moments(
    targets: Blocks, outputs: Blocks | None, target_dim: int, rows: int, tick: Tick
) -> tuple[Moments, str | None]:
    """Moments of output minus target beside the targets, and where outputs first are not finite.

    Reads `rows` rows at a time. Without outputs, those of the former are 0. Raises StoreError.
    """
    sums = MomentAccumulator(target_dim, target_dim)
    fault = None
    pairs = _together(targets, outputs, rows) if outputs else ((y, y) for y in rebatch(targets, rows))
    for raw, prediction in pairs:
        fault = fault or first_not_finite(prediction, sums.n)
        y = _finite_targets(raw, sums.n)
        sums.update(prediction.double() - y, y)
        tick(len(y))
    moments = sums.finish()
    try:
        check_targets(moments)
    except DataError as error:
        raise StoreError(str(error)) from error
    return moments, fault


def _together(first: Blocks, second: Blocks, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(rebatch(first, rows), rebatch(second, rows), strict=True)


def _finite_targets(targets: Tensor, first_row: int) -> Tensor:
    place = first_not_finite(targets, first_row)
    if place:
        raise StoreError(f"targets are not finite ({place})")
    return targets.double()
