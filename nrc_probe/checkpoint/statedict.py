"""A saved object -> the state dict in it: found, cleaned, its names stripped. Pure: no files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nrc_probe.checkpoint.sound import unsound
from nrc_probe.errors import CheckpointError

_USUAL = (
    "model",
    "model_state_dict",
    "state_dict",
    "model_state",
    "net",
    "network",
    "net_state_dict",
    "module",
    "params",
    "weights",
)
_AVERAGE = re.compile(r"(^|[_.])(ema|swa|avg|averaged?|shadow|polyak|target|teacher)([_.]|$)", re.IGNORECASE)
_NEVER = re.compile(
    r"(^|_)(opt|optim)(_|\d|$)|optimi[sz]er|scheduler|scaler|callbacks|loops|rng|_extra_state"
    r"|^(hyper_parameters|hparams|args|config|cfg|_metadata)$",
    re.IGNORECASE,
)
_OPTIMIZER_STATE = frozenset(
    {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg"}
    | {"acc_delta", "sum", "step", "exp_inf", "prev", "step_size"}
)
_DEEPEST = 2  # {"checkpoint": {"model": state dict}}: deeper, it is no longer clear what is meant
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_SHOWN = 8


@dataclass(frozen=True, eq=False)  # eq=False: it holds tensors
class Found:
    """One state dict inside a saved object."""

    key: str
    """Dotted path to it; "" where the saved object is itself the state dict."""
    state: Mapping[Any, object]
    beside: Mapping[Any, object]
    """The entries that stand next to it, where training leaves its facts."""


def find_state_dict(saved: object, state_key: str | None) -> tuple[Found, list[str]]:
    """The state dict that `state_key` names, or the likeliest one; and notes on the choice.

    A plain model comes before an average of it (EMA), a usual name before others, then the larger.
    Raises CheckpointError where there is none, or none under `state_key`.
    """
    candidates = sorted(_candidates(saved), key=_preference)
    if state_key is not None:
        return _under_key(candidates, state_key), []
    if not candidates:
        raise CheckpointError(f"expected a state dict, got {_describe(saved)} without one")
    chosen, *others = candidates
    if others:
        also = f"also there: {_keys(others)} (--state-key chooses)"
        return chosen, [f"the tensors are those under '{chosen.key}'; {also}"]
    if _AVERAGE.search(chosen.key):
        return chosen, [f"only averaged weights are there: '{chosen.key}'"]
    return chosen, []


def _under_key(candidates: list[Found], state_key: str) -> Found:
    for candidate in candidates:
        if candidate.key == state_key:
            return candidate
    if not candidates:
        raise CheckpointError(f"no state dict under '{state_key}', nor anywhere else in the file")
    if not candidates[0].key:
        raise CheckpointError(
            f"no state dict under '{state_key}': the file is itself one, leave --state-key out"
        )
    raise CheckpointError(f"no state dict under '{state_key}'; it has: {_keys(candidates)}")


def _keys(candidates: list[Found]) -> str:
    shown = [candidate.key for candidate in candidates[:_SHOWN]]
    return ", ".join(shown) + (", ..." if len(candidates) > _SHOWN else "")


def _describe(saved: object) -> str:
    if not isinstance(saved, Mapping):
        return f"a {type(saved).__name__}"
    if not saved:
        return "an empty dict"
    keys = [str(key)[:40] for key in saved]
    return f"a dict of {', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''}"


# ---- the candidates


def _candidates(saved: object) -> list[Found]:
    """Every state dict inside `saved`; `saved` itself only where nothing inside is one."""
    if isinstance(saved, nn.Module):
        return [Found("", saved.state_dict(), {})]
    inside = list(_inside(saved, "", _DEEPEST))
    if not inside and isinstance(saved, Mapping) and _is_state_dict(saved):
        beside = {key: value for key, value in saved.items() if not isinstance(value, Tensor)}
        return [Found("", saved, beside)]
    return inside


def _inside(saved: object, prefix: str, depth: int) -> Iterator[Found]:
    beside = saved if isinstance(saved, Mapping) else {}
    for name, value in _children(saved):
        key = f"{prefix}{name}"
        if isinstance(value, nn.Module):
            yield Found(key, value.state_dict(), beside)
            continue
        nested = list(_inside(value, f"{key}.", depth - 1)) if depth > 1 else []
        yield from nested
        if not nested and isinstance(value, Mapping) and _is_state_dict(value):
            yield Found(key, value, beside)


def _children(saved: object) -> Iterator[tuple[str, object]]:
    """The entries that may be, or hold, a state dict: never those of an optimizer."""
    if isinstance(saved, list | tuple):
        yield from ((str(index), value) for index, value in enumerate(saved))
    if isinstance(saved, Mapping) and "param_groups" not in saved:
        for key, value in saved.items():
            if isinstance(key, str) and not _NEVER.search(key):
                yield key, value


def _is_state_dict(mapping: Mapping[Any, object]) -> bool:
    """Whether `mapping` holds tensors by name, not all single numbers, and not an optimizer's."""
    tensors = {name: value for name, value in mapping.items() if _is_loaded(value)}
    return (
        "param_groups" not in mapping
        and any(isinstance(name, str) and value.dim() > 0 for name, value in tensors.items())
        and not _OPTIMIZER_STATE.issuperset(tensors)
    )


