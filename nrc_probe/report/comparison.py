"""The same layer side by side across the values of a recorded field, such as weight decay."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from rich.text import Text

from nrc_probe.report.blocks import Block, beside_each_other, room_beside, wrapped
from nrc_probe.report.fields import CHANGES_IN_A_RUN, Value, find_field, order, reader, text_of, varying
from nrc_probe.report.grid import Page, ratio, share
from nrc_probe.report.study import Study, layer_names
from nrc_probe.result import LayerResult, Result

_TABLES = (
    ("NRC1", "nrc1", "nrc1"),
    ("NRC2", "nrc2", "nrc2"),
    ("NRC3", "nrc3", "nrc3"),
    ("NRC4 / model", "nrc4_ratio", "nrc4"),
    ("stable rank W", "stable_rank_weight", None),
    ("effective rank", "effective_rank", None),
)
"""Title, field of a layer, and the condition that it decides."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Results grouped by what a field recorded."""

    field: str
    """Its last name, such as "weight_decay"."""
    values: tuple[Value, ...]
    """Numbers ascending, then texts, the unknown last."""
    groups: tuple[tuple[Result, ...], ...]
    """The results with each value."""

    @property
    def title(self) -> str:
        """The field in words."""
        return self.field.replace("_", " ")


def compare(study: Study, name: str) -> Comparison:
    """The last checkpoint of each run, grouped by a field; every checkpoint if training itself changes it.

    name: any recorded field, such as "weight_decay" or "data.n". Raises ConfigError for another.
    """
    full = find_field(study.runs[0].final, name)
    results = study.results if full in CHANGES_IN_A_RUN else tuple(run.final for run in study.runs)
    read = reader(full)
    values = sorted({read(result) for result in results}, key=order)
    groups = tuple(tuple(result for result in results if read(result) == value) for value in values)
    return Comparison(full.rpartition(".")[2], tuple(values), groups)


def caution(study: Study, name: str) -> str | None:
    """What to know of a comparison by a field that does not tell results apart; None where it does.

    Raises ConfigError for a field that is not recorded at all.
    """
    comparison = compare(study, name)
    (first, *others) = comparison.values
    if others:
        return None
    same = "is not known of any" if first is None else f"is {text_of(first)} in each"
    fields = ", ".join(varying([result for group in comparison.groups for result in group]))
    way_out = f"what differs: {fields}" if fields else "nothing recorded differs"
    return f"{comparison.title} {same} of the results that are set side by side; {way_out}"


def numbers(group: Sequence[Result], layer: str, field: str) -> list[float]:
    """A layer's number in each of the results that have one, finite ones only."""
    found = (getattr(scored, field) for scored in layers_named(group, layer))
    return [value for value in found if math.isfinite(value)]


def layers_named(group: Sequence[Result], name: str) -> list[LayerResult]:
    """The layer of this name in each of the results that scored it."""
    return [layer for result in group for layer in result.layers if layer.name == name]


def all_meet(group: Sequence[Result], name: str, condition: str) -> bool:
    """Whether each of the results scored the layer and meets the condition there."""
    layers = layers_named(group, name)
    return len(layers) == len(group) > 0 and all(layer.conditions[condition] for layer in layers)


def comparison_lines(comparison: Comparison, page: Page) -> Iterator[Text]:
    """A block a number, a column a value; medians where several results share a value."""
    names = layer_names(result for group in comparison.groups for result in group)
    widths = [max(9, len(text_of(value)) + 3) for value in comparison.values]
    room = room_beside(names, page)
    blocks = [
        _block(comparison, names, table, part, page)
        for table in _TABLES
        for part in _parts(widths, max(room, 12))
    ]
    yield from beside_each_other("layer", names, blocks, page)
    counts = [len(group) for group in comparison.groups]
    if max(counts) > 1:
        each = ", ".join(f"{n} at {text_of(v)}" for n, v in zip(counts, comparison.values, strict=True))
        yield Text()
        marked = "a mark says that all of them scored the layer and meet it"
        yield from wrapped(f"medians of several results ({each}); {marked}", page)


def _parts(widths: Sequence[int], room: int) -> Iterator[slice]:
    """The columns in slices that fit."""
    start = used = 0
    for place, width in enumerate(widths):
        if used + width > room and place > start:
            yield slice(start, place)
            start, used = place, 0
        used += width
    yield slice(start, len(widths))


def _block(
    comparison: Comparison, names: Sequence[str], table: tuple[str, str, str | None], part: slice, page: Page
) -> Block:
    title, field, condition = table
    values, groups = comparison.values[part], comparison.groups[part]
    widths = [max(9, len(text_of(value)) + 3) for value in values]
    shift = 2 if condition else 0
    head = Text(style="dim")
    for value, width in zip(values, widths, strict=True):
        head.append(f"{text_of(value):>{width - shift}}{' ' * shift}")
    rows = {name: Text() for name in names}
    for name, row in rows.items():
        for group, width in zip(groups, widths, strict=True):
            cell = _cell(group, name, field, condition)
            shown = page.text(cell.plain)
            row.append(f"{shown:>{width}}", style=cell.style)
    return Block(title, head, rows, at_right=True)


def _cell(group: Sequence[Result], name: str, field: str, condition: str | None) -> Text:
    shown = numbers(group, name, field)
    form = share if condition in ("nrc1", "nrc2", "nrc3") else ratio
    text = form(median(shown)) if shown else "-"
    if condition is None:
        return Text(text)
    layers = layers_named(group, name)
    met = all_meet(group, name, condition)
    undecided = any(condition in layer.undecided for layer in layers)
    mark = " " if not shown else "?" if undecided else "✓" if met else "·"
    return Text(f"{text} {mark}", style="cyan" if met else "")
