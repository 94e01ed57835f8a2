"""The terminal report, the reading beneath it, and progress."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console
from runs import a_layer, a_result, held_out

import nrc_probe
from nrc_probe.layers import Skipped
from nrc_probe.report.progress import progress_on
from nrc_probe.report.reading import reading
from nrc_probe.report.terminal import print_layers, print_result
from nrc_probe.result import LayerFacts, Layers, ModelFacts, Result, Thresholds


def printed(thing: Result | Layers, width: int = 80, encoding: str = "utf-8") -> list[str]:
    """The lines of the report on a console that is no terminal."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    console = Console(file=stream, width=width, markup=False, highlight=False)
    (print_result if isinstance(thing, Result) else print_layers)(thing, console)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding).split("\n")


def text_of(thing: Result | Layers, width: int = 80) -> str:
    """The whole report with its line breaks undone."""
    return " ".join(" ".join(printed(thing, width)).split())


LONG = "backbone.encoder.blocks.11.attention.output_projection.dense.linear.wx"
UNDEFINED = ("nrc2", "nrc3", "cka", "effective_rank", "stable_rank_covariance", "nrc3_chance")
DEAD = dict.fromkeys(UNDEFINED, math.nan)


def a_full_result() -> Result:
    return a_result(
        a_layer("layers.0", 0.5, nrc2=0.00004, nrc4_ratio=12345.6, width=8192),
        a_layer(LONG, 0.4, effective_rank=1234.5, stable_rank_weight=99_998.4),
        a_layer("dead", math.nan, **DEAD, notes=("features do not vary: NRC1 is undefined",)),
        a_layer("b.层归一化", 0.1, notes=("N <= d", "cut")),
        a_layer("head", 0.15, width=8, notes=("cut",)),
        skipped=(Skipped("conv1", "Conv2d", "excluded by 'conv1'"),),
        heldout=held_out("layers.0", LONG, "b.层归一化", "head"),
        warnings=("the network predicts no better than the mean (R² -3)", "second"),
    )


# ---------------------------------------------------------------------------------------- layout


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 118, 120, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_no_line_is_wider_than_the_console(width: int, encoding: str) -> None:
    lines = printed(a_full_result(), width, encoding)
    assert max(map(cell_len, lines)) <= max(width, 24)
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_layer_name_and_no_number_is_lost(width: int) -> None:
    together = "".join(line[1:] for line in printed(a_full_result(), width))
    assert together.count(LONG) >= 1
    for word in ("layers.0", "dead", "b.层归一化", "head", "4e-05 ·", "12346 ·", "1234", "99998"):
        assert word in together


def test_at_120_columns_the_companions_stand_beside_the_conditions() -> None:
    narrow, wide = (printed(a_full_result(), width) for width in (80, 120))
    assert sum(line.startswith(" head ") for line in narrow) == 2
    (row,) = (line for line in wide if line.startswith(" head "))
    assert " ".join(row.split()) == (
        "head 8 0.150 ✓ 0.800 ✓ 0.900 ✓ 0.20 0.125 1.10 ✓ 0.700 4.50 1.50 4.00 0.25"
    )


@pytest.mark.parametrize("width", [80, 120])
def test_titles_end_where_their_numbers_end(width: int) -> None:
    lines = printed(a_result(a_layer("fc1", 0.125), heldout=held_out("fc1")), width)
    for title, number in (("NRC1", "0.125 ✓"), ("CKA", "0.700"), ("held out", "0.25")):
        heads = [line for line in lines if title in line and line.startswith((" layer", "  "))]
        rows = [line for line in lines if line.startswith(" fc1 ") and number in line]
        ends = heads[0].index(title) + len(title)
        assert rows[0][:ends].endswith(number.removesuffix(" ✓"))


def test_a_wide_character_takes_its_two_columns() -> None:
    lines = printed(a_result(a_layer("层层"), a_layer("fc12")))
    rows = [line for line in lines if line.startswith((" 层层", " fc12"))]
    assert cell_len(rows[0]) == cell_len(rows[1])


