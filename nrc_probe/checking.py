"""Options of a wrong name or type, as only Python can give them -> ConfigError that names the option."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from nrc_probe.errors import ConfigError


class _Kind(NamedTuple):
    """What an option takes, in words and as a check."""

    expected: str
    holds: Callable[[object], bool]


def _is_texts(value: object) -> bool:
    if isinstance(value, Mapping | bytes) or not isinstance(value, Collection):
        return False
    return all(isinstance(part, str) for part in value)  # of a text, too, each part is one


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


_TEXT = _Kind("a text", lambda value: isinstance(value, str))
_TEXTS = _Kind("a text or a list of texts", _is_texts)
_TABLE = _Kind("a mapping from names", _is_table)
_PATH = _Kind("a path", lambda value: isinstance(value, str | Path))
_FLAG = _Kind("True or False", lambda value: isinstance(value, bool))

_KINDS = {
    **dict.fromkeys(("model", "architecture", "activation", "images", "state_key"), _TEXT),
    **dict.fromkeys(("inputs", "targets", "heldout_inputs", "heldout_targets"), _TEXTS),
    **dict.fromkeys(("standardize", "layers", "exclude"), _TEXTS),
    **dict.fromkeys(("model_options", "data_options", "thresholds"), _TABLE),
    **dict.fromkeys(("allow_code", "unsafe_pickle"), _FLAG),
    "config": _PATH,
}
"""The others are checked where their values are."""


def check_known(options: Collection[str], known: Collection[str], function: str) -> None:
    """Raise ConfigError at the first option that `function` does not have."""
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ConfigError(f"{function} has no option '{name}'{hint}")


def check_types(options: Mapping[str, object]) -> None:
    """Raise ConfigError at the first option of a type that it cannot have; None says nothing."""
    for name, value in options.items():
        kind = _KINDS.get(name)
        if kind is not None and value is not None and not kind.holds(value):
            shown = repr(value)
            shown = shown if len(shown) <= 40 else f"a {type(value).__name__}"
            raise ConfigError(f"option '{name}': expected {kind.expected}, got {shown}")
