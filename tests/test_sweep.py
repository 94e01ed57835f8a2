"""A folder of checkpoints: each scored once, what fails stepped over, what is done left alone."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import pickle
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from runs import same, save_data, save_network
from safetensors.torch import save_file
from torch import nn

import nrc_probe
from nrc_probe import Outcome, Sweep, analyze
from nrc_probe import batch as batch_of
from nrc_probe.architecture import network as networks
from nrc_probe.dataset import dataset as datasets
from nrc_probe.dataset import rows, sources
from nrc_probe.errors import CheckpointError, ConfigError, OutputError
from nrc_probe.result import Result
from nrc_probe.sweep import claims, ledger, scorer
from nrc_probe.sweep import sweep as sweeps
from nrc_probe.sweep.outcome import Interrupted
from nrc_probe.sweep.terminal import batch_progress_on, print_sweep


def a_network(seed: int, width: int = 8, inputs: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)
    )


def save_run(folder: Path, epochs: int = 3) -> list[str]:
    for epoch in range(1, epochs + 1):
        save_network(folder / f"{epoch}.pth", a_network(epoch))
    return [f"{folder.name}/{epoch}.pth" for epoch in range(1, epochs + 1)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: runs/wd_0 and runs/wd_1 of three checkpoints each, their data and its file."""
    monkeypatch.chdir(tmp_path)
    for run in ("wd_0", "wd_1"):
        save_run(tmp_path / "runs" / run)
    save_data(tmp_path / "runs" / "data.npz")
    (tmp_path / "runs" / "nrc-probe.toml").write_text('[data]\npath = "data.npz"\n')
    return tmp_path


def states(sweep: Sweep) -> list[str]:
    return [outcome.state for outcome in sweep.outcomes]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


NAMES = [f"wd_{decay}/{epoch}.pth" for decay in (0, 1) for epoch in (1, 2, 3)]


# ------------------------------------------------------------------------------------ the results


@pytest.mark.usefixtures("folder")
def test_each_checkpoint_gets_the_result_that_analyze_gives_it() -> None:
    sweep = batch_of("runs", "out")
    assert [outcome.checkpoint for outcome in sweep.outcomes] == NAMES
    assert files(Path("out")) == [f"{name}.json" for name in NAMES]
    for name, result in zip(NAMES, sweep.results(), strict=True):
        assert same(result, analyze(f"runs/{name}"))
        assert result.checkpoint.weight_decay == float(name[3])


@pytest.mark.usefixtures("folder")
def test_the_files_say_the_schema_of_a_result_and_what_was_asked() -> None:
    batch_of("runs", "out", include=["wd_0/1.pth"])
    body = json.loads(Path("out/wd_0/1.pth.json").read_text())
    assert (body["schema"], list(body)[-1]) == ("nrc-probe/result/1", "ledger")
    assert len(body["ledger"]["fingerprint"]) == 64


@pytest.mark.usefixtures("folder")
def test_two_processes_find_what_one_finds_and_divide_the_threads() -> None:
    alone = {r.checkpoint.path: r for r in batch_of("runs", "alone").results()}
    sweep = batch_of("runs", "both", workers=2)
    assert states(sweep) == ["scored"] * 6
    assert [outcome.checkpoint for outcome in sweep.outcomes] == NAMES
    assert all(same(result, alone[result.checkpoint.path]) for result in sweep.results())
    assert files(Path("both")) == files(Path("alone"))


def test_names_that_differ_in_their_suffix_only_have_results_of_their_own(folder: Path) -> None:
    save_network(folder / "runs" / "wd_0" / "1.pt", a_network(9))
    batch_of("runs", "out", include=["wd_0/1.*"])
    assert files(Path("out")) == ["wd_0/1.pt.json", "wd_0/1.pth.json"]


@pytest.mark.usefixtures("folder")
def test_options_reach_every_result_and_exclude_layers_means_layers() -> None:
    sweep = batch_of("runs", "out", include="1.pth", exclude_layers="layers.0", limit=40, rank=1)
    assert len(sweep.outcomes) == 2
    for result in sweep.results():
        assert (result.settings.limit, result.settings.rank) == (40, 1)
        assert [layer.name for layer in result.layers] == ["layers.2", "layers.4"]


