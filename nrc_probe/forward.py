"""A data set through the network, once -> each layer's moments and the network's own error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nrc_probe.capture import Capture, first_not_finite
from nrc_probe.dataset import Dataset
from nrc_probe.errors import DataError
from nrc_probe.layers import Layer
from nrc_probe.metrics import targets_vary
from nrc_probe.moments import EXACT, FAST, MomentAccumulator, Moments
from nrc_probe.products import lanes_beside_torch

Advance = Callable[[int, int | None], None]
"""Called after every batch: rows done, rows in all (None where unknown)."""
_BATCH_ELEMENTS = 2**19
"""Input elements a batch aims at: wide inputs, such as images, make wide activations."""
_LARGEST = 1e300
"""Sums of squares below it leave room to be added up."""
_SMALLEST = {EXACT: (1e-292, "float64"), FAST: (1e-31, "float32: --precision exact goes further")}
"""Sums of squares above it keep their digits."""
_BATCH_ROWS = (16, 2048)
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
    fault: str | None
    """Where the network's output is first not finite; None where it always is."""

    @property
    def model_mse(self) -> float:
        """The network's mean squared error per element, in squared target units.

        nan by a fault, and where an error is too large to be squared.
        """
        mean = self.residuals.mean_h
        error = float(self.residuals.feature_covariance.trace() + mean @ mean) / len(mean)
        return error if math.isfinite(error) else math.nan

    @property
    def model_r2(self) -> float:
        """Share of target variance that the network explains; nan too when targets do not vary."""
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
    Raises DataError where data and network do not fit, or there are no rows.
    """
    sums_on = torch.device("cpu") if settings.device.type == "mps" else settings.device
    totals: dict[str, MomentAccumulator] = {}

    def consume(layer: Layer, features: Tensor, targets: Tensor) -> None:
        if layer.name not in totals:
            totals[layer.name] = MomentAccumulator(
                features.shape[1],
                targets.shape[1],
                precision=settings.precision,
                device=sums_on,
                lane=lanes[len(totals) % len(lanes)],
            )
        totals[layer.name].update(features, targets)

    capture = Capture(model, layers, consume, pooling=settings.pooling, max_width=settings.max_width)
    residuals = MomentAccumulator(dataset.target_dim, dataset.target_dim, device=sums_on)
    batch_size = settings.batch_size or default_batch_size(dataset.input_shape)
    dtype = _float_dtype(model)
    fault, place = None, dataset.path or "data"
    with lanes_beside_torch(sums_on) as lanes, capture.watching():
        for inputs, targets in dataset.batches(batch_size, settings.limit):
            if not len(targets):
                continue
            truth = targets.to(sums_on)
            with _naming(place):
                placed = _placed(inputs, settings.device, dtype, residuals.n)
            predictions = capture.forward(placed, truth)
            fault = fault or first_not_finite(predictions, residuals.n)
            residuals.update(predictions - truth, truth)
            if advance:
                advance(residuals.n, _expected_rows(dataset.n, settings.limit))
    with _naming(place):
        errors = _finished(residuals)
    capture.finish()
    moments, undefined = _finish(totals, capture, settings.precision)
    return Pass(moments, {**capture.skipped, **undefined}, errors, fault)


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Put the place before what is wrong with the data there."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


def _finished(residuals: MomentAccumulator) -> Moments:
    """The moments of all rows, whose targets must be such that squares keep their digits."""
    if not residuals.n:
        raise DataError("no rows in any batch; expected at least one")
    errors = residuals.finish()
    if reason := _not_squared(errors.target_covariance, errors.mean_y, EXACT):
        raise DataError(f"targets are {reason}; expected others, scale them")
    return errors


def default_batch_size(input_shape: tuple[int, ...] | None) -> int:
    """Rows per batch: many for vectors, few for images."""
    low, high = _BATCH_ROWS
    return max(low, min(high, _BATCH_ELEMENTS // max(1, math.prod(input_shape or (1,)))))


@contextmanager
def prepared(model: nn.Module, device: torch.device, threads: int | None) -> Iterator[None]:
    """The model on `device`, float32 products in full (no TF32), `threads` CPU threads.

    All is undone afterwards, the state of the device's random numbers too.
    """
    random_on = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=random_on), _full_float32(), _threads(threads):
        home = next((tensor.device for tensor in _tensors(model)), device)
        try:
            model.to(device)
            yield
        finally:
            model.to(home)


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    used = torch.get_num_threads()
    try:
        torch.set_num_threads(wanted or used)
        yield
    finally:
        torch.set_num_threads(used)


@contextmanager
def _full_float32() -> Iterator[None]:
    """Float32 products without TF32; afterwards the user's flags are as they were."""
    owners, name, full = _precision_flags()
    before = [getattr(owner, name) for owner in owners]
    try:
        for owner in owners:
            setattr(owner, name, full)
        yield
    finally:
        for owner, value in zip(owners, before, strict=True):
            setattr(owner, name, value)


