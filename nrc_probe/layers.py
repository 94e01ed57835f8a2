"""Which modules are scored, their weight as (out, d), and their input as (n, d)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from nrc_probe.errors import LayerError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
SCORED = (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)
_ADDRESS = re.compile(" at 0x[0-9a-f]+", re.IGNORECASE)
"""In the texts of functions: another in every process."""
POOLINGS = ("mean", "max", "flatten", "tokens", "first", "last")


@dataclass(frozen=True, eq=False)
class Layer:
    """A module whose input is scored."""

    name: str
    """Dotted `named_modules()` name."""
    module: nn.Module

    @property
    def type(self) -> str:
        """The module's class name."""
        return type(self.module).__name__

    @property
    def is_linear(self) -> bool:
        """Whether features are the last axis (Linear) rather than the second (convolutions)."""
        return isinstance(self.module, nn.Linear)

    @property
    def width(self) -> int:
        """Input width d: features of a Linear, channels of a convolution."""
        module = self.module
        return int(module.in_features if isinstance(module, nn.Linear) else module.in_channels)  # type: ignore[arg-type]

    @property
    def out(self) -> int:
        """Output width: features of a Linear, channels of a convolution."""
        module = self.module
        return int(module.out_features if isinstance(module, nn.Linear) else module.out_channels)  # type: ignore[arg-type]

    def reads(self, shape: torch.Size, rows: int) -> bool:
        """Whether an input of this shape is `rows` samples, rows first, none of them empty."""
        if len(shape) < 2 or shape[0] != rows or not shape.numel():
            return False
        # A map without its batch axis would be taken for a batch of another meaning.
        return self.is_linear or len(shape) == 2 + len(self.module.kernel_size)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Skipped:
    """A module that is not scored, and why."""

    name: str
    type: str
    reason: str


class Named(Protocol):
    """What has a layer's name and type."""

    @property
    def name(self) -> str:
        """Dotted."""

    @property
    def type(self) -> str:
        """Class name."""


SomeLayer = TypeVar("SomeLayer", bound=Named)