def test_the_nearest_configuration_counts_for_each_folder(folder: Path) -> None:
    save_data(folder / "runs" / "wd_1" / "other.npz", n=30)
    (folder / "runs/wd_1/nrc-probe.toml").write_text('[data]\npath = "other.npz"\n[score]\nrank = 1\n')
    results = {r.checkpoint.path: r for r in batch_of("runs", "out").results()}
    assert {results[f"runs/wd_0/{n}.pth"].data.n for n in (1, 2, 3)} == {60}
    assert {results[f"runs/wd_1/{n}.pth"].data.n for n in (1, 2, 3)} == {30}
    assert results["runs/wd_1/1.pth"].settings.rank == 1


def test_files_that_the_configuration_names_as_data_are_no_checkpoints(folder: Path) -> None:
    x = torch.randn(30, 5)
    save_file({"x": x, "y": x[:, :2].contiguous()}, folder / "runs" / "rows.safetensors")
    (folder / "runs/nrc-probe.toml").write_text('[data]\npath = "rows.safetensors"\n')
    assert [outcome.checkpoint for outcome in batch_of("runs", "out").outcomes] == NAMES


# ------------------------------------------------------------------------------ what is used again


@pytest.mark.usefixtures("folder")
def test_data_are_opened_and_read_once_and_networks_of_one_kind_built_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []

    def count(module: object, name: str) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: (calls.append(name), real(*args))[1])

    count(datasets, "read_contents")
    count(networks, "_build")
    sweep = batch_of("runs", "out")
    assert sorted(calls) == ["_build", "read_contents"]
    assert all(map(same, sweep.results(), [analyze(f"runs/{name}") for name in NAMES]))


@pytest.mark.usefixtures("folder")
def test_kept_rows_need_no_file_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    real = rows.rebatch
    monkeypatch.setattr(sources, "rebatch", lambda *args: (opened.append(args), real(*args))[1])
    batch_of("runs", "out", include=["wd_0/1.pth"])
    for_one = len(opened)
    opened.clear()
    batch_of("runs", "out2")
    assert len(opened) == for_one
    opened.clear()
    monkeypatch.setattr(scorer, "_KEPT_BYTES", 0)
    assert states(batch_of("runs", "out3")) == ["scored"] * 6
    assert len(opened) > for_one


@pytest.mark.parametrize("kept", [0, scorer._KEPT_BYTES])
def test_data_that_change_on_the_way_are_opened_again(
    folder: Path, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "_KEPT_BYTES", kept)
    data = folder / "runs/data.npz"
    first = hashlib.sha256(data.read_bytes()).hexdigest()

    def change(_outcome: Outcome, done: int, _total: int) -> None:
        if done == 1:
            arrays = dict(np.load(data))
            np.savez(data, **{**arrays, "y": arrays["y"] * 3 + 1})

    sweep = batch_of("runs", "out", include=["wd_0"], progress=change)
    second = hashlib.sha256(data.read_bytes()).hexdigest()
    results = list(sweep.results())
    assert [result.data.sha256 for result in results] == [first, second, second]
    assert all(map(same, results[1:], [analyze(f"runs/wd_0/{epoch}.pth") for epoch in (2, 3)]))


def test_networks_of_different_kinds_in_turn_score_as_each_does_alone(folder: Path) -> None:
    save_network(folder / "runs" / "wd_0" / "2.pth", a_network(2, width=12))
    save_network(folder / "runs" / "wd_0" / "3.pth", a_network(3).double())
    sweep = batch_of("runs", "out")
    assert all(map(same, sweep.results(), [analyze(f"runs/{name}") for name in NAMES]))


