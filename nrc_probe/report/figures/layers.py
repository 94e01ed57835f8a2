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
    MOST_LINES,
    QUIET,
    evenly,
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
            _mark_first(panel, run.final, names, style["color"])
        fourth.axhline(run.final.model_mse, color=style["color"], linewidth=0.8, linestyle=(0, (5, 3)))
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
        target = run.final.data.target_stable_rank
        ranks.axhline(target, color=style["color"], linewidth=0.8, linestyle=(0, (5, 3)))
        alignment.plot(_values(run.final, names, "nrc3"), label="signal directions", **style)
        hollow = {**style, "linestyle": (0, (2, 1.5)), "markerfacecolor": "white"}
        alignment.plot(_values(run.final, names, "nrc3_noise"), label="noise directions", **hollow)
    share_axis(noise, f"NRC1\nnoise share\n{_rank(results)}", runs[0].thresholds.nrc1)
    ranks.set_ylabel("stable rank of S\n(targets' dashed)")
    ranks.set_ylim(bottom=0)
    share_axis(alignment, "NRC3\nfeature-weight\nalignment")
    name_layers(alignment, names)
    figure.align_ylabels(panels[:, 0])
    if len(runs) > 1:
        legend_above(figure, noise)
    alignment.legend(handles=alignment.lines[:2], loc="lower left", bbox_to_anchor=(0, 0.98), ncols=2)
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
    return figure


# -------------------------------------------------------------------------------------- the pieces


def _values(result: Result, names: Sequence[str], field: str) -> list[float]:
    """A number of each layer; nan where undefined or not scored: the line has a gap there."""
    by_name = {layer.name: float(getattr(layer, field)) for layer in result.layers}
    return [by_name.get(name, math.nan) for name in names]


def _mark_first(panel: Axes, result: Result, names: Sequence[str], colour: str) -> None:
    if result.first_collapsed_layer is not None:
        place = names.index(result.first_collapsed_layer)
        panel.axvline(place, color=colour, linewidth=0.8, alpha=0.6, zorder=0)


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
    dashed = next(line for line in fourth.lines if line.get_linestyle() == "--")
    handles = [fourth.lines[0], dashed, *(fourth.lines[-1:] if result.heldout else [])]
    labels = ["these rows", "the model's own error", "held-out rows"]
    fourth.legend(handles, labels[: len(handles)], loc="upper right")


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
