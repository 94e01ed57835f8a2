"""Who wins where options, nrc-probe.toml, metadata and inference disagree; whose code may run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from runs import save_data, save_network, small_network

from nrc_probe import analyze, save_checkpoint
from nrc_probe.assembly import Options, open_data, open_subject
from nrc_probe.config import Config
from nrc_probe.errors import CodeRefusedError, ConfigError, DataError, ProbeError
from nrc_probe.settings import read_running, read_settings

FACTORY = """
import torch
from pathlib import Path
from torch import nn

def net(width=8):
    Path("ran").touch()
    layers = [nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, 2)]
    return nn.ModuleDict({"layers": nn.Sequential(*layers)})["layers"]

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = net()

    def forward(self, x):
        return self.layers(x)

def rows(n=12):
    Path("ran").touch()
    return [(torch.ones(n, 5), torch.arange(2.0 * n).reshape(n, 2))]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `run/net.pth`, `data.npz` and a module of factories."""
    save_network(tmp_path / "run" / "net.pth")
    save_data(tmp_path / "data.npz")
    (tmp_path / "made_here.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configure(folder: Path, text: str) -> None:
    (folder / "nrc-probe.toml").write_text(text)


def settings_of(**options: object) -> object:
    return read_settings(open_subject("run/net.pth", options).config)


def data_of(data: object = None, checkpoint: str = "run/net.pth", **options: object) -> object:
    subject = open_subject(checkpoint, options, data)
    return open_data(subject, data, options)[0]


# ------------------------------------------------------------------------------------ who wins


def test_an_option_wins_over_the_configuration_and_that_over_the_default(folder: Path) -> None:
    configure(folder, "[score]\nrank = 2\nrcond = 0.01\nthresholds = {nrc1 = 0.3, nrc2 = 0.5}\n")
    found = settings_of(rank=1, thresholds={"nrc1": 0.4})
    assert (found.rank, found.rcond, found.pooling) == (1, 0.01, "mean")
    assert (found.thresholds.nrc1, found.thresholds.nrc2, found.thresholds.nrc3) == (0.4, 0.5, 0.7)


def test_the_configuration_wins_over_the_metadata_and_that_over_inference(folder: Path) -> None:
    network = small_network()
    network[1] = network[3] = torch.nn.Tanh()
    save_checkpoint(network, folder / "m.safetensors", data=folder / "data.npz")
    assert "tanh" in open_subject("m.safetensors", {}).network.summary.lower()
    configure(folder, "[model.options]\nactivation = 'gelu'")
    assert "gelu" in open_subject("m.safetensors", {}).network.summary.lower()
    assert "silu" in open_subject("m.safetensors", {"activation": "silu"}).network.summary.lower()
    (folder / "nrc-probe.toml").unlink()
    assert "relu" in open_subject("run/net.pth", {}).network.summary.lower()


def test_the_data_of_the_metadata_give_way_to_the_configuration_s_and_these_to_the_option_s(
    folder: Path,
) -> None:
    save_checkpoint(small_network(), folder / "m.safetensors", data=folder / "data.npz")
    save_data(folder / "second.npz", 20)
    save_data(folder / "third.npz", 30)
    assert data_of(checkpoint="m.safetensors").n == 60
    configure(folder, "[data]\npath = 'second.npz'")
    assert data_of(checkpoint="m.safetensors").n == 20
    assert data_of("third.npz", checkpoint="m.safetensors").n == 30


def test_data_of_another_path_keep_the_names_of_inputs_and_targets(folder: Path) -> None:
    arrays = {"state": np.ones((9, 5)), "move": np.arange(18.0).reshape(9, 2)}
    np.savez(folder / "other.npz", **arrays)
    configure(
        folder,
        "[data]\npath = 'data.npz'\ninputs = 'state'\ntargets = 'move'\nstandardize = 'targets'",
    )
    found = data_of("other.npz")
    assert (found.n, found.standardized) == (9, ("targets",))
    with pytest.raises(DataError, match=r"data\.npz: has no array 'state'"):
        data_of()


def test_a_configuration_that_is_given_is_read_instead_of_the_one_found(folder: Path) -> None:
    configure(folder, "[score]\nrank = 2")
    (folder / "mine.toml").write_text("[score]\nrcond = 0.5")
    found = settings_of(config="mine.toml")
    assert (found.rank, found.rcond) == ("target", 0.5)


def test_paths_of_a_configuration_are_relative_to_it_and_shown_from_here(folder: Path) -> None:
    (folder / "run" / "nrc-probe.toml").write_text("[data]\npath = '../data.npz'")
    assert data_of().path == "run/../data.npz"
    (folder / "run" / "nrc-probe.toml").unlink()
    configure(folder, "[data]\npath = 'data.npz'")
    assert data_of().path == "data.npz"


def test_paths_are_absolute_where_the_configuration_lies_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(folder, "[data]\npath = 'data.npz'")
    monkeypatch.chdir(folder / "run")
    assert data_of(checkpoint="net.pth").path == str(folder / "data.npz")


def test_files_named_by_options_are_relative_to_the_current_folder(folder: Path) -> None:
    (folder / "run" / "nrc-probe.toml").write_text("[data]\npath = '../data.npz'")
    np.savez(folder / "stats.npz", y_mean=np.zeros(2), y_std=np.ones(2))
    assert data_of(standardize="stats.npz").standardized == ("targets",)
    np.save(folder / "x.npy", np.ones((6, 5), np.float32))
    np.save(folder / "y.npy", np.ones((6, 2), np.float32))
    assert data_of("x.npy", targets="y.npy").n == 6


@pytest.mark.parametrize("word", ["targets", ["targets"], ("targets",)])
def test_one_thing_to_standardise_may_be_a_word_or_a_list(word: object, folder: Path) -> None:
    assert data_of(folder / "data.npz", standardize=word).standardized == ("targets",)


def test_heldout_rows_are_prepared_as_the_data_are(folder: Path) -> None:
    save_data(folder / "test.npz", 10)
    options: Options = {"standardize": ["targets"], "heldout": "test.npz"}
    subject = open_subject("run/net.pth", options, "data.npz")
    training, heldout = open_data(subject, "data.npz", options)
    assert (heldout.n, heldout.standardized) == (10, ("targets",))
    assert torch.equal(heldout.statistics.targets[0], training.statistics.targets[0])


def test_a_factory_s_options_do_not_reach_a_heldout_file(folder: Path) -> None:
    save_data(folder / "test.npz", 10)
    options: Options = {"data_options": {"n": 14}, "heldout": "test.npz"}
    subject = open_subject("run/net.pth", options, "made_here:rows")
    training, heldout = open_data(subject, "made_here:rows", options)
    assert (training.n, heldout.n) == (14, 10)


@pytest.mark.usefixtures("folder")
def test_options_of_a_factory_need_a_factory() -> None:
    pair = (torch.zeros(3, 5), torch.zeros(3, 2))
    with pytest.raises(
        ConfigError, match=r"options for the data \(n\) need .* got live data: leave them out"
    ):
        analyze("run/net.pth", pair, data_options={"n": 3})


def test_live_heldout_rows_are_taken_as_they_are(folder: Path) -> None:
    pair = (torch.ones(3, 5), torch.ones(3, 2))
    subject = open_subject("run/net.pth", {"heldout": pair}, folder / "data.npz")
    assert open_data(subject, folder / "data.npz", {"heldout": pair})[1].n == 3


# ------------------------------------------------------------------------------ whose code runs


MODEL = "[model]\narchitecture = 'made_here:Net'\n[data]\npath = 'data.npz'"
DATA = "[data]\npath = 'made_here:rows'\n[data.options]\nn = 15"


@pytest.mark.parametrize(("text", "name"), [(MODEL, "made_here:Net"), (DATA, "made_here:rows")])
def test_a_factory_of_a_found_configuration_runs_only_if_allowed(text: str, name: str, folder: Path) -> None:
    configure(folder, text)
    with pytest.raises(CodeRefusedError, match=f"^'{name}' would run code .* add --allow-code$"):
        analyze("run/net.pth")
    assert not (folder / "ran").exists()
    assert len(analyze("run/net.pth", allow_code=True).layers) == 3
    assert (folder / "ran").exists()


@pytest.mark.parametrize("text", [MODEL, DATA])
def test_a_factory_of_a_given_configuration_runs(text: str, folder: Path) -> None:
    (folder / "mine.toml").write_text(text)
    assert len(analyze("run/net.pth", config="mine.toml").layers) == 3
    assert (folder / "ran").exists()


@pytest.mark.usefixtures("folder")
def test_a_factory_that_is_an_option_runs() -> None:
    result = analyze("run/net.pth", "made_here:rows", data_options={"n": 14}, model="made_here:Net")
    assert (result.data.path, result.data.n) == ("made_here:rows", 14)
    assert result.model.source == "factory"


def test_another_option_does_not_make_a_found_factory_trusted(folder: Path) -> None:
    configure(folder, DATA)
    with pytest.raises(CodeRefusedError, match="'made_here:rows' would run code"):
        analyze("run/net.pth", inputs="x", data_options={"n": 3}, standardize=["targets"])
    configure(folder, MODEL)
    with pytest.raises(CodeRefusedError, match="'made_here:Net' would run code"):
        analyze("run/net.pth", "data.npz", model_options={"width": 8})
    assert not (folder / "ran").exists()


def test_a_factory_of_a_checkpoint_s_metadata_runs_only_if_allowed(folder: Path) -> None:
    save_checkpoint(small_network(), folder / "m.safetensors", architecture="made_here:net", data="data.npz")
    with pytest.raises(CodeRefusedError, match="'made_here:net' would run code"):
        analyze("m.safetensors")
    assert not (folder / "ran").exists()
    assert analyze("m.safetensors", allow_code=True).model.source == "factory"


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "meant"), [("zzz", None), ("exlude", "exclude"), ("batchsize", "batch_size")]
)
def test_an_unknown_option_gets_the_one_that_was_meant(name: str, meant: str | None, folder: Path) -> None:
    hint = rf"; did you mean '{meant}'\?" if meant else ""
    with pytest.raises(ConfigError, match=f"^analyze has no option '{name}'{hint}$"):
        analyze(folder / "run" / "net.pth", **{name: 1})


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("rank", True, "rank must be 'target', 'auto' or an integer from 1 to 2147483647, got True"),
        ("rank", 2.0, "rank must be 'target', 'auto' or an integer from 1 to 2147483647, got 2.0"),
        ("rcond", "small", "rcond must be a number from 0 to below 1, got 'small'"),
        ("pooling", "avg", "pooling must be one of mean, max, flatten, tokens, first, last"),
        ("precision", "half", "precision must be one of exact, fast; got 'half'"),
        ("limit", 1.5, "limit must be an integer from 1 to 2147483647, got 1.5"),
        ("thresholds", {"nrc1": "low"}, "threshold nrc1 must be a number, got 'low'"),
        ("thresholds", {"nrc9": 1.0}, "threshold 'nrc9' is unknown; there are: nrc1, nrc2, nrc3"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(option: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(Config(score={option: value}))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("device", "tpu", "device 'tpu' is unknown; there are: auto, cuda, mps, cpu"),
        ("device", "meta", "device 'meta' is not available; here there is: "),
        ("device", "cuda:4096", "device 'cuda:4096' is not available; here there is: "),
        ("batch_size", 0, "batch_size must be an integer from 1 to 2147483647, got 0"),
        ("threads", 2000, "threads must be an integer from 1 to 1024, got 2000"),
    ],
)
def test_a_way_of_running_that_is_not_there_is_refused(option: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_running(Config(score={option: value}))
    assert str(caught.value).startswith(message)


def test_nothing_said_about_running_leaves_the_choice_open() -> None:
    running = read_running(Config())
    assert (running.batch_size, running.threads) == (None, None)
    assert read_running(Config(score={"device": "cpu"})).device == torch.device("cpu")


# --------------------------------------------------------------------------- options of a wrong type


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("data_options", 1, "a mapping from names, got 1"),
        ("model_options", [1], "a mapping from names, got [1]"),
        ("thresholds", {1: 2.0}, "a mapping from names, got {1: 2.0}"),
        ("model", None.__class__, "a text, got <class 'NoneType'>"),
        ("activation", b"relu", "a text, got b'relu'"),
        ("inputs", 3, "a text or a list of texts, got 3"),
        ("targets", [0, 1], "a text or a list of texts, got [0, 1]"),
        ("standardize", True, "a text or a list of texts, got True"),
        ("layers", {"a": 1}, "a text or a list of texts, got {'a': 1}"),
        ("exclude", list(range(99)), "a text or a list of texts, got a list"),
        ("allow_code", "yes", "True or False, got 'yes'"),
        ("unsafe_pickle", 1, "True or False, got 1"),
        ("config", 1, "a path, got 1"),
    ],
)
def test_an_option_of_a_wrong_type_is_refused_by_name(option: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_subject(small_network(), {option: value})
    assert str(caught.value) == f"option '{option}': expected {expected}"


@pytest.mark.parametrize("name", sorted(Options.__annotations__))
def test_no_option_of_a_strange_type_ends_in_anything_but_a_line(name: str, tmp_path: Path) -> None:
    save_network(tmp_path / "net.pth")
    pair = (np.zeros((4, 5)), np.zeros((4, 2)))
    for value in (object(), 1j, -1, b"x", [[1]], {1: 2}, lambda: 1):
        with pytest.raises(ProbeError) as caught:
            analyze(tmp_path / "net.pth", pair, **{name: value})
        assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"expected a checkpoint's path or a .*Module to analyze, got a dict"
    ):
        open_subject({"weight": torch.zeros(1)}, {})


def test_columns_may_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_network(tmp_path / "net.pth")
    (tmp_path / "d.csv").write_text("a,b,c,d,e,f,g\n" + "1,2,3,4,5,6,7\n" * 3)
    (tmp_path / "nrc-probe.toml").write_text(
        '[data]\npath = "d.csv"\ninputs = ["a", "c:f"]\ntargets = ["f", "g"]'.replace("c:f", "1:5")
    )
    listed = open_data(open_subject("net.pth", {}), None, {})[0]
    (inputs, targets), *_ = listed.batches(3)
    assert inputs[0].tolist() == [1, 2, 3, 4, 5]
    assert targets[0].tolist() == [6, 7]
    options = {"inputs": ["0:4", "e"], "targets": ("g", "f")}
    (inputs, targets), *_ = open_data(open_subject("net.pth", options), None, options)[0].batches(3)
    assert inputs[0].tolist() == [1, 2, 3, 4, 5]
    assert targets[0].tolist() == [7, 6]


def test_held_out_arrays_may_have_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_network(tmp_path / "net.pth")
    save_data(tmp_path / "train.npz")
    with np.load("train.npz") as arrays:
        np.savez("test.npz", a=arrays["x"][:7], b=arrays["y"][:7])
    named = {"heldout_inputs": "a", "heldout_targets": "b", "inputs": "x"}
    result = analyze("net.pth", "train.npz", heldout="test.npz", **named)
    assert (result.data.n, result.heldout.data.n) == (60, 7)
    with pytest.raises(DataError, match=r"test\.npz: has no array 'x'"):
        analyze("net.pth", "train.npz", heldout="test.npz", inputs="x")


# ------------------------------------------------------------------------------ who named the arrays


def test_an_array_that_a_found_file_names_is_missed_with_that_file_s_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_network(tmp_path / "run" / "net.pth")
    save_data(tmp_path / "other.npz", obs=np.zeros((60, 5)))
    toml = tmp_path / "run" / "nrc-probe.toml"
    toml.write_text('[data]\npath = "train.npz"\ninputs = "states"\ntargets = "y"')

    def missed(**options: str) -> str:
        with pytest.raises(DataError) as caught:
            open_data(open_subject("run/net.pth", options, "other.npz"), "other.npz", options)
        return str(caught.value)

    said = " (what --inputs and --targets do not say, run/nrc-probe.toml does)"
    assert missed().startswith("other.npz: has no array 'states'; it has ")
    assert missed().endswith(said)
    assert missed(targets="z").endswith(said)
    assert "nrc-probe.toml" not in missed(inputs="a", targets="b")
    toml.write_text('[data]\npath = "train.npz"')
    assert "nrc-probe.toml" not in missed(inputs="a")


def test_a_result_says_which_configuration_it_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_network(tmp_path / "run" / "deep" / "net.pth")
    save_data(tmp_path / "run" / "train.npz")
    (tmp_path / "run" / "nrc-probe.toml").write_text('[data]\npath = "train.npz"')
    assert analyze("run/deep/net.pth").provenance.config == "run/nrc-probe.toml"
    (tmp_path / "run" / "nrc-probe.toml").rename("other.toml")
    given = analyze("run/deep/net.pth", "run/train.npz", config="other.toml")
    assert given.provenance.config == "other.toml"
    assert analyze("run/deep/net.pth", "run/train.npz").provenance.config is None