def test_a_network_that_writes_into_its_input_spoils_no_kept_rows(folder: Path) -> None:
    (folder / "inplace.py").write_text(
        "from torch import nn\n"
        "class Doubling(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x.mul_(2))\n"
        "def make():\n"
        "    return nn.Sequential(Doubling(5, 4), nn.Linear(4, 2))\n"
    )
    for epoch in (1, 2):
        torch.manual_seed(epoch)
        state = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2)).state_dict()
        torch.save(state, folder / "runs" / f"{epoch}.pt")
    sweep = batch_of("runs", "out", include=["?.pt"], model="inplace:make")
    alone = [analyze(f"runs/{n}.pt", model="inplace:make") for n in (1, 2)]
    assert all(map(same, sweep.results(), alone))


# ------------------------------------------------------------------------------------- going on


@pytest.mark.usefixtures("folder")
def test_what_is_done_is_left_as_it_is() -> None:
    batch_of("runs", "out", include=["wd_0"])
    before = {name: Path("out", name).read_bytes() for name in files(Path("out"))}
    sweep = batch_of("runs", "out")
    assert states(sweep) == ["unchanged"] * 3 + ["scored"] * 3
    assert {name: Path("out", name).read_bytes() for name in before} == before
    assert len(list(sweep.results())) == 6


@pytest.mark.parametrize(
    ("options", "again"),
    [
        ({}, False),
        ({"workers": 1, "batch_size": 7, "threads": 1, "device": "cpu"}, False),
        ({"data": "runs/data.npz"}, False),
        ({"force": True}, True),
        ({"limit": 50}, True),
        ({"rank": 1}, True),
        ({"thresholds": {"nrc1": 0.1}}, True),
        ({"activation": "tanh"}, True),
        ({"standardize": ["inputs"]}, True),
        ({"inputs": "x2"}, True),
        ({"heldout": "runs/data.npz"}, True),
        ({"exclude_layers": ["layers.2"]}, True),
    ],
)
def test_other_settings_are_another_question(folder: Path, options: dict[str, object], again: bool) -> None:
    save_data(folder / "runs" / "data.npz", x2=np.ones((60, 5)) * np.arange(60)[:, None])
    one = {"include": ["wd_0/1.pth"]}
    batch_of("runs", "out", **one)
    assert states(batch_of("runs", "out", **one, **options)) == ["scored" if again else "unchanged"]


def test_other_content_is_another_question_and_another_place_is_not(folder: Path) -> None:
    def done() -> list[str]:
        return states(batch_of("runs", "out", include=["wd_0/*.pth"]))

    assert done() == ["scored"] * 3
    save_network(folder / "runs/wd_0/2.pth", a_network(7))
    assert done() == ["unchanged", "scored", "unchanged"]
    (folder / "runs" / "data.npz").rename(folder / "runs" / "moved.npz")
    (folder / "runs" / "nrc-probe.toml").write_text('[data]\npath = "moved.npz"\n')
    assert done() == ["unchanged"] * 3
    save_data(folder / "runs" / "moved.npz", n=61)
    assert done() == ["scored"] * 3


def test_a_file_of_statistics_counts_by_what_it_says(folder: Path) -> None:
    def done() -> list[str]:
        sweep = batch_of("runs", "out", include=["wd_0/1.pth"], standardize="scales.npz")
        assert not sweep.failed
        return states(sweep)

    scales = {"x_mean": np.zeros(5), "x_std": np.ones(5)}
    np.savez(folder / "scales.npz", **scales)
    assert done() == ["scored"]
    assert done() == ["unchanged"]
    np.savez(folder / "scales.npz", **{**scales, "x_std": np.full(5, 2.0)})
    assert done() == ["scored"]


