"""Results of several checkpoints: small ones made by hand, and real ones of tiny networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from runs import a_layer, a_result, held_out
from torch import nn

import nrc_probe
from nrc_probe.report.study import Study, group_runs
from nrc_probe.report.trainings import Found
from nrc_probe.result import CheckpointFacts, Result

LAYERS = ("fc1", "fc2", "fc3")


def at_epoch(
    epoch: int | None,
    nrc1: Sequence[float],
    *,
    decay: float | None = 1e-3,
    mse: float = 0.1,
    folder: str = "runs/a",
    **values: object,
) -> Result:
    """A result with a layer for each nrc1."""
    layers = [
        replace(a_layer(name, x), index=k) for k, (name, x) in enumerate(zip(LAYERS, nrc1, strict=False))
    ]
    name = "model" if epoch is None else str(epoch)
    facts = CheckpointFacts(f"{folder}/{name}.pth", f"{epoch}", "torch", epoch, None, decay, None)
    heldout = held_out(*(layer.name for layer in layers), mse=2 * mse)
    return a_result(*layers, **{"checkpoint": facts, "model_mse": mse, "heldout": heldout, **values})


def study(*results: Result) -> Study:
    return Study(group_runs(Found(result) for result in results))


def unfolding(decay: float = 1e-3, folder: str = "runs/a", shift: float = 0.0) -> list[Result]:
    """Four checkpoints: fc3 collapses for good at epoch 10, fc2 at the last; the error settles at 10."""
    numbers = {1: (0.9, 0.1, 0.5), 2: (0.9, 0.4, 0.3), 10: (0.9, 0.3, 0.1), 100: (0.9, 0.15, 0.05)}
    errors = {1: 1.0, 2: 0.5, 10: 0.105, 100: 0.1}
    return [
        at_epoch(epoch, [x + shift for x in nrc1], decay=decay, mse=errors[epoch], folder=folder)
        for epoch, nrc1 in numbers.items()
    ]


def settled(decay: float = 1e-3, folder: str = "runs/a", shift: float = 0.0) -> list[Result]:
    """As `unfolding`, and a fifth checkpoint at which fc2 is still collapsed."""
    fifth = [x + shift for x in (0.9, 0.12, 0.04)]
    return [*unfolding(decay, folder, shift), at_epoch(1000, fifth, decay=decay, mse=0.1, folder=folder)]


def real_results(folder: Path) -> Path:
    """Results of tiny networks, trained for a few steps: 3 epochs of 2 weight decays, as JSON files."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 5)).astype(np.float32)
    y = np.tanh(x @ rng.normal(size=(5, 2))).astype(np.float32)
    np.savez(folder / "train.npz", x=x, y=y)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    for decay in (0.0, 0.01):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=decay)
        for epoch in range(1, 12):
            for _ in range(8):
                optimizer.zero_grad()
                nn.functional.mse_loss(model(inputs), targets).backward()
                optimizer.step()
            if epoch in (1, 2, 11):
                path = folder / "runs" / f"wd_{decay:.5f}" / f"{epoch}.pth"
                path.parent.mkdir(parents=True, exist_ok=True)
                body = {"model": model.state_dict(), "epoch": epoch, "optimizer": optimizer.state_dict()}
                torch.save(body, path)
                result = nrc_probe.analyze(path, folder / "train.npz", heldout=str(folder / "train.npz"))
                out = folder / "results" / path.relative_to(folder / "runs")
                out.parent.mkdir(parents=True, exist_ok=True)
                out.with_name(f"{out.name}.json").write_text(result.to_json())
    return folder / "results"
