"""Results as one tidy table: a row a layer of each checkpoint."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from nrc_probe.plain import printable
from nrc_probe.result import Result


def to_csv(results: Sequence[Result]) -> str:
    """CSV text with a header; an undefined number is an empty cell.

    Control characters in names are written out.
    """
    rows = [row for result in results for row in result.to_rows()]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["checkpoint"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    return printable(value) if isinstance(value, str) else value
