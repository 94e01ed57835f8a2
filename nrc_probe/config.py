"""nrc-probe.toml or a checkpoint's metadata -> Config: found, read, checked, overlaid."""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, TypeVar

from nrc_probe.checkpoint import Checkpoint
from nrc_probe.errors import ConfigError
from nrc_probe.factory import is_factory
from nrc_probe.files import FILE, from_home, kind_of
from nrc_probe.plain import first_line
from nrc_probe.spec import DataSpec, ModelSpec, columns_text

FILE_NAME = "nrc-probe.toml"
METADATA_KEY = "nrc_probe"

T = TypeVar("T")


@dataclass(frozen=True)
class Config:
    """What was said about the network, the data and the scores; each part may be empty."""

    model: ModelSpec = field(default_factory=ModelSpec)
    data: DataSpec = field(default_factory=DataSpec)
    heldout: DataSpec = field(default_factory=DataSpec)
    """Only what was said of it; `held_out` fills the gaps."""
    score: Mapping[str, object] = field(default_factory=dict)
    """Options of `analyze` by their Python names; lists as tuples, thresholds as a mapping."""
    path: Path | None = None
    """The file it was read from, if it was one."""

    def held_out(self) -> DataSpec | None:
        """The held-out data, read and prepared as the training data where nothing else was said.

        Asked for last, when every source is overlaid: an option about the data then reaches it too.
        None where no held-out path was given.
        """
        said = self.heldout
        if said.path is None:
            return None
        inherited = self.data.options if is_factory(said.path) else {}
        return replace(_filled(said, self.data), options=said.options or inherited)


def find_config(checkpoint: Path) -> Path | None:
    """The nrc-probe.toml beside a checkpoint, or in the nearest folder above it.

    Whatever bears the name is found, so that what is no file is refused, not passed over.
    """
    start = checkpoint.absolute()
    folders = [start, *start.parents] if start.is_dir() else start.parents
    return next((f / FILE_NAME for f in folders if os.path.lexists(f / FILE_NAME)), None)


def read_config(path: Path, *, trusted: bool) -> Config:
    """The configuration in a TOML file, every key and value checked.

    trusted: whether the user named the file (or allowed code): only then may its factories run.
    Raises ConfigError, one line, with the file and the key or line.
    """
    try:
        kind = kind_of(path)
        if kind not in (None, FILE):
            raise ConfigError(f"{path}: expected a file of TOML, got {kind} (name another, or remove it)")
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {first_line(error)}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    _known(tables, _TABLES, str(path), "table")
    return replace(_config(tables, str(path), path.parent, trusted), path=path)


def read_metadata(checkpoint: Checkpoint, *, trusted: bool) -> Config:
    """The same tables as JSON in a checkpoint's metadata, but [score]; empty where there are none.

    Paths are relative to the checkpoint's folder. Other entries beside the tables are left alone.
    """
    text = checkpoint.metadata.get(METADATA_KEY)
    if text is None:
        return Config()
    place = f"{checkpoint.path}, metadata '{METADATA_KEY}'"
    try:
        tables = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: not valid JSON: {error}") from error
    said = _without_none(_table(tables, place, "the whole"))
    kept = {name: said[name] for name in said if name in ("model", "data", "heldout")}
    return _config(kept, place, checkpoint.path.parent, trusted)


def overlay(upper: Config, lower: Config) -> Config:
    """Both together, key by key: where both say something, `upper` wins."""
    return Config(
        _overlay_model(upper.model, lower.model),
        _overlay_data(upper.data, lower.data),
        _overlay_data(upper.heldout, lower.heldout),
        _overlay_score(upper.score, lower.score),
        upper.path or lower.path,
    )


def _overlay_model(upper: ModelSpec, lower: ModelSpec) -> ModelSpec:
    if upper.architecture is not None:
        return upper  # the lower's options belong to another network
    return replace(lower, options={**lower.options, **upper.options})


def _overlay_data(upper: DataSpec, lower: DataSpec) -> DataSpec:
    both = _filled(upper, lower)
    if upper.path is not None:
        return both  # the lower's options belong to another factory
    return replace(
        both,
        path=lower.path,
        options={**lower.options, **upper.options},
        trusted=lower.trusted,
        folder=lower.folder,
    )


def _filled(upper: DataSpec, lower: DataSpec) -> DataSpec:
    """`upper`, and from `lower` how the data are read and prepared where `upper` does not say."""
    named_below = (upper.inputs is None and lower.inputs) or (upper.targets is None and lower.targets)
    return replace(
        upper,
        inputs=_either(upper.inputs, lower.inputs),
        targets=_either(upper.targets, lower.targets),
        names_from=upper.names_from or (lower.names_from if named_below else None),
        standardize=_either(upper.standardize, lower.standardize),
        images=_either(upper.images, lower.images),
    )


def _overlay_score(upper: Mapping[str, object], lower: Mapping[str, object]) -> dict[str, object]:
    both = {**lower, **upper}
    above, below = upper.get("thresholds"), lower.get("thresholds")
    if isinstance(above, Mapping) and isinstance(below, Mapping):
        both["thresholds"] = {**below, **above}
    return both


def _either(upper: T, lower: T) -> T:
    return lower if upper is None else upper