def test_marks_stand_beside_the_numbers_without_colour() -> None:
    (row, *_) = (line for line in printed(a_result(a_layer("fc1", 0.5))) if " fc1 " in line)
    assert " ".join(row.split()) == "fc1 64 0.500 · 0.800 ✓ 0.900 ✓ 0.20 0.125 1.10 ✓"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.1, "1.10"),
        (0.25, "0.25"),
        (0.0123, "0.012"),
        (4.24e-5, "4.2e-05"),
        (0.0, "0.00"),
        (12345.6, "12346"),
    ],
)
def test_a_ratio_far_below_1_is_not_rounded_to_0(value: float, shown: str) -> None:
    (row, *_) = (line for line in printed(a_result(a_layer("fc1", nrc4_ratio=value))) if " fc1 " in line)
    assert row.split()[-2] == shown


def test_the_header_shows_where_a_path_of_the_data_leads() -> None:
    data = replace(a_result().data, path="fixtures/runs/../swimmer/train.npz")
    assert "data fixtures/swimmer/train.npz: 400 rows" in text_of(a_result(a_layer("fc1"), data=data))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_console_without_unicode_gets_plain_marks_and_lines(encoding: str) -> None:
    lines = printed(a_full_result(), 80, encoding)
    text = "\n".join(lines)
    assert text.isascii()
    assert "0.150 +" in text
    assert "0.500 ." in text
    assert "-- collapsed from here on, of those scored: NRC1 <= 0.2 --" in text
    assert "MSE 0.1, R2 0.9000" in text
    assert "b.\\u5c42" in text


def test_a_dead_layer_shows_a_dash_with_its_reason() -> None:
    lines = printed(a_full_result())
    (row, *_) = (line for line in lines if line.startswith(" dead "))
    assert " ".join(row.split()) == "dead 64 - - - - 0.125 1.10 ✓"
    assert "  - dead: features do not vary: NRC1 is undefined" in lines
    assert "- undefined: the notes or warnings say why" in lines


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_number_that_rounding_picks_is_shown_with_a_mark_of_its_own(encoding: str) -> None:
    result = a_result(a_layer("fc1", undecided=("nrc2", "nrc3"), notes=("nearly equal",)), a_layer("fc2"))
    lines = printed(result, 80, encoding)
    first, second, *_ = ([*line.split()] for line in lines if line.startswith(" fc"))
    assert first[4:8] == ["0.800", "?", "0.900", "?"]
    assert "?" not in second
    assert any(line.startswith("? rounding picks the number") for line in lines)
    assert "rounding picks" not in text_of(a_result(a_layer("fc1")))


def test_conditions_that_rounding_decides_are_not_among_those_that_hold() -> None:
    text = read(a_layer("a", 0.1, undecided=("nrc3",)), a_layer("b", 0.1))
    assert "all four conditions hold in 1 of them (b)." in text


def test_where_collapse_starts_is_marked_once_a_block_and_nowhere_else() -> None:
    lines = printed(a_full_result(), 120)
    marked = [
        k for k, line in enumerate(lines) if "collapsed from here on, of those scored: NRC1 <= 0.2" in line
    ]
    assert len(marked) == 1
    assert lines[marked[0] + 1].startswith(" b.层归一化")
    assert "collapsed from here on" not in text_of(a_result(a_layer("fc1", 0.5)))


def test_the_threshold_that_was_asked_for_is_the_one_shown() -> None:
    settings = replace(a_result().settings, thresholds=Thresholds(0.25, 0.5, 0.75, 2.0))
    text = text_of(a_result(a_layer("fc1", 0.1), settings=settings))
    assert "collapsed from here on: NRC1 <= 0.25" in text
    assert "✓ NRC1 <= 0.25, NRC2 >= 0.5, NRC3 >= 0.75, NRC4 / model <= 2; · not met" in text


def test_the_header_says_what_was_analysed() -> None:
    lines = printed(a_full_result())
    assert lines[:9] == [
        "checkpoint run/7.pth",
        "training   epoch 7, weight decay 0.001",
        "network    MLP 5-64-3, ReLU (1,234 parameters, inferred)",
        "data       train.npz: 400 rows, 3 targets of rank 3, standardised: inputs",
        "error      MSE 0.1, R² 0.9000",
        "held out   test.npz: 100 rows, 3 targets of rank 3",
        "error      MSE 0.2, R² 0.8000",
        "signal     r = 3, the target dimension; NRC4 cutoff 0.001; mean pooling, exact",
        "",
    ]


def test_the_header_names_the_configuration_that_was_followed() -> None:
    result = a_result(a_layer("fc1"))
    followed = replace(result.provenance, config="run/nrc-probe.toml")
    assert printed(replace(result, provenance=followed))[2] == "config     run/nrc-probe.toml"
    assert not any(line.startswith("config") for line in printed(result))


