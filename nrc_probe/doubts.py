"""What should make a reader doubt a result, seen in its numbers alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from nrc_probe.layers import Skipped
from nrc_probe.result import LayerResult, first_collapsed

_REFIT_GAIN = 0.015
_REFIT_SHARE = 0.8
"""A refit is far better where it raises R² by the first and leaves at most this share of the error.

Tried on 144 small networks read as they were trained (two data sets, 3 and 6 layers, LayerNorm,
BatchNorm or neither, six activations, weight decay 0 and 1e-3): none gains .010. All 168 readings
with another activation gain .015 and keep at most .77, but for leaky ReLU, which hardly differs.
Of ten trained with dropout or another loss, three are taken for such: dropout .5 twice, .3 once.
"""
_NAMES_SHOWN = 4


def refit_doubts(layers: Sequence[LayerResult], n: int, model_r2: float) -> Iterator[str]:
    """A warning where a linear map of the last layer's input beats the network by far on `n` rows.

    Training a last layer to its end on squared errors leaves no such map: the network is then not the
    one that was trained, or was trained otherwise. An R² of 0 or less has a warning of its own.
    """
    if not layers or not model_r2 > 0:
        return
    last = layers[-1]
    refitted = _unbiased_r2(last, n)
    if refitted - model_r2 >= _REFIT_GAIN and 1 - refitted <= _REFIT_SHARE * (1 - model_r2):
        yield (
            f"a linear map of {last.name}'s input reaches R² {refitted:.3f}, the network {model_r2:.3f}: "
            "undertrained, trained with dropout or for another loss than the squared one, "
            "or read here with a wrong activation, architecture or standardisation"
        )


def with_onset_note(
    layers: Sequence[LayerResult], skipped: Sequence[Skipped], order: Sequence[str]
) -> tuple[LayerResult, ...]:
    """The layers, the first collapsed one with a note on those after it that were not scored.

    order: names of the modules as they are registered; one that is not among them may stand anywhere.
    """
    first = first_collapsed(layers)
    places = {name: place for place, name in enumerate(order)}
    start = places.get(first or "", -1)
    unscored = [item.name for item in skipped if places.get(item.name, len(places)) > start]
    if first is None or not unscored:
        return tuple(layers)
    note = f"first collapsed of the scored layers; of those after it, not scored: {_few(unscored)}"
    return tuple(
        replace(layer, notes=(*layer.notes, note)) if layer.name == first else layer for layer in layers
    )


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _unbiased_r2(layer: LayerResult, n: int) -> float:
    """Adjusted R² of the layer's linear probe (its own parameters count); -inf for too few rows."""
    free = n - layer.nrc4_rank - 1
    return 1 - (1 - layer.nrc4_r2) * n / free if free > 0 else -math.inf
