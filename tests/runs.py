"""Small checkpoints, data files and results to run the outer rooms on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nrc_probe.last_layer_2024 import LastLayer2024
from nrc_probe.result import (
    CheckpointFacts,
    DataFacts,
    Heldout,
    HeldoutLayer,
    LayerResult,
    ModelFacts,
    Provenance,
    Result,
    Settings,
    Thresholds,
    conditions_met,
)


def small_network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def save_network(path: Path, module: nn.Module | None = None, prefix: str = "layers.") -> Path:
    """As training scripts do: torch.save of a dictionary with the state dict in it."""
    state = (module or small_network()).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": {prefix + name: t for name, t in state.items()}, "epoch": 7}, path)
    return path


def save_data(path: Path, n: int = 60, **arrays: np.ndarray) -> Path:
    """Inputs x (n, 5) and targets y (n, 2), unless other arrays are given."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    y = (x @ rng.normal(size=(5, 2))).astype(np.float32)
    np.savez(path, **{"x": x, "y": y, **arrays})
    return path


def a_layer(name: str, nrc1: float = 0.5, **values: object) -> LayerResult:
    scores = {
        "nrc1": nrc1,
        "nrc2": 0.8,
        "nrc3": 0.9,
        "nrc4_ratio": 1.1,
        **{key: value for key, value in values.items() if key in ("nrc2", "nrc3", "nrc4_ratio")},
    }
    layer = LayerResult(
        index=0,
        name=name,
        type="Linear",
        width=64,
        out=64,
        rank=3,
        nrc4=0.125,
        nrc4_r2=0.9,
        nrc4_rank=20,
        nrc4_no_intercept=0.13,
        cka=0.7,
        nrc3_noise=0.1,
        nrc3_chance=0.2,
        eigengap_features=2.0,
        eigengap_weight=math.nan,
        stable_rank_features=2.5,
        stable_rank_covariance=1.5,
        stable_rank_weight=4.0,
        effective_rank=4.5,
        conditions=conditions_met(**scores, at=Thresholds(), undecided=values.get("undecided", ())),
        **scores,
    )
    return replace(layer, **{key: value for key, value in values.items() if key not in scores})


def a_result(*layers: LayerResult, **values: object) -> Result:
    data = DataFacts("train.npz", "00", 400, (5,), 3, 3, 1.5, ("inputs",), ("x was guessed",))
    result = Result(
        checkpoint=CheckpointFacts("run/7.pth", "ab", "torch", 7, None, 1e-3, None),
        model=ModelFacts("inferred", "MLP 5-64-3, ReLU", 1234, ("ReLU is assumed",)),
        data=data,
        settings=Settings(*("target", 1e-3, "mean", "exact", Thresholds()), (), ("conv1",), 8192, None),
        model_mse=0.1,
        model_r2=0.9,
        layers=layers,
        skipped=(),
        heldout=None,
        last_layer_2024=LastLayer2024(0.1, 0.2, math.nan),
        warnings=(),
        provenance=Provenance("0", "2", "2", "cpu", 0.5, "2026-01-01T00:00:00+00:00"),
    )
    return replace(result, **values)


def held_out(*layers: str, mse: float = 0.2) -> Heldout:
    data = DataFacts("test.npz", "01", 100, (5,), 3, 3, 1.5)
    return Heldout(data, mse, 0.8, tuple(HeldoutLayer(name, 0.25) for name in layers))


def same(one: Result | None, other: Result | None) -> bool:
    """Whether two results say the same, give or take how many threads added the numbers up."""
    return one is not None and other is not None and _close(_said(one), _said(other))


def _said(result: Result) -> object:
    return {**result.to_dict(), "provenance": None}


def _close(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(_close(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_close, one, other))
    return one == other