def test_the_conditions_of_2024_cannot_be_taken_for_those_of_the_table() -> None:
    lines = printed(a_result(a_layer("fc1")))
    start = lines.index("last layer, older conditions of 2024 (not NRC1-NRC3 above; 0 is collapsed)")
    assert lines[start + 1 : start + 4] == [
        "  - 2024-NRC1, feature energy outside the top principal components: 0.100",
        "  - 2024-NRC2, feature energy outside the weight's rows: 0.200",
        "  - 2024-NRC3, squared distance of the weight's Gram matrix from the targets': -",
    ]


def test_guesses_too_plain_to_be_worth_a_line_are_left_to_the_json(tmp_path: Path) -> None:
    from runs import save_data, small_network

    path = save_data(tmp_path / "plain.npz")
    plain = nrc_probe.analyze(small_network(), path, heldout=path)
    assert plain.data.assumptions == ("inputs taken from array 'x'", "targets taken from array 'y'")
    assert "taken from" not in text_of(plain)
    with np.load(path) as arrays:
        np.savez(tmp_path / "other.npz", obs=arrays["x"], y=arrays["y"])
    text = text_of(nrc_probe.analyze(small_network(), tmp_path / "other.npz"))
    assert "inputs taken from array 'obs'" in text
    assert "array 'y'" not in text


def test_an_error_that_is_not_a_number_is_a_dash() -> None:
    lines = printed(a_result(a_layer("fc1"), model_mse=math.nan, model_r2=math.nan))
    assert "error      MSE -, R² -" in lines


def test_a_header_line_that_wraps_goes_on_under_its_value() -> None:
    path = "runs/" + "/".join(["a_rather_long_folder_name"] * 6) + "/7.pth"
    result = a_result(a_layer("fc1"))
    lines = printed(replace(result, checkpoint=replace(result.checkpoint, path=path)))
    end = lines.index("training   epoch 7, weight decay 0.001")
    assert lines[0].startswith("checkpoint runs/")
    assert all(line.startswith(" " * 11) for line in lines[1:end])
    assert "".join(line[11:] for line in lines[:end]) == path


@pytest.mark.parametrize(
    ("epoch", "decay", "said"),
    [
        (1234567, None, "training   epoch 1234567"),
        (None, 0.0, "training   weight decay 0"),
        (None, None, "training   epoch and weight decay are not recorded"),
    ],
)
def test_training_facts_are_said_as_far_as_they_are_known(
    epoch: int | None, decay: float | None, said: str
) -> None:
    result = a_result(a_layer("fc1"))
    facts = replace(result.checkpoint, epoch=epoch, weight_decay=decay)
    assert said in printed(replace(result, checkpoint=facts))


def test_warnings_come_last_but_for_the_reading() -> None:
    lines = printed(a_full_result())
    titles = ["notes", "not scored", "assumed", "warnings"]
    places = [lines.index(title) for title in titles]
    assert places == sorted(places)
    after = lines[places[-1] + 1 :]
    assert after[:3] == [
        "  - the network predicts no better than the mean (R² -3)",
        "  - second",
        "",
    ]
    assert " ".join(after[3:]).strip() == reading(a_full_result())


def test_layers_that_share_a_remark_share_its_line() -> None:
    layers = [a_layer(f"fc{k}", notes=("N <= d",)) for k in range(8)]
    assert "  - fc0, fc1, fc2, fc3, fc4, fc5 and 2 more: N <= d" in printed(a_result(*layers))


def test_what_was_assumed_and_skipped_is_listed() -> None:
    lines = printed(a_full_result())
    for line in ("  - conv1: excluded by 'conv1'", "  - ReLU is assumed", "  - x was guessed"):
        assert line in lines


def test_a_result_without_layers_is_still_a_report() -> None:
    text = text_of(a_result(warnings=("no layer could be scored",)))
    assert "no layer could be scored" in text
    assert text.endswith("No layer was scored, so nothing can be said about collapse.")


HOSTILE = "[red]x[/]\x1b[2J\n\x9b\u202e"