def _precision_flags() -> tuple[list[Any], str, object]:
    """What holds the flags, their name, and the value that means full precision."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    try:
        _ = matmul.allow_tf32, cudnn.allow_tf32
    except RuntimeError:  # the user set the newer flags, and torch refuses to mix the two kinds
        newer: list[Any] = [matmul, cudnn.conv, cudnn.rnn]  # type: ignore[attr-defined]
        return newer, "fp32_precision", "ieee"
    return [matmul, cudnn], "allow_tf32", False


def _finish(
    totals: dict[str, MomentAccumulator], capture: Capture, precision: str
) -> tuple[dict[str, Moments], dict[str, str]]:
    """Moments of the layers that were followed to the end, and why some of them have none."""
    moments, undefined = {}, {}
    for name in capture.order:
        if name in capture.skipped:
            continue
        # pop: each accumulator is freed as soon as its moments exist
        finished = totals.pop(name).finish()
        if not finished.n:
            undefined[name] = "the mask leaves no token in any row"
        elif reason := _not_squared(finished.feature_covariance, finished.mean_h, precision):
            undefined[name] = f"its activations are {reason}"
        else:
            moments[name] = finished
    return moments, undefined


def _not_squared(covariance: Tensor, mean: Tensor, precision: str) -> str | None:
    """Such as "too large to be squared in float64"; None where squares of these sizes keep their digits."""
    smallest, where = _SMALLEST[precision]
    # Each entry is a sum of squares or bounded by two: the diagonal says it for all.
    energy = float(covariance.trace() + mean @ mean)
    if not energy < _LARGEST:
        return f"too large to be squared in {where}"
    vanishes = energy < smallest and (energy > 0 or bool(mean.any()))
    return f"too small to be squared in {where}" if vanishes else None


def _expected_rows(n: int | None, limit: int | None) -> int | None:
    return n if limit is None else limit if n is None else min(n, limit)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _float_dtype(model: nn.Module) -> torch.dtype:
    # 8-bit floats are only stored in: no layer takes its input in them
    floats = (p.dtype for p in model.parameters() if p.dtype.is_floating_point and p.dtype.itemsize > 1)
    return next(floats, torch.float32)


def _placed(inputs: Any, device: torch.device, dtype: torch.dtype, first_row: int) -> Any:
    """Inputs on the device, floats in the network's own type; DataError where that has no room."""
    if isinstance(inputs, Tensor):
        if not inputs.is_floating_point():
            return inputs.to(device)
        placed = inputs.to(device, dtype)
        if torch.finfo(dtype).max < torch.finfo(inputs.dtype).max and not placed.isfinite().all():
            kind = str(dtype).removeprefix("torch.")
            where = first_not_finite(placed, first_row)
            raise DataError(
                f"inputs are too large for {kind}, the network's own type ({where}): scale them down"
            )
        return placed
    if isinstance(inputs, Mapping):
        return {key: _placed(value, device, dtype, first_row) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(_placed(value, device, dtype, first_row) for value in inputs)
    return inputs
