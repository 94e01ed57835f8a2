"""Raw batches -> checked ones: images to NCHW floats, standardised, finite, targets (n, t)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from nrc_probe.dataset.rows import torch_dtype
from nrc_probe.dataset.standardize import Statistics, apply
from nrc_probe.errors import DataError

Inputs = Any
"""A tensor (n, ...), or, from live data, a tuple or mapping of them."""
Batch = tuple[Inputs, Tensor]
Images = Literal["nhwc", "nchw"]

_CHANNELS = (1, 3, 4)


@dataclass(frozen=True, eq=False)  # eq=False: statistics are tensors
class Preparation:
    """What is done to each batch before the network sees it."""

    place: str
    """How errors name the data."""
    images: Images | None = None
    """Image layout to turn into NCHW in [0, 1]; None: inputs are no images."""
    statistics: Statistics = field(default_factory=Statistics)
    dtype: torch.dtype | None = torch.float32
    """Of the inputs; None keeps each tensor's own."""

    def unscaled(self) -> Preparation:
        """The same without standardising, in float64: what the statistics are measured on."""
        return replace(self, statistics=Statistics(), dtype=torch.float64)

    def batches(self, pairs: Iterable[Batch]) -> Iterator[Batch]:
        """The pairs, prepared, one at a time; DataError at the first value that is not finite."""
        start = 0
        for inputs, targets in pairs:
            x = map_tensors(inputs, lambda part, start=start: self._inputs(part.detach(), start))  # type: ignore[misc]
            yield x, self._targets(targets, start)
            start += len(targets)

    def _inputs(self, raw: Tensor, start: int) -> Tensor:
        values = to_nchw(raw, self.images)
        ready = apply(values, self.statistics.inputs)
        own = values.dtype if ready is values or values.is_floating_point() else torch.float32
        # a network may write into its input, which must not reach the user's own data
        shared = ready.data_ptr() == raw.data_ptr()
        return self._finite(ready.to(self.dtype or own, copy=shared), values, "inputs", start)

    def _targets(self, raw: Tensor, start: int) -> Tensor:
        values = as_columns(raw, self.place).detach().cpu().double()
        return self._finite(apply(values, self.statistics.targets), values, "targets", start)

    def _finite(self, ready: Tensor, raw: Tensor, role: str, start: int) -> Tensor:
        wrong = ready.isfinite().logical_not_()
        if bool(wrong.any()):
            row, *place = wrong.nonzero()[0].tolist()
            value = float(raw[(row, *place)])
            column = f", column {place[0] if len(place) == 1 else tuple(place)}" if place else ""
            raise DataError(
                f"{self.place}: {role} at row {start + row}{column} (from 0): expected a finite "
                f"{torch_dtype(ready)} number, got {value}; drop or fill such rows"
            )
        return ready


def as_columns(targets: Tensor, place: str) -> Tensor:
    """Targets (n,) or (n, t) as (n, t)."""
    if targets.ndim == 1:
        return targets[:, None]
    if targets.ndim != 2 or targets.is_complex():
        raise DataError(
            f"{place}: targets have shape {tuple(targets.shape)} {torch_dtype(targets)}; "
            "expected real numbers, (n,) or (n, t)"
        )
    return targets


def image_layout(
    shape: tuple[int, ...], dtype: str, asked: str | None, place: str
) -> tuple[Images | None, tuple[str, ...]]:
    """How inputs (n, ...) of this type are laid out as images, and the note that says so.

    asked: "auto" (bytes with 1, 3 or 4 channels are images), "nhwc" or "as-is".
    """
    if asked not in (None, "auto", "nhwc", "as-is"):
        raise DataError(f"{place}: images = '{asked}': expected auto, nhwc or as-is")
    if asked == "nhwc" and len(shape) != 4:
        raise DataError(f"{place}: images = 'nhwc' needs inputs (n, h, w, c); got {shape}")
    scaled = ", divided by 255" if dtype == "uint8" else ""
    first = asked == "nhwc" or (len(shape) == 4 and shape[1] not in _CHANNELS)
    if asked == "nhwc" or (_is_picture(shape, dtype, asked) and first):
        return "nhwc", (f"inputs {shape} read as images, channels last: turned to NCHW{scaled}",)
    if _is_picture(shape, dtype, asked):
        return "nchw", (f"inputs {shape} read as images, channels first{scaled}",)
    return None, ()


def _is_picture(shape: tuple[int, ...], dtype: str, asked: str | None) -> bool:
    seen = len(shape) == 4 and (shape[1] in _CHANNELS or shape[3] in _CHANNELS)
    return asked != "as-is" and dtype == "uint8" and seen


def to_nchw(values: Tensor, layout: Images | None) -> Tensor:
    """Images as NCHW, bytes scaled to [0, 1] as float32; other inputs as they are."""
    if layout is None:
        return values
    if values.ndim != 4:
        raise DataError(f"images have shape {tuple(values.shape)}; expected 4 dimensions")
    turned = values.permute(0, 3, 1, 2) if layout == "nhwc" else values
    return turned.contiguous().float() / 255 if values.dtype == torch.uint8 else turned.contiguous()


def map_tensors(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """`function` of each tensor or array in a tuple, list or mapping; the rest stays as it is."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(value, function) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)(map_tensors(value, function) for value in tree)
    return tree
