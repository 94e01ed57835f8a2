"""What training left beside the tensors, or else in the path. Pure: no file is opened here.

A checkpoint is anybody's file: a value of the wrong kind counts as silence, never as an error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

SUFFIXES = (".safetensors.index.json", ".safetensors", ".pt", ".pth", ".bin", ".ckpt")
"""How the names of checkpoints end."""


@dataclass(frozen=True)
class Training:
    """What training left beside the tensors; None where nothing says it."""

    epoch: int | None = None
    step: int | None = None
    weight_decay: float | None = None
    learning_rate: float | None = None


Facts = dict[str, float]
"""Some of Training's fields, by name."""

_NAMES: dict[str, tuple[str, ...]] = {
    "epoch": ("epoch", "current_epoch", "epoch_idx"),
    "step": (
        "step",
        "global_step",
        "iteration",
        "iter",
        "current_step",
        "global_iter",
        "num_steps",
    ),
    "weight_decay": ("weight_decay", "wd", "weightdecay"),
    "learning_rate": ("learning_rate", "lr"),
}
_OPTIMIZERS = (
    "optimizer",
    "optimizer_state_dict",
    "optimizer_states",
    "optim",
    "opt",
    "optimizers",
)
_SETTINGS = ("hyper_parameters", "hparams", "args", "config", "cfg", "hyperparameters", "options")
_SETTING_GROUPS = ("optimizer", "optim", "training", "train", "trainer", "hparams", "params")
_PROGRESS_GROUPS = ("meta", "trainer_state", "training")
_NEAR_FOLDERS = 3  # runs/<setting>/<seed>/checkpoints/1000.pth: farther up, names mean other things

_NUMBER = r"((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)"
_IN_PATH = {
    "epoch": re.compile(r"(?<![a-z])epoch[_=-]?(\d+)", re.IGNORECASE),
    "step": re.compile(r"(?<![a-z])(?:step|iteration|iter)[_=-]?(\d+)", re.IGNORECASE),
    "weight_decay": re.compile(r"(?<![a-z])(?:wd|weight[_-]?decay)[_=-]?" + _NUMBER, re.I),
    "learning_rate": re.compile(r"(?<![a-z])(?:lr|learning[_-]?rate)[_=-]?" + _NUMBER, re.I),
}


def read_training(
    saved: Sequence[Mapping[Any, object]], metadata: Mapping[str, str], path: Path
) -> tuple[Training, list[str]]:
    """What the checkpoint says, and where it is silent the path; and notes on how that was read.

    saved: the mappings that may hold facts, the most telling first.
    metadata: a safetensors file's `__metadata__`.
    """
    notes: list[str] = []
    sources = [_from_metadata(metadata)]
    for mapping in saved:
        optimizer, settings = _from_optimizer(mapping, notes), _from_settings(mapping)
        notes += _disagreements(optimizer, settings)
        sources += [_progress(mapping), optimizer, settings]
    facts = _first_said(sources)
    silent = {name: found for name, found in _from_path(path).items() if name not in facts}
    notes += [
        f"{name.replace('_', ' ')} {value:g} was read from the path ('{part}')"
        for name, (value, part) in silent.items()
    ]
    return _training(facts | {name: value for name, (value, _) in silent.items()}), notes


def _disagreements(optimizer: Facts, settings: Facts) -> Iterator[str]:
    """Lines on what the optimizer was run with and the saved settings say otherwise."""
    for name in _RATES:
        used, said = optimizer.get(name), settings.get(name)
        if used is not None and said is not None and used != said:
            what = name.replace("_", " ")
            yield f"{what} {used:g} was taken from the optimizer; the saved hyperparameters say {said:g}"


def _training(facts: Facts) -> Training:
    epoch, step = (int(facts[name]) if name in facts else None for name in ("epoch", "step"))
    return Training(epoch, step, facts.get("weight_decay"), facts.get("learning_rate"))


def _first_said(sources: Sequence[Facts]) -> Facts:
    facts: Facts = {}
    for source in sources:
        facts = source | facts
    return facts


# ---- one value


def _number(value: object) -> float | None:
    """A finite number >= 0, or None. Texts count, truth values do not."""
    if isinstance(value, Tensor):
        value = _item(value)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _item(tensor: Tensor) -> object:
    """The number in a tensor of one; None for others, and for layouts that cannot say it."""
    try:
        return tensor.item()
    except (RuntimeError, ValueError, NotImplementedError):
        return None


def _count(value: object) -> float | None:
    """A whole number >= 0, or None."""
    number = _number(value)
    return number if number is not None and number.is_integer() and number < 2**53 else None


_READERS: dict[str, Callable[[object], float | None]] = {
    "epoch": _count,
    "step": _count,
    "weight_decay": _number,
    "learning_rate": _number,
}


