"""Many results on the terminal, and what is said about them in words."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console
from runs import a_layer, a_result
from studies import at_epoch, settled, study, unfolding

from nrc_probe.errors import ConfigError
from nrc_probe.report.findings import findings
from nrc_probe.report.overview import print_study
from nrc_probe.report.study import Broken, Study
from nrc_probe.result import LayerResult


def printed(shown: Study, width: int = 80, encoding: str = "utf-8", **options: object) -> list[str]:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    print_study(shown, Console(file=stream, width=width, markup=False, highlight=False), **options)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding).split("\n")


def block(lines: list[str], title: str) -> list[str]:
    """The lines from the one that begins with `title` to the next empty one."""
    start = next(k for k, line in enumerate(lines) if line.startswith(title))
    return lines[start : lines.index("", start)]


LONG = "backbone.encoder.blocks.11.attention.output_projection.dense.linear.wx"
HOSTILE = "[red]x[/] \x1b[31m\u202e层"


def several() -> Study:
    odd = [
        a_result(
            a_layer("fc1", 0.5),
            a_layer(LONG, 0.1),
            a_layer(HOSTILE, math.nan),
            checkpoint=replace(a_result().checkpoint, path=f"r/{HOSTILE}/{k}.pth", epoch=k),
        )
        for k in (1, 20_000)
    ]
    made = study(*unfolding(1e-3), *unfolding(0.0, "runs/b", 0.3), *odd)
    return replace(made, failed=(Broken("runs/9.pth", "truncated at byte 12"),))


# ---------------------------------------------------------------------------------------- layout


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_no_line_is_wider_than_the_console(width: int, encoding: str) -> None:
    lines = printed(several(), width, encoding, by="weight_decay")
    assert max(map(cell_len, lines)) <= max(width, 40)
    text = "".join(lines)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", text)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_every_checkpoint_has_a_row_and_every_layer_its_strips(width: int) -> None:
    lines = printed(several(), width)
    together = "".join(line[1:] for line in lines)
    for word in ("1.pth", "2.pth", "10.pth", "100.pth", "20000", "[red]x[/] \\x1b[31m"):
        assert word in together
    assert LONG in together


def test_a_checkpoint_s_row_says_epoch_decay_errors_and_where_collapse_starts() -> None:
    rows = [line.split() for line in printed(study(*unfolding())) if line.startswith(" 100.pth")]
    assert rows == [["100.pth", "100", "0.001", "0.1", "0.2", "0.900", "2/3", "fc2"]]
    nameless = at_epoch(None, [0.5], decay=None, mse=math.nan, model_r2=math.nan)
    rows = [line.split() for line in printed(study(nameless))]
    assert ["model.pth", "-", "-", "-", "-", "-", "0/1", "-"] in rows


def test_a_long_layer_name_keeps_its_end_in_the_summary() -> None:
    lines = printed(study(a_result(a_layer("a"), a_layer(LONG, 0.1))))
    assert any(line.endswith(f"..{LONG[-28:]}") for line in lines)


def test_strips_show_met_and_how_far_without_colour() -> None:
    numbers = {1: 0.9, 2: 0.6, 3: 0.4, 4: 0.2, 5: math.nan}
    lines = printed(study(*(at_epoch(epoch, [x]) for epoch, x in numbers.items())))
    strip = block(lines, " layer  NRC1")
    assert strip[1].split()[:3] == ["1", "-", "5"]
    assert strip[2].split() == ["fc1", "·░▒█-", "█████", "█████", "█████"]
    assert "NRC1 █ <= 0.2  ▒ <= 0.47  ░ <= 0.73  · beyond" in lines
    assert "NRC4 █ <= 1.5  ▒ <= 3  ░ <= 6  · beyond" in lines


def test_a_number_that_rounding_picked_has_a_mark_of_its_own() -> None:
    layer = a_layer("fc1", 0.1, undecided=("nrc2",))
    facts = a_result().checkpoint
    results = [a_result(layer, checkpoint=replace(facts, epoch=k)) for k in (1, 2)]
    lines = printed(study(*results), by="weight_decay")
    assert block(lines, " layer  NRC1")[2].split()[:3] == ["fc1", "██", "??"]
    assert "? rounding picks the number, since a subspace is not defined: not met" in lines
    rows = [line.split() for line in lines[lines.index("by weight decay") :] if line.startswith(" fc1")]
    assert any("?" in row for row in rows)


def test_an_ascii_console_has_marks_of_its_own() -> None:
    numbers = {1: 0.9, 2: 0.6, 3: 0.4, 4: 0.2}
    lines = printed(study(*(at_epoch(epoch, [x]) for epoch, x in numbers.items())), encoding="ascii")
    assert any(line.split()[:2] == ["fc1", ".:o#"] for line in lines)


def test_the_marks_move_with_the_recorded_thresholds() -> None:
    settings = replace(
        a_result().settings, thresholds=replace(a_result().settings.thresholds, nrc1=0.5, nrc3=0.3)
    )
    results = [at_epoch(epoch, [x], settings=settings) for epoch, x in ((1, 0.9), (2, 0.6))]
    lines = printed(study(*results))
    assert any(line.split()[:2] == ["fc1", "·▒"] for line in lines)
    assert "NRC3 █ >= 0.3  ▒ >= 0.2  ░ >= 0.1  · beyond" in lines


def test_more_checkpoints_than_columns_are_thinned_and_said_to_be() -> None:
    lines = printed(study(*(at_epoch(epoch, [0.5]) for epoch in range(1, 201))), 60)
    strip = block(lines, " layer  NRC1")
    assert strip[1].split() == ["1", "-", "200"]
    assert len(strip[2]) <= 60
    assert any(re.search(r"the strips show \d\d of 200 checkpoints", line) for line in lines)


def test_since_when_a_condition_holds_stands_beside_when_the_error_settled() -> None:
    lines = printed(study(*settled()))
    table = block(lines, " layer   NRC1   NRC2")
    assert [row.split() for row in table[2:]] == [
        ["fc1", "-", "<=1", "<=1", "<=1"],
        ["fc2", "100", "<=1", "<=1", "<=1"],
        ["fc3", "10", "<=1", "<=1", "<=1"],
    ]
    assert "error settled: within 10% of its final value from epoch 10 on" in lines
    assert "held-out error settled: within 10% of its final value from epoch 10 on" in lines
    looser = printed(study(*settled()), settled_within=9.0)
    assert "error settled: within 900% of its final value from epoch 1 on" in looser


def test_what_only_the_last_checkpoint_shows_is_said_to_be_so() -> None:
    lines = printed(study(*unfolding()), settled_within=0.01)
    table = [row.split() for row in block(lines, " layer       NRC1   NRC2")[2:]]
    assert table[1] == ["fc2", "last", "only", "<=1", "<=1", "<=1"]
    text = " ".join(lines)
    assert "error not settled within these checkpoints: within 1% of its final value at the last one" in text
    assert "settled: within" not in text
    assert "last only: at the last and not at the one before" in text


def test_one_checkpoint_has_no_course() -> None:
    text = "\n".join(printed(study(at_epoch(1, [0.1]))))
    assert "since" not in text
    assert "settled" not in text


# ----------------------------------------------------------------------------------- side by side


def test_the_same_layer_stands_side_by_side_across_weight_decays() -> None:
    shown = study(*unfolding(1e-3, "a"), *unfolding(0.0, "b", 0.3))
    lines = printed(shown, by="weight_decay")
    start = lines.index("by weight decay")
    assert "NRC1" in lines[start + 1]
    assert lines[start + 2].split()[:2] == ["0", "0.001"]
    row = next(line for line in lines[start:] if line.startswith(" fc2"))
    assert row.split()[:5] == ["fc2", "0.450", "·", "0.150", "✓"]


def test_a_field_that_does_not_vary_is_said_to_mix_what_does() -> None:
    shown = study(*unfolding(1e-3, "a"), *unfolding(0.0, "b", 0.3))
    lines = printed(shown, by="step")
    start = lines.index("by step")
    assert lines[start + 1].startswith("step is not known of any of the results")
    assert "what differs: epoch, weight_decay" in " ".join(lines[start + 1 : start + 3])
    assert not any("side by side;" in line for line in printed(shown, by="weight_decay"))


def test_several_runs_of_a_value_give_a_median_and_a_mark_only_if_all_meet_it() -> None:
    results = [at_epoch(1, [x], folder=f"s{x}") for x in (0.1, 0.15, 0.4)]
    lines = printed(study(*results, at_epoch(1, [0.9], decay=0.0, folder="z")), by="weight-decay")
    start = lines.index("by weight decay")
    row = next(line for line in lines[start:] if line.startswith(" fc1"))
    assert row.split()[:5] == ["fc1", "0.900", "·", "0.150", "·"]
    assert any("medians of several results (1 at 0, 3 at 0.001)" in line for line in lines)


def test_more_values_than_fit_continue_in_further_blocks() -> None:
    results = [at_epoch(1, [0.5], decay=k / 1000, folder=f"s{k}") for k in range(20)]
    lines = printed(study(*results), 60, by="weight_decay")
    assert sum(" NRC1 ─" in line for line in lines[lines.index("by weight decay") :]) == 4
    heads = [line for line in lines if line.split()[-1:] == ["0.019"]]
    assert heads


def test_an_unknown_field_is_an_error_before_anything_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="field 'dropout' is not recorded"):
        print_study(study(*unfolding()), Console(), by="dropout")
    assert capsys.readouterr().out == ""


def test_what_failed_is_counted_and_named_with_its_reason() -> None:
    broken = tuple(Broken(f"runs/{k}.pth", "truncated") for k in range(12))
    lines = printed(replace(study(at_epoch(1, [0.5])), failed=broken, unread=broken[:1], others=3))
    assert lines[0] == "1 checkpoint in 1 run, 12 failed, 1 unreadable, 3 of another kind left out"
    named = block(lines, "could not be scored (12)")
    assert named[1] == "  - runs/0.pth: truncated"
    assert named[-1] == "  - and 2 more"
    assert "could not be read (1)" in lines


def test_a_mark_side_by_side_says_that_all_results_scored_the_layer_and_meet_it() -> None:
    results = [at_epoch(1, nrc1, folder=f"{k}") for k, nrc1 in enumerate([(0.1, 0.1), (0.15,)])]
    lines = printed(study(*results), by="weight_decay")
    first, second = (line.split() for line in block(lines[lines.index("by weight decay") :], " layer")[2:4])
    assert first[:3] == ["fc1", "0.125", "✓"]
    assert second[:3] == ["fc2", "0.100", "·"]
    foot = " ".join(lines).split("medians of several results ")[1]
    assert foot.startswith("(2 at 0.001); a mark says that all of them scored the layer and meet it")


# -------------------------------------------------------------------------------------- in words


def test_the_words_say_where_collapse_starts_when_it_set_in_and_when_the_error_settled() -> None:
    (text,) = findings(study(*settled()))
    assert text.startswith("a at epoch 1000, R² 0.9: From fc2 on (2 of 3 layers)")
    assert "NRC1 holds in one or more of these from epoch 10 on, in all of them from 100 on." in text
    assert "The network's error stays within 10% of its final value from epoch 10 on, " in text
    assert "on, the held-out error from epoch 10 on." in text
    assert "Collapse reached its final extent after the error had settled." in text
    assert "the targets have rank 3" in text
    assert "On held-out rows the network's error is 2 times that on these." in text


def test_the_words_claim_no_onset_and_no_settling_of_what_only_the_last_checkpoint_shows() -> None:
    (text,) = findings(study(*unfolding()), 0.01)
    assert (
        "in one or more of these from epoch 10 on; in fc2 it is met at the last checkpoint only, and" in text
    )
    assert "Neither the network's error nor the held-out error has settled within these checkpoints." in text
    assert "Collapse reached" not in text
    (text,) = findings(study(at_epoch(1, [0.9]), at_epoch(2, [0.1])))
    assert "NRC1 is met in these at the last checkpoint only: nothing shows whether it stays." in text
    assert "from epoch 2 on" not in text


def test_an_error_that_has_not_settled_is_set_beside_one_that_has() -> None:
    held = [(1, 9.0), (2, 0.5), (3, 0.1)]
    results = [at_epoch(epoch, [0.9], mse=0.1) for epoch, _ in held]
    results = [
        replace(r, heldout=replace(r.heldout, model_mse=e)) for r, (_, e) in zip(results, held, strict=True)
    ]
    (text,) = findings(study(*results))
    assert "The network's error stays within 10% of its final value from epoch 1 on, the held-out" in text
    assert "the held-out error has not settled within these checkpoints." in text


def test_collapse_before_the_error_settled_is_said_to_be_so() -> None:
    results = [at_epoch(epoch, [0.1], mse=mse) for epoch, mse in ((1, 9.0), (2, 1.0), (3, 1.0))]
    (text,) = findings(study(*results))
    assert "NRC1 holds in all of these from epoch 1 on, the first checkpoint." in text
    assert "Collapse reached its final extent before the error had settled." in text


@pytest.mark.parametrize(
    ("r2", "words"),
    [
        (0.0031, "a, R² 0.0031: From fc1 on"),
        (0.0, "a, R² 0, no better than the targets' mean: From fc1 on"),
        (-2e8, "a, R² -2e+08, no better than the targets' mean: From fc1 on"),
        (math.nan, "a, R² undefined: From fc1 on"),
    ],
)
def test_what_was_learnt_at_all_stands_before_where_nrc1_holds(r2: float, words: str) -> None:
    shown = study(at_epoch(1, [0.1], model_r2=r2))
    assert findings(shown)[0].startswith(words)
    head = next(line for line in printed(shown) if line.startswith(" checkpoint"))
    assert head.split()[-3:] == ["R²", "all", "NRC1"]
    assert "collapsed" not in "\n".join(printed(shown))


def test_layers_in_which_nrc1_cannot_fail_have_no_onset() -> None:
    tail = [a_layer("fc1", 0.9), a_layer("head", 0.0, width=3)]
    facts = a_result().checkpoint
    shown = study(*(a_result(*tail, checkpoint=replace(facts, epoch=k)) for k in (1, 2)))
    (text,) = findings(shown)
    assert "it cannot fail in head" in text
    assert "of these from" not in text


def test_weight_decay_separates_the_runs_where_conditions_differ() -> None:
    text = findings(study(*unfolding(1e-3, "a"), *unfolding(0.0, "b", 0.3)))[-1]
    assert text.startswith(
        "Weight decay (0, 0.001) separates the runs, by conditions met at some values only: NRC1 in fc2, fc3."
    )
    assert "stable rank differs" not in text  # it is the same everywhere
    assert "The network's error: 0.1 at 0, 0.1 at 0.001." in text


def test_the_layer_where_weight_decay_matters_most_is_named_with_its_numbers() -> None:
    results = [at_epoch(1, nrc1, decay=d) for d, nrc1 in ((0.0, (0.5, 0.9)), (0.1, (0.6, 0.25)))]
    assert "NRC1 differs most in fc2: 0.25 at 0.1, 0.9 at 0." in findings(study(*results))[-1]


def test_runs_that_disagree_among_themselves_do_not_separate_weight_decays() -> None:
    results = [at_epoch(1, [x], decay=d, folder=f"{x}{d}") for d in (0.0, 0.1) for x in (0.1, 0.9)]
    text = findings(study(*results))[-1]
    assert "Weight decay (0, 0.1) does not separate the runs: no layer meets a condition in all" in text


def test_a_layer_that_one_of_the_runs_lacks_does_not_separate_weight_decays() -> None:
    numbers = [(0.0, (0.9, 0.9)), (0.1, (0.9, 0.1)), (0.1, (0.9,))]
    results = [at_epoch(1, x, decay=d, folder=f"{k}") for k, (d, x) in enumerate(numbers)]
    assert "does not separate the runs" in findings(study(*results))[-1]


def test_one_weight_decay_is_not_compared() -> None:
    said = findings(study(at_epoch(1, [0.1], folder="a"), at_epoch(1, [0.1], folder="b", decay=None)))
    assert len(said) == 2
    assert "separate" not in " ".join(said)


def everything_said() -> str:
    dead: list[LayerResult] = [a_layer("fc1", math.nan)]
    shown = [
        study(*unfolding(1e-3, "a"), *unfolding(0.0, "b", 0.3)),
        study(a_result(*dead), a_result()),
        study(at_epoch(1, [0.9]), at_epoch(2, [0.1])),
    ]
    return " ".join(" ".join(findings(each)) for each in shown).lower()


def test_no_sentence_judges_collapse() -> None:
    judging = r"\b(good|bad|better|worse|best|well|poor|healthy|success\w*|unfortunately|generali[sz]\w+)\b"
    assert not re.search(judging, everything_said())
