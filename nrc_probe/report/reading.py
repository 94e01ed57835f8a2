"""What the numbers say, in plain words. Collapse is described, never praised."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import dropwhile

from nrc_probe.report.words import some, spoken
from nrc_probe.result import LayerResult, Result


def reading(result: Result) -> str:
    """A few sentences about one result, from its numbers alone."""
    if not result.layers:
        return "No layer was scored, so nothing can be said about collapse."
    return " ".join((*_where(result), *_linearity(result), *_ranks(result), *_heldout(result)))


def _where(result: Result) -> Iterator[str]:
    layers = result.layers
    first = result.first_collapsed_layer
    if first is None:
        yield _not_collapsed(layers, result.settings.thresholds.nrc1, _scored(result))
        yield from _unscored(result)
        return
    tail = layers[[layer.name for layer in layers].index(first) :]
    trivial = [layer.name for layer in tail if _cannot_fail(layer)]
    if len(trivial) == len(tail):
        cannot = f"it cannot fail in {some(trivial)}: no wider than the signal"
        yield f"NRC1 holds from {spoken(first)} on, but {cannot}."
    else:
        yield _collapsed(list(dropwhile(_cannot_fail, tail)), result)
        if trivial:
            yield f"NRC1 cannot fail in {some(trivial)}: no wider than the signal."
    yield from _unscored(result)


def _cannot_fail(layer: LayerResult) -> bool:
    """Whether NRC1 is 0 whatever the features are: they are no wider than the signal."""
    return layer.rank >= layer.width


def _collapsed(tail: Sequence[LayerResult], result: Result) -> str:
    limit = f"{100 * result.settings.thresholds.nrc1:g}%"
    met = [layer for layer in tail if all(layer.conditions.values())]
    return (
        f"From {spoken(tail[0].name)} on ({len(tail)} of {_count(len(result.layers), _scored(result))}), "
        f"at most {limit} of the feature variance lies outside {_directions(tail)}; {_all_four(met, tail)}."
    )


def _scored(result: Result) -> str:
    """What a layer is called here: with some left out, "the last layer" would claim too much."""
    return "scored layer" if result.skipped else "layer"


def _unscored(result: Result) -> Iterator[str]:
    if result.skipped:
        were = "was" if len(result.skipped) == 1 else "were"
        yield f"This says nothing about the {_count(len(result.skipped), 'layer')} that {were} not scored."


def _not_collapsed(layers: Sequence[LayerResult], limit: float, kind: str) -> str:
    last = layers[-1]
    before = [layer.name for layer in layers if layer.conditions["nrc1"] and not _cannot_fail(layer)]
    held = f"NRC1 holds in {some(before)}, but not up to the last {kind}" if before else ""
    head = held or f"No collapse up to the last {kind}"
    if math.isnan(last.nrc1):
        return f"{head}: NRC1 is undefined in {spoken(last.name)}."
    share = f"{100 * last.nrc1:.3g}%" if last.nrc1 > 1.01 * limit else f"{100 * last.nrc1:.6g}%"
    return (
        f"{head}: {share} of the feature variance in {spoken(last.name)} lies outside "
        f"{_directions([last])} (NRC1 <= {limit:g} is not met there)."
    )


def _directions(layers: Sequence[LayerResult]) -> str:
    ranks = {layer.rank for layer in layers}
    if len(ranks) > 1:
        return "the signal's directions"
    (rank,) = ranks
    return "the top direction" if rank == 1 else f"the top {rank} directions"


def _count(count: int, kind: str) -> str:
    return f"1 {kind}" if count == 1 else f"{count} {kind}s"


def _all_four(met: Sequence[LayerResult], tail: Sequence[LayerResult]) -> str:
    if len(tail) == 1:
        return f"{'all' if met else 'not all'} four conditions hold in it"
    if len(met) == len(tail):
        return "all four conditions hold in each of them"
    if not met:
        return "all four conditions hold in none of them"
    return f"all four conditions hold in {len(met)} of them ({some([m.name for m in met])})"


def _linearity(result: Result) -> Iterator[str]:
    """What the first layer says from which a linear map does nearly as well as the network."""
    if math.isnan(result.layers[-1].nrc4_ratio):
        return  # the network's own error is 0: there is nothing to compare with
    limit = result.settings.thresholds.nrc4_ratio
    linear = next((layer for layer in result.layers if layer.nrc4_ratio <= limit), None)
    if linear is None:
        yield f"No layer's linear probe comes within {limit:g} times the network's own error."
    else:
        already = "" if linear is result.layers[-1] else "already "
        yield (
            f"A linear map of {spoken(linear.name)}'s input {already}predicts with "
            f"{_times(linear.nrc4_ratio)}the network's own error{_flattered(linear, result.data.n)}."
        )


def _flattered(layer: LayerResult, n: int) -> str:
    """What to mind where a linear map has as many coefficients as rows to fit."""
    rows = "1 row" if n == 1 else f"{n} rows"
    return f" (flattered: it was fitted to {rows} of {layer.width} features)" if n <= layer.width else ""


def _ranks(result: Result) -> Iterator[str]:
    last, targets = result.layers[-1], result.data.target_rank
    if targets is not None and not math.isnan(last.effective_rank):
        yield (
            f"The input of {spoken(last.name)} has an effective rank of {last.effective_rank:.3g}, "
            f"the targets have rank {targets}."
        )


def _heldout(result: Result) -> Iterator[str]:
    if result.heldout is None or not result.model_mse > 0:
        return
    ratio = result.heldout.model_mse / result.model_mse
    if math.isfinite(ratio):
        yield f"On held-out rows the network's error is {_times(ratio)}that on these."


def _times(ratio: float) -> str:
    """As "1.23 times "; "about " where more than three digits would be needed to tell it from 1."""
    times = f"{ratio:.3g}"
    return "about " if times == "1" else f"{times} times "
