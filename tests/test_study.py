"""Many results: which belong together, in which order, since when a condition holds, side by side."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from runs import a_layer, a_result
from studies import at_epoch, settled, study, unfolding

from nrc_probe.errors import ConfigError
from nrc_probe.report.comparison import caution, compare, numbers
from nrc_probe.report.fields import find_field, reader, varying
from nrc_probe.report.onset import (
    can_settle,
    heldout_errors,
    holds_from,
    is_last_only,
    settled_from,
    training_errors,
)
from nrc_probe.report.study import layer_names, with_thresholds
from nrc_probe.result import Thresholds

# ------------------------------------------------------------------------------------------ grouping


def test_checkpoints_of_a_folder_are_one_run_in_the_order_of_their_epochs() -> None:
    (run,) = study(*(at_epoch(epoch, [0.5]) for epoch in (100, 2, 10))).runs
    assert (run.clock, run.times, run.labels) == ("epoch", (2, 10, 100), ("2.pth", "10.pth", "100.pth"))
    assert run.final.checkpoint.epoch == 100


def test_weight_decays_in_one_folder_are_runs_of_their_own_and_named_after_it() -> None:
    runs = study(at_epoch(1, [0.5], decay=1e-3), at_epoch(2, [0.5], decay=0.0)).runs
    assert [run.name for run in runs] == ["weight decay 0", "weight decay 0.001"]


def test_a_study_shows_its_runs_not_its_numbers() -> None:
    shown = repr(study(*unfolding(1e-3), *unfolding(0.0)))
    assert shown == "<Study of 8 results in 2 runs: weight decay 0, weight decay 0.001>"


def test_runs_of_one_weight_decay_are_named_after_their_folders() -> None:
    runs = study(*(at_epoch(1, [0.5], folder=f"top/seed{k}/ckpt") for k in (10, 2))).runs
    assert [run.name for run in runs] == ["seed2/ckpt", "seed10/ckpt"]


def test_folders_that_repeat_across_weight_decays_are_told_apart_by_both() -> None:
    results = [at_epoch(1, [0.5], folder=f"s{k}", decay=d) for k in (1, 2) for d in (0.0, 0.1)]
    names = [run.name for run in study(*results).runs]
    assert names == [
        "s1, weight decay 0",
        "s1, weight decay 0.1",
        "s2, weight decay 0",
        "s2, weight decay 0.1",
    ]


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({"settings": replace(a_result().settings, rank=2)}, "rank 2"),
        ({"settings": replace(a_result().settings, pooling="max")}, "max pooling"),
        ({"data": replace(a_result().data, path="other.npz")}, "data other.npz"),
        ({"model": replace(a_result().model, summary="MLP 5-9-3")}, "MLP 5-9-3"),
    ],
)
def test_the_same_checkpoints_with_other_settings_are_another_run(
    other: dict[str, object], name: str
) -> None:
    runs = study(at_epoch(1, [0.5]), at_epoch(2, [0.5]), at_epoch(1, [0.5], **other)).runs
    assert sorted(len(run.results) for run in runs) == [1, 2]
    assert name in [run.name for run in runs]


def test_a_learning_rate_that_a_schedule_changed_does_not_split_a_run() -> None:
    results = [at_epoch(epoch, [0.5]) for epoch in (1, 2)]
    slower = replace(results[1], checkpoint=replace(results[1].checkpoint, learning_rate=0.01))
    assert len(study(results[0], slower).runs) == 1


def test_without_epochs_the_names_give_the_order() -> None:
    results = [at_epoch(None, [0.5]) for _ in range(3)]
    paths = ("r/step10.pth", "r/step9.pth", "r/last.pth")
    named = [
        replace(r, checkpoint=replace(r.checkpoint, path=p)) for r, p in zip(results, paths, strict=True)
    ]
    (run,) = study(*named).runs
    assert (run.clock, run.times) == ("checkpoint", (1, 2, 3))
    assert run.labels == ("last.pth", "step9.pth", "step10.pth")


def test_a_run_without_a_folder_is_not_called_by_its_first_checkpoint() -> None:
    def named(path, epoch):
        result = at_epoch(epoch, [0.5])
        return replace(result, checkpoint=replace(result.checkpoint, path=path))

    assert [run.name for run in study(named("1.pth", 1), named("2.pth", 2)).runs] == ["run"]
    assert [run.name for run in study(named("1.pth", 1)).runs] == ["1.pth"]
    assert [run.name for run in study(named("r/1.pth", 1), named("r/2.pth", 2)).runs] == ["r"]
    other = named("1.pth", 1)
    other = replace(other, data=replace(other.data, sha256="other"))
    assert [run.name for run in study(named("1.pth", 1), other).runs] == ["run #1", "run #2"]


def test_layers_that_only_some_checkpoints_scored_are_named_too() -> None:
    few = a_result(a_layer("fc1"), a_layer("extra"))
    assert layer_names([few, a_result(a_layer("fc1"), a_layer("fc2"), a_layer("fc3"))]) == [
        *("fc1", "fc2", "fc3", "extra")
    ]


def test_other_thresholds_judge_the_same_numbers_anew() -> None:
    result = a_result(a_layer("fc1", 0.25))
    judged = with_thresholds(result, Thresholds(nrc1=0.3, nrc2=0.9))
    assert judged.layers[0].conditions == {"nrc1": True, "nrc2": False, "nrc3": True, "nrc4": True}
    assert judged.layers[0].nrc1 == 0.25
    assert judged.first_collapsed_layer == "fc1"
    assert result.first_collapsed_layer is None


def test_other_thresholds_do_not_decide_what_rounding_picked() -> None:
    judged = with_thresholds(a_result(a_layer("fc1", undecided=("nrc3",))), Thresholds(nrc3=0.0))
    assert judged.layers[0].conditions["nrc3"] is False


# --------------------------------------------------------------------------------------------- onset


def test_a_layer_holds_a_condition_from_the_first_time_that_it_is_never_lost_again() -> None:
    (run,) = study(*settled()).runs
    # fc2 meets it at epoch 1, loses it, and regains it at 100
    assert [holds_from(run, name) for name in ("fc1", "fc2", "fc3")] == [None, 100, 10]


def test_what_holds_at_every_checkpoint_holds_from_the_first() -> None:
    (run,) = study(*unfolding()).runs
    assert holds_from(run, "fc1", "nrc2") == 1


def test_an_undefined_number_or_a_missing_layer_interrupts() -> None:
    ends = [at_epoch(epoch, [0.1, 0.1]) for epoch in (3, 4)]
    (run,) = study(at_epoch(1, [0.1]), at_epoch(2, [math.nan]), *ends).runs
    assert holds_from(run, "fc1") == 3
    (run,) = study(at_epoch(1, [0.1, 0.1]), at_epoch(2, [0.1]), *ends).runs
    assert holds_from(run, "fc2") == 3


def test_what_is_met_at_the_last_checkpoint_only_has_no_onset() -> None:
    (run,) = study(*unfolding()).runs
    assert [holds_from(run, name) for name in ("fc1", "fc2", "fc3")] == [None, None, 10]
    assert [is_last_only(run, name) for name in ("fc1", "fc2", "fc3")] == [False, True, False]


def test_a_run_of_one_checkpoint_has_no_onset_and_no_settling() -> None:
    (run,) = study(at_epoch(1, [0.1])).runs
    assert (holds_from(run, "fc1"), is_last_only(run, "fc1")) == (None, False)
    assert settled_from(run, training_errors(run)) is None


def test_an_error_has_settled_when_it_stays_within_a_tenth_of_its_end() -> None:
    (run,) = study(*unfolding()).runs
    assert training_errors(run) == [1.0, 0.5, 0.105, 0.1]
    assert settled_from(run, training_errors(run)) == 10
    assert settled_from(run, training_errors(run), 9.0) == 1


def test_an_error_that_only_the_last_checkpoint_comes_near_has_not_settled() -> None:
    (run,) = study(*unfolding()).runs
    assert settled_from(run, training_errors(run), 0.01) is None
    assert can_settle(training_errors(run))


def test_an_error_that_dips_below_its_end_has_not_settled_there() -> None:
    (run,) = study(*unfolding()).runs
    assert settled_from(run, [0.1, 0.05, 0.1, 0.1]) == 10


@pytest.mark.parametrize("final", [0.0, math.nan, math.inf])
def test_an_error_that_ends_at_0_or_undefined_settles_never(final: float) -> None:
    (run,) = study(*unfolding()).runs
    assert settled_from(run, [1.0, 0.5, final, final]) is None
    assert not can_settle([1.0, 0.5, final, final])


def test_held_out_errors_are_none_only_where_no_checkpoint_has_them() -> None:
    results = unfolding()
    (run,) = study(*results).runs
    assert heldout_errors(run) == [2.0, 1.0, 0.21, 0.2]
    (run,) = study(replace(results[0], heldout=None), *results[1:]).runs
    assert math.isnan(heldout_errors(run)[0])
    (run,) = study(*(replace(result, heldout=None) for result in results)).runs
    assert heldout_errors(run) is None


# ------------------------------------------------------------------------------------ side by side


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("weight_decay", "checkpoint.weight_decay"),
        ("weight-decay", "checkpoint.weight_decay"),
        ("data.n", "data.n"),
        ("n", "data.n"),
        ("rank", "settings.rank"),
        ("model", "model.summary"),
        ("data", "data.path"),
        ("settings.thresholds.nrc1", "settings.thresholds.nrc1"),
    ],
)
def test_a_field_has_a_short_and_a_full_name(name: str, full: str) -> None:
    assert find_field(a_result(), name) == full


def test_every_recorded_field_can_be_read() -> None:
    result = a_result()
    for full, value in {
        "checkpoint.weight_decay": 1e-3,
        "settings.exclude": "conv1",
        "settings.layers": "none",
        "settings.thresholds.nrc1": 0.2,
        "data.input_shape": "5",
        "settings.limit": None,
    }.items():
        assert reader(full)(result) == value


def test_a_field_that_is_not_recorded_is_one_line_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"field 'dropout' is not recorded; there are: .*weight_decay"):
        find_field(a_result(), "dropout")


def test_runs_are_compared_by_their_last_checkpoints() -> None:
    comparison = compare(study(*unfolding(1e-3, "a"), *unfolding(0.0, "b", 0.3)), "weight_decay")
    assert comparison.values == (0.0, 1e-3)
    assert [[result.checkpoint.epoch for result in group] for group in comparison.groups] == [[100], [100]]
    assert numbers(comparison.groups[0], "fc2", "nrc1") == pytest.approx([0.45])


def test_by_epoch_every_checkpoint_counts() -> None:
    comparison = compare(study(*unfolding(1e-3, "a"), *unfolding(0.0, "b")), "epoch")
    assert comparison.values == (1, 2, 10, 100)
    assert [len(group) for group in comparison.groups] == [2, 2, 2, 2]


def test_a_field_that_does_not_tell_the_runs_apart_is_said_to_be_so_with_those_that_do() -> None:
    shown = study(*unfolding(1e-3, "a"), *unfolding(0.0, "b", 0.3))
    assert caution(shown, "weight_decay") is None
    assert caution(shown, "epoch") is None
    assert caution(shown, "step") == (
        "step is not known of any of the results that are set side by side; what differs: epoch, weight_decay"
    )
    assert caution(shown, "data.n") == (
        "n is 400 in each of the results that are set side by side; what differs: weight_decay"
    )
    assert caution(study(at_epoch(1, [0.1])), "rank").endswith("; nothing recorded differs")


def test_results_differ_in_fields_of_every_kind() -> None:
    one = at_epoch(1, [0.1], folder="a")
    settings = replace(one.settings, exclude=("x",), thresholds=Thresholds(nrc1=0.1))
    other = at_epoch(1, [0.1], folder="b", settings=settings, data=replace(one.data, n=5))
    assert varying([one, other]) == ["data.n", "thresholds.nrc1", "exclude"]


def test_an_undefined_value_is_unknown_and_keeps_its_numbers() -> None:
    data = a_result().data
    results = [
        at_epoch(1, [nrc1], folder=f"{k}", data=replace(data, target_stable_rank=rank))
        for k, (nrc1, rank) in enumerate([(0.3, math.nan), (0.5, 1.5), (0.4, math.nan)])
    ]
    comparison = compare(study(*results), "target_stable_rank")
    assert comparison.values == (1.5, None)
    assert numbers(comparison.groups[1], "fc1", "nrc1") == [0.3, 0.4]
    assert caution(study(results[0], results[2]), "target_stable_rank") == (
        "target stable rank is not known of any of the results that are set side by side; "
        "nothing recorded differs"
    )


def test_an_unknown_value_stands_last() -> None:
    results = [at_epoch(1, [0.5], decay=decay, folder=f"{decay}") for decay in (None, 10.0, 9e-5)]
    assert compare(study(*results), "weight_decay").values == (9e-5, 10.0, None)
