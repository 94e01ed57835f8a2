"""The paper's figures of one's own results: what is drawn, from what, and what is refused."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from runs import a_layer, a_result
from studies import at_epoch, settled, study, unfolding

import nrc_probe
from nrc_probe.errors import ConfigError, OutputError
from nrc_probe.report.study import Study

pytest.importorskip("matplotlib")

from nrc_probe.report.figures import draw
from nrc_probe.report.figures.drawing import _figure


def two_runs() -> Study:
    return study(*unfolding(1e-3), *unfolding(0.0, shift=0.05))


def figure(shown: Study, kind: str, by: str = "weight_decay"):
    return _figure(shown, kind, by, 0.1)


def curves(panel) -> dict[str, list[float]]:
    """The lines with a name."""
    return {
        line.get_label(): list(line.get_ydata())
        for line in panel.lines
        if not line.get_label().startswith("_")
    }


@pytest.mark.parametrize(
    ("kind", "suffix", "magic"),
    [
        ("layers", ".pdf", b"%PDF"),
        ("rank", ".svg", b"<?xml"),
        ("weight-decay", ".svg", b"<?xml"),
        ("epochs", ".png", b"\x89PNG"),
    ],
)
def test_every_kind_is_drawn_in_every_form(kind: str, suffix: str, magic: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"figure{suffix}"
    nrc_probe.write_report(two_runs(), path, kind=kind)
    content = path.read_bytes()
    assert content.startswith(magic)
    assert len(content) > 5_000


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".png"])
def test_the_same_results_give_the_same_bytes(suffix: str) -> None:
    assert draw(two_runs(), suffix, "epochs", "", 0.1) == draw(two_runs(), suffix, "epochs", "", 0.1)


def test_a_figure_has_no_date() -> None:
    for suffix in (".pdf", ".svg"):
        assert not re.search(
            rb"CreationDate|dc:date|20[2-9]\d-\d\d", draw(two_runs(), suffix, "layers", "", 0.1)
        )


# ------------------------------------------------------------------------------------- what is drawn


def test_figure_2_shows_the_four_conditions_of_the_last_checkpoint_over_layers() -> None:
    drawn = figure(study(*unfolding()), "layers")
    first, second, third, fourth = drawn.axes
    assert [curves(panel)["a"] for panel in (first, second)] == [[0.9, 0.15, 0.05], [0.8, 0.8, 0.8]]
    assert curves(third)["chance"] == [0.2, 0.2, 0.2]
    assert curves(fourth) == {"a": [0.125] * 3, "held-out rows": [0.25] * 3}
    assert [text.get_text() for text in fourth.get_xticklabels()] == ["fc1", "fc2", "fc3"]
    assert fourth.get_yscale() == "log"


def test_figure_2_marks_the_first_collapsed_layer_and_the_model_s_own_error() -> None:
    first, *_, fourth = figure(study(*unfolding()), "layers").axes
    upright = [line for line in first.lines if list(line.get_ydata()) == [0, 1]]
    assert [line.get_xdata()[0] for line in upright] == [1]
    assert first.get_title(loc="left") == "first collapsed layer: fc2"
    (dashed,) = [line for line in fourth.lines if line.get_linestyle() == "--"]
    assert list(dashed.get_ydata()) == [0.1, 0.1]
    none = figure(study(at_epoch(1, [0.9])), "layers").axes[0]
    assert not [line for line in none.lines if list(line.get_ydata()) == [0, 1]]


def test_figure_2_of_several_runs_has_a_line_for_each_that_differs_in_more_than_colour() -> None:
    shown = study(*(at_epoch(1, [0.5], decay=k / 100) for k in range(12)))
    panel = figure(shown, "layers").axes[0]
    looks = {line.get_label(): (line.get_color(), line.get_marker()) for line in panel.lines[:24]}
    named = {label: look for label, look in looks.items() if label.startswith("weight decay")}
    assert len(named) == 12
    assert len(set(named.values())) == 12
    assert len({marker for _, marker in named.values()}) == 12


def legend_of(drawn) -> list[str]:
    return [text.get_text() for text in drawn.legends[-1].get_texts()]


def test_figure_2_shows_the_first_layer_of_each_run_where_several_share_it() -> None:
    shown = study(*(at_epoch(1, [0.9, 0.1], decay=k / 100) for k in range(4)))
    drawn = figure(shown, "layers")
    for panel in drawn.axes:
        upright = {line.get_color(): line for line in panel.lines if list(line.get_ydata()) == [0, 1]}
        places = sorted(line.get_xdata()[0] for line in upright.values())
        assert len(upright) == len({round(place, 3) for place in places}) == 4
        assert (places[0] + places[-1]) / 2 == pytest.approx(1)
        assert places[-1] - places[0] < 0.5
        assert all(line.get_alpha() is None for line in upright.values())


def test_figure_2_explains_its_lines() -> None:
    words = ["threshold", "the network's own error", "NRC1 holds from here on"]
    assert legend_of(figure(study(*unfolding()), "layers")) == words
    assert legend_of(figure(two_runs(), "layers")) == words
    assert legend_of(figure(study(at_epoch(1, [0.9])), "layers")) == words[:2]


def test_figure_3_s_target_line_has_no_run_s_colour_unless_the_targets_differ() -> None:
    def dashed(shown: Study) -> list[str]:
        lines = figure(shown, "rank").axes[1].lines
        return [
            line.get_color() for line in lines if len(line.get_ydata()) == 2 and line.get_marker() == "None"
        ]

    runs = [at_epoch(1, [0.5, 0.5, 0.5], decay=k / 100) for k in range(2)]
    assert dashed(study(*runs)) == ["#222222"]
    other = replace(runs[1], data=replace(runs[1].data, target_stable_rank=2.5))
    assert len(set(dashed(study(runs[0], other)))) == 2
    assert "stable rank of the targets" in legend_of(figure(study(*runs), "rank"))


def test_figure_3_sets_feature_rank_beside_target_rank_and_signal_beside_noise() -> None:
    noise, ranks, alignment = figure(study(*unfolding()), "rank").axes
    assert curves(noise)["a"] == [0.9, 0.15, 0.05]
    assert curves(ranks)["a"] == [1.5, 1.5, 1.5]
    assert [1.5, 1.5] in [list(line.get_ydata()) for line in ranks.lines]
    assert curves(alignment) == {"signal directions": [0.9] * 3, "noise directions": [0.1] * 3}
    assert "r = 3" in noise.get_ylabel()


def test_figure_4_has_a_line_a_weight_decay() -> None:
    panels = figure(two_runs(), "weight-decay").axes
    assert curves(panels[0]) == {
        "weight decay 0": pytest.approx([0.95, 0.2, 0.1]),
        "weight decay 0.001": [0.9, 0.15, 0.05],
    }
    assert curves(panels[3])["weight decay 0"] == [4.0, 4.0, 4.0]


def test_figure_4_shows_median_and_range_of_runs_that_share_a_value() -> None:
    shown = study(*(at_epoch(1, [x], folder=f"s{x}") for x in (0.1, 0.2, 0.6)))
    panel = figure(shown, "weight-decay").axes[0]
    assert curves(panel) == {"weight decay 0.001": [0.2]}
    (band,) = panel.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.1, 0.6)


def test_figure_4_compares_any_recorded_field() -> None:
    shown = study(*(at_epoch(k, [k / 10]) for k in (1, 2)))
    assert list(curves(figure(shown, "weight-decay", "epoch").axes[0])) == ["epoch 1", "epoch 2"]


def test_figure_4_of_more_values_than_can_be_told_apart_names_some_and_orders_all_by_lightness() -> None:
    shown = study(*(at_epoch(k, [k / 40]) for k in range(1, 31)))
    panel = figure(shown, "weight-decay", "epoch").axes[0]
    drawn = [line for line in panel.lines if len(line.get_ydata()) == 1]
    assert len(drawn) == 30
    lightness = [sum(line.get_color()[:3]) for line in drawn]
    assert lightness == sorted(set(lightness))
    named = list(curves(panel))
    assert (named[0], named[-1], len(named)) == ("epoch 1", "epoch 30", 12)


def test_figure_5_shows_errors_layers_onset_and_settling() -> None:
    above, below = figure(study(*settled()), "epochs").axes
    errors = [1.0, 0.5, 0.105, 0.1, 0.1]
    assert curves(above) == {"these rows": errors, "held-out rows": [2 * error for error in errors]}
    assert curves(below)["fc2"] == [0.1, 0.4, 0.3, 0.15, 0.12]
    upright = sorted(line.get_xdata()[0] for line in above.lines if list(line.get_ydata()) == [0, 1])
    assert upright == [10, 10, 100]  # collapse begins, error settled, collapse complete
    assert [text.get_text() for text in above.texts] == [
        "collapsed layers stay so",
        "error settled",
    ]
    assert (above.get_yscale(), below.get_xscale()) == ("log", "log")


def test_figure_5_draws_no_line_for_what_only_the_last_checkpoint_shows() -> None:
    above = _figure(study(*unfolding()), "epochs", "", 0.01).axes[0]
    upright = [line.get_xdata()[0] for line in above.lines if list(line.get_ydata()) == [0, 1]]
    assert upright == [10]  # collapse begins
    assert [text.get_text() for text in above.texts] == []
    title = [
        "a",
        "error not settled within these checkpoints",
        "NRC1 holds in all collapsed layers: last only",
    ]
    assert above.get_title(loc="left").splitlines() == title


def test_undefined_numbers_leave_gaps() -> None:
    shown = study(a_result(a_layer("fc1", math.nan), a_layer("fc2", 0.5), model_mse=math.nan))
    assert draw(shown, ".svg", "layers", "", 0.1)
    drawn = curves(figure(shown, "layers").axes[0])
    assert math.isnan(next(iter(drawn.values()))[0])


@pytest.mark.parametrize("kind", ["layers", "epochs"])
def test_names_are_drawn_as_they_are(kind: str) -> None:
    names = ("$\\undefined{$", "层归一化", "a\x1b[31m\nb", "</text><script>", "\\frac")
    results = [
        a_result(
            *(a_layer(name, 0.1) for name in names),
            checkpoint=replace(a_result().checkpoint, path="$r/x.pth", epoch=epoch),
        )
        for epoch in (1, 2)
    ]
    drawn = draw(study(*results), ".svg", kind, "epoch", 0.1)
    assert b"<script" not in drawn
    if kind == "layers":
        labels = figure(study(*results), kind).axes[-1].get_xticklabels()
        assert [label.get_text() for label in labels] == [*names[:2], "a\\x1b[31m\\nb", *names[3:]]


# --------------------------------------------------------------------------------- what is refused


def test_more_runs_than_lines_can_be_told_apart_are_refused() -> None:
    shown = study(*(at_epoch(1, [0.5], decay=k / 100) for k in range(13)))
    with pytest.raises(ConfigError, match="13 runs do not fit in one figure, at most 12 do"):
        draw(shown, ".svg", "layers", "", 0.1)
    assert draw(shown, ".svg", "weight-decay", "weight_decay", 0.1)


def test_epochs_of_single_checkpoints_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs 1 to 6 runs of at least 2 checkpoints, got 0"):
        draw(study(at_epoch(1, [0.5])), ".svg", "epochs", "", 0.1)


def test_an_unknown_kind_and_results_without_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match="figure 'pie' is unknown; there are: layers, rank"):
        draw(study(at_epoch(1, [0.5])), ".svg", "pie", "", 0.1)
    with pytest.raises(ConfigError, match="no layer was scored in any of the results"):
        draw(study(a_result()), ".svg", "layers", "", 0.1)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OutputError, match=r"needs matplotlib: pip install 'nrc-probe\[figures\]'"):
        draw(study(at_epoch(1, [0.5])), ".pdf", "layers", "", 0.1)
