"""A Result on the terminal: complete at 80 columns, readable without colour."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from nrc_probe.report.reading import reading
from nrc_probe.result import DataFacts, LayerResult, Layers, Result

_WIDE = 118
"""From this many columns on, companions stand beside the conditions instead of below."""
_NAMES_SHOWN = 6
"""A note shared by more layers than this names the first few."""


@dataclass(frozen=True)
class _Column:
    title: str
    meaning: str
    width: int


_CONDITIONS = (
    _Column("width", "", 6),
    _Column("NRC1", "noise", 9),
    _Column("NRC2", "targets", 9),
    _Column("NRC3", "weight", 9),
    _Column("chance", "", 7),
    _Column("NRC4", "linear", 10),
    _Column("/model", "", 9),
)
_COMPANIONS = (
    _Column("CKA", "all", 7),
    _Column("eff.", "rank", 7),
    _Column("stable", "rank S", 7),
    _Column("stable", "rank W", 7),
)
_HELDOUT = _Column("NRC4", "held out", 10)


def print_result(result: Result, console: Console) -> None:
    """Print the whole report: header, layers, notes, warnings, reading."""
    marks = _marks(console)
    for line in _header(result):
        console.print(line)
    console.print()
    for line in _table(result, console.width, marks):
        console.print(line, no_wrap=True, overflow="ignore", crop=False)
    _print_remarks(_remarks(result), console)
    console.print()
    console.print(Text(printable(reading(result)), style="italic"))


def print_layers(listing: Layers, console: Console) -> None:
    """Print what would be scored: a row a layer, then what would not be and what was assumed."""
    model = listing.model
    console.print(f"network    {printable(model.summary)} ({model.parameters:,} parameters)")
    console.print()
    room = max(len(printable(layer.name)) for layer in listing.layers)
    room = max(min(room, console.width - 61), 5)
    heads = (
        f" {'layer':<{room}}  {'type':<16}{'width':>6}{'out':>6}{'rank':>6}{'stable':>9}  weight"
    )
    console.print(Text(heads, style="bold"))
    for layer in listing.layers:
        name = printable(layer.name)
        if len(name) > room:
            console.print(Text(f" {name}"))
            name = ""
        shape = "x".join(map(str, layer.weight_shape))
        console.print(
            Text(
                f" {name:<{room}}  {layer.type:<16}{layer.width:>6}{layer.out:>6}"
                f"{layer.weight_rank:>6}{_ratio(layer.stable_rank_weight):>9}  {shape}"
            )
        )
    _print_remarks(_listing_remarks(listing), console)


def _listing_remarks(listing: Layers) -> Iterator[tuple[str, list[str]]]:
    skipped = _grouped((item.reason, item.name) for item in listing.skipped)
    for title, lines in (("not scored", skipped), ("assumed", list(listing.model.assumptions))):
        if lines:
            yield title, lines


def _print_remarks(remarks: Iterable[tuple[str, list[str]]], console: Console) -> None:
    for title, lines in remarks:
        console.print()
        console.print(Text(title, style="bold yellow" if title == "warnings" else "bold"))
        for line in lines:
            console.print(Padding(Text(f"- {printable(line)}"), (0, 0, 0, 2)))


def printable(text: str) -> str:
    """`text` with control characters written out, so that a name cannot steer the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# -------------------------------------------------------------------------------------- the header


def _header(result: Result) -> Iterator[Text]:
    for title, value in _facts(result):
        yield Text.assemble((f"{title:<11}", "bold"), printable(value))


def _facts(result: Result) -> Iterator[tuple[str, str]]:
    checkpoint, model = result.checkpoint, result.model
    if checkpoint.path is not None:
        yield "checkpoint", checkpoint.path
        yield "training", _training(result)
    yield "network", f"{model.summary} ({model.parameters:,} parameters, {model.source})"
    yield "data", _data(result.data)
    yield "error", f"MSE {result.model_mse:.4g}, R² {_plain(result.model_r2)}"
    if result.heldout:
        held = result.heldout
        yield "held out", _data(held.data)
        yield "error", f"MSE {held.model_mse:.4g}, R² {_plain(held.model_r2)}"
    yield "signal", _signal(result)


def _training(result: Result) -> str:
    checkpoint = result.checkpoint
    named = {
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "weight decay": checkpoint.weight_decay,
        "learning rate": checkpoint.learning_rate,
    }
    known = [f"{name} {value:g}" for name, value in named.items() if value is not None]
    return ", ".join(known) or "epoch and weight decay are not recorded"


def _data(data: DataFacts) -> str:
    rank = "do not vary" if data.target_rank is None else f"of rank {data.target_rank}"
    targets = "1 target" if data.target_dim == 1 else f"{data.target_dim} targets"
    prepared = f", standardised: {' and '.join(data.standardized)}" if data.standardized else ""
    return f"{data.path or 'given in memory'}: {data.n:,} rows, {targets} {rank}{prepared}"


def _signal(result: Result) -> str:
    settings = result.settings
    ranks = sorted({layer.rank for layer in result.layers}, reverse=True)
    why = {"target": "the target dimension", "auto": "the targets' own rank"}
    asked = why.get(str(settings.rank), "as asked")
    r = f"r = {ranks[0]}, {asked}; " if ranks else ""
    return f"{r}NRC4 cutoff {settings.rcond:g}; {settings.pooling} pooling, {settings.precision}"


