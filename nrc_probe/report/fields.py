"""What a result records, by name: "weight_decay", "rank", "data.n", "settings.thresholds.nrc1"."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    """A function that reads the field from a result."""
    *sections, leaf = full_name.split(".")

    def read(result: Result) -> Value:
        place: object = _recorded(result)
        for section in (*sections, leaf):
            place = place.get(section) if isinstance(place, Mapping) else None
        return place if place is None or isinstance(place, str | int | float | bool) else _text(place)

    return read


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


def _leaves(tree: Mapping[str, object], above: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def _text(value: object) -> str:
    items = value if isinstance(value, list | tuple) else [value]
    return ", ".join(map(str, items)) or "none"
