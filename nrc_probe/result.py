"""What an analysis found: its fields, its JSON (schema nrc-probe/result/1), its tidy rows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nrc_probe.errors import ProbeError
from nrc_probe.last_layer_2024 import LastLayer2024
from nrc_probe.layers import Skipped
from nrc_probe.notebook import to_html
from nrc_probe.plain import printable
from nrc_probe.typed import build, restore

SCHEMA = "nrc-probe/result/1"
CONDITIONS = ("nrc1", "nrc2", "nrc3", "nrc4")

_NOT_PRINTED = re.compile(r"[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What JSON leaves as it is, and a terminal obeys or UTF-8 cannot hold."""


@dataclass(frozen=True)
class Thresholds:
    """Where each condition counts as met. Dimensionless."""

    nrc1: float = 0.2
    """Met at or below."""
    nrc2: float = 0.6
    """Met at or above."""
    nrc3: float = 0.7
    """Met at or above."""
    nrc4_ratio: float = 1.5
    """Met at or below."""


@dataclass(frozen=True)
class CheckpointFacts:
    """Which file, and what training left in it; None where unknown."""

    path: str | None
    sha256: str | None = None
    format: str | None = None
    epoch: int | None = None
    step: int | None = None
    weight_decay: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class ModelFacts:
    """Which network was built around the tensors."""

    source: str
    """"inferred", "torchvision", "factory" or "module"."""
    summary: str
    parameters: int | None
    """How many numbers were trained; None where the network is not known."""
    assumptions: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """How large it is, where that is known, and where it came from."""
        return self.source if self.parameters is None else f"{self.parameters:,} parameters, {self.source}"


@dataclass(frozen=True)
class DataFacts:
    """Which rows were used. Variances are of the targets as the network saw them."""

    path: str | None
    sha256: str | None
    n: int
    input_shape: tuple[int, ...] | None
    target_dim: int
    target_rank: int | None
    target_stable_rank: float
    standardized: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """The options that the scores depend on."""

    rank: int | str
    """As asked: "target", "auto" or an integer."""
    rcond: float
    pooling: str
    precision: str
    thresholds: Thresholds
    layers: tuple[str, ...]
    exclude: tuple[str, ...]
    max_width: int
    limit: int | None


@dataclass(frozen=True)
class LayerResult:
    """One scored layer: its place, the conditions and their companions; nan where undefined."""

    index: int
    """Place in run order, from 0."""
    name: str
    type: str
    width: int
    """Feature width d, after pooling."""
    out: int | None
    """Output width; None where nothing is known to read the features."""
    rank: int
    """Signal dimension r used in this layer."""
    nrc1: float
    nrc2: float
    nrc3: float
    nrc4: float
    """Squared target units, per element."""
    nrc4_ratio: float
    """nrc4 over the model's own error."""
    nrc4_r2: float
    nrc4_rank: int
    nrc4_no_intercept: float
    """Squared target units, per element."""
    cka: float
    nrc3_noise: float
    nrc3_chance: float
    eigengap_features: float
    eigengap_weight: float
    stable_rank_features: float
    stable_rank_covariance: float
    stable_rank_weight: float
    effective_rank: float
    conditions: Mapping[str, bool]
    """Which of nrc1 ... nrc4 are met; an undefined or undecided one is not."""
    undecided: tuple[str, ...] = ()
    """Those of nrc2 and nrc3 whose number rounding picks, since a subspace is not defined."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class HeldoutLayer:
    """The training rows' linear probe of one layer, on held-out rows."""

    name: str
    nrc4: float
    """Squared target units, per element."""


@dataclass(frozen=True)
class Heldout:
    """What the network and the probes do on rows that were not analysed."""

    data: DataFacts
    model_mse: float
    model_r2: float
    layers: tuple[HeldoutLayer, ...]


@dataclass(frozen=True)
class Provenance:
    """What computed the result, where and when."""

    nrc_probe: str
    torch: str
    numpy: str
    device: str
    seconds: float
    created: str
    """UTC, ISO 8601."""
    config: str | None = None
    """The nrc-probe.toml that was followed; None where there was none."""


