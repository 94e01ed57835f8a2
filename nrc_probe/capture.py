"""One forward pass -> the features of each layer, the moment they exist. Hooks are always removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nrc_probe.errors import DataError
from nrc_probe.layers import Layer, pool, rows_per_sample

Consumer = Callable[[Layer, Tensor, Tensor], None]
"""Takes a layer, its features (n, d) and the targets (n, t) of the same rows, once a batch."""


class Capture:
    """Watches layers while a model runs, and hands their pooled inputs to a consumer.

    Features are consumed inside a pre-forward hook, before a later in-place operation can change them.
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
    ) -> None:
        self.order: list[str] = []
        """Names of the layers that ran, in the order in which they first ran."""
        self.skipped: dict[str, str] = {}
        """Name -> why the layer is not scored after all."""
        self._model, self._layers, self._consume = model, layers, consume
        self._pooling, self._max_width = pooling, max_width
        self._calls: Counter[str] = Counter()
        self._targets = torch.empty(0, 0)
        self._mask: Tensor | None = None
        self._row = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks in place and the model in eval mode; both undone at the end, also after an error."""
        modes = {module: module.training for module in self._model.modules()}
        hooks = [
            layer.module.register_forward_pre_hook(self._hook(layer), with_kwargs=True)
            for layer in self._layers
        ]
        self._model.eval()
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for module, mode in modes.items():
                module.training = mode

    @torch.no_grad()
    def forward(self, inputs: Any, targets: Tensor) -> Tensor:
        """Run one batch; returns the model's predictions as (n, t), float64.

        inputs: a tensor (n, ...), a tuple (positional arguments) or a mapping (keyword arguments, whose
        `attention_mask` or `mask` tells which tokens count). targets: (n, t).
        Raises DataError where the model cannot take the inputs, or does not predict (n, t).
        """
        self._calls.clear()
        self._targets, self._mask = targets, _token_mask(inputs)
        try:
            output = _call(self._model, inputs)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise DataError(_misfit(inputs, error)) from error
        self._row += len(targets)
        return _predictions(output, targets)

    def finish(self) -> None:
        """After the last batch: give the layers that never ran their reason."""
        for layer in self._layers:
            if layer.name not in self.order and layer.name not in self.skipped:
                self.skipped[layer.name] = "never ran in the forward pass"

    def _hook(self, layer: Layer) -> Callable[..., None]:
        def consume_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if layer.name not in self.skipped:
                self._take(layer, args[0] if args else kwargs["input"])

        return consume_input

    def _take(self, layer: Layer, features: Tensor) -> None:
        if features.device.type == "mps":
            features = features.cpu()  # that device has no float64
        self._calls[layer.name] += 1
        if self._calls[layer.name] == 1 and layer.name not in self.order:
            self.order.append(layer.name)
        reason = self._obstacle(layer, features)
        if reason:
            self.skipped[layer.name] = reason
            return
        rows, targets = pool(features, layer, self._pooling, self._mask), self._targets
        if self._pooling == "tokens":
            repeats = rows_per_sample(features, layer, self._mask)
            targets = targets.repeat_interleave(repeats.to(targets.device), 0)
        self._consume(layer, rows, targets)

    def _obstacle(self, layer: Layer, features: Tensor) -> str | None:
        n = len(self._targets)
        if self._calls[layer.name] > 1:
            return "ran more than once in one forward pass: it has no single input"
        if features.ndim < 2 or len(features) != n:
            return f"its input has shape {tuple(features.shape)} for a batch of {n} rows"
        width = features[0].numel() if self._pooling == "flatten" else layer.width
        if width > self._max_width:
            return f"wider than --max-width ({width} > {self._max_width})"
        return _not_finite(features, self._row)


def _not_finite(features: Tensor, first_row: int) -> str | None:
    """Where the first value is that is not finite; None where all are."""
    # One sum clears nearly every batch; it may overflow where each value is finite.
    if torch.isfinite(features.sum()) or torch.isfinite(features).all():
        return None
    row, *place = torch.nonzero(~torch.isfinite(features))[0].tolist()
    position = ", ".join(map(str, place))
    return f"its input is not finite (first at row {first_row + row}, position {position})"


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


def _misfit(inputs: Any, error: Exception) -> str:
    shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"the network cannot take the inputs, of shape {shape}: {reason} "
        "(check which arrays are the inputs: --inputs, or [data] in nrc-probe.toml)"
    )


def _predictions(output: Any, targets: Tensor) -> Tensor:
    tensor = _first_tensor(output)
    if tensor is None:
        raise DataError(f"the network returns no tensor but {type(output).__name__}")
    n, t = targets.shape
    if tensor.shape[:1] != (n,) or tensor[0].numel() != t:
        raise DataError(
            f"the network predicts shape {tuple(tensor.shape)}, but the targets of the batch have shape "
            f"({n}, {t}) (check which arrays are the targets: --targets, or [data] in nrc-probe.toml)"
        )
    return tensor.reshape(n, t).to(targets.device).double()


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    parts = output.values() if isinstance(output, Mapping) else output
    if isinstance(parts, (str, bytes)) or not hasattr(parts, "__iter__"):
        return None
    return next((part for part in parts if isinstance(part, Tensor)), None)
