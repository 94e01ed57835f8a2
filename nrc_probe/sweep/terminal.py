"""A batch on the terminal: how far it is, on standard error, and at its end one table."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TextIO

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from nrc_probe.plain import printable
from nrc_probe.report.grid import Page, name_lines
from nrc_probe.sweep.outcome import FAILED, SCORED, TAKEN, TO_DO, UNCHANGED, Outcome, Sweep

Advance = Callable[[Outcome, int, int], None]
_Column = tuple[str, str, int]
"""Title, second line of it, width."""
_NUMBERS = (
    ("state", "", 8),
    ("epoch", "", 7),
    ("weight", "decay", 8),
    ("model", "R²", 8),
    ("held out", "R²", 9),
    ("all four", "layers", 9),
)
_SHORTEST_NAME = 10
_LONG_LAYER = 16
"""A layer's name longer than this may stand on a line of its own."""


# ------------------------------------------------------------------------------------- on the way


@contextmanager
def batch_progress_on(stream: TextIO) -> Iterator[Advance]:
    """A function to call after every checkpoint: moves a bar on a terminal, else writes a line."""
    if not stream.isatty():
        yield _lines(stream)
        return
    columns = (
        TextColumn("checkpoints"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    pace = _Pace()
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    # transient: the table that follows is what should stay on the screen
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("checkpoints", total=None, left="")

        def advance(outcome: Outcome, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, left=pace.left(outcome, total - done))
            if outcome.state in (FAILED, TAKEN):
                bar.console.print(Text(_page(console).text(_said(outcome))))

        yield advance


class _Pace:
    """How fast checkpoints are computed. Those that are done already take no time, and tell none."""

    def __init__(self) -> None:
        self._before = time.monotonic()
        self._computed = 0
        self._seconds = 0.0

    def left(self, outcome: Outcome, count: int) -> str:
        """How long `count` more will take, in words, once one was computed; to be asked after each."""
        if outcome.state == TAKEN:
            return self._words(count)
        now = time.monotonic()
        if outcome.state in (SCORED, FAILED):
            # since the last one that was finished: several workers share the time
            self._seconds += now - self._before
            self._computed += 1
        self._before = now
        return self._words(count)

    def _words(self, count: int) -> str:
        seconds = self._seconds / self._computed * count if self._computed else 0
        return f"about {_duration(seconds)} left" if seconds else ""


def _lines(stream: TextIO) -> Advance:
    pace = _Pace()

    def advance(outcome: Outcome, done: int, total: int) -> None:
        left = pace.left(outcome, total - done)
        stream.write(f"{done} of {total}  {printable(_said(outcome))}{left and f'; {left}'}\n")
        stream.flush()

    return advance


def _said(outcome: Outcome) -> str:
    if outcome.state == FAILED:
        return f"{outcome.checkpoint}: failed: {outcome.reason}"
    if outcome.state == TAKEN:
        return f"{outcome.checkpoint}: another process works on it, to be waited for"
    if outcome.state == TO_DO:
        return f"{outcome.checkpoint}: to do{f', would fail: {outcome.reason}' if outcome.reason else ''}"
    glance = outcome.glance
    first = glance and glance.first_collapsed_layer
    met = f"NRC1 holds from {first} on" if first else "NRC1 is not met in the last layer"
    how = f"scored in {outcome.seconds:.1f} s" if outcome.state == SCORED else "done already"
    return f"{outcome.checkpoint}: {how}, {met}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


# ------------------------------------------------------------------------------------ at the end


def print_sweep(sweep: Sweep, console: Console) -> None:
    """Print one row a checkpoint, then the reasons of those that failed, then the counts."""
    page = _page(console)
    for line in _table(sweep, page):
        console.print(line)
    reasons = [(outcome.checkpoint, outcome.reason) for outcome in sweep.outcomes if outcome.reason]
    title = "failed" if sweep.failed else "would fail"
    for heading, remarks in (
        (title, [f"{name}: {reason}" for name, reason in reasons]),
        ("warnings", list(sweep.warnings)),
    ):
        if remarks:
            console.print()
            console.print(Text(heading, style="bold"))
            for remark in remarks:
                _print_remark(remark, console, page)
    console.print()
    for line in Text(page.text(_counts(sweep))).wrap(console, console.width, overflow="fold"):
        line.rstrip()
        console.print(line)


def _page(console: Console) -> Page:
    return Page(console.width, console.encoding)


def _print_remark(remark: str, console: Console, page: Page) -> None:
    room = max(console.width - 4, _SHORTEST_NAME)
    for number, line in enumerate(Text(page.text(remark)).wrap(console, room, overflow="fold")):
        line.rstrip()
        console.print(Text.assemble("    " if number else "  - ", line))


def _counts(sweep: Sweep) -> str:
    words = ((SCORED, "scored"), (UNCHANGED, "done already"), (FAILED, "failed"), (TO_DO, "to do"))
    parts = [f"{count} {word}" for state, word in words if (count := sweep.count(state))]
    where = "results would go to" if sweep.count(TO_DO) else "results in"
    return f"{', '.join(parts)}; {where} {sweep.output}"


def _table(sweep: Sweep, page: Page) -> Iterator[Text]:
    """A row a checkpoint, under its folder where its whole path does not fit beside the numbers.

    Where there is no result at all, as in a dry run, there is no column for one.
    """
    has_results = any(outcome.glance for outcome in sweep.outcomes)
    columns = _NUMBERS if has_results else _NUMBERS[:1]
    paths = [PurePosixPath(outcome.checkpoint) for outcome in sweep.outcomes]
    layers = max(cell_len(page.text(_layer(outcome))) for outcome in sweep.outcomes)
    numbers = sum(width for _, _, width in columns)
    left = page.width - numbers - max(len("NRC1"), min(layers, _LONG_LAYER)) - 3
    grouped = max(cell_len(page.text(str(path))) for path in paths) > max(left, _SHORTEST_NAME)
    names = [page.text(path.name if grouped else str(path)) for path in paths]
    room = max(min(max(map(cell_len, names)), left), _SHORTEST_NAME)
    yield from _heads(room, columns, has_results, page)
    before = PurePosixPath()
    for path, name, outcome in zip(paths, names, sweep.outcomes, strict=True):
        if grouped and path.parent != before:
            yield from name_lines(page.text(f"{path.parent}/"), page)
            before = path.parent
        yield from _row(name, outcome, room, page)


def _heads(room: int, columns: Sequence[_Column], has_results: bool, page: Page) -> Iterator[Text]:
    for place, style in ((0, "bold"), (1, "dim"))[: 2 if has_results else 1]:
        titles = "".join(f"{column[place]:>{column[2]}}" for column in columns)
        first, last = (("checkpoint", "NRC1"), ("", "from"))[place]
        text = f" {first:<{room}}{titles}{f'  {last}' if has_results else ''}"
        yield Text(page.text(text), style=style)


def _row(name: str, outcome: Outcome, room: int, page: Page) -> Iterator[Text]:
    if cell_len(name) > room:
        yield from name_lines(name, page)
        name = ""
    head = f" {name}{' ' * (room - cell_len(name))}{_cells(outcome)}"
    yield from _with_layer(head, outcome, page)


def _cells(outcome: Outcome) -> str:
    glance = outcome.glance
    state = "done" if outcome.state == UNCHANGED else outcome.state
    if glance is None:
        return f"{state:>{_NUMBERS[0][2]}}"
    values = (
        state,
        "-" if glance.epoch is None else str(glance.epoch),
        "-" if glance.weight_decay is None else f"{glance.weight_decay:g}",
        _share(glance.model_r2),
        _share(glance.heldout_r2),
        f"{glance.all_met} of {glance.layers}",
    )
    return "".join(f"{value:>{width}}" for value, (_, _, width) in zip(values, _NUMBERS, strict=True))


def _share(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.4f}" if value > -10 else f"{value:.0e}"


def _layer(outcome: Outcome) -> str:
    return (outcome.glance and outcome.glance.first_collapsed_layer) or "-"


def _with_layer(head: str, outcome: Outcome, page: Page) -> Iterator[Text]:
    """The row, its last column on lines of its own where it does not fit."""
    if outcome.glance is None:
        yield Text(head)
        return
    layer = page.text(_layer(outcome))
    if cell_len(head) + 2 + cell_len(layer) <= page.width:
        yield Text(f"{head}  {layer}")
        return
    yield Text(head)
    for piece in chop_cells(layer, max(page.width, 2 * _SHORTEST_NAME) - 4):
        yield Text(f"    {piece}")