def test_a_file_of_statistics_among_the_checkpoints_is_none(folder: Path) -> None:
    scales = {"x_mean": torch.zeros(5), "x_std": torch.ones(5)}
    torch.save(scales, folder / "runs" / "wd_0" / "scales.pt")
    (folder / "runs" / "nrc-probe.toml").write_text(
        '[data]\npath = "data.npz"\nstandardize = "wd_0/scales.pt"\n'
    )
    sweep = batch_of("runs", "out", include=["wd_0/*"])
    assert states(sweep) == ["scored"] * 3


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema": "other"}', '{"ledger": {"fingerprint": "x"}}'])
def test_a_damaged_result_is_made_again(damage: str) -> None:
    batch_of("runs", "out", include=["wd_0/1.pth"])
    path = Path("out/wd_0/1.pth.json")
    whole = Result.from_json(path.read_text())
    path.write_text(damage or path.read_text()[:-200])
    assert states(batch_of("runs", "out", include=["wd_0/1.pth"])) == ["scored"]
    assert same(Result.from_json(path.read_text()), whole)


@pytest.mark.usefixtures("folder")
def test_a_pipe_or_a_device_in_a_result_s_place_is_read_by_nobody() -> None:
    Path("out/wd_0").mkdir(parents=True)
    os.mkfifo("out/wd_0/1.pth.json")
    Path("out/wd_0/2.pth.json").symlink_to("/dev/zero")
    sweep = batch_of("runs", "out", include=["wd_0"])
    assert states(sweep) == ["failed", "failed", "scored"]
    assert [
        "it is a pipe" in (sweep.outcomes[0].reason or ""),
        "it is a device" in (sweep.outcomes[1].reason or ""),
    ] == [True, True]


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(folder: Path) -> None:
    sweep = batch_of("runs", "out", dry_run=True)
    assert states(sweep) == ["to do"] * 6
    assert not Path("out").exists()
    batch_of("runs", "out", include=["wd_0"])
    (folder / "runs/wd_1/2.pth").write_bytes(b"")
    before = files(folder)
    sweep = batch_of("runs", "out", dry_run=True)
    assert states(sweep) == ["unchanged"] * 3 + ["to do"] * 3
    assert [outcome.reason is None for outcome in sweep.outcomes] == [True] * 4 + [False, True]
    assert files(folder) == before


@pytest.mark.usefixtures("folder")
def test_what_another_process_works_on_is_waited_for() -> None:
    Path("out/wd_0").mkdir(parents=True)
    claim = claims.take(ledger.claim_file(Path("out"), "wd_0/1.pth"))
    seen: list[tuple[str, str]] = []
    stream = io.StringIO()

    def on_the_way(outcome: Outcome, done: int, total: int) -> None:
        seen.append((outcome.checkpoint, outcome.state))
        with batch_progress_on(stream) as advance:
            advance(outcome, done, total)
        if done == total - 1:  # the other one finishes when all else is done
            claim.release()

    sweep = batch_of("runs", "out", progress=on_the_way)
    assert seen == [(NAMES[0], "taken"), *((name, "scored") for name in [*NAMES[1:], NAMES[0]])]
    assert stream.getvalue().startswith("0 of 6  wd_0/1.pth: another process works on it")
    assert [outcome.checkpoint for outcome in sweep.outcomes] == NAMES
    assert files(Path("out")) == [f"{name}.json" for name in NAMES]


# ---------------------------------------------------------------------------------- what is broken


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("exploded"),))


