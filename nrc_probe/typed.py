"""JSON values -> frozen dataclasses, each value checked against its field's annotation."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

_LARGEST = sys.float_info.max
"""JSON has no bound for integers; a float has."""


def build(cls: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass of the values: lists become tuples, null in a field of floats nan.

    Raises TypeError where a value is of another kind, missing, or of no field.
    """
    kinds = {name: field.type for name, field in cls.__dataclass_fields__.items()}
    return cls(**{name: restore(value, kinds[name], name) for name, value in values.items()})


def restore(value: Any, kind: str, name: str) -> Any:
    """A value as a field annotated with `kind` has it. Raises TypeError where it is of another kind."""
    if value is None and kind == "float":
        return math.nan
    options = kind.split(" | ")
    if not any(_fits(value, option) for option in options):
        raise TypeError(f"{name} must be {kind}, got {type(value).__name__}")
    if "float" in options and isinstance(value, int):
        return float(value)  # JSON may write 0 for 0.0
    return tuple(value) if isinstance(value, list) else value


def _fits(value: Any, kind: str) -> bool:
    """Whether a JSON value, or a dataclass made of some, is of an annotated kind."""
    if kind.startswith("tuple["):
        return isinstance(value, list) and all(_fits(item, kind[6:].split(",")[0]) for item in value)
    if kind.startswith("Mapping["):
        return isinstance(value, dict) and all(isinstance(item, bool) for item in value.values())
    if kind in ("float", "int"):
        return _is_number(value) and (_fits_float(value) if kind == "float" else _fits_int(value))
    return type(value).__name__ == {"None": "NoneType"}.get(kind, kind)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fits_float(value: float) -> bool:
    return abs(value) <= _LARGEST


def _fits_int(value: float) -> bool:
    return isinstance(value, int) and abs(value) < 2**63