def test_markup_and_control_characters_are_shown_not_obeyed() -> None:
    result = a_result(
        a_layer(HOSTILE, notes=(HOSTILE,)),
        skipped=(Skipped(HOSTILE, "Linear", HOSTILE),),
        warnings=(HOSTILE,),
        model=ModelFacts("inferred", HOSTILE, 1, (HOSTILE,)),
    )
    lines = printed(result, 200)
    assert all(line.isprintable() for line in lines)
    assert " ".join(lines).count("[red]x[/]\\x1b[2J\\n\\x9b\\u202e") >= 8


def test_on_a_terminal_conditions_that_are_met_have_a_colour_that_does_not_judge() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    print_result(a_result(a_layer("fc1", 0.5)), console)
    text = console.file.getvalue()
    assert "\x1b[36m0.800 ✓\x1b[0m" in text
    assert "\x1b[36m0.500" not in text
    assert "\x1b[32m" not in text
    assert "\x1b[31m" not in text


# ----------------------------------------------------------------------------------- the listing


def a_listing(*names: str, kind: str = "Linear") -> Layers:
    layers = (LayerFacts(name, kind, 1280, 1280, (1280, 1280, 3, 3), 900, 12.5) for name in names)
    skipped = (Skipped("conv1", "Conv2d", "excluded by 'conv1'"),)
    return Layers(ModelFacts("inferred", "MLP", 10, ("ReLU is assumed",)), tuple(layers), skipped)


@pytest.mark.parametrize("width", [80, 120])
def test_the_listing_is_complete_and_aligned(width: int) -> None:
    kind = "NonDynamicallyQuantizableLinear"
    lines = printed(a_listing("fc1", "module.层", LONG, kind=kind), width)
    assert max(map(cell_len, lines)) <= width
    together = "".join(line[1:] for line in lines)
    assert LONG in together
    assert together.count(kind) == 3
    rows = [line for line in lines if "1280x1280x3x3" in line]
    assert len({cell_len(row) for row in rows}) == 1
    assert [row.split()[-5:] for row in rows] == [["1280", "1280", "900", "12.50", "1280x1280x3x3"]] * 3
    assert lines[-6:-1] == [
        "not scored",
        "  - conv1: excluded by 'conv1'",
        "",
        "assumed",
        "  - ReLU is assumed",
    ]


# ----------------------------------------------------------------------------------- the reading


def read(*layers: object, **values: object) -> str:
    return reading(a_result(*layers, **values))


def test_collapse_in_every_later_layer_is_counted() -> None:
    text = read(a_layer("a"), a_layer("b", 0.1), a_layer("c", 0.2))
    assert text.startswith(
        "From b on (2 of 3 layers), at most 20% of the feature variance lies outside the top 3 "
        "directions; all four conditions hold in each of them."
    )


def test_the_share_is_the_threshold_that_was_asked_for() -> None:
    settings = replace(a_result().settings, thresholds=Thresholds(nrc1=0.125))
    assert "at most 12.5% of the feature variance" in read(a_layer("a", 0.1), settings=settings)


def test_one_collapsed_layer_that_meets_all_or_not_all() -> None:
    assert "From b on (1 of 2 layers)" in read(a_layer("a"), a_layer("b", 0.1))
    assert "; all four conditions hold in it." in read(a_layer("a"), a_layer("b", 0.1))
    assert "; not all four conditions hold in it." in read(a_layer("a", 0.1, nrc3=0.5))


def test_layers_that_meet_all_four_are_named_where_only_some_do() -> None:
    some = read(a_layer("a", 0.1, nrc3=0.5), a_layer("b", 0.1), a_layer("c", 0.1, nrc2=0.1))
    assert "all four conditions hold in 1 of them (b)." in some
    none = read(a_layer("a", 0.1, nrc3=0.5), a_layer("b", 0.1, nrc2=math.nan))
    assert "all four conditions hold in none of them." in none


def test_a_signal_of_one_dimension_or_of_several_is_said_so() -> None:
    assert "outside the top direction;" in read(a_layer("a", 0.1, rank=1))
    assert "outside the signal's directions;" in read(a_layer("a", 0.1), a_layer("b", 0.1, rank=2))


def test_nrc1_that_cannot_fail_is_said_so() -> None:
    text = read(a_layer("a", 0.1), a_layer("b", 0.0, width=3))
    assert "NRC1 cannot fail in b: no wider than the signal." in text
    assert "cannot fail" not in read(a_layer("a", 0.0, width=4))


