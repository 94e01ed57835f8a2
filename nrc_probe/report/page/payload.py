"""What the page's script gets: every number of every layer of every checkpoint, by column."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from nrc_probe.files import shown
from nrc_probe.plain import printable
from nrc_probe.report.study import Run, Study, layer_names
from nrc_probe.result import DataFacts, Result

_JUDGED = ("nrc1", "nrc2", "nrc3", "nrc4_ratio")
"""Sent with all their digits: a threshold in the page decides as one in Python."""
_COMPANIONS = (
    *("nrc4", "nrc3_chance", "nrc3_noise", "cka", "nrc4_r2", "effective_rank"),
    *("stable_rank_covariance", "stable_rank_weight", "width", "rank"),
)


def payload(study: Study, settled_within: float) -> dict[str, Any]:
    """Plain values for JSON; an undefined number is None. Texts hold only characters that print."""
    body = {
        "settledWithin": settled_within,
        "layers": layer_names(study.results),
        "runs": [_run(run) for run in study.runs],
        "failed": [asdict(file) for file in study.failed],
        "unread": [asdict(file) for file in study.unread],
    }
    printed: dict[str, Any] = _printed(body)
    return printed


def _run(run: Run) -> dict[str, Any]:
    names = layer_names(run.results)
    final = run.final
    return {
        "name": run.name,
        "folder": run.folder,
        "clock": run.clock,
        "thresholds": asdict(run.thresholds),
        "targetRank": final.data.target_rank,
        "facts": _run_facts(final),
        "layers": names,
        "checkpoints": [
            _checkpoint(result, label, time)
            for result, label, time in zip(run.results, run.labels, run.times, strict=True)
        ],
        "values": _columns(run, names),
        "undecided": _undecided(run, names),
    }


def _columns(run: Run, names: list[str]) -> dict[str, list[float | None]]:
    """Each number in one list, checkpoint after checkpoint, in it layer after layer."""
    scored = [{layer.name: layer for layer in result.layers} for result in run.results]
    held = [
        {layer.name: layer.nrc4 for layer in result.heldout.layers} if result.heldout else {}
        for result in run.results
    ]

    def column(field: str, form: Callable[[float], float | None]) -> list[float | None]:
        return [
            form(getattr(layers[name], field)) if name in layers else None
            for layers in scored
            for name in names
        ]

    columns = {field: column(field, _exact) for field in _JUDGED}
    columns |= {field: column(field, _short) for field in _COMPANIONS}
    columns["nrc4_heldout"] = [_short(errors.get(name, math.nan)) for errors in held for name in names]
    return columns


def _undecided(run: Run, names: list[str]) -> dict[str, list[int]]:
    """Where in the columns NRC2 and NRC3 are numbers that rounding picked."""
    scored = [{layer.name: layer.undecided for layer in result.layers} for result in run.results]
    marks = [layers.get(name, ()) for layers in scored for name in names]
    return {
        condition: [place for place, mark in enumerate(marks) if condition in mark]
        for condition in ("nrc2", "nrc3")
    }


def _checkpoint(result: Result, label: str, time: int) -> dict[str, Any]:
    heldout, origin = result.heldout, result.provenance
    return {
        "label": label,
        "time": time,
        "path": result.checkpoint.path,
        "sha256": result.checkpoint.sha256,
        "epoch": result.checkpoint.epoch,
        "step": result.checkpoint.step,
        "weightDecay": result.checkpoint.weight_decay,
        "learningRate": result.checkpoint.learning_rate,
        "mse": _exact(result.model_mse),
        "r2": _short(result.model_r2),
        "heldoutMse": _exact(heldout.model_mse) if heldout else None,
        "heldoutR2": _short(heldout.model_r2) if heldout else None,
        "remarks": _joined(
            (
                *result.warnings,
                *(f"{layer.name}: {note}" for layer in result.layers for note in layer.notes),
                *(f"{item.name} is not scored: {item.reason}" for item in result.skipped),
            )
        ),
        "made": f"nrc-probe {origin.nrc_probe}, torch {origin.torch}, numpy {origin.numpy}, "
        f"{origin.device}, {origin.created}, {origin.seconds:.3g} s",
    }


def _run_facts(result: Result) -> list[tuple[str, str]]:
    """What was run on what, and how, in words."""
    model, settings = result.model, result.settings
    at = asdict(settings.thresholds)
    facts = [
        ("network", f"{model.summary}; {model.origin}"),
        ("assumed", _joined((*model.assumptions, *result.data.assumptions)) or "nothing"),
        ("data", _data(result.data)),
        ("held out", _data(result.heldout.data) if result.heldout else "none"),
        ("rank", f"{settings.rank}"),
        ("NRC4 cutoff", f"{settings.rcond:g}"),
        ("pooling, precision", f"{settings.pooling}, {settings.precision}"),
        ("recorded thresholds", ", ".join(f"{name} {value:g}" for name, value in at.items())),
    ]
    if settings.limit is not None:
        facts.append(("limit", f"the first {settings.limit} rows"))
    return facts


def _joined(sentences: Iterable[str]) -> str:
    """Several on one line, without the full stop that some have."""
    return "; ".join(re.sub(r"(?<!\.)\.$", "", sentence) for sentence in sentences)


def _data(data: DataFacts) -> str:
    prepared = f", standardised: {' and '.join(data.standardized)}" if data.standardized else ""
    rank = "that do not vary" if data.target_rank is None else f"of rank {data.target_rank}"
    where = shown(data.path) if data.path else "given in memory"
    digest = f", sha256 {data.sha256}" if data.sha256 else ""
    return f"{where}: {data.n:,} rows, {data.target_dim} targets {rank}{prepared}{digest}"


def _exact(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short(value: float) -> float | None:
    """Five significant digits: what is only shown needs no more."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _printed(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {key: _printed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printed(item) for item in value]
    return value