def break_ten(folder: Path) -> dict[str, str]:
    """Ten broken checkpoints, by name, and a word of the reason that each must get."""
    whole = save_network(folder / "whole.pth").read_bytes()
    safe = folder / "whole.safetensors"
    save_file(a_network(0).state_dict(), safe)
    state = a_network(0).state_dict()
    (folder / "02-truncated.pth").write_bytes(whole[: len(whole) // 2])
    (folder / "05-truncated.safetensors").write_bytes(safe.read_bytes()[:-10])
    torch.save({"model": state, "extra": Bomb()}, folder / "08-bomb.pt")
    (folder / "11-bomb.bin").write_bytes(pickle.dumps(Bomb()))
    torch.save(nn.Conv2d(3, 4, 3).state_dict(), folder / "14-architecture.pt")
    save_file(a_network(0, inputs=6).state_dict(), folder / "17-inputs.safetensors")
    save_file({**state, "2.weight": state["2.weight"] * math.nan}, folder / "20-nan.safetensors")
    (folder / "23-empty.ckpt").touch()
    (folder / "26-folder.pt").mkdir()
    (folder / "29-text.pth").write_text("not a checkpoint\n")
    (folder / "whole.pth").unlink()
    safe.unlink()
    return {
        "02-truncated.pth": "truncated",
        "05-truncated.safetensors": "truncated",
        "08-bomb.pt": "needs code",
        "11-bomb.bin": "pickle",
        "14-architecture.pt": "neither an MLP nor a ResNet",
        "17-inputs.safetensors": "cannot take the inputs",
        "20-nan.safetensors": "nan",
        "23-empty.ckpt": "0 bytes",
        "26-folder.pt": "got a folder",
        "29-text.pth": "text file",
    }


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_thirty_good_and_ten_broken_give_thirty_results_and_ten_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    good = [f"{number:02}.pth" for number in range(40) if number % 4]
    for number, name in enumerate(good):
        save_network(runs / name, a_network(number))
    broken = break_ten(runs)
    save_data(tmp_path / "data.npz")
    sweep = batch_of("runs", "out", "data.npz", workers=workers, limit=20)
    names = [outcome.checkpoint for outcome in sweep.outcomes]
    assert names == sorted(good + list(broken))
    assert [outcome.checkpoint for outcome in sweep.failed] == list(broken)
    assert len(list(sweep.results())) == len(good) == 30
    expected = [f"{name}.json" for name in good] + [f"{name}.failed.json" for name in broken]
    assert files(Path("out")) == sorted(expected)
    for outcome in sweep.failed:
        record = json.loads(outcome.place.read_text())
        assert record["schema"] == "nrc-probe/failure/1"
        assert record["checkpoint"] == f"runs/{outcome.checkpoint}"
        assert record["reason"] == outcome.reason
        assert broken[outcome.checkpoint] in outcome.reason
        assert "\n" not in outcome.reason
    assert not Path("exploded").exists()


def test_a_failure_is_tried_again_and_its_record_goes_when_it_succeeds(folder: Path) -> None:
    path = folder / "runs/wd_0/2.pth"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert states(batch_of("runs", "out")) == ["scored", "failed", *["scored"] * 4]
    assert states(batch_of("runs", "out")) == ["unchanged", "failed", *["unchanged"] * 4]
    path.write_bytes(whole)
    assert states(batch_of("runs", "out")) == ["unchanged", "scored", *["unchanged"] * 4]
    assert files(Path("out")) == [f"{name}.json" for name in NAMES]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("error", "words"), [(MemoryError(), "MemoryError"), (SystemExit("bye"), "SystemExit: bye")]
)
def test_an_error_of_ours_or_of_the_machine_costs_one_checkpoint(
    error: BaseException, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = scorer.analyze_subject

    def fails_once(subject: object, *rest: object) -> object:
        if subject.facts.epoch == 7 and subject.facts.path.endswith("wd_0/2.pth"):
            raise error
        return real(subject, *rest)

    monkeypatch.setattr(scorer, "analyze_subject", fails_once)
    sweep = batch_of("runs", "out")
    assert [(outcome.checkpoint, outcome.reason) for outcome in sweep.failed] == [("wd_0/2.pth", words)]
    assert not list(Path("out").rglob(".*"))


@pytest.mark.usefixtures("folder")
def test_a_process_that_died_after_it_wrote_its_result_has_done_its_work() -> None:
    own = scorer.Scorer(scorer.Errand(Path("runs"), Path("out"), None, {}))
    name = "wd_0/1.pth"
    nothing = own.version(name)
    assert own.bury(name, "killed", nothing).state == "failed"
    assert files(Path("out")) == [f"{name}.failed.json"]
    batch_of("runs", "out", include=[name])
    assert own.bury(name, "killed", nothing).state == "scored"
    assert own.bury(name, "killed", own.version(name)).reason == "killed"  # what was there before is no proof


@pytest.mark.usefixtures("folder")
def test_a_place_that_cannot_be_written_fails_its_checkpoint_alone() -> None:
    Path("out").mkdir()
    Path("out/wd_0").write_text("in the way")
    sweep = batch_of("runs", "out")
    assert states(sweep) == ["failed"] * 3 + ["scored"] * 3
    assert "cannot write 'out/wd_0/.1.pth.lock'" in sweep.outcomes[0].reason


@pytest.mark.usefixtures("folder")
def test_a_folder_in_the_place_of_a_failure_s_record_makes_no_result_bad() -> None:
    Path("out/wd_0/1.pth.failed.json").mkdir(parents=True)
    assert states(batch_of("runs", "out", include=["wd_0/1.pth"])) == ["scored"]
    assert states(batch_of("runs", "out", include=["wd_0/1.pth"])) == ["unchanged"]


def test_a_link_to_itself_fails_as_one_checkpoint_and_the_rest_is_scored(folder: Path) -> None:
    (folder / "runs/wd_0/x.pt").symlink_to("x.pt")
    sweep = batch_of("runs", "out", include="wd_0")
    assert states(sweep) == ["scored"] * 3 + ["failed"]
    assert "Too many levels of symbolic links" in str(sweep.outcomes[3].reason)


def test_a_name_that_leaves_no_room_for_a_suffix_fails_its_checkpoint_alone(folder: Path) -> None:
    for length in (200, 246, 250, 255):
        save_network(folder / "runs" / "wd_0" / ("n" * (length - 4) + ".pth"), a_network(1))
    sweep = batch_of("runs", "out")
    assert len(sweep.failed) == 3
    assert all("File name too long" in outcome.reason for outcome in sweep.failed)
    assert not list(Path("out").rglob(".*"))


@pytest.mark.usefixtures("folder")
def test_a_result_is_written_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    sweep = batch_of("runs", "out", include=["wd_0/1.pth"])
    assert "No space left" in sweep.failed[0].reason
    assert files(Path("out")) == []


@pytest.mark.usefixtures("folder")
def test_a_temporary_file_bears_the_mark_of_the_claim_it_was_written_under(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, seen = Path.replace, []

    def replace(temporary: Path, target: Path) -> Path:
        owner = json.loads(ledger.claim_file(Path("out"), "wd_0/1.pth").read_text())
        seen.append(temporary in temporary.parent.glob(f".*.{owner['token']}.*.tmp"))
        return real(temporary, target)

    monkeypatch.setattr(Path, "replace", replace)
    batch_of("runs", "out", include=["wd_0/1.pth"])
    Path("runs/wd_0/1.pth").write_bytes(b"")
    batch_of("runs", "out", include=["wd_0/1.pth"])
    assert seen == [True, True]  # a result's and a failure's


def test_a_name_that_is_no_text_is_scored_as_well(folder: Path) -> None:
    (folder / "runs/wd_0/1.pth").rename(folder / "runs/wd_0" / os.fsdecode(b"\xff.pth"))
    sweep = batch_of("runs", "out", include=["wd_0"])
    assert states(sweep) == ["scored"] * 3
    assert len(list(sweep.results())) == 3
    assert any("\\udcff.pth" in line for line in shown(sweep))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "options", "kind", "words"),
    [
        (("none", "out"), {}, CheckpointError, "none: expected a folder"),
        (("runs", "out"), {"include": ["*.nope"]}, CheckpointError, "no checkpoints below it with these"),
        (("runs", "runs/data.npz"), {}, OutputError, "it is no folder"),
        (("runs", "out"), {"rank": -1}, ConfigError, "rank must be"),
        (("runs", "out"), {"device": "tpu9"}, ConfigError, "tpu9"),
        (("runs", "out"), {"workers": 0}, ConfigError, "workers must be an integer from 1"),
        (("runs", "out"), {"ranc": 1}, ConfigError, "no option 'ranc'"),
        (("runs", "out", [(1, 2)]), {}, ConfigError, "batch takes data from a file"),
        (("runs", "out"), {"heldout": ([1], [2])}, ConfigError, "batch takes heldout from a file"),
        (("runs", "out"), {"model_options": {"f": lambda: 0}}, ConfigError, "made of texts"),
        (("runs", "out"), {"config": "none.toml"}, ConfigError, "none.toml"),
    ],
)
def test_what_can_work_for_no_checkpoint_is_said_at_once(
    arguments: tuple[object, ...], options: dict[str, object], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words.replace("(", r"\(")):
        batch_of(*arguments, **options)
    assert not Path("out").exists()


@pytest.mark.usefixtures("folder")
def test_an_exclude_pattern_that_means_nothing_is_warned_about() -> None:
    sweep = batch_of("runs", "out", dry_run=True, exclude=["wd_0", "layers.2"])
    assert len(sweep.outcomes) == 3
    assert sweep.warnings == (
        "--exclude 'layers.2' matches no checkpoint (layers are left out by --exclude-layers)",
    )


# ------------------------------------------------------------------------------------ what is shown


def shown(sweep: Sweep, width: int = 80) -> list[str]:
    text = io.StringIO()
    print_sweep(sweep, Console(file=text, width=width, highlight=False, markup=False, emoji=False))
    return text.getvalue().splitlines()


def test_the_table_has_a_row_a_checkpoint_and_fits_its_width(folder: Path) -> None:
    long = "a-name-that-does-not-fit-beside-its-numbers-" * 2 + ".pth"
    save_network(folder / "runs" / "wd_0" / long, a_network(1))
    (folder / "runs/wd_1/3.pth").write_bytes(b"")
    sweep = batch_of("runs", "out")
    for width in (40, 80, 200):
        lines = shown(sweep, width)
        assert max(map(len, lines)) <= max(width, 70)
        text = "".join(line.strip() for line in lines)
        assert long in text
        assert all(name in text for name in NAMES) or [line for line in lines if line.endswith("/")] == [
            " wd_0/",
            " wd_1/",
        ]
    lines = shown(sweep)
    assert max(map(len, lines)) <= 80
    row = next(line.split() for line in lines if " 1.pth " in line)
    result = analyze("runs/wd_0/1.pth")
    assert row[1:5] == ["scored", "7", "0", f"{result.model_r2:.4f}"]
    assert "  - wd_1/3.pth: the file is empty (0 bytes); save or copy it again" in lines
    assert lines[-1] == "6 scored, 1 failed; results in out"


def test_into_a_pipe_goes_a_line_a_checkpoint(folder: Path) -> None:
    (folder / "runs/wd_1/2.pth").write_bytes(b"")
    stream = io.StringIO()
    batch_of("runs", "out", include=["wd_0/1.pth"])
    with batch_progress_on(stream) as advance:
        batch_of("runs", "out", progress=advance)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("1 of 6  wd_0/1.pth: done already")
    assert lines[1].startswith("2 of 6  wd_0/2.pth: scored in ")
    assert lines[4].startswith("5 of 6  wd_1/2.pth: failed: the file is empty")
    assert "; about " in lines[1]


def clocked(stream: io.StringIO, story: list[tuple[str, float]], monkeypatch: pytest.MonkeyPatch) -> str:
    """What goes to `stream` of checkpoints that end in these states, each so many seconds after another."""
    now = [0.0]
    monkeypatch.setattr("nrc_probe.sweep.terminal.time.monotonic", lambda: now[0])
    with batch_progress_on(stream) as advance:
        for place, (state, seconds) in enumerate(story, 1):
            now[0] += seconds
            advance(Outcome(f"{place}.pth", state, Path("x")), place, 100)
    return stream.getvalue()


def test_what_was_done_before_takes_no_part_in_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    story = [("unchanged", 1.0)] * 60 + [("scored", 2.0), ("unchanged", 1.0), ("scored", 4.0)]
    lines = clocked(io.StringIO(), story, monkeypatch).splitlines()
    assert not any("left" in line for line in lines[:60])
    assert [line.rpartition("; ")[2] for line in lines[60:]] == [
        "about 78 s left",  # 39 of 2 s
        "about 76 s left",
        "about 2 min left",  # 37 of 3 s
    ]


def test_the_bar_tells_the_same_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "100")
    said = clocked(Terminal(), [("unchanged", 1.0)] * 60 + [("scored", 2.0)], monkeypatch)
    assert "about 78 s left" in said


