"""A run's conditions as heat strips: a row a layer, a character a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.text import Text

from nrc_probe.report.blocks import Block, beside_each_other, room_beside, wrapped
from nrc_probe.report.grid import Page
from nrc_probe.report.onset import (
    LAST_ONLY,
    NOT_SETTLED,
    can_settle,
    heldout_errors,
    holds_from,
    is_last_only,
    settled_from,
    training_errors,
)
from nrc_probe.report.study import Run, layer_names
from nrc_probe.result import CONDITIONS, LayerResult, Thresholds

_MARKS = "█▒░·"
"""Met, then ever farther from being met."""
_UNDEFINED = "-"
_UNDECIDED = "?"
_REMARKS = (
    "- undefined, or the layer is not in that checkpoint",
    "? rounding picks the number, since a subspace is not defined: not met",
)
_TITLES = {"nrc1": "NRC1", "nrc2": "NRC2", "nrc3": "NRC3", "nrc4": "NRC4"}


def strip_lines(run: Run, page: Page, within: float) -> Iterator[Text]:
    """Each condition over the checkpoints, since when it holds, and when the error had settled."""
    names = layer_names(run.results)
    shown = _thinned(len(run.results), room_beside(names, page))
    blocks = [_strip(run, names, condition, shown, page) for condition in CONDITIONS]
    yield from beside_each_other("layer", names, blocks, page)
    yield Text()
    onsets = [_onsets(run, names, condition) for condition in CONDITIONS]
    yield from beside_each_other("layer", names, onsets, page)
    yield Text()
    for line in (*_settled(run, within), *_thinning(run, shown)):
        yield from wrapped(line, page)


def legend_lines(at: Thresholds, page: Page) -> Iterator[Text]:
    """What the marks mean."""
    for condition in CONDITIONS:
        sign = "<=" if _falls(condition) else ">="
        steps = [f"{_MARKS[k]} {sign} {level:.2g}" for k, level in enumerate(_levels(condition, at))]
        yield Text(
            page.text(f"{_TITLES[condition]} {'  '.join(steps)}  {_MARKS[-1]} beyond"),
            style="dim",
        )
    yield from (Text(page.text(line), style="dim") for line in _REMARKS)


def _strip(run: Run, names: Sequence[str], condition: str, shown: Sequence[int], page: Page) -> Block:
    scored = [{layer.name: layer for layer in run.results[k].layers} for k in shown]
    rows = {name: Text() for name in names}
    for name, row in rows.items():
        for layers in scored:
            mark = _mark(layers.get(name), condition, run.thresholds)
            style = "cyan" if mark == _MARKS[0] else "dim"
            row.append(page.text(mark), style=style)
    times = [run.times[k] for k in shown]
    ends = f"{times[0]} - {times[-1]}" if len(times) > 1 else f"{times[0]}"
    return Block(_TITLES[condition], Text(ends, style="dim"), rows)


def _onsets(run: Run, names: Sequence[str], condition: str) -> Block:
    rows = {}
    for name in names:
        since = holds_from(run, name, condition)
        if since is None:
            rows[name] = Text(LAST_ONLY if is_last_only(run, name, condition) else "-", style="dim")
        else:
            # met at the first checkpoint: it may have been so before
            rows[name] = Text(f"<={since}" if since == run.times[0] else str(since), style="cyan")
    return Block(_TITLES[condition], Text("since", style="dim"), rows, at_right=True)


def _settled(run: Run, within: float) -> Iterator[str]:
    yield (
        f"since: the {run.clock} from which a condition holds to the end; <= where it did at the first one; "
        f"{LAST_ONLY}: at the last and not at the one before, so that nothing shows whether it stays"
    )
    share = f"within {100 * within:g}% of its final value"
    for what, errors in (("error", training_errors(run)), ("held-out error", heldout_errors(run))):
        if errors is None:
            continue
        since = settled_from(run, errors, within)
        if since is not None:
            yield f"{what} settled: {share} from {run.clock} {since} on"
        elif can_settle(errors):
            yield f"{what} {NOT_SETTLED}: {share} at the last one only"
        else:
            yield f"{what}: its final value is 0 or undefined, so nothing can be said about when it settled"


def _thinning(run: Run, shown: Sequence[int]) -> Iterator[str]:
    if len(shown) < len(run.results):
        yield f"the strips show {len(shown)} of {len(run.results)} checkpoints; since and settled use all"


def _thinned(count: int, room: int) -> list[int]:
    """Places of at most `room` checkpoints, evenly spread, first and last among them."""
    if count <= room:
        return list(range(count))
    return [round(k * (count - 1) / (room - 1)) for k in range(room)]


def _mark(layer: LayerResult | None, condition: str, at: Thresholds) -> str:
    value = math.nan if layer is None else _value(layer, condition)
    if layer is None or math.isnan(value):
        return _UNDEFINED
    if condition in layer.undecided:
        return _UNDECIDED
    if layer.conditions[condition]:
        return _MARKS[0]
    farther = [(value > level) if _falls(condition) else (value < level) for level in _levels(condition, at)]
    return _MARKS[max(1, sum(farther))]


def _value(layer: LayerResult, condition: str) -> float:
    return float(getattr(layer, "nrc4_ratio" if condition == "nrc4" else condition))


def _falls(condition: str) -> bool:
    """Whether a condition is met at or below its threshold."""
    return condition in ("nrc1", "nrc4")


def _levels(condition: str, at: Thresholds) -> tuple[float, float, float]:
    """The threshold and two steps on the way to the worst value: thirds, or doublings of a ratio."""
    start = float(getattr(at, "nrc4_ratio" if condition == "nrc4" else condition))
    if condition == "nrc4":
        return start, 2 * start, 4 * start
    worst = 1.0 if condition == "nrc1" else 0.0
    return start, start + (worst - start) / 3, start + 2 * (worst - start) / 3
