"""A result's JSON values -> HTML for notebooks: the table, and all that stands beside it."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nrc_probe.plain import printable

Values = Mapping[str, Any]

_MARKED = {"nrc1": "nrc1", "nrc2": "nrc2", "nrc3": "nrc3", "nrc4_ratio": "nrc4"}
"""Columns that a condition is about."""
_COLUMNS = ("name", "width", "rank", "nrc1", "nrc2", "nrc3", "nrc3_chance", "nrc4", "nrc4_ratio")
_LEGEND = "✓ met, · not met, ? undecided: rounding picks the number"


def to_html(result: Values) -> str:
    """The scores with their marks, chance level and held-out error; then what is to be minded.

    result: values of the schema nrc-probe/result/1, as `Result.to_dict` gives them.
    """
    return _table(result) + "".join(_lists(result))


def _table(result: Values) -> str:
    heldout = result["heldout"]
    errors = {layer["name"]: layer["nrc4"] for layer in heldout["layers"]} if heldout else None
    heads = [*_COLUMNS, *(["nrc4 held out"] if errors is not None else [])]
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(_row(layer, errors) for layer in result["layers"])
    return f"<table><caption>{_caption(result)}</caption><tr>{head}</tr>{body}</table>"


def _caption(result: Values) -> str:
    heldout = result["heldout"]
    parts = [
        f"first collapsed layer: {_cell(result['first_collapsed_layer'] or 'none')}",
        f"the network's own R²: {_cell(result['model_r2'])}",
        *([f"on held-out rows: {_cell(heldout['model_r2'])}"] if heldout else []),
        _LEGEND,
    ]
    return "; ".join(parts)


def _row(layer: Values, heldout: Mapping[str, float | None] | None) -> str:
    cells = [_marked(layer, name) for name in _COLUMNS]
    if heldout is not None:
        cells.append(_cell(heldout.get(layer["name"])))
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _marked(layer: Values, name: str) -> str:
    text, condition = _cell(layer[name]), _MARKED.get(name)
    if condition is None or layer[name] is None:
        return text
    if condition in layer["undecided"]:
        return f"{text} ?"
    return f"{text} {'✓' if layer['conditions'][condition] else '·'}"


def _lists(result: Values) -> Iterator[str]:
    notes = [f"{layer['name']}: {note}" for layer in result["layers"] for note in layer["notes"]]
    skipped = [f"{item['name']}: {item['reason']}" for item in result["skipped"]]
    assumed = [*result["model"]["assumptions"], *result["data"]["assumptions"]]
    for title, lines in (
        ("warnings", result["warnings"]),
        ("notes", notes),
        ("not scored", skipped),
        ("assumed", assumed),
    ):
        if lines:
            yield f"<p>{title}</p><ul>{_items(lines)}</ul>"


def _items(lines: Sequence[str]) -> str:
    return "".join(f"<li>{_cell(line)}</li>" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if math.isfinite(value) else "-"
    return html.escape(printable(str(value)))
