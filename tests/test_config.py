"""The nearest file is found, every key checked, what is said above wins, trust is not passed on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nrc_probe.checkpoint import Checkpoint
from nrc_probe.config import Config, find_config, overlay, read_config, read_metadata
from nrc_probe.errors import ConfigError
from nrc_probe.spec import DataSpec, ModelSpec

WHOLE = """
[model]
architecture = "mlp"
[model.options]
activation = "relu"
[data]
path = "train.npz"
inputs = "x"
targets = "y"
standardize = ["inputs", "targets"]
[heldout]
path = "test.npz"
inputs = "x2"
[score]
rank = "auto"
rcond = 1e-6
pooling = "mean"
precision = "fast"
exclude = ["conv1", "*downsample*"]
max-width = 4096
batch-size = 256
state-key = "ema"
[score.thresholds]
nrc1 = 0.05
nrc4_ratio = 2
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "nrc-probe.toml"
    path.write_text(text)
    return path


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, WHOLE), trusted=True)
    assert config.model == ModelSpec("mlp", {"activation": "relu"}, True, tmp_path)
    assert config.data == DataSpec(
        "train.npz", "x", "y", ("inputs", "targets"), trusted=True, folder=tmp_path
    )
    assert config.score == {
        "rank": "auto",
        "rcond": 1e-6,
        "pooling": "mean",
        "precision": "fast",
        "exclude": ("conv1", "*downsample*"),
        "max_width": 4096,
        "batch_size": 256,
        "state_key": "ema",
        "thresholds": {"nrc1": 0.05, "nrc4_ratio": 2},
    }
    assert config.path == tmp_path / "nrc-probe.toml"


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, ""), trusted=False)
    assert (config.model.architecture, config.data.path, config.score) == (None, None, {})


def test_held_out_data_are_read_as_the_training_data_where_nothing_else_is_said(
    tmp_path: Path,
) -> None:
    heldout = read_config(write(tmp_path, WHOLE), trusted=False).held_out()
    assert heldout == DataSpec("test.npz", "x2", "y", ("inputs", "targets"), folder=tmp_path)


def test_without_a_held_out_path_there_are_no_held_out_data(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, '[data]\npath = "d.npz"\n[heldout]\n'), trusted=False)
    assert config.held_out() is None


def test_an_option_about_the_data_reaches_the_held_out_data_but_not_what_they_say_themselves(
    tmp_path: Path,
) -> None:
    lower = read_config(write(tmp_path, WHOLE), trusted=False)
    both = overlay(Config(data=DataSpec(inputs="z", targets="t")), lower).held_out()
    assert both is not None
    assert (both.inputs, both.targets) == ("x2", "t")


def test_held_out_data_can_be_left_unstandardised(tmp_path: Path) -> None:
    text = WHOLE.replace('inputs = "x2"', "standardize = []")
    heldout = read_config(write(tmp_path, text), trusted=False).held_out()
    assert heldout is not None
    assert heldout.standardize == ()


def test_the_nearest_file_above_a_checkpoint_is_found(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert find_config(below / "c.pt") is None
    far = write(tmp_path, "")
    assert find_config(below / "c.pt") == far
    near = write(below, "")
    assert find_config(below / "c.pt") == near
    assert find_config(below) == near


def test_files_of_statistics_and_targets_lie_beside_the_file_that_names_them(
    tmp_path: Path,
) -> None:
    text = '[data]\npath = "x.npy"\ntargets = "y.npy"\nstandardize = "s.npz"'
    lower = read_config(write(tmp_path, text), trusted=False)
    data = overlay(Config(data=DataSpec("other.npy", folder=Path("elsewhere"))), lower).data
    assert data.path == "other.npy"
    assert data.targets == str(tmp_path / "y.npy")
    assert data.standardize == str(tmp_path / "s.npz")


def test_one_role_may_be_standardised_by_its_name(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, '[data]\nstandardize = "targets"'), trusted=False)
    assert config.data.standardize == ("targets",)


ERRORS = {
    "[modle]\n": r"no table 'modle'; did you mean 'model'\? \(it takes model, data, score",
    "[data]\npth = 'a'": r"\[data\]: no key 'pth'; did you mean 'path'\? \(it takes path, inputs,",
    "[score]\nmax-wdth = 3": r"\[score\]: no key 'max_wdth'; did you mean 'max_width'\?",
    "[score]\nzzz = 3": r"\[score\]: no key 'zzz' \(it takes rank, rcond, pooling,",
    "[score.thresholds]\nnrc5 = 1": r"\[score.thresholds\]: no key 'nrc5'; did you mean 'nrc",
    "[score.thresholds]\nnrc1 = 'a'": r'\[score.thresholds\] nrc1 = "a": expected a number',
    "[score]\nrank = 0": r'\[score\] rank = 0: expected "target", "auto" or a whole number above 0',
    "[score]\nrank = true": r"\[score\] rank = true: expected",
    "[score]\nrcond = 1.0": r"\[score\] rcond = 1.0: expected 0, or a number between 0 and 1",
    "[score]\npooling = 'min'": r'pooling = "min": expected one of mean, max, flatten, tokens',
    "[score]\nprecision = 'double'": r'precision = "double": expected one of exact, fast',
    "[score]\nlayers = 'fc1'": r'layers = "fc1": expected a list of texts',
    "[score]\nlayers = [1]": r"layers = \[1\]: expected a list of texts",
    "[score]\nlimit = 1.5": r"limit = 1.5: expected a whole number above 0",
    "[score]\nlimit = 2024-01-01": r'limit = "2024-01-01": expected a whole number',
    "[score]\nmax-width = 1\nmax_width = 2": r"\[score\] says max_width twice, with - and with _",
    "[data]\nstandardize = ['x']": r'standardize = \["x"\]: expected \["inputs", "targets"\], one',
    "[data]\nimages = 'nwhc'": r'images = "nwhc": expected one of auto, nhwc, as-is',
    "[model]\noptions = 3": r"\[model\] options = 3: expected a table",
    "data = 'train.npz'": r'data = "train.npz": expected a table',
    "[model]\narchitecture = mlp": r"not valid TOML: Invalid value \(at line 2, column 16\)",
}


