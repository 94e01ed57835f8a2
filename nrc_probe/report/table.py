"""Results as one tidy table: a row a layer of each checkpoint."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from nrc_probe.plain import printable
from nrc_probe.report.extras import check_extra
from nrc_probe.report.study import Study
from nrc_probe.result import LayerResult, Result, json_text

Row = Mapping[str, Any]

_TEXTS = ("run", "checkpoint", "undecided", "notes")
_COUNTS = ("epoch",)


def to_csv(results: Sequence[Result]) -> str:
    """CSV text with a header; an undefined number is an empty cell.

    Control characters in names are written out.
    """
    return rows_to_csv([row for result in results for row in result.to_rows()])


def study_rows(study: Study) -> list[dict[str, Any]]:
    """All rows of all runs, each beginning with its run's name; None where undefined."""
    return [
        {"run": run.name, **row} for run in study.runs for result in run.results for row in result.to_rows()
    ]


def rows_to_csv(rows: Sequence[Row]) -> str:
    """As `to_csv`, of rows."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["checkpoint"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def rows_to_json(rows: Sequence[Row]) -> str:
    """A JSON list of records; null where undefined."""
    return json_text(list(rows)) + "\n"


def rows_to_parquet(rows: Sequence[Row]) -> bytes:
    """A parquet file whose column types do not depend on which cells are undefined.

    What does not print in names, and what UTF-8 cannot hold, is written out.
    Raises OutputError where pyarrow is not installed.
    """
    check_extra(".parquet")
    import pyarrow
    from pyarrow import parquet

    names = list(rows[0]) if rows else ["checkpoint"]
    kinds = {"str": pyarrow.string(), "int": pyarrow.int64(), "bool": pyarrow.bool_()}
    schema = pyarrow.schema([(name, kinds.get(_kind(name), pyarrow.float64())) for name in names])
    sink = pyarrow.BufferOutputStream()
    printed = [{name: _cell(value) for name, value in row.items()} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(printed, schema), sink)
    return bytes(sink.getvalue())


def _kind(name: str) -> str:
    """A column's type, as annotations say it; float for numbers that may be undefined."""
    if name in _TEXTS:
        return "str"
    if name.endswith("_met"):
        return "bool"
    if name in _COUNTS:
        return "int"
    field = LayerResult.__dataclass_fields__.get(name)
    return str(field.type).removesuffix(" | None") if field else "float"


def _cell(value: object) -> object:
    return printable(value) if isinstance(value, str) else value
