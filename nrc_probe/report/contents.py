"""What a file of activations or moments holds, on one screen."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from nrc_probe.recording import in_bytes
from nrc_probe.report.grid import Page
from nrc_probe.scoring import DataSource
from nrc_probe.store.contents import Contents, LayerContents

_TITLE_WIDTH = 11
_LAYERS_SHOWN = 40
_NUMBERS = f"{'width':>6}{'out':>6}{'rows':>11}{'size':>11}  also"


def print_contents(contents: Contents, console: Console) -> None:
    """Print a line a fact, then a row a layer."""
    page = Page(console.width, console.encoding)
    for title, value in _facts(contents):
        body = Text(page.text(value)).wrap(console, max(20, console.width - _TITLE_WIDTH), overflow="fold")
        for number, line in enumerate(body):
            line.rstrip()
            console.print(Text(f"{title if not number else '':<{_TITLE_WIDTH}}", style="bold") + line)
    if contents.layers:
        console.print()
        for row in _rows(contents.layers, page):
            console.print(row)


def _facts(contents: Contents) -> Iterator[tuple[str, str]]:
    yield "file", f"{contents.path}: {in_bytes(contents.file_bytes)}, {_state(contents)}"
    if contents.story is not None:
        facts, settings = contents.story.facts, contents.story.settings
        if facts.checkpoint.path is not None:
            yield "checkpoint", facts.checkpoint.path
        yield "network", f"{facts.model.summary} ({facts.model.source})"
        yield "data", _data(facts.data)
        yield "pooling", f"{settings.pooling}; precision {settings.precision}"
    yield "rows", f"{contents.n:,}, targets {contents.target_dim} wide"
    yield "holds", ", ".join(_kinds(contents))
    for name, reason in contents.skipped.items():
        yield "not stored", f"{name}: {reason}"


def _data(data: DataSource) -> str:
    read = f": {data.reading}" if data.reading else ""
    prepared = f", standardised: {' and '.join(data.standardized)}" if data.standardized else ""
    return f"{data.path or 'given in memory'}{read}{prepared}"


def _state(contents: Contents) -> str:
    when = f"written {contents.created}" if contents.created else "written by others"
    return when if contents.complete else f"begun {contents.created}, not complete (dump --resume goes on)"


def _kinds(contents: Contents) -> Iterator[str]:
    if contents.dtype is not None:
        form = contents.story.form if contents.story else None
        yield f"activations as {contents.dtype}, compression {form.compression if form else 'unknown'}"
    if any(layer.has_moments for layer in contents.layers):
        yield "moments"
    if contents.has_heldout:
        yield "moments of held-out rows"


def _rows(layers: tuple[LayerContents, ...], page: Page) -> Iterator[Text]:
    shown = layers[:_LAYERS_SHOWN]
    names = [page.text(f"{layer.name} ({layer.type})") for layer in shown]
    room = min(max(len("layer"), *map(len, names)) + 1, max(10, page.width - len(_NUMBERS) - 14))
    yield Text(f" {'layer':<{room}}{_NUMBERS}", style="bold")
    for name, layer in zip(names, shown, strict=True):
        if len(name) >= room:
            yield Text(f" {name}")
            name = ""
        yield Text(f" {name:<{room}}{_numbers(layer)}")
    if len(layers) > len(shown):
        yield Text(f" ... and {len(layers) - len(shown)} more layers")


def _numbers(layer: LayerContents) -> str:
    also = [word for word, there in (("weight", layer.has_weight), ("moments", layer.has_moments)) if there]
    width, out = ("-" if value is None else f"{value}" for value in (layer.width, layer.out))
    size = in_bytes(layer.stored_bytes)
    return f"{width:>6}{out:>6}{layer.rows:>11,}{size:>11}  {', '.join(also)}"
