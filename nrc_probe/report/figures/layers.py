"""Figures over layers: the four conditions (2), at the targets' rank (3), by weight decay (4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from nrc_probe.plain import printable
from nrc_probe.report.comparison import compare, numbers
from nrc_probe.report.fields import text_of
from nrc_probe.report.figures.axes import (
    INK,
    MOST_LINES,
    QUIET,
    REFERENCE,
    THRESHOLD,
    UPRIGHT,
    evenly,
    explain,
    in_order,
    legend_above,
    line_style,
    log_axis,
    name_layers,
    new_panels,
    share_axis,
    width_for,
)
from nrc_probe.report.study import Run, Study, layer_names
from nrc_probe.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_BESIDE = 0.06
"""Of the distance between two layers: between the vertical lines of runs that share one."""


def draw_layers(runs: Sequence[Run]) -> Figure:
    """Four panels over layers, the first collapsed layer as a vertical line, the model's error dashed."""
    results = [run.final for run in runs]
    names = layer_names(results)
    figure, panels = new_panels(4, 1, width_for(names), 6.2, sharex=True)
    first, second, third, fourth = panels[:, 0]
    at = runs[0].thresholds
    for number, run in enumerate(runs):
        style = line_style(number, len(runs) > 1)
        for panel, field in ((first, "nrc1"), (second, "nrc2"), (third, "nrc3"), (fourth, "nrc4")):
            panel.plot(_values(run.final, names, field), label=printable(run.name), **style)
        fourth.axhline(run.final.model_mse, color=style["color"], **REFERENCE)
    for panel in panels[:, 0]:
        _mark_firsts(panel, results, names)
    share_axis(first, "NRC1\nnoise share", at.nrc1)
    share_axis(second, "NRC2\nsignal-target CKA", at.nrc2)
    share_axis(third, "NRC3\nfeature-weight\nalignment", at.nrc3)
    if len(runs) == 1:
        _chance(third, results[0], names)
        _heldout(fourth, results[0], names)
        _words(first, fourth, results[0])
    fourth.set_ylabel("NRC4\nlinear probe's\nerror")
    errors = [error for result in results for error in _values(result, names, "nrc4")]
    log_axis(fourth.yaxis, [*errors, *(result.model_mse for result in results)])
    name_layers(fourth, names)
    figure.align_ylabels(panels[:, 0])
    if len(runs) > 1:
        legend_above(figure, first)
    explain(figure, _lines_of_layers(results))
    return figure


def draw_rank(runs: Sequence[Run]) -> Figure:
    """At signal dimension r: the noise component, the features' stable rank, signal and noise alignment."""
    results = [run.final for run in runs]
    names = layer_names(results)
    figure, panels = new_panels(3, 1, width_for(names), 5.0, sharex=True)
    noise, ranks, alignment = panels[:, 0]
    for number, run in enumerate(runs):
        style = line_style(number, len(runs) > 1)
        name = printable(run.name)
        noise.plot(_values(run.final, names, "nrc1"), label=name, **style)
        ranks.plot(_values(run.final, names, "stable_rank_covariance"), label=name, **style)
        alignment.plot(_values(run.final, names, "nrc3"), label="signal directions", **style)
        hollow = {**style, "linestyle": (0, (2, 1.5)), "markerfacecolor": "white"}
        alignment.plot(_values(run.final, names, "nrc3_noise"), label="noise directions", **hollow)
    share_axis(noise, f"NRC1\nnoise share\n{_rank(results)}", runs[0].thresholds.nrc1)
    _target_ranks(ranks, results)
    ranks.set_ylabel("stable rank of S")
    ranks.set_ylim(bottom=0)
    share_axis(alignment, "NRC3\nfeature-weight\nalignment")
    name_layers(alignment, names)
    figure.align_ylabels(panels[:, 0])
    if len(runs) > 1:
        legend_above(figure, noise)
    alignment.legend(handles=alignment.lines[:2], loc="lower left", bbox_to_anchor=(0, 0.98), ncols=2)
    explain(figure, {"stable rank of the targets": REFERENCE, "threshold": THRESHOLD})
    return figure


