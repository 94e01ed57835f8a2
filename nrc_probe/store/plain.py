"""Other people's activations: arrays of features, targets, predictions and weights, told by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from nrc_probe.dataset.readers import read_contents
from nrc_probe.dataset.rows import Array, Blocks
from nrc_probe.errors import StoreError
from nrc_probe.forward import Pass
from nrc_probe.moments import Moments
from nrc_probe.store.summing import Tick, error_moments, layer_moments

_LISTED = 12
_ROWS = 2048
"""Summed at once."""


@dataclass(frozen=True)
class ArrayNames:
    """Which arrays of a file are what."""

    features: Sequence[str] = ()
    """Names or globs, in run order; an array's name is its layer's."""
    targets: str | None = None
    predictions: str | None = None
    """Of the network; without them its error is undefined."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Layer -> the array that reads it, (out, d)."""


@dataclass(frozen=True, eq=False)  # eq=False: as Array
class Plain:
    """Arrays of equally many rows, and weights."""

    features: Mapping[str, Array]
    """Layer -> (n, d), in run order."""
    targets: Array
    """(n, t)"""
    predictions: Array | None
    """(n, t)"""
    weights: Mapping[str, Tensor]
    """Layer -> (out, d)."""

    @property
    def target_dim(self) -> int:
        """Target width t."""
        return self.targets.shape[1]


def open_plain(path: Path, names: ArrayNames) -> Plain:
    """The arrays that `names` tells, of any format of arrays that data sets come in.

    Raises StoreError where one is not there or does not fit the others, DataError as for data sets.
    """
    arrays = read_contents(path, str(path))
    if not isinstance(arrays, Mapping):
        raise StoreError(f"{path}: a table; expected arrays (n, d), as .h5, .npz or .safetensors hold")
    targets = _columns(path, _named(path, arrays, names.targets, "targets"))
    features = {name: _columns(path, arrays[name]) for name in _chosen(path, arrays, names.features)}
    predictions = (
        _columns(path, _named(path, arrays, names.predictions, "predictions")) if names.predictions else None
    )
    n = targets.shape[0]
    for array in (*features.values(), *([predictions] if predictions else [])):
        if array.shape[0] != n:
            raise StoreError(f"{path}: '{array.name}' has {array.shape[0]} rows, the targets have {n}")
    if predictions and predictions.shape != targets.shape:
        raise StoreError(
            f"{path}: predictions '{predictions.name}' have shape {predictions.shape}, "
            f"expected the targets' {targets.shape}"
        )
    weights = {layer: _weight(path, arrays, features, layer, name) for layer, name in names.weights.items()}
    return Plain(features, targets, predictions, weights)


def read_plain(plain: Plain, max_width: int, tick: Tick) -> Pass:
    """The sums of all rows, each array read once, block by block. Raises StoreError, DataError."""
    moments: dict[str, Moments] = {}
    skipped: dict[str, str] = {}
    for name, array in plain.features.items():
        width = array.shape[1]
        if width > max_width:
            skipped[name] = f"wider than --max-width ({width} > {max_width})"
            continue
        found = layer_moments(
            array.blocks(), plain.targets.blocks(), width, plain.target_dim, _ROWS, "exact", tick
        )
        if isinstance(found, str):
            skipped[name] = found
        else:
            moments[name] = found
    outputs = plain.predictions.blocks() if plain.predictions else None
    residuals, fault = error_moments(plain.targets.blocks(), outputs, plain.target_dim, _ROWS, tick)
    return Pass(moments, skipped, residuals, fault, knows_outputs=outputs is not None)


def _chosen(path: Path, arrays: Mapping[str, Array], patterns: Sequence[str]) -> list[str]:
    """The names that the patterns match, in their order; those of one glob in natural order."""
    found: dict[str, None] = {}
    for pattern in patterns:
        matching = [pattern] if pattern in arrays else [name for name in arrays if fnmatchcase(name, pattern)]
        if not matching:
            raise StoreError(f"{path}: has no array '{pattern}'; it has {_listing(arrays)}")
        found |= dict.fromkeys(sorted(matching, key=_natural))
    if not found:
        raise StoreError(
            f"{path}: which arrays are features? It has {_listing(arrays)}; name them: --features"
        )
    return list(found)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """2 before 10."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]


def _named(path: Path, arrays: Mapping[str, Array], name: str | None, role: str) -> Array:
    if name is None:
        raise StoreError(
            f"{path}: which array holds the {role}? It has {_listing(arrays)}; name it: --{role}"
        )
    if name not in arrays:
        raise StoreError(f"{path}: has no array '{name}' ({role}); it has {_listing(arrays)}")
    return arrays[name]


def _columns(path: Path, array: Array) -> Array:
    """(n,) as (n, 1); all as floats. Raises StoreError for what is no (n, d) of real numbers."""
    if not array.is_numeric or len(array.shape) not in (1, 2) or 0 in array.shape:
        raise StoreError(f"{path}: '{array.name}' is {array.dtype} {array.shape}; expected numbers (n, d)")
    shape = array.shape if len(array.shape) == 2 else (*array.shape, 1)

    def blocks() -> Blocks:
        for block in array.blocks():
            values = block.reshape(len(block), shape[1])
            yield values if values.is_floating_point() else values.double()

    return replace(array, shape=shape, blocks=blocks)


def _weight(
    path: Path, arrays: Mapping[str, Array], features: Mapping[str, Array], layer: str, name: str
) -> Tensor:
    if layer not in features:
        raise StoreError(f"{path}: weight of '{layer}': no such features; there are {', '.join(features)}")
    array, width = _named(path, arrays, name, "weights"), features[layer].shape[1]
    if not array.is_numeric or len(array.shape) != 2 or array.shape[1] != width or not array.shape[0]:
        raise StoreError(
            f"{path}: weight '{name}' is {array.dtype} {array.shape}; expected (out, {width}), "
            f"as the features '{layer}' are {width} wide"
        )
    weight = torch.cat(list(array.blocks()))
    if not torch.isfinite(weight).all():
        raise StoreError(f"{path}: weight '{name}' is not finite")
    return weight if weight.is_floating_point() else weight.double()


def _listing(arrays: Mapping[str, Array]) -> str:
    texts = [str(array) for array in arrays.values()]
    more = f", and {len(texts) - _LISTED} more" if len(texts) > _LISTED else ""
    return (", ".join(texts[:_LISTED]) + more) or "no arrays"