@pytest.mark.parametrize("text", ERRORS)
def test_a_wrong_line_is_named_with_what_was_expected(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=f"^{path}: .*{ERRORS[text]}") as caught:
        read_config(path, trusted=False)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: cannot be read \(No such file"):
        read_config(tmp_path / "gone.toml", trusted=True)


def test_what_is_said_above_wins_key_by_key() -> None:
    upper = Config(
        ModelSpec(options={"activation": "tanh"}),
        DataSpec(inputs="obs"),
        score={"rank": 3, "thresholds": {"nrc1": 0.1}},
    )
    lower = Config(
        ModelSpec("mlp", {"activation": "relu", "depth": 3}),
        DataSpec("d.npz", "x", "y"),
        score={"limit": 5, "rank": "auto", "thresholds": {"nrc1": 0.2, "nrc2": 0.3}},
        path=Path("nrc-probe.toml"),
    )
    both = overlay(upper, lower)
    assert both.model == ModelSpec("mlp", {"activation": "tanh", "depth": 3})
    assert both.data == DataSpec("d.npz", "obs", "y")
    assert both.score == {"limit": 5, "rank": 3, "thresholds": {"nrc1": 0.1, "nrc2": 0.3}}
    assert both.path == lower.path


def test_another_network_or_factory_takes_no_options_from_below() -> None:
    lower = Config(ModelSpec("a:f", {"depth": 3}), DataSpec("a:g", "x", options={"n": 3}))
    both = overlay(Config(ModelSpec("mlp"), DataSpec("d.npz")), lower)
    assert both.model == ModelSpec("mlp")
    assert both.data == DataSpec("d.npz", "x")


def test_an_option_does_not_make_the_factory_of_a_found_file_trusted() -> None:
    here, there = Path("here"), Path("there")
    lower = Config(ModelSpec("a:f", folder=there), DataSpec("a:g", folder=there))
    upper = Config(
        ModelSpec(options={"n": 1}, trusted=True, folder=here),
        DataSpec(inputs="x", trusted=True, folder=here),
    )
    both = overlay(upper, lower)
    assert (both.model.trusted, both.model.folder) == (False, there)
    assert (both.data.trusted, both.data.folder) == (False, there)


def test_a_factory_that_the_user_names_is_trusted() -> None:
    lower = Config(ModelSpec("a:f"), DataSpec("a:g"))
    both = overlay(Config(ModelSpec("b:f", trusted=True), DataSpec("b:g", trusted=True)), lower)
    assert both.model.trusted
    assert both.data.trusted


def checkpoint(folder: Path, text: str | None) -> Checkpoint:
    metadata = {} if text is None else {"nrc_probe": text, "format": "pt"}
    return Checkpoint(folder / "c.safetensors", "", "safetensors", {}, metadata=metadata)


def test_a_checkpoint_without_metadata_says_nothing(tmp_path: Path) -> None:
    assert read_metadata(checkpoint(tmp_path, None), trusted=False) == Config()


def test_metadata_are_read_from_the_folder_of_the_checkpoint(tmp_path: Path) -> None:
    said = {
        "model": {"architecture": None, "options": {"activation": "tanh", "norm": None}},
        "data": {"path": "d.npz", "standardize": ["inputs"]},
        "training": {"epoch": 3},
    }
    config = read_metadata(checkpoint(tmp_path, json.dumps(said)), trusted=False)
    assert config.model == ModelSpec(options={"activation": "tanh", "norm": None}, folder=tmp_path)
    assert config.data == DataSpec("d.npz", standardize=("inputs",), folder=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"not valid JSON: Expecting property name .* line 1 column 2"),
        ("[1]", r"the whole = \[1\]: expected a table"),
        ('{"model": {"arch": "mlp"}}', r"\[model\]: no key 'arch'; did you mean 'architecture'\?"),
    ],
)
def test_wrong_metadata_are_named(text: str, message: str, tmp_path: Path) -> None:
    place = rf"{tmp_path}/c\.safetensors, metadata 'nrc_probe'"
    with pytest.raises(ConfigError, match=f"^{place}(: )?.*{message}"):
        read_metadata(checkpoint(tmp_path, text), trusted=False)
