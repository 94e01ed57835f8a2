"""A data set through the network, once -> the moments of every layer and the network's own error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nrc_probe.capture import Capture
from nrc_probe.dataset import Dataset
from nrc_probe.layers import Layer
from nrc_probe.metrics import targets_vary
from nrc_probe.moments import MomentAccumulator, Moments

Advance = Callable[[int, int | None], None]
"""Called after every batch: rows done, rows in all (None where unknown)."""
_BATCH_ELEMENTS = 2**19
"""Input elements a batch aims at: wide inputs, such as images, make wide activations."""
_BATCH_ROWS = (16, 1024)
"""The batch size is kept between these."""


@dataclass(frozen=True)
class PassSettings:
    """How one pass reads, pools and sums."""

    pooling: str
    precision: str
    max_width: int
    limit: int | None
    batch_size: int | None
    """None: chosen from the size of a row."""
    device: torch.device


@dataclass(frozen=True, eq=False)
class Pass:
    """What one pass leaves behind."""

    moments: Mapping[str, Moments]
    """Of every scored layer, in run order."""
    skipped: Mapping[str, str]
    """Layer name -> why it is not scored."""
    residuals: Moments
    """Of prediction minus target, (t,), beside the targets."""

    @property
    def model_mse(self) -> float:
        """The network's mean squared error per element, in squared target units."""
        mean = self.residuals.mean_h
        return float(self.residuals.feature_covariance.trace() + mean @ mean) / len(mean)

    @property
    def model_r2(self) -> float:
        """Share of target variance that the network explains; nan when targets do not vary."""
        if not targets_vary(self.residuals):
            return math.nan
        t = self.residuals.target_dim
        return 1 - self.model_mse * t / float(self.residuals.target_covariance.trace())


def run_pass(
    model: nn.Module,
    layers: Sequence[Layer],
    dataset: Dataset,
    settings: PassSettings,
    advance: Advance | None = None,
) -> Pass:
    """Run every row through the model once, summing each layer's moments as they appear.

    Memory is one d x d matrix a layer, whatever the number of rows.
    Raises DataError where data and network do not fit.
    """
    sums_on = torch.device("cpu") if settings.device.type == "mps" else settings.device
    totals: dict[str, MomentAccumulator] = {}

    def consume(layer: Layer, features: Tensor, targets: Tensor) -> None:
        if layer.name not in totals:
            totals[layer.name] = MomentAccumulator(
                features.shape[1], targets.shape[1], precision=settings.precision, device=sums_on
            )
        totals[layer.name].update(features, targets)

    capture = Capture(
        model, layers, consume, pooling=settings.pooling, max_width=settings.max_width
    )
    residuals = MomentAccumulator(dataset.target_dim, dataset.target_dim, device=sums_on)
    batch_size = settings.batch_size or default_batch_size(dataset.input_shape)
    dtype = _float_dtype(model)
    with capture.watching():
        for inputs, targets in dataset.batches(batch_size, settings.limit):
            truth = targets.to(sums_on)
            predictions = capture.forward(_placed(inputs, settings.device, dtype), truth)
            residuals.update(predictions - truth, truth)
            if advance:
                advance(residuals.n, _expected_rows(dataset.n, settings.limit))
    capture.finish()
    return Pass(_finish(totals, capture), capture.skipped, residuals.finish())


def default_batch_size(input_shape: tuple[int, ...] | None) -> int:
    """Rows per batch: many for vectors, few for images."""
    low, high = _BATCH_ROWS
    return max(low, min(high, _BATCH_ELEMENTS // max(1, math.prod(input_shape or (1,)))))


@contextmanager
def prepared(model: nn.Module, device: torch.device, threads: int | None) -> Iterator[None]:
    """The model on `device`, float32 products in full (no TF32), `threads` CPU threads; all undone after."""
    home = next((tensor.device for tensor in _tensors(model)), device)
    flags = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    used = torch.get_num_threads()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(threads or used)
    model.to(device)
    try:
        yield
    finally:
        model.to(home)
        torch.set_num_threads(used)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = flags


def _finish(totals: dict[str, MomentAccumulator], capture: Capture) -> dict[str, Moments]:
    scored = [name for name in capture.order if name in totals and name not in capture.skipped]
    # pop: each accumulator is freed as soon as its moments exist
    return {name: totals.pop(name).finish() for name in scored}


def _expected_rows(n: int | None, limit: int | None) -> int | None:
    return n if limit is None else limit if n is None else min(n, limit)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _float_dtype(model: nn.Module) -> torch.dtype:
    floats = (p.dtype for p in model.parameters() if p.dtype.is_floating_point)
    return next(floats, torch.float32)


def _placed(inputs: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Inputs on the device, floats in the network's own type."""
    if isinstance(inputs, Tensor):
        return inputs.to(device, dtype if inputs.is_floating_point() else inputs.dtype)
    if isinstance(inputs, Mapping):
        return {key: _placed(value, device, dtype) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(_placed(value, device, dtype) for value in inputs)
    return inputs
