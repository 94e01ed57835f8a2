"""Which figure is drawn from which results; the same input gives the same bytes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from nrc_probe.errors import ConfigError
from nrc_probe.report.extras import check_extra
from nrc_probe.report.figures.axes import MOST_LINES
from nrc_probe.report.study import Run, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_RUNS = 6

_STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "figure.constrained_layout.use": True,
    "text.parse_math": False,  # a layer may be named $x$
    "axes.unicode_minus": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "nrc-probe",
    "savefig.dpi": 200,
}
_UNDATED = {
    ".pdf": {"CreationDate": None},
    ".svg": {"Date": None},
    ".png": {"Software": None},
}


def draw(study: Study, suffix: str, kind: str, by: str, settled_within: float) -> bytes:
    """The figure of this kind as pdf, svg or png.

    layers (figure 2), rank (3): a line for the last checkpoint of each run. weight-decay (4): a line for
    each value of the field `by`. epochs (5): a column for each run with several checkpoints.
    Raises OutputError without matplotlib, ConfigError for another kind or for what does not fit in one.
    """
    check_extra(suffix)
    from matplotlib import style

    with style.context(["default", _STYLE]), warnings.catch_warnings():
        # a character that the font lacks is drawn as a box
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure = _figure(study, kind, by, settled_within)
        content = io.BytesIO()
        figure.savefig(content, format=suffix[1:], metadata=_UNDATED[suffix])
    return content.getvalue()


def _figure(study: Study, kind: str, by: str, within: float) -> Figure:
    from nrc_probe.report.figures.epochs import draw_epochs
    from nrc_probe.report.figures.layers import draw_comparison, draw_layers, draw_rank

    kinds: dict[str, Callable[[], Figure]] = {
        "layers": lambda: draw_layers(_few(study)),
        "rank": lambda: draw_rank(_few(study)),
        "weight-decay": lambda: draw_comparison(study, by),
        "epochs": lambda: draw_epochs(_unfolding(study), within),
    }
    if kind not in kinds:
        raise ConfigError(f"figure '{kind}' is unknown; there are: {', '.join(kinds)}")
    if not any(result.layers for result in study.results):
        raise ConfigError("no layer was scored in any of the results: there is nothing to draw")
    return kinds[kind]()


def _few(study: Study) -> tuple[Run, ...]:
    if len(study.runs) > MOST_LINES:
        raise ConfigError(
            f"{len(study.runs)} runs do not fit in one figure, at most {MOST_LINES} do: "
            "name fewer results, or draw --kind weight-decay"
        )
    return study.runs


def _unfolding(study: Study) -> list[Run]:
    runs = [run for run in study.runs if len(run.results) > 1]
    if not 0 < len(runs) <= _MOST_RUNS:
        raise ConfigError(
            f"figure 'epochs' needs 1 to {_MOST_RUNS} runs of at least 2 checkpoints, "
            f"got {len(runs)}: name other results"
        )
    return runs
