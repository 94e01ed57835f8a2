"""Results as one tidy table: a row a layer of each checkpoint."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from nrc_probe.result import Result


def to_csv(results: Sequence[Result]) -> str:
    """CSV text with a header; an undefined number is an empty cell."""
    rows = [row for result in results for row in result.to_rows()]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["checkpoint"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