def test_collapse_is_not_claimed_of_layers_in_which_nrc1_cannot_fail() -> None:
    narrow = a_layer("a", 0.0, width=3)
    text = read(narrow, a_layer("b", 0.1), a_layer("c", 0.1))
    assert text.startswith("From b on (2 of 3 layers), at most 20%")
    assert "NRC1 cannot fail in a: no wider than the signal." in text
    alone = read(a_layer("b", 0.5), narrow)
    assert alone.startswith("NRC1 holds from a on, but it cannot fail in a: no wider than the signal.")
    assert "variance" not in alone
    assert read(narrow, a_layer("b", 0.5)).startswith("No collapse up to the last layer")


@pytest.mark.parametrize(
    ("width", "line"), [(80, "NRC1 <= 0.2 from here on, where it cannot fail"), (20, "NRC1")]
)
def test_the_line_above_a_layer_in_which_nrc1_cannot_fail_does_not_say_collapsed(
    width: int, line: str
) -> None:
    text = text_of(a_result(a_layer("a", 0.0, width=3), a_layer("b", 0.1)), width)
    assert line in text
    assert "collapsed" not in text.split("last layer")[0]


def test_with_layers_left_out_the_line_speaks_of_those_scored() -> None:
    left_out = (Skipped("head", "Linear", "excluded by 'head'"),)
    text = text_of(a_result(a_layer("fc1", 0.1), skipped=left_out))
    assert "collapsed from here on, of those scored: NRC1 <= 0.2" in text
    assert "of those scored" not in text_of(a_result(a_layer("fc1", 0.1)))


def test_no_collapse_is_said_with_the_last_layer_s_number() -> None:
    text = read(a_layer("a"), a_layer("b", 0.354))
    assert text.startswith(
        "No collapse up to the last layer: 35.4% of the feature variance in b lies outside the top "
        "3 directions (NRC1 <= 0.2 is not met there)."
    )
    assert "20.0004% of the feature variance" in read(a_layer("a", 0.200004))


def test_earlier_layers_that_meet_nrc1_are_not_denied() -> None:
    text = read(a_layer("a", 0.1), a_layer("b", 0.5))
    assert text.startswith("NRC1 holds in a, but not up to the last layer: 50% of")


def test_an_undefined_last_layer_is_said_so() -> None:
    assert "NRC1 is undefined in b." in read(a_layer("a"), a_layer("b", math.nan))


def test_the_first_layer_with_a_linear_map_as_good_as_the_network_is_named() -> None:
    last = a_layer("c", nrc4_ratio=1.0)
    text = read(a_layer("a", nrc4_ratio=3.0), a_layer("b", nrc4_ratio=1.234), last)
    assert "A linear map of b's input already predicts with 1.23 times the network's" in text
    alone = read(a_layer("a", nrc4_ratio=1.0004))
    assert "A linear map of a's input predicts with about the network's own error." in alone
    none = read(a_layer("a", nrc4_ratio=3.0))
    assert "No layer's linear probe comes within 1.5 times the network's own error." in none


def test_a_network_without_error_is_compared_with_nothing() -> None:
    text = read(a_layer("a", nrc4_ratio=math.nan), model_mse=0.0, heldout=held_out("a"))
    assert "error" not in text


def test_the_feature_rank_stands_beside_the_target_rank() -> None:
    text = read(a_layer("a"), a_layer("b", effective_rank=2.04))
    assert "The input of b has an effective rank of 2.04, the targets have rank 3." in text
    assert "effective rank" not in read(a_layer("a", effective_rank=math.nan))


def test_the_heldout_error_is_compared() -> None:
    text = read(a_layer("a"), heldout=held_out("a", mse=0.25))
    assert text.endswith("On held-out rows the network's error is 2.5 times that on these.")
    text = read(a_layer("a"), model_mse=0.1, heldout=held_out("a", mse=0.1))
    assert text.endswith("On held-out rows the network's error is about that on these.")
    assert "held-out" not in read(a_layer("a"))
    assert "held-out" not in read(a_layer("a"), heldout=held_out("a", mse=math.nan))


def test_collapse_is_never_praised_or_blamed() -> None:
    for shares in ([0.1, 0.1], [0.5, 0.1], [0.5, 0.5], [0.1, 0.5]):
        text = read(*(a_layer(f"fc{k}", share) for k, share in enumerate(shares))).lower()
        for word in ("good", "bad", "well", "better", "worse", "success", "fine", "unfortunate"):
            assert word not in text.replace("no wider", "")


