"""A Study on the terminal: every checkpoint, the course of each run, runs side by side, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from nrc_probe.report.blocks import Block, beside_each_other, wrapped
from nrc_probe.report.comparison import caution, compare, comparison_lines
from nrc_probe.report.fields import find_field
from nrc_probe.report.findings import findings
from nrc_probe.report.grid import Page, significant
from nrc_probe.report.onset import SETTLED_WITHIN, check_within
from nrc_probe.report.repeats import repeats
from nrc_probe.report.strips import legend_lines, strip_lines
from nrc_probe.report.study import Broken, Run, Study
from nrc_probe.report.terminal import standard_output
from nrc_probe.result import Result

_NAMED = 10
"""How many lines such as those on broken files are shown; the others are counted."""


def print_study(
    study: Study,
    console: Console | None = None,
    *,
    by: str | None = None,
    settled_within: float = SETTLED_WITHIN,
) -> None:
    """Print one row a checkpoint, heat strips of each run, runs side by side, and what the numbers say.

    console: standard output where it is None, so that it is what the command line prints.
    by: a recorded field whose values are set side by side. Raises ConfigError for an unknown one.
    settled_within: share of the final error within which an error counts as settled.
    """
    check_within(settled_within)
    if by is not None:
        find_field(study.runs[0].final, by)
    console = console or standard_output()
    page = Page(console.width, console.encoding)
    for line in _lines(study, page, by, settled_within):
        console.print(line)


def unsaid(study: Study, by: str | None = None) -> Iterator[str]:
    """What should be known of files that are written of a study, where its report is not printed.

    by: a field that one of them sets side by side.
    """
    if by is not None and (words := caution(study, by)):
        yield words
    yield from repeats(study)
    yield from (f"could not be read: {file.path}: {file.reason}" for file in study.unread)


def _lines(study: Study, page: Page, by: str | None, within: float) -> Iterator[Text]:
    yield from _headed(_counts(study), page)
    for run in study.runs:
        yield Text()
        yield from _headed(_title(run), page)
        yield from _summary(run, page)
    unfolding = [run for run in study.runs if len(run.results) > 1]
    for run in unfolding:
        yield Text()
        yield from _headed(f"{run.name}: conditions over training", page)
        yield from strip_lines(run, page, within)
    if unfolding:
        yield Text()
        yield from legend_lines(unfolding[0].thresholds, page)
    if by is not None:
        comparison = compare(study, by)
        yield Text()
        yield from _headed(f"by {comparison.title}", page)
        if words := caution(study, by):
            yield from wrapped(words, page)
        yield from comparison_lines(comparison, page)
    yield from _listed("repeated or mixed", list(repeats(study)), page)
    yield from _listed("could not be scored", _reasons(study.failed), page)
    yield from _listed("could not be read", _reasons(study.unread), page)
    for sentence in findings(study, within):
        yield Text()
        for line in wrapped(sentence, page):
            line.stylize("italic")
            yield line


def _headed(text: str, page: Page) -> Iterator[Text]:
    for line in wrapped(text, page):
        line.stylize("bold")
        yield line


def _counts(study: Study) -> str:
    checkpoints, runs = len(study.results), len(study.runs)
    others = (
        (sum(len(run.copies) for run in study.runs), "repeated"),
        (len(study.failed), "failed"),
        (len(study.unread), "unreadable"),
        (study.others, "of another kind left out"),
    )
    more = "".join(f", {count} {kind}" for count, kind in others if count)
    return f"{_many(checkpoints, 'checkpoint')} in {_many(runs, 'run')}{more}"


def _many(count: int, kind: str) -> str:
    return f"1 {kind}" if count == 1 else f"{count:,} {kind}s"


def _title(run: Run) -> str:
    folder = "" if run.name.startswith(run.folder) else f" ({run.folder})"
    return f"{run.name}{folder}: {run.final.model.summary}"


# -------------------------------------------------------------------------------------- the summary


def _summary(run: Run, page: Page) -> Iterator[Text]:
    names = _distinct(run.labels)
    by_name = dict(zip(names, run.results, strict=True))
    first = max(len(page.text(_first(result))) for result in run.results)
    columns = (
        ("epoch", "", 5, _epoch),
        ("weight", "decay", 7, _decay),
        ("error", "", 8, lambda result: significant(result.model_mse)),
        ("error", "held out", 8, _heldout),
        (page.text("R²"), "", 6, _explained),
        ("all", "four", 5, _all_four),
        ("NRC1", "from", min(max(first, 4), 30), lambda result: page.text(_first(result))),
    )
    blocks = [
        Block(
            title,
            Text(meaning, style="dim"),
            {name: _fitted(cell(result), width) for name, result in by_name.items()},
            at_right=title != "NRC1",
        )
        for title, meaning, width, cell in columns
    ]
    yield from beside_each_other("checkpoint", names, blocks, page)


def _distinct(labels: Sequence[str]) -> list[str]:
    """The names, with a number where one comes twice."""
    seen: dict[str, int] = {}
    names = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        names.append(label if seen[label] == 1 else f"{label} #{seen[label]}")
    return names


def _fitted(text: str, width: int) -> Text:
    """The end of a text that is too long says more than its beginning."""
    return Text(text if len(text) <= width else f"..{text[2 - width :]}")


def _epoch(result: Result) -> str:
    return "-" if result.checkpoint.epoch is None else str(result.checkpoint.epoch)


def _decay(result: Result) -> str:
    decay = result.checkpoint.weight_decay
    return "-" if decay is None else f"{decay:g}"


def _heldout(result: Result) -> str:
    return significant(result.heldout.model_mse if result.heldout else math.nan)


def _explained(result: Result) -> str:
    r2 = result.model_r2
    if math.isnan(r2):
        return "-"
    return f"{r2:.3f}" if r2 > -10 else f"{r2:.0e}"


def _all_four(result: Result) -> str:
    return f"{sum(all(layer.conditions.values()) for layer in result.layers)}/{len(result.layers)}"


def _first(result: Result) -> str:
    return result.first_collapsed_layer or "-"


def _reasons(files: Sequence[Broken]) -> list[str]:
    return [f"{file.path}: {file.reason}" for file in files]


def _listed(title: str, lines: Sequence[str], page: Page) -> Iterator[Text]:
    if not lines:
        return
    yield Text()
    yield from _headed(f"{title} ({len(lines)})", page)
    for line in lines[:_NAMED]:
        yield from wrapped(line, page, "  - ")
    if len(lines) > _NAMED:
        yield Text(f"  - and {len(lines) - _NAMED} more")
