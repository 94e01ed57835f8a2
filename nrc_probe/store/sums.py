"""Moments and passes <-> groups of an HDF5 file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from nrc_probe.errors import StoreError
from nrc_probe.forward import Pass
from nrc_probe.moments import Moments
from nrc_probe.store.layout import link_name, read_array, read_text, texts, write_array, write_text
from nrc_probe.typed import restore

_SUMS = ("mean_h", "mean_y", "scatter_hh", "scatter_hy", "scatter_yy")


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


def load_pass(group: Any, layers: Iterable[str]) -> Pass:
    """What `save_pass` wrote, of these layers, in their order. Raises StoreError where it is damaged."""
    skipped, fault = load_outcome(group)
    moments = {
        name: _load_moments(group[f"moments/{link_name(name)}"])
        for name in layers
        if f"moments/{link_name(name)}" in group
    }
    return Pass(moments, skipped, _load_moments(group["residuals"]), fault)


def _save_moments(group: Any, moments: Moments) -> None:
    write_array(group, "n", moments.n)
    for name in _SUMS:
        write_array(group, name, getattr(moments, name).numpy())


def _load_moments(group: Any) -> Moments:
    sums = {name: torch.from_numpy(read_array(group, name).astype("f8", copy=False)) for name in _SUMS}
    moments = Moments(n=int(read_array(group, "n")), **sums)
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
