"""Figure 5: errors and NRC1 over training, with the time at which collapse sets in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nrc_probe.plain import printable
from nrc_probe.report.figures.axes import (
    INK,
    MOST_LINES,
    QUIET,
    THRESHOLD,
    evenly,
    folded,
    in_order,
    log_axis,
    new_panels,
    share_axis,
)
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ONSET = "#E69F00"
_MARKED = 30
"""More checkpoints than this are lines without markers."""
_NAMED = 9
"""Of more layers than this some are named, evenly spread; colour says the depth."""


def draw_epochs(runs: Sequence[Run], within: float) -> Figure:
    """A column a run: the errors above, NRC1 of each layer below.

    Shaded: from the time at which the first of the collapsed layers stays under the threshold to the
    time from which all of them do; open to the right where one of them does at the last checkpoint only.
    Dotted: the error has settled within this share of its final value.
    """
    figure, panels = new_panels(2, len(runs), 0.9 + 2.9 * len(runs), 4.4, sharex="col", sharey="row")
    for above, below, run in zip(panels[0], panels[1], runs, strict=True):
        _errors(above, run)
        _layers(below, run)
        below.set_xlabel(run.clock)
        above.set_title("\n".join([folded(run.name, 38), *_not_shown(run, within)]), loc="left")
    for panel, run in zip(panels[1], runs, strict=True):
        if run.times[-1] > 20 * run.times[0]:
            log_axis(panel.xaxis, run.times)
    log_axis(
        panels[0, 0].yaxis, [e for run in runs for e in (*training_errors(run), *(heldout_errors(run) or ()))]
    )
    for above, below, run in zip(panels[0], panels[1], runs, strict=True):
        for panel in (above, below):
            _moments(panel, run, within)  # once the scales are known: words stand where there is room
    panels[0, 0].set_ylabel("mean squared error")
    share_axis(panels[1, 0], "NRC1, noise share")
    figure.legend(*panels[0, -1].get_legend_handles_labels(), loc="outside right upper")
    handles, labels = panels[1, -1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right lower", title="layer")
    return figure


def _errors(panel: Axes, run: Run) -> None:
    marker = "o" if len(run.times) <= _MARKED else ""
    panel.plot(run.times, training_errors(run), color=INK, marker=marker, label="these rows")
    held = heldout_errors(run)
    if held is not None:
        hollow: dict[str, Any] = {"markerfacecolor": "white", "linestyle": (0, (4, 1.5))}
        marker = marker and "s"
        panel.plot(run.times, held, color="#0072B2", marker=marker, label="held-out rows", **hollow)


def _layers(panel: Axes, run: Run) -> None:
    names = layer_names(run.results)
    named = evenly(len(names), _NAMED)
    marked = len(names) <= MOST_LINES and len(run.times) <= _MARKED
    by_name = [{layer.name: layer.nrc1 for layer in result.layers} for result in run.results]
    for depth, name in enumerate(names):
        style = in_order(depth, len(names)) | {"marker": "os^Dv"[depth % 5] if marked else ""}
        label = printable(name) if depth in named else f"_{depth}"
        values = [found.get(name, math.nan) for found in by_name]
        panel.plot(run.times, values, markersize=2.5, label=label, **style)
    panel.axhline(run.thresholds.nrc1, **THRESHOLD)


def _moments(panel: Axes, run: Run, within: float) -> None:
    tail = _tail(run)
    since = [time for name in tail if (time := holds_from(run, name)) is not None]
    is_open = any(is_last_only(run, name) for name in tail)
    if since:
        end = run.times[-1] if is_open else max(since)
        panel.axvspan(min(since), end, color=_ONSET, alpha=0.18, linewidth=0, zorder=0)
        for time in {min(since)} if is_open else {min(since), end}:
            panel.axvline(time, color=_ONSET, linewidth=0.9, zorder=0)
    if since and not is_open:
        _word(panel, "collapsed layers stay so", max(since), 0.03)
    settled = settled_from(run, training_errors(run), within)
    if settled is not None:
        panel.axvline(settled, color=QUIET, linewidth=0.9, linestyle=(0, (1, 1.5)), zorder=0)
        _word(panel, "error settled", settled, 0.92)


def _not_shown(run: Run, within: float) -> Iterator[str]:
    """What has no line, since only the last checkpoint shows it."""
    errors = training_errors(run)
    if can_settle(errors) and settled_from(run, errors, within) is None:
        yield f"error {NOT_SETTLED}"
    if any(is_last_only(run, name) for name in _tail(run)):
        yield f"NRC1 holds in all collapsed layers: {LAST_ONLY}"


def _tail(run: Run) -> list[str]:
    """The layers from the first collapsed one on, at the last checkpoint."""
    names = [layer.name for layer in run.final.layers]
    first = run.final.first_collapsed_layer
    return names[names.index(first) :] if first is not None else []


def _word(panel: Axes, word: str, time: float, height: float) -> None:
    """A word beside a vertical line, on the side where there is room; in the upper panel only."""
    place = panel.get_subplotspec()
    if place is None or not place.is_first_row():
        return
    left, right = panel.transData.transform((time, 0))[0], panel.transAxes.transform((1, 0))[0]
    near_the_end = right - left < 0.3 * panel.get_window_extent().width
    panel.annotate(
        word,
        (time, height),
        xycoords=("data", "axes fraction"),
        xytext=(-3 if near_the_end else 3, 0),
        textcoords="offset points",
        ha="right" if near_the_end else "left",
        color=INK,
        fontsize=7,
    )
