"""What should make a reader doubt a result, seen in its numbers alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nrc_probe.result import LayerResult

_REFIT_GAIN = 0.015
_REFIT_SHARE = 0.8
"""A refit is far better where it raises R² by the first and leaves at most this share of the error.

Tried on 144 small networks read as they were trained (two data sets, 3 and 6 layers, LayerNorm,
BatchNorm or neither, six activations, weight decay 0 and 1e-3): none gains .010. All 168 readings
with another activation gain .015 and keep at most .77, but for leaky ReLU, which hardly differs.
"""


def refit_doubts(layers: Sequence[LayerResult], n: int, model_r2: float) -> Iterator[str]:
    """A warning where a linear map of the last layer's input beats the network by far on `n` rows.

    Training a last layer to its end leaves no such map: the network is then not the one that was
    trained, or was not trained to its end. An R² of 0 or less has a warning of its own.
    """
    if not layers or not model_r2 > 0:
        return
    last = layers[-1]
    refitted = _unbiased_r2(last, n)
    if refitted - model_r2 >= _REFIT_GAIN and 1 - refitted <= _REFIT_SHARE * (1 - model_r2):
        yield (
            f"a linear map of {last.name}'s input reaches R² {refitted:.3f}, the network {model_r2:.3f}: "
            "undertrained, or a wrong activation, architecture or standardisation"
        )


def _unbiased_r2(layer: LayerResult, n: int) -> float:
    """Adjusted R² of the layer's linear probe (its own parameters count); -inf for too few rows."""
    free = n - layer.nrc4_rank - 1
    return 1 - (1 - layer.nrc4_r2) * n / free if free > 0 else float("-inf")
