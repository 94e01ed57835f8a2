"""Blocks of cells beside a column of names: as many side by side as the width allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from nrc_probe.report.grid import Page, name_lines

_GAP = 2
_LONGEST_NAME = 24
"""A longer name stands on a line of its own above its cells."""
_NARROWEST = 24


@dataclass(frozen=True, eq=False)
class Block:
    """One table's cells, a row for each name; all rows have the same width."""

    title: str
    head: Text
    rows: Mapping[str, Text]
    at_right: bool = False
    """Whether the cells are numbers, which end at the right, the title above their middle."""

    @property
    def width(self) -> int:
        """In columns of the terminal."""
        return max(len(self.title), self.head.cell_len, *(row.cell_len for row in self.rows.values()))


def room_beside(names: Sequence[str], page: Page) -> int:
    """How many columns are left for cells."""
    return max(page.width, _NARROWEST) - 1 - _name_room(names, page) - _GAP


def beside_each_other(head: str, names: Sequence[str], blocks: Sequence[Block], page: Page) -> Iterator[Text]:
    """Lines of all blocks, in order; those that fit share the column of names."""
    room = room_beside(names, page)
    for number, row in enumerate(_packed(blocks, room)):
        if number:
            yield Text()
        yield from _lines(head, names, row, page)


def wrapped(text: str, page: Page, head: str = "") -> Iterator[Text]:
    """Lines of running text that fit the page, right of `head`, which stands before the first."""
    room = max(page.width, _NARROWEST) - 1 - len(head)
    for number, line in enumerate(Text(page.text(text)).wrap(Console(width=room), room, overflow="fold")):
        line.rstrip()
        yield Text.assemble(" " * len(head) if number else head, line)


def _name_room(names: Sequence[str], page: Page) -> int:
    lengths = [cell_len(page.text(name)) for name in names]
    return max([5, *(length for length in lengths if length <= _limit(page))])


def _limit(page: Page) -> int:
    return min(_LONGEST_NAME, max(page.width, _NARROWEST) // 3)


def _packed(blocks: Sequence[Block], room: int) -> Iterator[list[Block]]:
    row: list[Block] = []
    for block in blocks:
        if row and sum(other.width + _GAP for other in row) + block.width > room:
            yield row
            row = []
        row.append(block)
    if row:
        yield row


def _lines(head: str, names: Sequence[str], blocks: Sequence[Block], page: Page) -> Iterator[Text]:
    room = _name_room(names, page)
    titles = [_title(block, page) for block in blocks]
    yield _joined(Text(f" {head:<{room}}", style="bold"), titles, blocks)
    if any(block.head for block in blocks):
        yield _joined(Text(" " * (room + 1)), [block.head for block in blocks], blocks)
    for name in names:
        shown = page.text(name)
        if cell_len(shown) > room:
            yield from name_lines(shown, page)
            shown = ""
        start = Text(f" {shown}{' ' * (room - cell_len(shown))}")
        yield _joined(start, [block.rows.get(name, Text("-", style="dim")) for block in blocks], blocks)


def _title(block: Block, page: Page) -> Text:
    """The title; above several columns with a line that shows how far it reaches."""
    several = block.at_right and block.width > len(block.title) + 5
    title = page.text(f"{f' {block.title} ':─^{block.width}}") if several else block.title
    return Text(title, style="bold")


def _joined(line: Text, cells: Sequence[Text], blocks: Sequence[Block]) -> Text:
    line = line.copy()
    for cell, block in zip(cells, blocks, strict=True):
        space = " " * (block.width - cell.cell_len)
        pieces = (space, cell) if block.at_right else (cell, space)
        line.append(" " * _GAP)
        for piece in pieces:
            line.append_text(Text(piece) if isinstance(piece, str) else piece)
    line.rstrip()
    return line