def test_on_a_terminal_goes_a_bar_and_what_failed(folder: Path) -> None:
    (folder / "runs/wd_1/2.pth").write_bytes(b"")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with batch_progress_on(stream) as advance:
        batch_of("runs", "out", progress=advance)
    assert "wd_1/2.pth: failed: the file is empty" in stream.getvalue()
    assert "6/6" in stream.getvalue()


def test_names_from_files_steer_no_terminal(folder: Path) -> None:
    (folder / "runs" / "\x1b[31mred.pth").write_bytes(b"")
    stream = io.StringIO()
    with batch_progress_on(stream) as advance:
        sweep = batch_of("runs", "out", include=["*red*"], progress=advance)
    assert "\x1b" not in stream.getvalue() + "".join(shown(sweep))


def test_the_public_names_are_the_package_s() -> None:
    assert nrc_probe.batch is batch_of


@pytest.mark.parametrize("path", ['"a\\u0000b.npz"', '"~nobody-there/x.npz"'])
def test_a_path_that_no_file_can_have_costs_its_checkpoints_alone(path: str, folder: Path) -> None:
    (folder / "runs/wd_0/nrc-probe.toml").write_text(f"[data]\npath = {path}\n")
    assert states(batch_of("runs", "out")) == ["failed"] * 3 + ["scored"] * 3


