"""The scores of all layers as aligned columns, in as many blocks as the width asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

from rich.cells import cell_len, chop_cells
from rich.text import Text

from nrc_probe.plain import encodable, printable
from nrc_probe.result import LayerResult, Result

_NARROWEST = 24
"""A console that says it is narrower is not believed."""
_SHORTEST_NAME = 10
"""Columns leave at least this much for names; longer ones stand on a line of their own."""
_LONG_NAME = 14
"""A name longer than this does not split the columns into more blocks."""


@dataclass(frozen=True)
class Page:
    """What the lines must fit: a console's width and its encoding."""

    width: int
    encoding: str

    def text(self, text: str) -> str:
        """`text` in characters that can be shown, none of which steers the terminal."""
        return encodable(printable(text), self.encoding)


@dataclass(frozen=True)
class _Column:
    title: str
    meaning: str
    width: int
    value: Callable[[LayerResult], float]
    form: Callable[[float], str]
    condition: str | None = None
    """The condition whose mark stands right of the number."""


def share(value: float, digits: int = 3) -> str:
    """A number in [0, 1] with `digits` decimals, or its power of ten where these would be 0."""
    if math.isnan(value):
        return "-"
    return f"{value:.0e}" if 0 < abs(value) < 0.5 * 10**-digits else f"{value:.{digits}f}"


def ratio(value: float) -> str:
    """A number around 1 or above, in at most 7 characters; far below 1 two significant digits."""
    if math.isnan(value):
        return "-"
    if 0 < abs(value) < 0.1:
        return f"{value:.2g}"
    digits = 2 if abs(value) < 100 else 0
    return f"{value:.{digits}f}" if abs(value) < 99_999 else f"{value:.0e}"


def significant(value: float) -> str:
    """Three significant digits."""
    return "-" if math.isnan(value) else f"{value:.3g}"


def _chance(value: float) -> str:
    return share(value, 2)


_CONDITIONS = (
    _Column("width", "", 6, attrgetter("width"), str),
    _Column("NRC1", "noise", 9, attrgetter("nrc1"), share, "nrc1"),
    _Column("NRC2", "targets", 9, attrgetter("nrc2"), share, "nrc2"),
    _Column("NRC3", "weight", 9, attrgetter("nrc3"), share, "nrc3"),
    _Column("NRC3", "chance", 7, attrgetter("nrc3_chance"), _chance),
    _Column("NRC4", "error", 10, attrgetter("nrc4"), significant),
    _Column("NRC4", "/ model", 10, attrgetter("nrc4_ratio"), ratio, "nrc4"),
)
_COMPANIONS = (
    _Column("CKA", "all", 8, attrgetter("cka"), share),
    _Column("eff.", "rank", 8, attrgetter("effective_rank"), ratio),
    _Column("stable", "rank S", 8, attrgetter("stable_rank_covariance"), ratio),
    _Column("stable", "rank W", 8, attrgetter("stable_rank_weight"), ratio),
)


def score_lines(result: Result, page: Page) -> Iterator[Text]:
    """The table of all layers, and what its marks mean; no line is wider than the page."""
    blocks = _blocks(result, page)
    for block in blocks:
        yield from _block(result, page, block)
        yield Text()
    for line in _legend(result):
        yield Text(page.text(line), style="dim")


def _legend(result: Result) -> Iterator[str]:
    at = result.settings.thresholds
    yield (
        f"✓ NRC1 <= {at.nrc1:g}, NRC2 >= {at.nrc2:g}, NRC3 >= {at.nrc3:g}, "
        f"NRC4 / model <= {at.nrc4_ratio:g}; · not met"
    )
    numbers = [column.value(layer) for column in _CONDITIONS for layer in result.layers]
    if any(layer.undecided for layer in result.layers):
        yield "? rounding picks the number, since a subspace is not defined: not counted as met (see notes)"
    if any(map(math.isnan, numbers)):
        yield "- undefined: the notes or warnings say why"


