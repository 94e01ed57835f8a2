"""Result files and folders of them: what is read, what is refused, what is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from studies import at_epoch, unfolding

from nrc_probe.errors import ConfigError, DataError, ProbeError
from nrc_probe.report.files import read_results
from nrc_probe.result import Result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for result in (*unfolding(1e-3), *unfolding(0.0)):
        at = result.checkpoint
        path = tmp_path / "results" / f"wd_{at.weight_decay}" / f"{at.epoch}.pth.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(result.to_json())
    return tmp_path / "results"


def test_a_folder_is_read_at_any_depth_in_natural_order(folder: Path) -> None:
    study = read_results(folder)
    assert [run.name for run in study.runs] == ["weight decay 0", "weight decay 0.001"]
    assert [run.times for run in study.runs] == [(1, 2, 10, 100)] * 2
    assert len(study.sources) == 8
    assert (study.failed, study.unread, study.others) == ((), (), 0)


def test_what_is_read_equals_what_was_written(folder: Path) -> None:
    assert list(read_results(folder).runs[1].results) == unfolding(1e-3)


def test_a_file_that_is_reached_twice_counts_once(folder: Path) -> None:
    assert len(read_results(folder, folder / "wd_0.0", folder / "wd_0.0" / "1.pth.json").results) == 8


def test_a_folder_that_is_named_twice_counts_once(folder: Path) -> None:
    (folder / "9.pth.failed.json").write_text(json.dumps({"checkpoint": "9.pth", "reason": "truncated"}))
    (folder / "broken.json").write_text("[")
    once, twice = read_results(folder), read_results(folder, folder)
    assert (len(twice.failed), len(twice.unread)) == (len(once.failed), len(once.unread)) == (1, 1)
    assert len(twice.results) == len(once.results)


def test_recorded_failures_and_unreadable_files_are_named_with_their_reasons(folder: Path) -> None:
    failure = {"schema": "nrc-probe/failure/1", "checkpoint": "runs/9.pth", "reason": "truncated"}
    (folder / "9.pth.failed.json").write_text(json.dumps(failure))
    (folder / "8.pth.failed.json").write_text("[")
    (folder / "cut.json").write_text(unfolding()[0].to_json()[:500])
    (folder / "empty.json").write_bytes(b"")
    (folder / "latin.json").write_bytes(b'{"a": "\xe9"}')
    (folder / "old.json").write_text('{"schema": "nrc-probe/result/0"}')
    (folder / "package.json").write_text('{"name": "x"}')
    (folder / "rows.json").write_text("[1, 2]")
    (folder / "deep.json").write_text("[" * 100_000)
    study = read_results(folder)
    assert len(study.results) == 8
    assert [(Path(b.path).name, b.reason) for b in study.failed] == [
        ("8.pth.failed.json", "the record of the failure cannot be read"),
        ("9.pth", "truncated"),
    ]
    assert [Path(b.path).name for b in study.unread] == [
        *("cut.json", "deep.json", "empty.json", "latin.json", "old.json")
    ]
    assert "schema is 'nrc-probe/result/0'" in study.unread[-1].reason
    assert all("\n" not in b.reason for b in study.unread)
    assert study.others == 2


def test_folders_that_cannot_be_listed_and_links_to_nothing_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "gone.json").symlink_to("nothing")
    (folder / "loop.json").symlink_to("loop.json")
    os.mkfifo(folder / "wd_0.0" / "pipe.json")
    listed = os.scandir

    def scandir(place: Path) -> object:  # as the system does for all but root
        if Path(place).name == "wd_0.001":
            raise PermissionError(13, "Permission denied", str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", scandir)
    study = read_results(folder)
    assert len(study.results) == 4
    assert [(Path(b.path).name, b.reason) for b in study.unread] == [
        ("gone.json", "expected a file, got a link to nothing"),
        ("loop.json", "Too many levels of symbolic links"),
        ("pipe.json", "expected a file, got a pipe"),
        ("wd_0.001", "the folder cannot be listed: Permission denied"),
    ]
    with pytest.raises(DataError, match=r"wd_0.001: the folder cannot be listed: Permission denied"):
        read_results(folder / "wd_0.001")


@pytest.mark.parametrize("content", ["", "{", '{"schema": "other/1"}', "[]", "null", '{"schema": 3}'])
def test_a_named_file_that_is_no_result_is_an_error(content: str, folder: Path) -> None:
    path = folder / "x.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_results(folder / "wd_0.0", path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_named_file_of_another_kind_is_not_said_to_be_made_again(folder: Path) -> None:
    (folder / "README.md").write_text("# words")
    with pytest.raises(DataError, match=r"README.md: not JSON \(.*\); expected results as JSON \(analyze"):
        read_results(folder / "README.md")
    (folder / "cut.json").write_text("{")
    with pytest.raises(DataError, match=r"cut.json: not JSON \(.*\); run the analysis again"):
        read_results(folder / "cut.json")


def test_no_result_at_all_says_what_is_there_instead(tmp_path: Path) -> None:
    (tmp_path / "a.failed.json").write_text("{}")
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(DataError, match="found 1 recorded failures, 1 other JSON files"):
        read_results(tmp_path)
    with pytest.raises(DataError, match=r"nowhere: no such file or folder"):
        read_results(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found no JSON file"):
        read_results(tmp_path / "empty")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match=r"pipe.json: a pipe; expected results"):
        read_results(tmp_path / "pipe.json")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match=r"loop: Too many levels of symbolic links"):
        read_results(tmp_path / "loop")
    with pytest.raises(DataError, match="no path"):
        read_results()


def test_thresholds_judge_what_is_read(folder: Path) -> None:
    study = read_results(folder, thresholds={"nrc1": 0.95})
    assert all(result.first_collapsed_layer == "fc1" for result in study.results)
    with pytest.raises(ConfigError, match="threshold 'nrc9' is unknown; there are: nrc1"):
        read_results(folder, thresholds={"nrc9": 1.0})
    with pytest.raises(ConfigError, match="threshold nrc1 must be a number, got nan"):
        read_results(folder, thresholds={"nrc1": float("nan")})


def test_a_number_that_json_writes_without_a_point_is_the_same_number() -> None:
    body = at_epoch(1, [0.1]).to_dict()
    body["checkpoint"]["weight_decay"], body["layers"][0]["nrc4"] = 0, 2**62
    restored = Result.from_json(json.dumps(body))
    assert repr(restored.checkpoint.weight_decay) == "0.0"
    assert repr(restored.layers[0].nrc4) == repr(float(2**62))


def spoiled(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    *places, last = path.split(".")

    def spoil(body: Any) -> None:
        for place in places:
            body = body[int(place)] if place.isdecimal() else body[place]
        body[last] = value

    return spoil


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("layers.0.name", 5),
        ("layers.0.nrc1", "low"),
        ("layers.0.nrc1", True),
        ("layers.0.nrc1", 10**400),
        ("layers.0.width", 2.5),
        ("layers.0.width", 2**70),
        ("layers.0.conditions", {"nrc1": True}),
        ("layers.0.conditions", {"nrc1": 1, "nrc2": 0, "nrc3": 0, "nrc4": 0}),
        ("layers.0.notes", "text"),
        ("layers.0.notes", [3]),
        ("layers", {"a": 1}),
        ("layers", [[]]),
        ("checkpoint.epoch", "7"),
        ("checkpoint.path", ["a"]),
        ("checkpoint.weight_decay", "0"),
        ("settings.thresholds.nrc1", None),
        ("settings.thresholds", []),
        ("model_mse", "0"),
        ("warnings", "one"),
        ("heldout.model_mse", []),
        ("provenance.seconds", "1"),
        ("data.n", None),
        ("data.more", 1),
    ],
)
def test_a_result_of_another_form_is_refused_before_anything_uses_it(path: str, value: object) -> None:
    body = at_epoch(1, [0.1]).to_dict()
    spoiled(path, value)(body)
    with pytest.raises(ProbeError, match="not a result of schema") as caught:
        Result.from_json(json.dumps(body))
    assert "\n" not in str(caught.value)
