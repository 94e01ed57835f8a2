"""What the numbers say, in plain words. Collapse is described, never praised."""

from __future__ import annotations

import math

from nrc_probe.result import LayerResult, Result


def reading(result: Result) -> str:
    """One or two sentences about one result, from its numbers alone."""
    if not result.layers:
        return "No layer was scored, so nothing can be said about collapse."
    parts = [_where(result), _linearity(result), _generalisation(result)]
    return " ".join(part for part in parts if part)


def _where(result: Result) -> str:
    layers, limit = result.layers, result.settings.thresholds.nrc1
    first = result.first_collapsed_layer
    if first is None:
        last = layers[-1]
        if math.isnan(last.nrc1):
            return f"No collapse up to the last layer: NRC1 is undefined in {last.name}."
        return (
            f"No collapse up to the last layer: {last.nrc1:.0%} of the feature variance in {last.name} "
            f"lies outside its top {_directions(last.rank)} (NRC1 <= {limit:g} is not met there)."
        )
    tail = layers[[layer.name for layer in layers].index(first) :]
    all_met = [layer for layer in tail if all(layer.conditions.values())]
    return (
        f"From {first} on ({len(tail)} of {len(layers)} layers), at most {limit:.0%} of the feature "
        f"variance lies outside {_directions(tail[0].rank)}; all four conditions hold in "
        f"{_count(all_met, tail)}."
    )


def _directions(rank: int) -> str:
    return "1 direction" if rank == 1 else f"{rank} directions"


def _count(met: list[LayerResult], tail: tuple[LayerResult, ...]) -> str:
    if len(met) == len(tail):
        return "each of them" if len(tail) > 1 else "it"
    if not met:
        return "none of them"
    return f"{len(met)} of them ({', '.join(layer.name for layer in met)})"


def _linearity(result: Result) -> str:
    limit = result.settings.thresholds.nrc4_ratio
    linear = next((layer for layer in result.layers if layer.nrc4_ratio <= limit), None)
    if linear is None:
        return "No layer's linear probe comes near the network's own error."
    return (
        f"A linear map of {linear.name}'s input already predicts with "
        f"{linear.nrc4_ratio:.2f} times the network's own error."
    )


def _generalisation(result: Result) -> str:
    if result.heldout is None or not result.model_mse > 0:
        return ""
    ratio = result.heldout.model_mse / result.model_mse
    return f"On held-out rows the network's error is {ratio:.2f} times that on these."