def _blocks(result: Result, page: Page) -> list[list[_Column]]:
    """The columns in as few blocks as the width allows, conditions apart from their companions."""
    extra = [*_COMPANIONS, *_heldout(result)]
    names = max(cell_len(page.text(layer.name)) for layer in result.layers)
    together = [*_CONDITIONS, *extra]
    if _width(together) + min(names, _LONG_NAME) + 2 <= page.width:
        return [together]
    room = max(page.width, _NARROWEST) - _SHORTEST_NAME - 1
    return [*_split(_CONDITIONS, room), *_split(extra, room)]


def _heldout(result: Result) -> list[_Column]:
    if result.heldout is None:
        return []
    errors = {layer.name: layer.nrc4 for layer in result.heldout.layers}

    def error(layer: LayerResult) -> float:
        return errors.get(layer.name, math.nan)

    return [_Column("NRC4", "held out", 10, error, significant)]


def _split(columns: Sequence[_Column], room: int) -> Iterator[list[_Column]]:
    block: list[_Column] = []
    for column in columns:
        if block and _width([*block, column]) > room:
            yield block
            block = []
        block.append(column)
    yield block


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns)


def _block(result: Result, page: Page, columns: Sequence[_Column]) -> Iterator[Text]:
    names = max(cell_len(page.text(layer.name)) for layer in result.layers)
    width = max(page.width, _NARROWEST)
    room = min(width - _width(columns) - 1, max(names, len("layer")) + 1)
    yield _heads("layer", [column.title for column in columns], columns, room, "bold")
    yield _heads("", [column.meaning for column in columns], columns, room, "dim")
    first = result.first_collapsed_layer
    for layer in result.layers:
        if layer.name == first:
            yield _line(result, page, room + _width(columns))
        yield from _row(layer, page, columns, room)


def _heads(first: str, titles: Sequence[str], columns: Sequence[_Column], room: int, style: str) -> Text:
    line = Text(f" {first:<{room}}", style=style)
    for title, column in zip(titles, columns, strict=True):
        # marks stand right of the numbers: titles end where the numbers do
        shift = 2 if column.condition else 0
        line.append(f"{title:>{column.width - shift}}{' ' * shift}")
    line.rstrip()
    return line


def _row(layer: LayerResult, page: Page, columns: Sequence[_Column], room: int) -> Iterator[Text]:
    name = page.text(layer.name)
    if cell_len(name) >= room:
        yield from name_lines(name, page)
        name = ""
    line = Text(f" {name}{' ' * (room - cell_len(name))}")
    for column in columns:
        cell = _cell(layer, column, page)
        line.append(" " * (column.width - len(cell)))
        line.append_text(cell)
    line.rstrip()
    yield line


def name_lines(name: str, page: Page) -> Iterator[Text]:
    """A name that does not fit beside its numbers, on lines of its own above them."""
    for piece in chop_cells(name, max(page.width, _NARROWEST) - 1):
        yield Text(f" {piece}")


def _cell(layer: LayerResult, column: _Column, page: Page) -> Text:
    value = column.value(layer)
    text = column.form(value)
    if math.isnan(value):
        return Text(f"{text}  " if column.condition else text, style="dim")
    if column.condition is None:
        return Text(text)
    met = layer.conditions[column.condition]
    mark = "?" if column.condition in layer.undecided else page.text("✓" if met else "·")
    # no green, no red: whether collapse is good is not for a colour to say
    return Text(f"{text} {mark}", style="cyan" if met else "")


def _line(result: Result, page: Page, width: int) -> Text:
    words = f" {_onset_words(result)} "
    if len(words) > width:
        words = " NRC1 met " if _is_trivial_onset(result) else " collapsed "
    return Text(page.text(f" {words:─^{width}}"), style="cyan")


def _onset_words(result: Result) -> str:
    limit = f"NRC1 <= {result.settings.thresholds.nrc1:g}"
    if _is_trivial_onset(result):
        return f"{limit} from here on, where it cannot fail"
    among = ", of those scored" if result.skipped else ""
    return f"collapsed from here on{among}: {limit}"


def _is_trivial_onset(result: Result) -> bool:
    """Whether the first collapsed layer is no wider than the signal, so that NRC1 is 0 whatever it holds."""
    first = next(layer for layer in result.layers if layer.name == result.first_collapsed_layer)
    return first.rank >= first.width