def test_a_result_that_is_a_link_to_a_file_of_another_kind_is_not_written_through(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / "out/wd_0").mkdir(parents=True)
    for name in ("1.pth.json", "2.pth.failed.json"):
        (folder / "out/wd_0" / name).symlink_to(folder / "notes.txt")
    (folder / "runs/wd_0/2.pth").write_bytes(b"")
    sweep = batch_of("runs", "out")
    assert states(sweep) == ["failed", "failed", *["scored"] * 4]
    assert all("it is a link to '" in outcome.reason for outcome in sweep.failed)
    assert (folder / "notes.txt").read_text() == "mine"


def test_where_a_system_cannot_say_which_cores_are_ours_all_of_them_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert sweeps._cores() == 1


@pytest.mark.usefixtures("folder")
def test_in_another_thread_ctrl_c_stays_what_it_is() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def look() -> None:
        batch_of("runs", "out", progress=lambda *_: seen.append(signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before] * 6


@pytest.mark.usefixtures("folder")
def test_a_second_interruption_ends_at_once() -> None:
    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        batch_of("runs", "out", progress=interrupt)
    assert not isinstance(caught.value, Interrupted)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not list(Path("out").rglob(".*"))


@pytest.mark.usefixtures("folder")
def test_an_interruption_lets_the_running_checkpoint_finish() -> None:
    words = r"interrupted after 1 of 6 checkpoints"
    with pytest.raises(Interrupted, match=words):
        batch_of("runs", "out", progress=lambda *_: signal.raise_signal(signal.SIGINT))
    assert len(files(Path("out"))) == 1


@pytest.mark.usefixtures("folder")
def test_a_checkpoint_that_another_holds_for_a_while_is_told_of_once() -> None:
    held = ledger.claim_file(Path("out"), "wd_0/1.pth")
    held.parent.mkdir(parents=True)
    claim = claims.take(held)
    assert claim
    told: list[str] = []

    def progress(outcome: Outcome, *_: int) -> None:
        told.append(outcome.state)
        if told.count("scored") == 5:
            threading.Timer(0.5, claim.release).start()

    sweep = batch_of("runs", "out", progress=progress)
    assert states(sweep) == ["scored"] * 6
    assert told.count("taken") == 1
    assert not held.exists()


@pytest.mark.usefixtures("folder")
def test_an_output_folder_that_may_not_be_written_to_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(
        OutputError, match=r"cannot write below 'out': it is not writable \(name another folder\)"
    ):
        batch_of("runs", "out")
