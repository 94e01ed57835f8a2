"""Moments and passes <-> groups of an HDF5 file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from nrc_probe.errors import StoreError
from nrc_probe.forward import Pass
from nrc_probe.moments import EXACT, FAST, Moments
from nrc_probe.store.layout import link_name, read_array, read_text, texts, write_array, write_text
from nrc_probe.typed import restore

_SUMS = ("mean_h", "mean_y", "scatter_hh", "scatter_hy", "scatter_yy")
_OF_TARGETS = ("mean_y", "scatter_yy")
_NEAR = {EXACT: 1e-5, FAST: 1e-2}
"""How far the targets' sums of one pass may be apart, as a share of their size."""


def save_pass(group: Any, watched: Pass) -> None:
    """All that a pass left behind, but for the features."""
    for name, moments in watched.moments.items():
        _save_moments(group.create_group(f"moments/{link_name(name)}"), moments)
    _save_moments(group.create_group("residuals"), watched.residuals)
    save_outcome(group, watched.skipped, watched.fault)


def save_outcome(group: Any, skipped: Mapping[str, str], fault: str | None) -> None:
    """Which layers a pass skipped, and where the network's output was not finite."""
    write_text(group, "outcome", {"skipped": dict(sorted(skipped.items())), "fault": fault})


def load_outcome(group: Any) -> tuple[dict[str, str], str | None]:
    """What `save_outcome` wrote; nothing skipped where others wrote the file."""
    if "outcome" not in group:
        return {}, None
    outcome = read_text(group, "outcome")
    return texts(outcome["skipped"], "skipped"), restore(outcome["fault"], "str | None", "fault")


def load_pass(group: Any, layers: Iterable[str], *, same_rows: bool, precision: str) -> Pass:
    """What `save_pass` wrote, of these layers, in their order.

    same_rows: whether each layer saw the rows that the network's errors are of, and not their tokens.
    Raises StoreError where it is damaged, or its sums are not of one pass.
    """
    skipped, fault = load_outcome(group)
    places = {name: f"moments/{link_name(name)}" for name in layers}
    residuals = _load_moments(group["residuals"])
    _check_finite(residuals, _OF_TARGETS if fault else ("mean_h", *_OF_TARGETS), group["residuals"].name)
    moments = {}
    for name, place in places.items():
        if place in group:
            moments[name] = _load_moments(group[place])
            _check_layer(moments[name], group[place].name)
            _check_targets(moments[name], residuals, group[place].name, same_rows, precision)
        else:
            skipped.setdefault(name, "the file holds no moments of it")
    return Pass(moments, skipped, residuals, fault)


def _save_moments(group: Any, moments: Moments) -> None:
    write_array(group, "n", moments.n)
    for name in _SUMS:
        write_array(group, name, getattr(moments, name).numpy())


def _load_moments(group: Any) -> Moments:
    sums = {name: torch.from_numpy(_read_numbers(group, name).astype("f8", copy=False)) for name in _SUMS}
    n = read_array(group, "n")
    if n.shape or n.dtype.kind not in "iu" or n < 1:
        raise StoreError(f"'{group.name}/n': expected a number of rows, got {n.tolist()!r:.40}")
    moments = Moments(n=int(n), **sums)
    d, t = moments.width, moments.target_dim
    shapes = {
        "mean_h": (d,),
        "mean_y": (t,),
        "scatter_hh": (d, d),
        "scatter_hy": (d, t),
        "scatter_yy": (t, t),
    }
    for name, shape in shapes.items():
        if sums[name].shape != shape:
            raise StoreError(f"'{group.name}/{name}': expected {shape}, got {tuple(sums[name].shape)}")
    return moments


def _read_numbers(group: Any, name: str) -> np.ndarray[Any, Any]:
    array = read_array(group, name)
    if array.dtype.kind not in "fiu":
        raise StoreError(f"'{group.name}/{name}': expected real numbers, got {array.dtype}")
    return array


# -------------------------------------------------------------------- whether they can be of one pass


def _check_layer(moments: Moments, place: str) -> None:
    _check_finite(moments, _SUMS, place)
    scatter = moments.scatter_hh
    if not torch.allclose(scatter, scatter.T, rtol=1e-6, atol=1e-9 * float(scatter.abs().max())):
        raise StoreError(f"'{place}/scatter_hh': expected a symmetric matrix")


def _check_finite(moments: Moments, names: Iterable[str], place: str) -> None:
    for name in names:
        if not torch.isfinite(getattr(moments, name)).all():
            raise StoreError(f"'{place}/{name}': expected finite numbers")


def _check_targets(moments: Moments, residuals: Moments, place: str, same_rows: bool, precision: str) -> None:
    """Raise StoreError where a layer's sums are not beside the targets that the errors are beside."""
    if moments.target_dim != residuals.target_dim:
        raise StoreError(
            f"'{place}': is of {moments.target_dim} targets, the network's errors of {residuals.target_dim}"
        )
    if not same_rows:
        return
    if moments.n != residuals.n:
        raise StoreError(f"'{place}/n': {moments.n} rows, but the network's errors are of {residuals.n}")
    # columns without variation are compared on the scale of their means
    size = residuals.scatter_yy.diagonal().abs() + 1e-6 * residuals.n * residuals.mean_y.square()
    scale, near = size.sqrt(), _NEAR[precision]
    means = (moments.mean_y - residuals.mean_y).abs() * residuals.n**0.5
    scatter = (moments.scatter_yy - residuals.scatter_yy).abs()
    for name, apart, largest in (
        ("mean_y", means, near * scale),
        ("scatter_yy", scatter, near * torch.outer(scale, scale)),
    ):
        if not (apart <= largest).all():
            raise StoreError(f"'{place}/{name}': is of other targets than the network's errors")
