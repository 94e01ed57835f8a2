"""A data set through the network, once -> each layer's moments and the network's own error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nrc_probe.capture import Capture, first_not_finite
from nrc_probe.dataset import Dataset
from nrc_probe.errors import DataError
from nrc_probe.layers import Layer
from nrc_probe.metrics import targets_vary
from nrc_probe.moments import EXACT, FAST, MomentAccumulator, Moments
from nrc_probe.products import Lane, lanes_beside_torch

Advance = Callable[[int, int | None], None]
"""Called after every batch: rows done, rows in all (None where unknown)."""
Progress = Callable[[str, int, int | None], None]
"""The same, told first what is being read."""
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
    knows_outputs: bool = True
    """Whether there were outputs at all: otherwise `residuals` tells the targets only."""

    @property
    def model_mse(self) -> float:
        """The network's mean squared error per element, in squared target units.

        nan by a fault, where an error is too large to be squared, or there are no outputs.
        """
        if not self.knows_outputs:
            return math.nan
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


class Watcher(Protocol):
    """What looks on while rows go through the network."""

    def take(self, layer: Layer, features: Tensor, targets: Tensor) -> None:
        """Once a layer and batch: features (m, d), to be copied if kept, and targets (m, t)."""

    def end_batch(self, targets: Tensor, predictions: Tensor, skipped: Mapping[str, str]) -> None:
        """After a batch went through all layers: targets and predictions, (n, t), float64.

        skipped: layer -> why it is not scored, so far.
        """


def run_pass(
    model: nn.Module,
    layers: Sequence[Layer],
    dataset: Dataset,
    settings: PassSettings,
    advance: Advance | None = None,
    also: Sequence[Watcher] = (),
) -> Pass:
    """Run every row through the model once, summing each layer's moments as they appear.

    Memory is one d x d matrix a layer, whatever the number of rows. also: who else looks on.
    Raises DataError where data and network do not fit, or there are no rows.
    """
    sums_on = _sums_on(settings.device)
    with lanes_beside_torch(sums_on) as lanes:
        sums = _Sums(dataset.target_dim, settings.precision, sums_on, lanes)
        capture = stream_rows(model, layers, dataset, settings, (sums, *also), advance)
    with _naming(dataset.path or "data"):
        return sums.finish(capture)


def stream_rows(
    model: nn.Module,
    layers: Sequence[Layer],
    dataset: Dataset,
    settings: PassSettings,
    watchers: Sequence[Watcher],
    advance: Advance | None = None,
    start: int = 0,
) -> Capture:
    """Run the rows through the model once, before the eyes of the watchers.

    start: rows that are passed over, whole batches. Returns the order in which the layers ran, and
    why some are not to be scored. Raises as `run_pass`.
    """

    def consume(layer: Layer, features: Tensor, targets: Tensor) -> None:
        for watcher in watchers:
            watcher.take(layer, features, targets)

    capture = Capture(
        *(model, layers, consume),
        pooling=settings.pooling,
        max_width=settings.max_width,
        first_row=start,
    )
    batch_size = settings.batch_size or default_batch_size(dataset.input_shape)
    dtype, sums_on, done = _float_dtype(model), _sums_on(settings.device), 0
    place = dataset.path or "data"
    with capture.watching():
        for inputs, targets in dataset.batches(batch_size, settings.limit):
            done += len(targets)
            if done <= start or not len(targets):
                continue
            truth = targets.to(sums_on)
            with _naming(place):
                placed = _placed(inputs, settings.device, dtype, done - len(targets))
            predictions = capture.forward(placed, truth)
            for watcher in watchers:
                watcher.end_batch(truth, predictions, capture.skipped)
            if advance:
                advance(done, expected_rows(dataset.n, settings.limit))
    if not done:
        raise DataError(f"{place}: no rows in any batch; expected at least one")
    capture.finish()
    return capture


class _Sums:
    """The moments of every layer, and of the network's error, in the making."""

    def __init__(self, target_dim: int, precision: str, device: torch.device, lanes: Sequence[Lane]) -> None:
        self._totals: dict[str, MomentAccumulator] = {}
        self._residuals = MomentAccumulator(target_dim, target_dim, device=device)
        self._precision, self._device, self._lanes = precision, device, lanes
        self._fault: str | None = None

    def take(self, layer: Layer, features: Tensor, targets: Tensor) -> None:
        if layer.name not in self._totals:
            self._totals[layer.name] = MomentAccumulator(
                features.shape[1],
                targets.shape[1],
                precision=self._precision,
                device=self._device,
                lane=self._lanes[len(self._totals) % len(self._lanes)],
            )
        self._totals[layer.name].update(features, targets)

    def end_batch(self, targets: Tensor, predictions: Tensor, skipped: Mapping[str, str]) -> None:  # noqa: ARG002 (as Watcher)
        self._fault = self._fault or first_not_finite(predictions, self._residuals.n)
        self._residuals.update(predictions - targets, targets)

    def finish(self, capture: Capture) -> Pass:
        errors = self._residuals.finish()
        check_targets(errors)
        moments, undefined = _finish(self._totals, capture, self._precision)
        return Pass(moments, {**capture.skipped, **undefined}, errors, self._fault)


def _sums_on(device: torch.device) -> torch.device:
    return torch.device("cpu") if device.type == "mps" else device


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Put the place before what is wrong with the data there."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


def check_targets(errors: Moments) -> None:
    """Raise DataError where squares of the targets of `errors` do not keep their digits."""
    if reason := _not_squared(errors.target_covariance, errors.mean_y, EXACT):
        raise DataError(f"targets are {reason}; expected others, scale them")


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
    with torch.random.fork_rng(devices=random_on), _full_float32(), torch_threads(threads):
        home = next((tensor.device for tensor in _tensors(model)), device)
        try:
            model.to(device)
            yield
        finally:
            model.to(home)


@contextmanager
def torch_threads(wanted: int | None) -> Iterator[None]:
    """Torch on so many CPU threads, or as many as before; afterwards as before."""
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
        reason = obstacle(finished, precision)
        if reason:
            undefined[name] = reason
        else:
            moments[name] = finished
    return moments, undefined


def obstacle(moments: Moments, precision: str) -> str | None:
    """Why nothing can be scored from these sums, or None."""
    if not moments.n:
        return "the mask leaves no token in any row"
    reason = _not_squared(moments.feature_covariance, moments.mean_h, precision)
    return f"its activations are {reason}" if reason else None


def _not_squared(covariance: Tensor, mean: Tensor, precision: str) -> str | None:
    """Such as "too large to be squared in float64"; None where squares of these sizes keep their digits."""
    smallest, where = _SMALLEST[precision]
    # Each entry is a sum of squares or bounded by two: the diagonal says it for all.
    energy = float(covariance.trace() + mean @ mean)
    if not energy < _LARGEST:
        return f"too large to be squared in {where}"
    vanishes = energy < smallest and (energy > 0 or bool(mean.any()))
    return f"too small to be squared in {where}" if vanishes else None


def expected_rows(n: int | None, limit: int | None) -> int | None:
    """How many of `n` rows a pass will see; None where unknown."""
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