def draw_comparison(study: Study, by: str) -> Figure:
    """NRC1 to NRC3 and the weights' stable rank over layers, a line for each value of a field.

    Where several results share a value the line is their median, the band their range. More values than
    lines can be told apart go from dark to light, and some of them are named.
    """
    comparison = compare(study, by)
    names = layer_names(result for group in comparison.groups for result in group)
    figure, panels = new_panels(4, 1, width_for(names), 6.2, sharex=True)
    fields = ("nrc1", "nrc2", "nrc3", "stable_rank_weight")
    count = len(comparison.values)
    named = evenly(count, MOST_LINES)
    for number, (value, group) in enumerate(zip(comparison.values, comparison.groups, strict=True)):
        style = line_style(number, count > 1) if count <= MOST_LINES else in_order(number, count)
        label = printable(f"{comparison.title} {text_of(value)}") if number in named else f"_{number}"
        for panel, field in zip(panels[:, 0], fields, strict=True):
            _band(panel, [numbers(group, name, field) for name in names], label, style)
    at = study.runs[0].thresholds
    share_axis(panels[0, 0], "NRC1\nnoise share", at.nrc1)
    share_axis(panels[1, 0], "NRC2\nsignal-target CKA", at.nrc2)
    share_axis(panels[2, 0], "NRC3\nfeature-weight\nalignment", at.nrc3)
    panels[3, 0].set_ylabel("stable rank\nof the weight")
    ranks = [
        rank for group in comparison.groups for name in names for rank in numbers(group, name, fields[3])
    ]
    log_axis(panels[3, 0].yaxis, ranks)
    name_layers(panels[3, 0], names)
    figure.align_ylabels(panels[:, 0])
    legend_above(figure, panels[0, 0])
    explain(figure, {"threshold": THRESHOLD})
    return figure


# -------------------------------------------------------------------------------------- the pieces


def _values(result: Result, names: Sequence[str], field: str) -> list[float]:
    """A number of each layer; nan where undefined or not scored: the line has a gap there."""
    by_name = {layer.name: float(getattr(layer, field)) for layer in result.layers}
    return [by_name.get(name, math.nan) for name in names]


def _mark_firsts(panel: Axes, results: Sequence[Result], names: Sequence[str]) -> None:
    """A vertical line at each run's first collapsed layer; those that share one stand beside each other."""
    runs_at: dict[int, list[int]] = {}
    for number, result in enumerate(results):
        if result.first_collapsed_layer is not None:
            runs_at.setdefault(names.index(result.first_collapsed_layer), []).append(number)
    for place, numbers_there in runs_at.items():
        for rank, number in enumerate(numbers_there):
            beside = _BESIDE * (rank - (len(numbers_there) - 1) / 2)
            colour = line_style(number, len(results) > 1)["color"]
            panel.axvline(place + beside, color=colour, linewidth=0.9, zorder=0)


def _lines_of_layers(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """What the lines across the panels mean; several runs' ones have the colours of the runs."""
    lines = {"threshold": THRESHOLD, "the network's own error": REFERENCE}
    if any(result.first_collapsed_layer is not None for result in results):
        lines["NRC1 holds from here on"] = UPRIGHT
    return lines


def _target_ranks(panel: Axes, results: Sequence[Result]) -> None:
    """The targets' stable rank: one line where all runs share it, else one in the colour of each run."""
    ranks = [result.data.target_stable_rank for result in results]
    if all(math.isclose(rank, ranks[0], rel_tol=1e-6) for rank in ranks):
        panel.axhline(ranks[0], color=INK, **REFERENCE)
        return
    for number, rank in enumerate(ranks):
        panel.axhline(rank, color=line_style(number, len(ranks) > 1)["color"], **REFERENCE)


def _chance(panel: Axes, result: Result, names: Sequence[str]) -> None:
    chance = _values(result, names, "nrc3_chance")
    panel.plot(chance, color=QUIET, linewidth=0.8, linestyle=(0, (1, 1)), label="chance")
    panel.legend(handles=panel.lines[-1:], loc="lower right")


def _heldout(panel: Axes, result: Result, names: Sequence[str]) -> None:
    if result.heldout is None:
        return
    errors = {layer.name: layer.nrc4 for layer in result.heldout.layers}
    values = [errors.get(name, math.nan) for name in names]
    panel.plot(values, color="#0072B2", marker="s", markerfacecolor="white", label="held-out rows")


def _words(first: Axes, fourth: Axes, result: Result) -> None:
    """Names of the lines of a single result, where they are."""
    layer = result.first_collapsed_layer
    if layer is not None:
        first.set_title(f"first collapsed layer: {printable(layer)}", loc="left")
    if result.heldout:
        fourth.legend([fourth.lines[0], fourth.lines[-1]], ["these rows", "held-out rows"], loc="upper right")


def _rank(results: Sequence[Result]) -> str:
    ranks = sorted({layer.rank for result in results for layer in result.layers})
    return f"r = {ranks[-1]}" if len(ranks) == 1 else "own r"


def _band(panel: Axes, columns: Sequence[Sequence[float]], label: str, style: dict[str, Any]) -> None:
    middle = [median(column) if column else math.nan for column in columns]
    panel.plot(middle, label=label, **style)
    if any(len(column) > 1 for column in columns):
        low = [min(column, default=math.nan) for column in columns]
        high = [max(column, default=math.nan) for column in columns]
        panel.fill_between(range(len(columns)), low, high, color=style["color"], alpha=0.2, linewidth=0)