def _plain(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


# --------------------------------------------------------------------------------------- the table


def _marks(console: Console) -> dict[bool, str]:
    plain = not console.encoding.lower().startswith("utf")
    return {True: "+" if plain else "✓", False: "." if plain else "·"}


def _table(result: Result, width: int, marks: dict[bool, str]) -> Iterator[Text]:
    if not result.layers:
        return
    extra = (*_COMPANIONS, *([_HELDOUT] if result.heldout else []))
    if width >= _WIDE:
        yield from _block(result, width, (*_CONDITIONS, *extra), marks)
    else:
        yield from _block(result, width, _CONDITIONS, marks)
        yield Text()
        yield from _block(result, width, extra, marks)


def _block(
    result: Result, width: int, columns: Sequence[_Column], marks: dict[bool, str]
) -> Iterator[Text]:
    room = width - sum(column.width for column in columns) - 1
    names = max(len(printable(layer.name)) for layer in result.layers)
    room = min(room, max(names, len("layer")) + 1)
    yield _heads("layer", [column.title for column in columns], columns, room, "bold")
    yield _heads("", [column.meaning for column in columns], columns, room, "dim")
    heldout = {
        layer.name: layer.nrc4 for layer in (result.heldout.layers if result.heldout else ())
    }
    first = result.first_collapsed_layer
    for layer in result.layers:
        if layer.name == first:
            yield _line(result, room + sum(column.width for column in columns))
        cells = (*_condition_cells(layer, marks), *_companion_cells(layer, heldout.get(layer.name)))
        by_column = dict(zip((*_CONDITIONS, *_COMPANIONS, _HELDOUT), cells, strict=True))
        yield from _row(printable(layer.name), [by_column[c] for c in columns], columns, room)


def _heads(
    first: str, titles: Sequence[str], columns: Sequence[_Column], room: int, style: str
) -> Text:
    line = Text(f" {first:<{room}}", style=style)
    for title, column in zip(titles, columns, strict=True):
        # the marks stand right of the numbers: titles end where the numbers do
        shift = 2 if column in _MARKED else 0
        line.append(f"{title:>{column.width - shift}}{' ' * shift}")
    return line


_MARKED = tuple(_CONDITIONS[k] for k in (1, 2, 3, 6))


def _row(name: str, cells: Sequence[Text], columns: Sequence[_Column], room: int) -> Iterator[Text]:
    if len(name) >= room:
        yield Text(f" {name}")
        name = ""
    line = Text(f" {name:<{room}}")
    for cell, column in zip(cells, columns, strict=True):
        line.append(" " * (column.width - len(cell)))
        line.append_text(cell)
    yield line


def _line(result: Result, width: int) -> Text:
    limit = result.settings.thresholds.nrc1
    words = f" collapsed from here on: NRC1 <= {limit:g} "
    return Text(f" {words:─^{width}}", style="cyan")


def _condition_cells(layer: LayerResult, marks: dict[bool, str]) -> Iterator[Text]:
    met = layer.conditions
    yield Text(str(layer.width))
    yield _marked(_share(layer.nrc1), layer.nrc1, met["nrc1"], marks)
    yield _marked(_share(layer.nrc2), layer.nrc2, met["nrc2"], marks)
    yield _marked(_share(layer.nrc3), layer.nrc3, met["nrc3"], marks)
    yield Text(_share(layer.nrc3_chance, 2), style="dim")
    yield Text(_significant(layer.nrc4))
    yield _marked(_ratio(layer.nrc4_ratio), layer.nrc4_ratio, met["nrc4"], marks)


def _companion_cells(layer: LayerResult, heldout: float | None) -> Iterator[Text]:
    yield Text(_share(layer.cka))
    for rank in (layer.effective_rank, layer.stable_rank_covariance, layer.stable_rank_weight):
        yield Text(_ratio(rank))
    yield Text("-" if heldout is None else _significant(heldout))


def _marked(text: str, value: float, met: bool, marks: dict[bool, str]) -> Text:
    if math.isnan(value):
        return Text(f"{text}  ", style="dim")
    return Text(f"{text} {marks[met]}", style="green" if met else "yellow")


def _share(value: float, digits: int = 3) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.0e}" if 0 < abs(value) < 0.5 * 10**-digits else f"{value:.{digits}f}"


def _significant(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _ratio(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if value < 1000 else f"{value:.1e}"


# -------------------------------------------------------------------------------------- the remarks


def _remarks(result: Result) -> Iterator[tuple[str, list[str]]]:
    """Titles and lines of all that stands below the table; empty ones left out."""
    notes = [(note, layer.name) for layer in result.layers for note in layer.notes]
    skipped = [(item.reason, item.name) for item in result.skipped]
    assumed = [*result.model.assumptions, *result.data.assumptions]
    if result.heldout:
        assumed += [f"held out: {note}" for note in result.heldout.data.assumptions]
    last = result.last_layer_2024
    if last:
        terms = ", ".join(
            f"nrc{k} {_share(v)}" for k, v in enumerate((last.nrc1, last.nrc2, last.nrc3), 1)
        )
        yield "last layer, in the numbering of 2024 (0 is collapsed)", [terms]
    for title, lines in (
        ("notes", _grouped(notes)),
        ("not scored", _grouped(skipped)),
        ("assumed", assumed),
        ("warnings", list(result.warnings)),
    ):
        if lines:
            yield title, lines


def _grouped(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """One line a remark, with the layers that share it."""
    layers: dict[str, list[str]] = {}
    for remark, name in pairs:
        layers.setdefault(remark, []).append(name)
    return [f"{_names(names)}: {remark}" for remark, names in layers.items()]


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
