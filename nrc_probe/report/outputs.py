"""One place that knows which file name asks for which form of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nrc_probe.atomic import write_all
from nrc_probe.errors import OutputError
from nrc_probe.report.extras import FIGURES
from nrc_probe.report.onset import SETTLED_WITHIN, check_within
from nrc_probe.report.study import Study, study_of
from nrc_probe.report.table import Row, rows_to_csv, rows_to_json, rows_to_parquet, study_rows, to_csv
from nrc_probe.result import Result


@dataclass(frozen=True)
class View:
    """How a study is looked at."""

    kind: str = "layers"
    """Which of the paper's figures is drawn: layers, rank, weight-decay, epochs."""
    by: str = "weight_decay"
    """The recorded field whose values are set side by side."""
    settled_within: float = SETTLED_WITHIN
    """Share of the final error within which an error counts as settled."""

    def __post_init__(self) -> None:
        check_within(self.settled_within)


def write_report(
    results: Result | Sequence[Result] | Study,
    path: str | Path,
    *,
    kind: str = "layers",
    by: str = "weight_decay",
    settled_within: float = SETTLED_WITHIN,
) -> None:
    """Write one or many results in the form that the name's suffix asks for.

    .html: a page that works offline. .pdf, .svg, .png: the paper's figure of this `kind`. .csv, .json,
    .parquet: a row a layer of each checkpoint.
    Raises OutputError for another suffix or a missing extra, ConfigError for an unknown `kind` or `by`.
    """
    path = Path(path)
    content = render(study_of(results), path.suffix, View(kind, by, settled_within))
    write_all({path: content})


def render(study: Study, form: str, view: View) -> bytes:
    """What a file with this suffix holds."""
    if form in FIGURES:
        from nrc_probe.report.figures import draw

        return draw(study, form, view.kind, view.by, view.settled_within)
    if form == ".html":
        from nrc_probe.report.page import to_html

        return to_html(study, view.settled_within).encode()
    if form not in _TABLES:
        forms = ", ".join([*_TABLES, ".html", *FIGURES])
        raise OutputError(f"no report has the form '{form}'; there are: {forms}")
    return _TABLES[form](study_rows(study))


def render_result(result: Result, form: str, view: View) -> bytes:
    """As `render`, of one result: its JSON is the whole result, which can be read again."""
    if form == ".json":
        return f"{result.to_json()}\n".encode()
    if form == ".csv":
        return to_csv([result]).encode()
    return render(study_of(result), form, view)


_TABLES: dict[str, Callable[[Sequence[Row]], bytes]] = {
    ".csv": lambda rows: rows_to_csv(rows).encode(),
    ".json": lambda rows: rows_to_json(rows).encode(),
    ".parquet": rows_to_parquet,
}
