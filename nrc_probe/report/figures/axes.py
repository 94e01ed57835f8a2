"""What the figures share: panels over layers, colours that all eyes tell apart, plain tick labels."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nrc_probe.plain import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK = "#222222"
QUIET = "#8a8a8a"
MOST_LINES = 12
"""More cannot be told apart by colour and marker."""
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe & Ito 2008, without black and yellow."""
_MARKERS = "osD^vPX*<>hd"
_DASHES = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)))
_INCHES_A_LAYER = 0.24
UPRIGHT: dict[str, Any] = {"marker": "|", "markersize": 9, "linestyle": ""}
"""How a vertical line looks in a legend."""
REFERENCE: dict[str, Any] = {"linewidth": 0.8, "linestyle": (0, (5, 3))}
"""What a panel's lines are to be compared with."""
THRESHOLD: dict[str, Any] = {"color": QUIET, "linewidth": 0.6, "linestyle": (0, (1, 2))}


def new_panels(rows: int, columns: int, width: float, height: float, **sharing: Any) -> tuple[Figure, Any]:
    """An empty figure in inches and its (rows, columns) panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **sharing)


def width_for(layers: Sequence[str]) -> float:
    """Inches that a panel over these layers needs."""
    return max(3.6, 1.1 + _INCHES_A_LAYER * len(layers))


def line_style(number: int, several: bool) -> dict[str, Any]:
    """Colour, marker and dashes of the line with this number: no two lines agree in colour and marker."""
    if not several:
        return {"color": INK, "marker": "o"}
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _DASHES[number // len(_COLOURS) % len(_DASHES)],
    }


def folded(name: str, width: int) -> str:
    """A name that prints, on as many lines as it needs."""
    return textwrap.fill(printable(name), width) or name


def in_order(number: int, count: int) -> dict[str, Any]:
    """Colour of one of many lines whose order says something: from dark to light, alike to all eyes."""
    from matplotlib import colormaps

    return {"color": colormaps["viridis"](0.92 * number / max(1, count - 1))}


def evenly(count: int, most: int) -> set[int]:
    """Places of at most `most` of `count` things, evenly spread, first and last among them."""
    if count <= most:
        return set(range(count))
    return {round(k * (count - 1) / (most - 1)) for k in range(most)}


def name_layers(panel: Axes, names: Sequence[str]) -> None:
    """Every layer's real name below its tick."""
    shown = [printable(name) for name in names]
    flat = sum(map(len, shown)) < 36
    turned: dict[str, Any] = {} if flat else {"rotation": 50, "ha": "right", "rotation_mode": "anchor"}
    panel.set_xticks(range(len(names)), shown, **turned)
    panel.set_xlim(-0.4, len(names) - 0.6)


def share_axis(panel: Axes, title: str, threshold: float | None = None) -> None:
    """A panel for numbers in [0, 1], with the threshold of its condition."""
    panel.set_ylim(-0.03, 1.03)
    panel.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    panel.set_ylabel(title)
    if threshold is not None:
        panel.axhline(threshold, **THRESHOLD)


def log_axis(axis: Axis, values: Sequence[float]) -> None:
    """A logarithmic axis with numbers as they are spoken, where all values are above 0."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    finite = [value for value in values if math.isfinite(value)]
    if not finite or min(finite) <= 0:
        return
    (axis.axes.set_xscale if axis is axis.axes.xaxis else axis.axes.set_yscale)("log")
    narrow = max(finite) / min(finite) < 20
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def explain(figure: Figure, lines: Mapping[str, Mapping[str, Any]]) -> None:
    """What the lines without a name of their own are, below the panels, which keep their height.

    lines: their looks, by what they mean.
    """
    from matplotlib.lines import Line2D

    fit = max(1, int(figure.get_figwidth() * 15 / (max(map(len, lines)) + 8)))
    figure.set_figheight(figure.get_figheight() + 0.15 * math.ceil(len(lines) / fit))
    handles = [Line2D([], [], **{"color": INK, **look}) for look in lines.values()]
    figure.legend(handles, list(lines), loc="outside lower center", ncols=min(fit, len(lines)))


def legend_above(figure: Figure, panel: Axes, columns: int = 4) -> None:
    """The lines' names above the panels, which keep their height."""
    lines, full = panel.get_legend_handles_labels()
    labels = [folded(label, int(figure.get_figwidth() * 15) - 6) for label in full]
    widest = max(map(len, labels), default=0)
    fit = max(1, min(columns, int(figure.get_figwidth() * 15 / (widest + 6))))
    figure.set_figheight(figure.get_figheight() + 0.15 * math.ceil(len(lines) / fit))
    figure.legend(lines, labels, loc="outside upper center", ncols=fit)
