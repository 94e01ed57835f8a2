"""Results from several folders: which are of one training, and which are copies of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from runs import held_out
from studies import at_epoch
from test_cli import Run as Done
from test_cli import run

from nrc_probe.report.page import to_html
from nrc_probe.report.repeats import repeats
from nrc_probe.report.study import Run, Study, group_runs, study_of
from nrc_probe.report.trainings import Found
from nrc_probe.result import Result

__all__ = ["run"]  # a fixture


HELD_OUT = held_out("fc1", mse=0.2)


def training(seed: int, epochs: Sequence[int] = (1, 2, 3), folder: str = "runs") -> list[Result]:
    """Checkpoints at relative paths that every training shares, of bytes that are its own."""
    results = [at_epoch(epoch, [0.1 * seed], folder=folder) for epoch in epochs]
    return [
        replace(r, checkpoint=replace(r.checkpoint, sha256=f"{seed}-{r.checkpoint.epoch}")) for r in results
    ]


def found_in(folder: str, results: Sequence[Result]) -> list[Found]:
    """The results as the files that `batch -o folder` writes."""
    inner = [Path(result.checkpoint.path or "").relative_to("runs") for result in results]
    return [Found(result, Path(folder, f"{path}.json")) for path, result in zip(inner, results, strict=True)]


def hashes(run: Run) -> list[str | None]:
    return [result.checkpoint.sha256 for result in run.results]


def told(found: Sequence[Found]) -> list[str]:
    return list(repeats(Study(group_runs(found))))


def test_trainings_of_the_same_relative_paths_are_runs_named_after_their_folders_of_results() -> None:
    found = [*found_in("a/s1/results", training(1)), *found_in("a/s2/results", training(2))]
    runs = group_runs(found)
    assert [(run.name, run.times, hashes(run)) for run in runs] == [
        ("s1/results", (1, 2, 3), ["1-1", "1-2", "1-3"]),
        ("s2/results", (1, 2, 3), ["2-1", "2-2", "2-3"]),
    ]
    assert told(found) == []


def test_folders_within_the_folders_of_results_are_not_repeated_in_the_names() -> None:
    found = [
        item
        for seed in (1, 2)
        for inner in ("runs/a", "runs/b")
        for item in found_in(f"s{seed}", training(seed, folder=inner))
    ]
    assert [run.name for run in group_runs(found)] == ["a, s1", "a, s2", "b, s1", "b, s2"]


def test_the_same_epoch_under_another_name_is_another_training_too() -> None:
    first, second = training(1, (1, 2)), training(2, (2, 3))
    second[0] = replace(second[0], checkpoint=replace(second[0].checkpoint, path="runs/last.pth"))
    runs = group_runs([*found_in("s1", first), *found_in("s2", second)])
    assert [hashes(run) for run in runs] == [["1-1", "1-2"], ["2-2", "2-3"]]


def test_one_training_scored_into_several_folders_is_one_run() -> None:
    parts = [found_in(f"part{epoch}", training(1, (epoch,))) for epoch in (3, 1, 2)]
    (run,) = group_runs([item for part in parts for item in part])
    assert (run.name, run.times) == ("runs", (1, 2, 3))


def test_with_two_trainings_about_a_folder_of_other_epochs_belongs_to_neither() -> None:
    found = [
        *found_in("s1", training(1)),
        *found_in("s2", training(2)),
        *found_in("more", training(1, (4, 5))),
    ]
    assert [run.times for run in group_runs(found)] == [(1, 2, 3), (1, 2, 3), (4, 5)]


def test_a_copy_of_a_folder_is_named_and_counts_once() -> None:
    found = [*found_in("results", training(1)), *found_in("copy", training(1))]
    (run,) = group_runs(found)
    assert hashes(run) == ["1-1", "1-2", "1-3"]
    assert [copy.item for copy in run.copies] == found[3:]
    assert told(found) == [
        "copy: 3 results left out, which repeat results: the same checkpoints, data and settings"
    ]


def test_a_copy_beside_another_training_belongs_to_the_one_that_it_repeats() -> None:
    found = [
        *found_in("s1", training(1, (1, 2, 3))),
        *found_in("s2", training(2)),
        *found_in("again", training(1, (3, 4))),
    ]
    assert [(run.name, run.times) for run in group_runs(found)] == [("s1", (1, 2, 3, 4)), ("s2", (1, 2, 3))]
    assert told(found) == [
        "again: 1 result left out, which repeats s1: the same checkpoints, data and settings"
    ]


def test_a_copy_in_the_same_folder_counts_once_too() -> None:
    (item,) = found_in("results", training(1, (1,)))
    twice = [item, Found(item.result, Path("results/1 (copy).json"))]
    (run,) = group_runs(twice)
    assert len(run.results) == 1
    assert told(twice)[0].startswith("results: 1 result left out, which repeats others there:")


def test_another_file_of_the_same_bytes_is_a_checkpoint_of_its_own() -> None:
    *_, last = training(1)
    same = replace(last, checkpoint=replace(last.checkpoint, path="runs/last.pth"))
    (run,) = group_runs(found_in("results", [*training(1), same]))
    assert run.labels == ("1.pth", "2.pth", "3.pth", "last.pth")


def test_results_given_in_python_are_as_many_as_were_given() -> None:
    assert len(study_of([*training(1), *training(1)]).results) == 6


def test_trainings_that_share_their_first_checkpoint_keep_it_each() -> None:
    first, second = training(1), training(2)
    second[0] = first[0]
    runs = group_runs([*found_in("s1", first), *found_in("s2", second)])
    assert [hashes(run) for run in runs] == [["1-1", "1-2", "1-3"], ["1-1", "2-2", "2-3"]]


@pytest.mark.parametrize(
    "values",
    [
        {"heldout": replace(HELD_OUT, data=replace(HELD_OUT.data, sha256="02"))},
        {"heldout": None},
        {"data": replace(training(1)[0].data, n=5)},
    ],
)
def test_what_was_scored_on_other_rows_is_no_copy(values: dict[str, object]) -> None:
    results = training(1)
    others = [replace(result, **values) for result in results]  # type: ignore[arg-type]
    found = [*found_in("one", results), *found_in("two", others)]
    assert [len(run.results) for run in group_runs(found)] == [3, 3]
    assert told(found) == []


def test_where_the_data_is_not_known_by_its_bytes_only_the_same_numbers_are_a_copy() -> None:
    data = replace(training(1)[0].data, path=None, sha256=None)
    results = [replace(result, data=data, heldout=None) for result in training(1)]
    others = [replace(r, layers=tuple(replace(x, nrc1=0.7) for x in r.layers)) for r in results]
    assert len(group_runs([*found_in("one", results), *found_in("two", results)])) == 1
    assert len(group_runs([*found_in("one", results), *found_in("two", others)])) == 2


def test_different_files_of_one_path_that_nothing_tells_apart_are_said_to_be_so() -> None:
    flat = [Found(r, Path(f"s{seed}-{k}.json")) for seed in (1, 2) for k, r in enumerate(training(seed))]
    assert told(flat) == [
        "runs: results of different files at runs/1.pth and 2 more paths; the run may mix trainings"
    ]
    assert list(repeats(study_of([item.result for item in flat]))) == told(flat)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two trainings of one path, and a copy of the first."""
    monkeypatch.chdir(tmp_path)
    for folder, seed in (("s1", 1), ("s2", 2), ("copy", 1)):
        for item in found_in(folder, training(seed)):
            assert item.source is not None
            item.source.parent.mkdir(exist_ok=True)
            item.source.write_text(item.result.to_json())
    return tmp_path


@pytest.mark.usefixtures("folders")
def test_copies_are_named_in_the_report_and_where_none_is_printed(run: Callable[..., Done]) -> None:
    words = "copy: 3 results left out, which repeat s1: the same checkpoints, data and settings"
    shown = run("report", "s1", "s2", "copy")
    assert shown.out.startswith("6 checkpoints in 2 runs, 3 repeated\n")
    assert "repeated or mixed (1)" in shown.out
    assert words in " ".join(shown.out.split())
    quiet = run("report", "s1", "s2", "copy", "-q", "--by", "weight_decay", "--html", "a.html")
    assert words in quiet.err
    assert words in Path("a.html").read_text(encoding="utf-8")


def test_the_page_says_which_results_are_copies() -> None:
    found = [*found_in("<b>results", training(1)), *found_in("copy", training(1))]
    page = to_html(Study(group_runs(found)), 0.1)
    assert "<p>copy: 3 results left out, which repeat &lt;b&gt;results: the same" in page