def _preference(found: Found) -> tuple[bool, int, int, int]:
    """Least for the likeliest: averages last, usual names first, then the largest."""
    first, last = found.key.partition(".")[0], found.key.rpartition(".")[2]
    ranks = [_USUAL.index(name) for name in (first, last) if name in _USUAL]
    elements = sum(value.numel() for value in found.state.values() if _is_loaded(value))
    depth = found.key.count(".")
    return bool(_AVERAGE.search(found.key)), min(ranks, default=len(_USUAL)), depth, -elements


def _is_loaded(value: object) -> TypeGuard[Tensor]:
    """Whether `value` is a tensor with a shape: those of lazy modules that never ran have none."""
    return isinstance(value, Tensor) and not is_lazy(value)


# ---- the tensors in it


def named_tensors(state: Mapping[Any, object]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a state dict by their plain names, not copied; notes on what was left out.

    Raises CheckpointError where there are none, one has no values, or two would bear one name.
    """
    tensors: dict[str, Tensor] = {}
    ignored: list[str] = []
    for name, value in state.items():
        if isinstance(name, str) and _is_loaded(value):
            if wrong := unsound(value):
                raise CheckpointError(f"tensor '{name}' holds {wrong}; expected a tensor with all its values")
            tensors[name] = value.detach() if value.requires_grad else value
        else:
            ignored.append(str(name))
    if not tensors:
        raise CheckpointError("expected the tensors of a network, got none")
    notes = [f"not tensors, so ignored: {', '.join(ignored[:_SHOWN])}"] if ignored else []
    stripped, stripping = strip_names(tensors)
    return stripped, notes + stripping


def strip_names(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors without the marks of torch.compile, FSDP and DataParallel in their names.

    `_orig_mod.` and the like are torch's own words, and go wherever they stand. `module.` may be
    anybody's, and goes only from the front, and only where every name has it.
    """
    names = [_WRAPPERS.sub("", name) for name in tensors]
    marks = {f"{mark}." for name in tensors for mark in _WRAPPERS.findall(name)}
    counter = {"n_averaged"} if _is_averaged_model(names) else set()
    while names and all(name.startswith("module.") for name in names if name not in counter):
        names = [name.removeprefix("module.") for name in names]
        marks.add("module.")
    _refuse_duplicates(names)
    pairs = zip(names, tensors.values(), strict=True)
    notes = [f"stripped from the names: {', '.join(sorted(marks))}"] if marks else []
    notes += [f"'{name}' counts averaged models, so it is ignored" for name in counter]
    return {name: tensor for name, tensor in pairs if name not in counter}, notes


def _is_averaged_model(names: list[str]) -> bool:
    """Whether these are the names of torch.optim.swa_utils.AveragedModel."""
    others = [name for name in names if name != "n_averaged"]
    return 0 < len(others) < len(names) and all(name.startswith("module.") for name in others)


def _refuse_duplicates(names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise CheckpointError(
            f"two tensors are called '{twice[0]}' once the marks of torch.compile and "
            "DataParallel are stripped; save one network a file"
        )
