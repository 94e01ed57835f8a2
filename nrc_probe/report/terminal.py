"""A Result on the terminal: complete at any width, readable without colour."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from nrc_probe.files import shown
from nrc_probe.report.grid import Page, name_lines, ratio, score_lines, share
from nrc_probe.report.reading import reading
from nrc_probe.result import DataFacts, LayerFacts, Layers, Result

_NAMES_SHOWN = 6
"""A note shared by more layers than this names the first few."""
_TITLE_WIDTH = 11
_CONVENTIONAL = {
    f"{place}{role} taken from array '{name}'"
    for place in ("", "held out: ")
    for role, name in (("inputs", "x"), ("targets", "y"))
}
"""Guesses too plain to be worth a line; the JSON has them all."""

Remarks = Iterable[tuple[str, list[str]]]
"""Titles, each with its lines."""


def standard_output() -> Console:
    """Standard output as wide as its terminal; text is shown as it is, in a notebook too."""
    return Console(highlight=False, soft_wrap=False, emoji=False, markup=False, force_jupyter=False)


def print_result(result: Result, console: Console | None = None) -> None:
    """Print the whole report: header, layers, notes, warnings, reading.

    console: standard output where it is None, so that it is what the command line prints.
    """
    console = console or standard_output()
    page = _page(console)
    for title, value in _facts(result):
        _print_hanging(Text(f"{title:<{_TITLE_WIDTH}}", style="bold"), value, console)
    if result.layers:
        console.print()
        for line in score_lines(result, page):
            console.print(line)
    _print_remarks(_remarks(result), console)
    console.print()
    _print_hanging(Text(), reading(result), console, style="italic")


def print_layers(listing: Layers, console: Console | None = None) -> None:
    """Print what would be scored: a row a layer, then what would not be and what was assumed.

    console: as for `print_result`.
    """
    console = console or standard_output()
    model = listing.model
    title = Text(f"{'network':<{_TITLE_WIDTH}}", style="bold")
    _print_hanging(title, f"{model.summary} ({model.parameters:,} parameters)", console)
    console.print()
    for line in _listing_lines(listing.layers, _page(console)):
        console.print(line)
    _print_remarks(_listing_remarks(listing), console)


def _page(console: Console) -> Page:
    return Page(console.width, console.encoding)


def _print_hanging(head: Text, body: str, console: Console, style: str = "") -> None:
    """Print `body` right of `head`; what does not fit on its line stands under its beginning."""
    room = max(console.width - head.cell_len, _TITLE_WIDTH)
    text = Text(_page(console).text(body), style=style)
    for number, line in enumerate(text.wrap(console, room, overflow="fold")):
        line.rstrip()
        console.print(Text.assemble(head if number == 0 else " " * head.cell_len, line))


def _print_remarks(remarks: Remarks, console: Console) -> None:
    for title, lines in remarks:
        console.print()
        console.print(Text(title, style="bold yellow" if title == "warnings" else "bold"))
        for line in lines:
            _print_hanging(Text("  - "), line, console)


# -------------------------------------------------------------------------------------- the header


def _facts(result: Result) -> Iterator[tuple[str, str]]:
    checkpoint, model = result.checkpoint, result.model
    if checkpoint.path is not None:
        yield "checkpoint", checkpoint.path
        yield "training", _training(result)
    if result.provenance.config is not None:
        yield "config", result.provenance.config
    yield "network", f"{model.summary} ({model.origin})"
    yield "data", _data(result.data)
    yield "error", _error(result.model_mse, result.model_r2)
    if result.heldout:
        held = result.heldout
        yield "held out", _data(held.data)
        yield "error", _error(held.model_mse, held.model_r2)
    yield "signal", _signal(result)


def _training(result: Result) -> str:
    checkpoint = result.checkpoint
    counts = {"epoch": checkpoint.epoch, "step": checkpoint.step}
    rates = {"weight decay": checkpoint.weight_decay, "learning rate": checkpoint.learning_rate}
    known = [f"{name} {count}" for name, count in counts.items() if count is not None]
    known += [f"{name} {rate:g}" for name, rate in rates.items() if rate is not None]
    return ", ".join(known) or "epoch and weight decay are not recorded"


def _data(data: DataFacts) -> str:
    rank = "that do not vary" if data.target_rank is None else f"of rank {data.target_rank}"
    targets = "1 target" if data.target_dim == 1 else f"{data.target_dim} targets"
    prepared = f", standardised: {' and '.join(data.standardized)}" if data.standardized else ""
    where = shown(data.path) if data.path else "given in memory"
    return f"{where}: {data.n:,} rows, {targets} {rank}{prepared}"


def _error(mse: float, r2: float) -> str:
    error, share_explained = f"{mse:.4g}", f"{r2:.4f}" if abs(r2) < 1e5 else f"{r2:.3g}"
    return f"MSE {error if math.isfinite(mse) else '-'}, R² {share_explained if math.isfinite(r2) else '-'}"


def _signal(result: Result) -> str:
    settings = result.settings
    ranks = sorted({layer.rank for layer in result.layers}, reverse=True)
    why = {"target": "the target dimension", "auto": "the targets' own rank"}
    asked = why.get(str(settings.rank), "as asked")
    r = f"r = {ranks[0]}, {asked}; " if ranks else ""
    return f"{r}NRC4 cutoff {settings.rcond:g}; {settings.pooling} pooling, {settings.precision}"


# ------------------------------------------------------------------------------------- the listing


def _listing_lines(layers: Sequence[LayerFacts], page: Page) -> Iterator[Text]:
    """A row a layer, its name above it where both do not fit on one line."""
    shapes = max(len("weight"), *(len(_shape(layer)) for layer in layers))
    left = page.width - shapes - len(_numbers(layers[0])) - 3
    names, kinds = _labels(layers, page, left)
    kind_room = max(map(cell_len, kinds)) + 2
    name_room = max(min(max(map(cell_len, names)) + 2, left - kind_room), len("layer") + 2)
    numbers = f"{'width':>6}{'out':>6}{'rank':>6}{'stable':>9}"
    heads = (_left(names[0], name_room), _left(kinds[0], kind_room), numbers)
    yield Text(f" {''.join(heads)}  weight", style="bold")
    for layer, name, kind in zip(layers, names[1:], kinds[1:], strict=True):
        fits = cell_len(name) <= name_room - 2
        if not fits:
            yield from name_lines(name, page)
        cells = (_left(name if fits else "", name_room), _left(kind, kind_room), _numbers(layer))
        yield Text(f" {''.join(cells)}  {_shape(layer)}")


def _labels(layers: Sequence[LayerFacts], page: Page, room: int) -> tuple[list[str], list[str]]:
    """The columns `layer` and `type`, heads first; in one where two do not fit."""
    names = ["layer", *(page.text(layer.name) for layer in layers)]
    kinds = ["type", *(page.text(layer.type) for layer in layers)]
    if max(map(cell_len, kinds)) + len("layer") + 4 <= room:
        return names, kinds
    together = [f"{name} ({kind})" for name, kind in zip(names[1:], kinds[1:], strict=True)]
    return ["layer", *together], [""] * len(kinds)


def _left(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _numbers(layer: LayerFacts) -> str:
    stable = ratio(layer.stable_rank_weight)
    return f"{layer.width:>6}{layer.out:>6}{layer.weight_rank:>6}{stable:>9}"


def _shape(layer: LayerFacts) -> str:
    return "x".join(map(str, layer.weight_shape))


def _listing_remarks(listing: Layers) -> Remarks:
    skipped = _grouped((item.reason, item.name) for item in listing.skipped)
    for title, lines in (("not scored", skipped), ("assumed", list(listing.model.assumptions))):
        if lines:
            yield title, lines


# -------------------------------------------------------------------------------------- the remarks


def _remarks(result: Result) -> Remarks:
    """Titles and lines of all that stands below the table; empty ones left out."""
    notes = [(note, layer.name) for layer in result.layers for note in layer.notes]
    skipped = [(item.reason, item.name) for item in result.skipped]
    assumed = [*result.model.assumptions, *result.data.assumptions]
    if result.heldout:
        assumed += [f"held out: {note}" for note in result.heldout.data.assumptions]
    for title, lines in (
        ("last layer, older conditions of 2024 (not NRC1-NRC3 above; 0 is collapsed)", _last_layer(result)),
        ("notes", _grouped(notes)),
        ("not scored", _grouped(skipped)),
        ("assumed", [note for note in assumed if note not in _CONVENTIONAL]),
        ("warnings", list(result.warnings)),
    ):
        if lines:
            yield title, lines


def _last_layer(result: Result) -> list[str]:
    last = result.last_layer_2024
    if last is None:
        return []
    return [
        f"2024-NRC1, feature energy outside the top principal components: {share(last.nrc1)}",
        f"2024-NRC2, feature energy outside the weight's rows: {share(last.nrc2)}",
        f"2024-NRC3, squared distance of the weight's Gram matrix from the targets': {share(last.nrc3)}",
    ]


def _grouped(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """One line a remark, with the layers that share it."""
    layers: dict[str, list[str]] = {}
    for remark, name in pairs:
        layers.setdefault(remark, []).append(name)
    return [f"{_names(names)}: {remark}" for remark, names in layers.items()]


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
