"""Which files below a folder are checkpoints, and in which order."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path, PurePosixPath

import pytest

from nrc_probe.discovery import find_checkpoints, natural
from nrc_probe.errors import CheckpointError


@pytest.fixture
def make(tmp_path: Path):
    def files(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return files


def found(folder: Path, **options: object) -> list[str]:
    return [str(path) for path in find_checkpoints(folder, **options)]


def test_every_kind_of_checkpoint_is_found_at_any_depth_and_nothing_else(make) -> None:
    folder = make("a.safetensors", "b.pt", "c/d.pth", "c/e/f.ckpt", "g.bin", "h.npz", "notes.txt", "r.json")
    assert found(folder) == ["a.safetensors", "b.pt", "c/d.pth", "c/e/f.ckpt", "g.bin"]


@pytest.mark.parametrize(
    "names",
    [
        ["2.pt", "10.pt", "100.pt"],
        ["epoch_2/9.pt", "epoch_2/10.pt", "epoch_10/1.pt"],
        ["wd_0/1.pt", "wd_0.00050/1.pt", "wd_0.0010/1.pt", "wd_0.01/1.pt"],
        ["wd_1e-4/1.pt", "wd_5e-4/1.pt", "wd_1e-3/1.pt"],
        ["01.pt", "1.pt", "1.pth", "a.pt"],
    ],
)
def test_numbers_in_names_sort_by_their_value(make, names: list[str]) -> None:
    shuffled = random.Random(0).sample(names, len(names))
    assert found(make(*shuffled)) == names


def test_paths_of_different_kinds_can_be_compared() -> None:
    paths = [PurePosixPath(text) for text in ("1/a.pt", "a/1.pt", "a.pt", "1.pt", "-1.pt", "1a/b2c3.pt")]
    assert sorted(sorted(paths, key=natural, reverse=True), key=natural) == sorted(paths, key=natural)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"include": ["2.pt"]}, ["a/2.pt", "b/2.pt"]),
        ({"include": ["a"]}, ["a/1.pt", "a/2.pt"]),
        ({"include": ["a/", "b/1.*"]}, ["a/1.pt", "a/2.pt", "b/1.pt"]),
        ({"exclude": ["*/1.pt"]}, ["a/2.pt", "b/2.pt"]),
        ({"include": ["b"], "exclude": ["2.*"]}, ["b/1.pt"]),
        ({"include": ["[ab]/[!1].pt"]}, ["a/2.pt", "b/2.pt"]),
    ],
)
def test_globs_mean_paths_names_or_folders(make, options: dict[str, list[str]], names: list[str]) -> None:
    assert found(make("a/1.pt", "a/2.pt", "b/1.pt", "b/2.pt"), **options) == names


def test_shards_stand_for_themselves_only_without_an_index(make) -> None:
    folder = make(
        *("a/model.safetensors.index.json", "a/model-00001-of-00002.safetensors"),
        *("a/model-00002-of-00002.safetensors", "a/other.safetensors", "b/model-00001-of-00002.safetensors"),
    )
    places = {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"}
    (folder / "a/model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert found(folder) == [
        "a/model.safetensors.index.json",
        "a/other.safetensors",
        "b/model-00001-of-00002.safetensors",
    ]


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": []}', '{"weight_map": {"x": 3}}', "[" * 10**5])
def test_a_broken_index_hides_nothing(make, text: str) -> None:
    folder = make("m.safetensors.index.json", "m-00001-of-00002.safetensors")
    (folder / "m.safetensors.index.json").write_text(text)
    assert found(folder) == ["m-00001-of-00002.safetensors", "m.safetensors.index.json"]


def test_a_folder_named_like_a_checkpoint_counts_where_it_holds_none(make) -> None:
    folder = make("run.pt/1.pt", "empty.pt/readme.txt")
    assert found(folder) == ["empty.pt", "run.pt/1.pt"]


def test_hidden_files_and_links_to_folders_are_left_out_but_links_to_files_count(make) -> None:
    folder = make(".cache/1.pt", ".2.pt", "run/3.pt")
    (folder / "last.pt").symlink_to("run/3.pt")
    (folder / "latest").symlink_to("run")
    (folder / "run/loop").symlink_to(folder)
    (folder / "loop.pt").symlink_to("run")
    assert found(folder) == ["last.pt", "run/3.pt"]


def test_what_is_no_folder_says_what_it_is(make, tmp_path: Path) -> None:
    make("1.pt")
    with pytest.raises(CheckpointError, match=r"1\.pt: expected a folder .* got a file \(use 'nrc-probe"):
        find_checkpoints(tmp_path / "1.pt")
    with pytest.raises(CheckpointError, match="none: expected a folder of checkpoints, got nothing there"):
        find_checkpoints(tmp_path / "none")


def test_a_link_to_itself_and_a_folder_that_cannot_be_listed_count_as_one_checkpoint_each(
    make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("a/1.pt", "locked/2.pt", "b.pt")
    (folder / "a/x.pt").symlink_to("x.pt")
    listed = os.scandir

    def scandir(place: Path) -> object:  # as the system does for all but root
        if Path(place).name == "locked":
            raise PermissionError(13, "Permission denied", str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", scandir)
    assert found(folder) == ["a/1.pt", "a/x.pt", "b.pt", "locked"]
    with pytest.raises(CheckpointError, match="locked: the folder cannot be listed: Permission denied"):
        find_checkpoints(folder / "locked")


def test_a_pipe_named_like_an_index_is_not_waited_for(make) -> None:
    folder = make("m-00001-of-00002.safetensors")
    os.mkfifo(folder / "m.safetensors.index.json")
    assert found(folder) == ["m-00001-of-00002.safetensors", "m.safetensors.index.json"]
