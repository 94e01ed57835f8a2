"""A live network -> a safetensors file that says which network and which data it is about."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nrc_probe.architecture import describe
from nrc_probe.atomic import replacing
from nrc_probe.checking import check_types
from nrc_probe.config import METADATA_KEY
from nrc_probe.dataset.standardize import ROLES
from nrc_probe.errors import ArchitectureError, ConfigError, DataError, OutputError
from nrc_probe.factory import is_factory
from nrc_probe.spec import ModelSpec, columns_text

_EXAMPLE_ROWS = 8
_EXAMPLE_SIDE = 32
"""Pixels a side of the images that a convolutional network is tried on."""


def save_checkpoint(
    model: nn.Module,
    path: str | Path,
    *,
    data: str | Path | None = None,
    heldout: str | Path | None = None,
    inputs: str | Sequence[str] | None = None,
    targets: str | Sequence[str] | None = None,
    standardize: Sequence[str] | str | None = None,
    architecture: str | None = None,
    model_options: Mapping[str, object] | None = None,
    example: Tensor | None = None,
    epoch: int | None = None,
    step: int | None = None,
    weight_decay: float | None = None,
    learning_rate: float | None = None,
) -> None:
    """Write `model` as a safetensors file that `nrc-probe analyze` opens with no other word.

    data, heldout, inputs, targets, standardize: as in nrc-probe.toml; paths are stored relative to
    the file. architecture: needed only where the network cannot be rebuilt from its tensors; a
    factory "package.module:function" then runs only with --allow-code. example: inputs (n, ...) on
    which a rebuilt network must predict the same; random ones where it is None.

    Raises ArchitectureError where no known architecture reproduces the model's outputs; DataError
    where a data file does not exist; ConfigError where an option has no JSON form; OutputError
    where `path` cannot be written, or has another suffix than .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise OutputError(
            f"cannot write '{path}': what save_checkpoint writes needs a name that ends in .safetensors"
        )
    check_types(
        {
            "architecture": architecture,
            "model_options": model_options,
            "inputs": inputs,
            "targets": targets,
            "standardize": standardize,
        }
    )
    spec = ModelSpec(architecture, dict(model_options or {}))
    if architecture is None:
        spec = _recognised(model, example)
    prepared = {
        "inputs": columns_text(inputs),
        "targets": _targets(columns_text(targets), path),
        "standardize": _standardized(standardize, path),
    }
    tables = {
        "model": {"architecture": spec.architecture, "options": dict(spec.options)},
        "data": {"path": _relative(data, path), **prepared} if data is not None else None,
        "heldout": {"path": _relative(heldout, path)} if heldout is not None else None,
        "epoch": epoch,
        "step": step,
        "weight_decay": weight_decay,
        "learning_rate": learning_rate,
    }
    tensors, said = _tensors(model), _as_json(_said(tables))
    with replacing(path) as temporary:
        save_file(tensors, temporary, {METADATA_KEY: said})


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the model's tensors: on the CPU, none sharing memory, rows in order."""
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ArchitectureError(
                f"'{name}' of {type(model).__name__}'s state is a {type(value).__name__}, which "
                "safetensors cannot hold: save with torch.save, and analyze that file"
            )
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }


_NAME_IT = (
    'architecture="package.module:function", a function that returns the network '
    "(opening the file then needs --allow-code), or use nrc_probe.analyze(model, data)"
)


def _recognised(model: nn.Module, example: Tensor | None) -> ModelSpec:
    name = type(model).__name__
    inputs = _example(model) if example is None else example
    try:
        spec = describe(model, inputs)
    except ArchitectureError as error:
        if example is not None:
            raise
        raise ArchitectureError(
            f"{name} fails on random inputs {tuple(inputs.shape)}, a guess ({error}): give example=inputs "
            f"if it is an MLP or a ResNet; else give {_NAME_IT}"
        ) from error
    if spec is None:
        raise ArchitectureError(f"{name} cannot be rebuilt from its tensors alone: give {_NAME_IT}")
    return spec


def _example(model: nn.Module) -> Tensor:
    """Random inputs of the width that the first layer reads."""
    first = next((m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)), None)
    generator = torch.Generator().manual_seed(0)
    if isinstance(first, nn.Conv2d):
        shape: tuple[int, ...] = (first.in_channels, _EXAMPLE_SIDE, _EXAMPLE_SIDE)
    elif isinstance(first, nn.Linear):
        shape = (first.in_features,)
    else:
        raise ArchitectureError(
            f"{type(model).__name__} has no Linear or Conv2d to try it on: give example=inputs"
        )
    inputs = torch.randn(_EXAMPLE_ROWS, *shape, generator=generator)
    return inputs.to(first.weight.device, first.weight.dtype)


def _relative(data: str | Path, checkpoint: Path) -> str:
    if is_factory(str(data)):
        return str(data)
    if not Path(data).is_file():
        raise DataError(f"{data}: there is no such data file to name in '{checkpoint}'")
    return os.path.relpath(data, checkpoint.parent)


def _targets(targets: str | None, path: Path) -> str | None:
    """Names of arrays or columns as they are; a file of targets as its path from the checkpoint."""
    return _relative(targets, path) if targets and targets.endswith(".npy") else targets


def _standardized(standardize: Sequence[str] | str | None, path: Path) -> list[str] | str | None:
    """Roles as a list; a file of statistics as its path from the checkpoint."""
    if standardize is None:
        return None
    if isinstance(standardize, str):
        return [standardize] if standardize in ROLES else _relative(standardize, path)
    return list(standardize)


def _as_json(table: Mapping[str, object]) -> str:
    try:
        return json.dumps(table, default=_number)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"an option of save_checkpoint has no JSON form ({error}): give numbers, texts, lists"
        ) from error


def _number(value: object) -> object:
    """A plain number from one of numpy or torch."""
    if isinstance(value, np.generic | Tensor):
        return value.item()
    raise TypeError(f"a {type(value).__name__}")


def _said(table: Mapping[str, object]) -> dict[str, object]:
    """`table` without what is None, at any depth."""
    return {
        key: _said(value) if isinstance(value, Mapping) else value
        for key, value in table.items()
        if value is not None
    }