def _pick(mapping: Mapping[Any, object], wanted: Sequence[str]) -> Facts:
    """The facts in `wanted` that `mapping` holds under any of their usual names."""
    facts: Facts = {}
    for fact in wanted:
        for name in _NAMES[fact]:
            number = _READERS[fact](mapping.get(name))
            if number is not None and fact not in facts:
                facts[fact] = number
    return facts


_ALL = tuple(field.name for field in fields(Training))
_RATES = ("weight_decay", "learning_rate")


# ---- inside the checkpoint


def _from_metadata(metadata: Mapping[str, str]) -> Facts:
    """Our own entry `nrc_probe` (a JSON object) first, then entries of the usual names."""
    try:
        own = json.loads(metadata.get("nrc_probe", "{}"))
    except (ValueError, RecursionError):
        own = {}
    return _pick(dict(metadata), _ALL) | (_pick(own, _ALL) if isinstance(own, dict) else {})


def _progress(mapping: Mapping[Any, object]) -> Facts:
    groups = [_as_mapping(mapping.get(name)) for name in _PROGRESS_GROUPS]
    return _first_said([_pick(group, ("epoch", "step")) for group in [mapping, *groups]])


def _from_settings(mapping: Mapping[Any, object]) -> Facts:
    """Rates as they were asked for; an `epoch` there may be the planned total, so it is left."""
    sources = []
    for name in _SETTINGS:
        settings = _as_mapping(mapping.get(name))
        groups = [_as_mapping(settings.get(group)) for group in _SETTING_GROUPS]
        sources += [_pick(group, _RATES) for group in [settings, *groups]]
    return _first_said([*sources, _pick(mapping, _RATES)])


def _as_mapping(value: object) -> Mapping[Any, object]:
    if isinstance(value, Mapping):
        return value
    named = getattr(value, "__dict__", None) if _is_namespace(value) else None
    return named if isinstance(named, dict) else {}


def _is_namespace(value: object) -> bool:
    return isinstance(value, SimpleNamespace) or type(value).__name__ == "Namespace"


def _from_optimizer(mapping: Mapping[Any, object], notes: list[str]) -> Facts:
    """The rates of the first optimizer found: the largest where its groups disagree.

    A schedule changes `lr` and keeps what it began with as `initial_lr`: that one tells runs apart.
    """
    groups = next((found for name in _OPTIMIZERS if (found := _groups(mapping.get(name)))), [])
    facts: Facts = {}
    for fact, names in (
        ("weight_decay", ("weight_decay",)),
        ("learning_rate", ("initial_lr", "lr")),
    ):
        values = {value for group in groups if (value := _first_number(group, names)) is not None}
        if values:
            facts[fact] = max(values)
        if len(values) > 1:
            listed = ", ".join(f"{value:g}" for value in sorted(values))
            what = fact.replace("_", " ")
            notes.append(f"the parameter groups disagree on {what} ({listed}): the largest counts")
    return facts


def _first_number(group: Mapping[Any, object], names: Sequence[str]) -> float | None:
    return next((value for name in names if (value := _number(group.get(name))) is not None), None)


def _groups(optimizer: object) -> list[Mapping[Any, object]]:
    """The parameter groups of an optimizer's state, or of the first in a list of such states."""
    if isinstance(optimizer, list | tuple) and optimizer:
        return _groups(optimizer[0])
    groups = _as_mapping(optimizer).get("param_groups")
    if not isinstance(groups, list | tuple):
        return []
    return [group for group in groups if isinstance(group, Mapping)]


# ---- in the path


def _from_path(path: Path) -> dict[str, tuple[float, str]]:
    """Facts in the file's name or its folders', each with the name that says it; nearest first.

    Counts come from the file's name alone: a folder's `epoch_1000` is a run's planned length.
    """
    absolute = path.absolute()
    name = _without_suffix(absolute.name)
    folders = [folder.name for folder in absolute.parents][:_NEAR_FOLDERS]
    found: dict[str, tuple[float, str]] = {}
    for fact, value, part in _named_in_path(name, folders):
        if value is not None:
            found.setdefault(fact, (value, part))
    return found


def _named_in_path(name: str, folders: Sequence[str]) -> Iterator[tuple[str, float | None, str]]:
    if re.fullmatch(r"[0-9]+", name):
        yield "epoch", _count(name), name
    for fact in ("epoch", "step"):
        yield fact, _searched(fact, name), name
    for fact in _RATES:
        for part in (name, *folders):
            yield fact, _searched(fact, part), part
    if folders and (match := re.fullmatch(r"checkpoint-([0-9]+)", folders[0])):
        yield "step", _count(match[1]), folders[0]  # the layout of Hugging Face's Trainer


def _searched(fact: str, part: str) -> float | None:
    match = _IN_PATH[fact].search(part)
    return _READERS[fact](match[1]) if match else None


def _without_suffix(name: str) -> str:
    """`name` without a checkpoint's suffix; `lr0.1` keeps its decimals."""
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]