@dataclass(frozen=True, eq=False)  # eq=False: nan differs from itself, so equality is written out
class Result:
    """Everything one analysis found; equal to another that says the same, whenever it was made."""

    checkpoint: CheckpointFacts
    model: ModelFacts
    data: DataFacts
    settings: Settings
    model_mse: float
    """Mean squared error of the network per element, in squared target units."""
    model_r2: float
    layers: tuple[LayerResult, ...]
    """In run order."""
    skipped: tuple[Skipped, ...]
    heldout: Heldout | None
    last_layer_2024: LastLayer2024 | None
    warnings: tuple[str, ...]
    provenance: Provenance

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result):
            return NotImplemented
        mine, its = self.to_dict(), other.to_dict()
        return mine | {"provenance": None} == its | {"provenance": None}

    __hash__ = None  # type: ignore[assignment]  # it holds mappings

    @property
    def first_collapsed_layer(self) -> str | None:
        """The first layer such that it and every later one meet NRC1; None where there is none."""
        return first_collapsed(self.layers)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values in the order of the schema; an undefined number is None."""
        body: dict[str, Any] = _plain(asdict(self))
        head = {
            key: body.pop(key) for key in ("checkpoint", "model", "data", "settings", "model_mse", "model_r2")
        }
        return {
            "schema": SCHEMA,
            **head,
            "first_collapsed_layer": self.first_collapsed_layer,
            **body,
        }

    def to_json(self, indent: int | None = 2, beside: Mapping[str, Any] | None = None) -> str:
        """The result as JSON text: numbers or null, never NaN.

        beside: more entries that stand after the result's own, and are not read back.
        """
        return json_text({**self.to_dict(), **(beside or {})}, indent)

    @classmethod
    def from_json(cls, text: str) -> Result:
        """Read what `to_json` wrote. Raises ProbeError where the text is not such a result."""
        try:
            return _from_dict(json.loads(text, object_pairs_hook=_said_once))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ProbeError(f"not a result of schema {SCHEMA}: {type(error).__name__}: {error}") from error

    def to_rows(self) -> list[dict[str, Any]]:
        """Tidy rows, one a layer, the checkpoint's facts repeated; None where undefined."""
        described = {
            "checkpoint": self.checkpoint.path,
            "epoch": self.checkpoint.epoch,
            "weight_decay": self.checkpoint.weight_decay,
        }
        heldout = {layer.name: layer.nrc4 for layer in self.heldout.layers} if self.heldout else {}
        rows = []
        for layer in self.layers:
            values = asdict(layer)
            met = {f"{name}_met": value for name, value in values.pop("conditions").items()}
            undecided, notes = "; ".join(values.pop("undecided")), "; ".join(values.pop("notes"))
            row = {**described, **values, **met, "undecided": undecided}
            row |= {"nrc4_heldout": heldout.get(layer.name), "model_mse": self.model_mse}
            row |= {"model_r2": self.model_r2, "notes": notes}
            rows.append(_plain(row))
        return rows

    def __str__(self) -> str:
        first = self.first_collapsed_layer
        where = f"NRC1 met from {first} on" if first else "NRC1 not met in the last one"
        return printable(
            f"{self.checkpoint.path or self.model.summary}: {len(self.layers)} layers scored, {where}, "
            f"R² {self.model_r2:.3g} (nrc_probe.print_result shows the report)"
        )

    def _repr_html_(self) -> str:
        """The scores for notebooks, with warnings and notes."""
        return to_html(self.to_dict())


@dataclass(frozen=True)
class LayerFacts:
    """A layer that would be scored, from its weight alone."""

    name: str
    type: str
    width: int
    out: int
    weight_shape: tuple[int, ...]
    weight_rank: int
    """Numerical rank of the weight read as (out, d)."""
    stable_rank_weight: float


@dataclass(frozen=True)
class Layers:
    """What `analyze` would score; no data needed."""

    model: ModelFacts
    layers: tuple[LayerFacts, ...]
    """In the order in which the modules are registered."""
    skipped: tuple[Skipped, ...]


def first_collapsed(layers: Sequence[LayerResult]) -> str | None:
    """Name of the first layer such that it and every later one meet NRC1."""
    first = None
    for layer in reversed(layers):
        if not layer.conditions["nrc1"]:
            break
        first = layer.name
    return first


def conditions_met(
    nrc1: float,
    nrc2: float,
    nrc3: float,
    nrc4_ratio: float,
    at: Thresholds,
    undecided: Sequence[str] = (),
) -> dict[str, bool]:
    """Which conditions hold at these thresholds; nan meets none, and no undecided one is met."""
    met = {
        "nrc1": nrc1 <= at.nrc1,
        "nrc2": nrc2 >= at.nrc2,
        "nrc3": nrc3 >= at.nrc3,
        "nrc4": nrc4_ratio <= at.nrc4_ratio,
    }
    return {name: holds and name not in undecided for name, holds in met.items()}


def json_text(value: Any, indent: int | None = 2) -> str:
    """JSON of plain values, with what a terminal obeys or UTF-8 cannot hold written out."""
    text = json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)
    return _NOT_PRINTED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(value: Any) -> Any:
    """JSON's types only: tuples become lists, numbers that are not finite None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _said_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a JSON object; json itself would keep the last of two values and say nothing."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key '{next(name for name in names if names.count(name) > 1)}' stands there twice")
    return found


def _from_dict(d: Mapping[str, Any]) -> Result:
    if d["schema"] != SCHEMA:
        raise ValueError(f"schema is {d['schema']!r}")
    heldout, last = d["heldout"], d["last_layer_2024"]
    settings = {**d["settings"], "thresholds": _thresholds(d["settings"]["thresholds"])}
    return Result(
        checkpoint=build(CheckpointFacts, d["checkpoint"]),
        model=build(ModelFacts, d["model"]),
        data=build(DataFacts, d["data"]),
        settings=build(Settings, settings),
        model_mse=restore(d["model_mse"], "float", "model_mse"),
        model_r2=restore(d["model_r2"], "float", "model_r2"),
        layers=tuple(map(_layer, d["layers"])),
        skipped=tuple(build(Skipped, item) for item in d["skipped"]),
        heldout=_heldout(heldout) if heldout else None,
        last_layer_2024=build(LastLayer2024, last) if last else None,
        warnings=restore(d["warnings"], "tuple[str, ...]", "warnings"),
        provenance=build(Provenance, d["provenance"]),
    )


def _layer(d: Mapping[str, Any]) -> LayerResult:
    layer: LayerResult = build(LayerResult, d)
    if set(layer.conditions) != set(CONDITIONS):
        raise ValueError(f"conditions must be {', '.join(CONDITIONS)}")
    return layer


def _thresholds(d: Mapping[str, Any]) -> Thresholds:
    if None in d.values():
        raise ValueError("a threshold is null")
    thresholds: Thresholds = build(Thresholds, d)
    return thresholds


def _heldout(d: Mapping[str, Any]) -> Heldout:
    return Heldout(
        data=build(DataFacts, d["data"]),
        model_mse=restore(d["model_mse"], "float", "model_mse"),
        model_r2=restore(d["model_r2"], "float", "model_r2"),
        layers=tuple(build(HeldoutLayer, layer) for layer in d["layers"]),
    )
