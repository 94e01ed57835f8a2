"""What a result records, by name: "weight_decay", "rank", "data.n", "settings.thresholds.nrc1"."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict

from nrc_probe.errors import ConfigError
from nrc_probe.result import Result

Value = str | int | float | bool | None

_SECTIONS = ("checkpoint", "model", "data", "settings", "provenance")
_SHORT = {"model": "model.summary", "data": "data.path"}
"""A section's own name means its most telling field."""
CHANGES_IN_A_RUN = ("checkpoint.epoch", "checkpoint.step", "checkpoint.path", "checkpoint.sha256")
"""What differs between the checkpoints of one training by nature."""


def find_field(result: Result, name: str) -> str:
    """The full name of a field, such as "checkpoint.weight_decay" for "weight-decay".

    Raises ConfigError where there is none.
    """
    asked = name.replace("-", "_")
    asked = _SHORT.get(asked, asked)
    known = list(_leaves(_recorded(result)))
    for full in known:
        if asked in (full, full.partition(".")[2], full.rpartition(".")[2]):
            return full
    shown = ", ".join(full.partition(".")[2] for full in known if full.startswith(("checkpoint", "settings")))
    raise ConfigError(f"field '{name}' is not recorded; there are: {shown}, data.n, model, ...")


def reader(full_name: str) -> Callable[[Result], Value]:
    """A function that reads the field from a result; None where it is not recorded, or undefined."""

    def read(result: Result) -> Value:
        place = _at(_recorded(result), full_name)
        if isinstance(place, float) and math.isnan(place):
            return None  # nan equals nothing: results that share it would not be found together
        return place if place is None or isinstance(place, str | int | float | bool) else _text(place)

    return read


def varying(results: Sequence[Result]) -> list[str]:
    """Short names of the recorded fields in which results differ, but for what tells every file apart."""
    recorded = [_recorded(result) for result in results]
    apart = ("provenance.", *(name for name in CHANGES_IN_A_RUN if name.endswith(("path", "sha256"))))
    return [
        full.partition(".")[2] if full.startswith(("checkpoint", "settings")) else full
        for full in _leaves(recorded[0])
        if not full.startswith(apart) and len({repr(_at(tree, full)) for tree in recorded}) > 1
    ]


def text_of(value: Value) -> str:
    """A field's value in a few characters."""
    if value is None:
        return "unknown"
    return f"{value:g}" if isinstance(value, float) else str(value)


def order(value: Value) -> tuple[int, float, str]:
    """A key: numbers ascending, then texts, the unknown last."""
    if value is None:
        return (2, 0.0, "")
    if isinstance(value, str):
        return (1, 0.0, value)
    return (0, float(value), "")


def _recorded(result: Result) -> dict[str, object]:
    return {section: asdict(getattr(result, section)) for section in _SECTIONS}


def _at(tree: Mapping[str, object], full_name: str) -> object:
    place: object = tree
    for name in full_name.split("."):
        place = place.get(name) if isinstance(place, Mapping) else None
    return place


def _leaves(tree: Mapping[str, object], above: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def _text(value: object) -> str:
    items = value if isinstance(value, list | tuple) else [value]
    return ", ".join(map(str, items)) or "none"
