"""One forward pass -> the features of each layer, the moment they exist; hooks always removed."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nrc_probe.errors import DataError
from nrc_probe.layers import Layer, counted_tokens, pool, rows_per_sample

Consumer = Callable[[Layer, Tensor, Tensor], None]
"""Takes a layer, its features (n, d) and the targets (n, t) of the same rows, once a batch.

It must not keep the features: a later operation of the network may change them in place.
"""
_OWN_WORDS = (RuntimeError, TypeError, ValueError, IndexError)
"""What torch raises where shapes do not fit: its message says enough without the type."""
GAPS = "did not run in every batch"
"""Why a layer is skipped that ran in some: said at the first gap, before any other reason can come."""


class Capture:
    """Watches layers while a model runs, and hands their pooled inputs to a consumer.

    Features are consumed in a pre-forward hook, before an in-place operation can change them.
    A layer that cannot be followed is dropped with a reason: `skipped` maps its name to it.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        consume: Consumer,
        *,
        pooling: str,
        max_width: int,
        first_row: int = 0,
    ) -> None:
        """`first_row`: how messages number the first row."""
        self.order: list[str] = []
        """Names of the layers that ran, in the order in which they first ran."""
        self.skipped: dict[str, str] = {}
        """Name -> why the layer is not scored after all."""
        self._model, self._layers, self._consume = model, layers, consume
        self._pooling, self._max_width = pooling, max_width
        self._calls: Counter[str] = Counter()
        self._rows: Counter[str] = Counter()
        self._widths: dict[str, int] = {}
        self._targets = torch.empty(0, 0)
        self._mask: Tensor | None = None
        self._first_row = self._row = first_row
        self._failure: Exception | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks in place, the model in eval mode; both undone at the end, also after an error."""
        modes = [(module, module.training) for module in self._model.modules()]
        hooks = [
            layer.module.register_forward_pre_hook(self._hook(layer), with_kwargs=True)
            for layer in self._layers
        ]
        fused = torch.backends.mha.get_fastpath_enabled()
        try:
            # Fused encoders drop padded tokens: what layers read would not be (n, s, d) any more.
            torch.backends.mha.set_fastpath_enabled(False)
            self._model.eval()
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            for hook in hooks:
                hook.remove()
            for module, mode in modes:
                module.training = mode

    @torch.no_grad()
    def forward(self, inputs: Any, targets: Tensor) -> Tensor:
        """Run one batch; returns the model's predictions as (n, t), float64.

        inputs: a tensor (n, ...), a tuple (positional arguments) or a mapping (keyword arguments,
        whose `attention_mask` or `mask` tells which tokens count). targets: (n, t), n >= 1.
        Raises DataError where the model cannot take the inputs, or does not predict (n, t); what
        the consumer raises passes through.
        """
        self._calls.clear()
        self._targets, self._mask = targets, _token_mask(inputs)
        try:
            output = _call(self._model, inputs)
        except Exception as error:  # the user's network may fail in any way
            if error is self._failure:
                raise
            raise DataError(_misfit(inputs, error, self._model)) from error
        self._row += len(targets)
        return _predictions(output, targets)

    def finish(self) -> None:
        """After the last batch: give the layers that did not run in every batch their reason."""
        for layer in self._layers:
            if self._has_gap(layer):
                reason = GAPS if self._rows[layer.name] else "never ran in the forward pass"
                self.skipped.setdefault(layer.name, reason)

    def _has_gap(self, layer: Layer) -> bool:
        """Whether it did not run in all batches before."""
        return self._first_row + self._rows[layer.name] < self._row

    def _hook(self, layer: Layer) -> Callable[..., None]:
        def consume_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if layer.name in self.skipped:
                return
            features = _first_tensor((args, kwargs))
            if features is None:
                self.skipped[layer.name] = "is not called with a tensor"
                return
            try:
                self._take(layer, features)
            except Exception as error:
                self._failure = error  # ours, not the network's
                raise

        return consume_input

    def _take(self, layer: Layer, features: Tensor) -> None:
        self._calls[layer.name] += 1
        if layer.name not in self.order:
            self.order.append(layer.name)
        if features.device.type == "mps":
            features = features.cpu()  # that device has no float64
        reason = self._obstacle(layer, features)
        if reason:
            self.skipped[layer.name] = reason
            return
        rows, targets = pool(features, layer, self._pooling, self._mask), self._targets
        if self._pooling == "tokens":
            repeats = rows_per_sample(features, layer, self._mask)
            targets = targets.repeat_interleave(repeats.to(targets.device), 0)
        self._rows[layer.name] += len(self._targets)
        self._consume(layer, rows, targets)

    def _obstacle(self, layer: Layer, features: Tensor) -> str | None:
        if self._has_gap(layer):
            return GAPS
        if self._calls[layer.name] > 1:
            return "ran more than once in one forward pass: it has no single input"
        layout = "nested" if features.is_nested else features.layout
        if not features.is_floating_point() or features.itemsize < 2 or layout != torch.strided:
            return f"its input is {features.dtype}, {layout}: expected dense floats"
        n = len(self._targets)
        if not layer.reads(features.shape, n):
            return f"its input has shape {tuple(features.shape)} for a batch of {n} rows"
        # One sum clears nearly every batch; in the features' own type it may overflow, in float64 hardly.
        if not (math.isfinite(features.sum()) or math.isfinite(features.sum(dtype=torch.float64))):
            return _first_not_finite(features, self._row)
        return self._width_obstacle(layer, features) or self._mask_obstacle(layer, features)

    def _width_obstacle(self, layer: Layer, features: Tensor) -> str | None:
        width = features[0].numel() if self._pooling == "flatten" else layer.width
        if width > self._max_width:
            return f"wider than --max-width ({width} > {self._max_width})"
        before = self._widths.setdefault(layer.name, width)
        if width != before:
            return f"its width changes from batch to batch ({before}, then {width})"
        return None

    def _mask_obstacle(self, layer: Layer, features: Tensor) -> str | None:
        """A row where no token counts has nothing to average or to choose from."""
        counted = counted_tokens(features, layer, self._mask)
        if counted is None or self._pooling in ("tokens", "flatten") or counted.any(1).all():
            return None
        row = self._row + int(counted.any(1).int().argmin())
        return f"the mask leaves no token of row {row}: there is nothing to pool"


def first_not_finite(values: Tensor, first_row: int) -> str | None:
    """Where `values` (n, ...) first are not finite, rows counted from `first_row`; else None."""
    wrong = torch.nonzero(~torch.isfinite(values))
    if not len(wrong):
        return None
    row, *place = wrong[0].tolist()
    return f"first at row {first_row + row}, position {', '.join(map(str, place))}"


def with_rows_before(place: str, rows: int) -> str:
    """What `first_not_finite` said, where `rows` more rows come first."""
    return re.sub(r"(?<=^first at row )\d+", lambda row: str(int(row[0]) + rows), place, flags=re.ASCII)


def _first_not_finite(features: Tensor, first_row: int) -> str:
    place = first_not_finite(features, first_row)
    return f"its input is not finite ({place})" if place else "its input overflows float64 in a sum"


def _token_mask(inputs: Any) -> Tensor | None:
    if isinstance(inputs, Mapping):
        for name in ("attention_mask", "mask"):
            if isinstance(inputs.get(name), Tensor):
                return inputs[name]  # type: ignore[no-any-return]
    return None


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple):
        return model(*inputs)
    return model(inputs)


def _misfit(inputs: Any, error: Exception, model: nn.Module) -> str:
    shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
    reason = next(iter(str(error).strip().splitlines()), "")
    if not reason or not isinstance(error, _OWN_WORDS):
        reason = f"{type(error).__name__}: {reason}".removesuffix(": ")
    types = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()}
    if len(types) > 1 and "dtype" in reason:
        return (
            f"the network cannot run, its own tensors mix {' and '.join(sorted(types))}: {reason} "
            "(save it in one type, such as by model.float())"
        )
    return (
        f"the network cannot take the inputs, of shape {shape}: {reason} "
        "(check which arrays are the inputs: --inputs, or [data] in nrc-probe.toml)"
    )


def _predictions(output: Any, targets: Tensor) -> Tensor:
    """The first tensor of the output that has the targets' shape, give or take axes of 1."""
    tensors = list(_tensors_of(output))
    if not tensors:
        raise DataError(f"the network returns no tensor but {type(output).__name__}")
    n, t = targets.shape
    fitting = (part for part in tensors if part.shape[:1] == (n,) and part.numel() == n * t)
    tensor = next(fitting, None)
    if tensor is None:
        raise DataError(
            f"the network predicts shape {tuple(tensors[0].shape)}, but the targets of the batch "
            f"have shape ({n}, {t}) (check which arrays are the targets: --targets, or [data] in "
            "nrc-probe.toml)"
        )
    return tensor.reshape(n, t).to(targets.device).double()


def _first_tensor(tree: Any) -> Tensor | None:
    return next(_tensors_of(tree), None)


def _tensors_of(tree: Any) -> Iterator[Tensor]:
    """The tensors in a tensor, tuple, list, mapping or dataclass, in order, at any depth."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        yield from _tensors_of(tuple(tree.values()))
    elif isinstance(tree, tuple | list):
        for part in tree:
            yield from _tensors_of(part)
    elif is_dataclass(tree) and not isinstance(tree, type):
        yield from _tensors_of(tuple(getattr(tree, field.name) for field in fields(tree)))