def find_layers(
    model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[list[Layer], list[Skipped]]:
    """The Linear and convolution modules that the patterns choose, and those they leave out.

    Arguments and errors as of `choose_layers`.
    """
    found = [Layer(name, module) for name, module in model.named_modules() if isinstance(module, SCORED)]
    return choose_layers(found, include, exclude, "the model", lambda layer: _unreadable(layer.module.weight))


def module_forms(model: nn.Module) -> dict[str, str]:
    """Name -> type and settings of every module, as "LeakyReLU(negative_slope=0.01)", as they are registered.

    Empty for one that takes its form from the first rows it sees: it has two.
    """
    return {
        name: "" if isinstance(module, LazyModuleMixin) else _form(module)
        for name, module in model.named_modules()
    }


def _form(module: nn.Module) -> str:
    try:
        settings = module.extra_repr()
    except Exception:  # the user's module may fail in any way, and its type is known
        settings = ""
    return _ADDRESS.sub("", f"{type(module).__name__}({settings})")


def choose_layers(
    found: Sequence[SomeLayer],
    include: Sequence[str],
    exclude: Sequence[str],
    place: str,
    obstacle: Callable[[SomeLayer], str | None] = lambda _: None,
) -> tuple[list[SomeLayer], list[Skipped]]:
    """The layers that the patterns choose, and those they, or an obstacle, leave out.

    include, exclude: globs on dotted names; an empty `include` chooses all. place: where they are.
    Raises LayerError for an `include` pattern that matches nothing, and where no layer is left.
    """
    names = [layer.name for layer in found]
    for pattern in include:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise LayerError(f"layer '{pattern}' is not in {place}; {_listing(names)}")
    kept, skipped = [], []
    for layer in found:
        reason = _left_out(layer.name, include, exclude) or obstacle(layer)
        if reason:
            skipped.append(Skipped(layer.name, layer.type, reason))
        else:
            kept.append(layer)
    if not kept:
        raise LayerError(f"no layer is left to score; {_listing(names)}")
    return kept, skipped


def unmatched(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """The globs among `patterns` that match none of `names`."""
    names = list(names)
    return [p for p in patterns if not any(fnmatchcase(name, p) for name in names)]


def _left_out(name: str, include: Sequence[str], exclude: Sequence[str]) -> str | None:
    for pattern in exclude:
        if fnmatchcase(name, pattern):
            return f"excluded by '{pattern}'"
    if include and not any(fnmatchcase(name, pattern) for pattern in include):
        return "not chosen by --layers"
    return None


def _unreadable(weight: Any) -> str | None:
    """Why a weight has no singular vectors; None where it has."""
    if is_lazy(weight):
        return "its weight has no shape yet: a lazy module that never ran"
    if not weight.numel():
        return f"its weight is empty, of shape {tuple(weight.shape)}"
    # Below two bytes lie the 8-bit floats, which nothing computes with.
    if not weight.is_floating_point() or weight.itemsize < 2 or weight.layout != torch.strided:
        kind = f"{weight.dtype}, {weight.layout}".replace("torch.", "")
        return f"its weight is {kind}: expected dense floats"
    return "its weight has no values: it lies on the meta device" if weight.is_meta else None


def _listing(names: Sequence[str], shown: int = 8) -> str:
    if not names:
        return "it has no Linear or convolution layer"
    more = f", ... ({len(names)} in all)" if len(names) > shown else ""
    return f"it has: {', '.join(names[:shown])}{more} (see 'nrc-probe layers')"


def weight_matrix(layer: Layer) -> Tensor:
    """The layer's weight as (out, d), on the CPU; a convolution's as (c_out * kernel, c_in).

    Grouped convolutions are written out: a row is 0 in the channels of other groups.
    """
    weight: Tensor = layer.module.weight.detach().cpu()  # type: ignore[operator]
    if layer.is_linear:
        return weight
    channel = 0 if isinstance(layer.module, _TRANSPOSED) else 1
    groups = weight.chunk(int(layer.module.groups))  # type: ignore[arg-type]
    rows = [group.movedim(channel, -1).reshape(-1, group.shape[channel]) for group in groups]
    return rows[0] if len(rows) == 1 else _block_diagonal(rows)


def _block_diagonal(blocks: Sequence[Tensor]) -> Tensor:
    matrix: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return matrix


def pool(features: Tensor, layer: Layer, pooling: str, mask: Tensor | None = None) -> Tensor:
    """A layer's input as (n, d): one row a sample, or with `tokens` one row a position (n * s, d).

    features: (n, d), (n, ..., d) for a Linear, (n, d, ...) for a convolution. Positions are the
    axes between, in raster order. mask: (n, s), true where a token counts; used where its shape
    fits. A row where none counts is 0 under `flatten`, and has no mean, max, first or last.
    """
    if features.ndim == 2:
        return features
    tokens = features.flatten(1, -2) if layer.is_linear else features.flatten(2).transpose(1, 2)
    counted = counted_tokens(features, layer, mask)
    if counted is None:
        return _pool_all(tokens, pooling)
    return _pool_masked(tokens, counted, pooling)


def counted_tokens(features: Tensor, layer: Layer, mask: Tensor | None) -> Tensor | None:
    """`mask` as (n, s) booleans beside `features`; None where it is not about their positions."""
    if mask is None or features.ndim == 2 or mask.shape != (len(features), _positions(features, layer)):
        return None
    return mask.to(features.device).bool()


def _positions(features: Tensor, layer: Layer) -> int:
    return (features.shape[1:-1] if layer.is_linear else features.shape[2:]).numel()


def _pool_all(tokens: Tensor, pooling: str) -> Tensor:
    match pooling:
        case "mean":
            # float64: a mean over many positions in half precision loses digits
            return tokens.mean(1, dtype=torch.float64)
        case "max":
            return tokens.amax(1)
        case "first":
            return tokens[:, 0]
        case "last":
            return tokens[:, -1]
        case "tokens":
            return tokens.flatten(0, 1)
        case _:
            return tokens.flatten(1)


def _pool_masked(tokens: Tensor, mask: Tensor, pooling: str) -> Tensor:
    counts = mask.sum(1, keepdim=True)
    rows = torch.arange(len(tokens), device=tokens.device)
    match pooling:
        case "mean":
            kept = tokens.double().masked_fill(~mask[..., None], 0)
            return kept.sum(1) / counts
        case "max":
            return tokens.masked_fill(~mask[..., None], -torch.inf).amax(1)
        case "first":
            return tokens[rows, mask.int().argmax(1)]
        case "last":
            return tokens[rows, mask.shape[1] - 1 - mask.int().flip(1).argmax(1)]
        case "tokens":
            return tokens[mask]
        case _:
            return tokens.masked_fill(~mask[..., None], 0).flatten(1)


def rows_per_sample(features: Tensor, layer: Layer, mask: Tensor | None) -> Tensor:
    """How many rows each sample gives under `tokens` pooling: (n,) integers."""
    counted = counted_tokens(features, layer, mask)
    if counted is not None:
        return counted.sum(1).cpu()
    positions = 1 if features.ndim == 2 else _positions(features, layer)
    return torch.full((len(features),), positions, dtype=torch.long)
