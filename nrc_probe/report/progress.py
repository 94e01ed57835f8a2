"""How far a pass is, on standard error: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[[str, int, int | None], None]
_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def progress_on(stream: TextIO) -> Iterator[Advance]:
    """A function to call with (what, rows done, rows in all or None) after every batch."""
    if not stream.isatty():
        yield _lines(stream)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # transient: the report that follows is what should stay on the screen
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        tasks = {}

        def advance(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total, rate="")
            bar.update(tasks[what], completed=done)
            speed = bar.tasks[tasks[what]].speed
            bar.update(tasks[what], rate=f"{speed:,.0f}/s" if speed else "")

        yield advance


def _lines(stream: TextIO) -> Advance:
    said = before = time.monotonic()
    starts: dict[str, float] = {}

    def advance(what: str, done: int, total: int | None) -> None:
        nonlocal said, before
        now = time.monotonic()
        started = starts.setdefault(what, before)
        before = now
        if now - said < _SECONDS_BETWEEN_LINES:
            return
        said = now
        seconds = (total - done) * (now - started) / done if total else 0
        rate = f", {done / (now - started):,.0f}/s" if now > started else ""
        left = f", about {seconds:.0f} s left" if seconds else ""
        stream.write(f"{what}: {done:,}{f' of {total:,}' if total else ''} rows{rate}{left}\n")
        stream.flush()

    return advance