class _Rule(NamedTuple):
    """What a key takes, in words and as a check."""

    expected: str
    holds: Callable[[object], bool]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_rank(value: object) -> bool:
    return value in ("target", "auto") or _is_count(value)


def _is_rcond(value: object) -> bool:
    return isinstance(value, int | float) and _is_number(value) and 0 <= value < 1


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _is_standardize(value: object) -> bool:
    if isinstance(value, list):
        return all(part in ("inputs", "targets") for part in value)
    return isinstance(value, str) and value != ""


def _one_of(*words: str) -> _Rule:
    return _Rule("one of " + ", ".join(words), lambda value: value in words)


_TEXT = _Rule("a text", lambda value: isinstance(value, str) and value != "")
_NAMES = _Rule(
    "a text or a list of texts", lambda value: _TEXT.holds(value) or (_is_texts(value) and bool(value))
)
_TABLE = _Rule("a table", lambda value: isinstance(value, dict))
_COUNT = _Rule("a whole number above 0", _is_count)
_NUMBER = _Rule("a number", _is_number)
_TEXTS = _Rule("a list of texts", _is_texts)

_TABLES: dict[str, dict[str, _Rule]] = {
    "model": {"architecture": _TEXT, "options": _TABLE},
    "data": {
        "path": _TEXT,
        "inputs": _NAMES,
        "targets": _NAMES,
        "standardize": _Rule('["inputs", "targets"], one of them, or a file', _is_standardize),
        "images": _one_of("auto", "nhwc", "as-is"),
        "options": _TABLE,
    },
    "score": {
        "rank": _Rule('"target", "auto" or a whole number above 0', _is_rank),
        "rcond": _Rule("0, or a number between 0 and 1", _is_rcond),
        "pooling": _one_of("mean", "max", "flatten", "tokens", "first", "last"),
        "precision": _one_of("exact", "fast"),
        "layers": _TEXTS,
        "exclude": _TEXTS,
        "max_width": _COUNT,
        "limit": _COUNT,
        "batch_size": _COUNT,
        "device": _TEXT,
        "threads": _COUNT,
        "state_key": _TEXT,
        "thresholds": _TABLE,
    },
}
_TABLES["heldout"] = _TABLES["data"]
_THRESHOLDS = dict.fromkeys(("nrc1", "nrc2", "nrc3", "nrc4_ratio"), _NUMBER)


def _config(tables: Mapping[str, object], place: str, folder: Path, trusted: bool) -> Config:
    said = {name: _checked(table, _TABLES[name], place, name) for name, table in tables.items()}
    score = said.get("score", {})
    if "thresholds" in score:
        thresholds = _checked(score["thresholds"], _THRESHOLDS, place, "score.thresholds")
        score = {**score, "thresholds": thresholds}
    return Config(
        ModelSpec(**said.get("model", {}), trusted=trusted, folder=folder),  # type: ignore[arg-type]  # _checked
        _data_spec(said.get("data", {}), folder, trusted, place),
        _data_spec(said.get("heldout", {}), folder, trusted, place),
        score,
    )


def _data_spec(said: Mapping[str, object], folder: Path, trusted: bool, place: str) -> DataSpec:
    """The spec, its files found from `folder` even where another source gives the path."""
    values = dict(said)
    for role in ("inputs", "targets"):
        if role in said:
            values |= {role: columns_text(said[role]), "names_from": place}  # type: ignore[arg-type]  # _checked
    standardize, targets = said.get("standardize"), values.get("targets")
    if standardize in ("inputs", "targets"):
        values["standardize"] = (standardize,)
    elif isinstance(standardize, str):
        values["standardize"] = str(folder.absolute() / from_home(standardize))
    if isinstance(targets, str) and targets.endswith(".npy"):
        values["targets"] = str(folder.absolute() / from_home(targets))
    return DataSpec(**values, trusted=trusted, folder=folder)  # type: ignore[arg-type]  # _checked


def _checked(table: object, rules: Mapping[str, _Rule], place: str, name: str) -> dict[str, object]:
    """A table with its keys as Python writes them and its lists as tuples; ConfigError if wrong."""
    checked: dict[str, object] = {}
    for written, value in _table(table, place, name).items():
        key = written.replace("-", "_")
        _known([key], rules, f"{place}: [{name}]", "key")
        if key in checked:
            raise ConfigError(f"{place}: [{name}] says {key} twice, with - and with _")
        if not rules[key].holds(value):
            shown = json.dumps(value, default=str)
            raise ConfigError(f"{place}: [{name}] {key} = {shown}: expected {rules[key].expected}")
        checked[key] = tuple(value) if isinstance(value, list) else value
    return checked


def _table(value: object, place: str, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: {name} = {json.dumps(value, default=str)}: expected a table")
    return value


def _known(names: Iterable[str], known: Iterable[str], place: str, kind: str) -> None:
    """Raise ConfigError at the first name that is not known, with the one that was meant."""
    known = list(known)
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1, cutoff=0.5)  # 'arch' for 'architecture'
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ConfigError(f"{place}: no {kind} '{name}'{hint} (it takes {', '.join(known)})")


def _without_none(table: Mapping[str, object]) -> dict[str, object]:
    """The table without its nulls, which in JSON say nothing."""
    return {
        key: _without_none(value) if isinstance(value, dict) and key != "options" else value
        for key, value in table.items()
        if value is not None
    }