# ---------------------------------------------------------------------------------- the progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("nrc_probe.report.progress.time.monotonic", clock)
    return clock


def steps(clock: Clock, advance: Callable[[str, int, int | None], None], *calls: tuple[object, ...]) -> None:
    for seconds, *call in calls:
        clock.now = seconds
        advance(*call)


def test_lines_come_every_few_seconds_with_the_rate_and_the_time_left(clock: Clock) -> None:
    stream = io.StringIO()
    with progress_on(stream) as advance:
        steps(clock, advance, (2, "data", 10, 100), (6, "data", 30, 100), (7, "data", 40, 100))
        steps(clock, advance, (12, "data", 60, 100), (20, "data", 100, 100))
    assert stream.getvalue() == (
        "data: 30 of 100 rows, 5/s, about 14 s left\n"
        "data: 60 of 100 rows, 5/s, about 8 s left\n"
        "data: 100 of 100 rows, 5/s\n"
    )


def test_each_data_set_has_its_own_rate(clock: Clock) -> None:
    stream = io.StringIO()
    with progress_on(stream) as advance:
        steps(clock, advance, (100, "data", 10, 10), (106, "held-out data", 1000, 2000))
    assert stream.getvalue().splitlines()[1] == ("held-out data: 1,000 of 2,000 rows, 167/s, about 6 s left")


def test_rows_are_counted_where_their_number_is_not_known(clock: Clock) -> None:
    stream = io.StringIO()
    with progress_on(stream) as advance:
        steps(clock, advance, (9, "data", 3000, None))
    assert stream.getvalue() == "data: 3,000 rows, 333/s\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with progress_on(stream) as advance:
        advance("data", 30, 100)
        advance("held-out data", 5, None)
    assert "30/100" in stream.getvalue()
    assert "held-out data" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[2K")


def test_a_reading_of_some_layers_claims_nothing_about_the_others() -> None:
    left_out = (Skipped("head", "Linear", "excluded by 'head'"),)
    apart = "This says nothing about the 1 layer that was not scored."
    collapsed = reading(a_result(a_layer("a", 0.5), a_layer("b", 0.1), skipped=left_out))
    assert "From b on (1 of 2 scored layers)" in collapsed
    assert apart in collapsed
    spread = reading(a_result(a_layer("a", 0.5), a_layer("b", 0.5), skipped=left_out * 2))
    assert spread.startswith("No collapse up to the last scored layer")
    assert "the 2 layers that were not scored" in spread
    assert "not scored" not in reading(a_result(a_layer("a", 0.5), a_layer("b", 0.1)))


def test_a_linear_map_of_the_last_input_is_not_called_early() -> None:
    result = a_result(a_layer("a", 0.5, nrc4_ratio=9.0), a_layer("b", 0.1, nrc4_ratio=1.0))
    assert "A linear map of b's input predicts with" in reading(result)


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e5, 1e200])
def test_no_number_is_printed_with_more_than_twelve_characters(size: float) -> None:
    sizes = {"nrc4_ratio": size, "nrc4": size, "effective_rank": size, "stable_rank_weight": size}
    result = a_result(
        a_layer("a", stable_rank_covariance=size, **sizes),
        model_mse=size,
        model_r2=-size,
        heldout=held_out("a", mse=size),
    )
    result = replace(result, checkpoint=replace(result.checkpoint, weight_decay=size, learning_rate=size))
    numbers = re.findall(r"[-+.\de]*\d[-+.\de]*", text_of(result))
    assert [number for number in numbers if len(number) > 12] == []


def test_layers_of_bare_numbers_are_said_to_be_layers() -> None:
    assert reading(a_result(a_layer("0", 0.5), a_layer("2", 0.1))).startswith(
        "From layer 2 on (1 of 2 layers)"
    )
    assert "variance in layer 2.0 lies outside" in reading(a_result(a_layer("2.0", 0.5)))
    assert reading(a_result(a_layer("fc1", 0.5), a_layer("fc2", 0.1))).startswith("From fc2 on")


def test_a_linear_map_of_more_features_than_rows_is_said_to_be_flattered() -> None:
    result = a_result(a_layer("a", 0.5))
    few = replace(result, data=replace(result.data, n=64))
    assert "own error (flattered: it was fitted to 64 rows of 64 features)." in reading(few)
    assert "flattered" not in reading(replace(result, data=replace(result.data, n=65)))
