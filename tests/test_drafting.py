"""The nrc-probe.toml that `init` writes: valid, true to what lies there, silent about what does not."""

from __future__ import annotations

import shutil
import tomllib
from fcntl import LOCK_EX, flock
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from networks import ResNet, basic, trained
from runs import save_data, save_network
from safetensors.torch import save_file
from torch import nn

from nrc_probe import analyze, init, save_checkpoint
from nrc_probe.config import read_config
from nrc_probe.drafting import summary_lines
from nrc_probe.errors import CheckpointError, OutputError

HOPPER = Path(__file__).parents[1] / "fixtures" / "hopper"


def teacher(activation: type[nn.Module] = nn.ReLU, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    wide = nn.Linear(8, 8)
    return nn.Sequential(nn.Linear(5, 8), activation(), wide, activation(), nn.Linear(8, 2)).eval()


def save_taught(
    path: Path, network: nn.Module, names: tuple[str, str] = ("x", "y"), raw: bool = True
) -> None:
    """Rows that `network` predicts without error; with raw=False only once both are standardised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x = torch.randn(400, 5, generator=torch.Generator().manual_seed(1)) * 2
    if not raw:
        x = (x - x.mean(0)) / x.std(0, correction=0)
    with torch.no_grad():
        y = network(x)
    if not raw:  # the last bias and weight are set so that the targets have mean 0 and deviation 1
        last = network[-1]
        with torch.no_grad():
            last.bias -= y.mean(0)
            last.weight /= y.std(0, correction=0)[:, None]
            last.bias /= y.std(0, correction=0)
            x, y = x * 3 + 40, network(x) * 7 - 90
    np.savez(path, **{names[0]: x.numpy(), names[1]: y.numpy()})


def save_state(path: Path, network: nn.Module) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), path)


def text_of(folder: Path) -> dict[str, dict[str, object]]:
    return tomllib.loads((folder / "nrc-probe.toml").read_text())


def test_the_fixture_s_own_configuration_is_found_again(tmp_path: Path) -> None:
    for path in HOPPER.iterdir():
        if path.is_file() and path.suffix != ".toml":
            shutil.copy(path, tmp_path)
    draft = init(tmp_path)
    assert draft.missing == ()
    said = text_of(tmp_path)
    assert said["model"] == {"architecture": "mlp", "options": {"activation": "relu"}}
    assert said["data"] == {"path": "train.npz", "standardize": ["inputs", "targets"]}
    assert said["heldout"] == {"path": "test.npz"}
    name = "wd_1e-3.safetensors"
    ours, theirs = analyze(tmp_path / name), analyze(HOPPER / name)
    assert ours.layers == theirs.layers
    assert (ours.model_mse, ours.heldout.model_mse) == (theirs.model_mse, theirs.heldout.model_mse)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
@pytest.mark.parametrize("raw", [True, False])
def test_activation_and_standardisation_are_those_that_let_the_network_predict(
    activation: type[nn.Module], raw: bool, tmp_path: Path
) -> None:
    network = teacher(activation)
    save_taught(tmp_path / "runs" / "train.npz", network, raw=raw)
    save_state(tmp_path / "runs" / "a" / "1.safetensors", network)
    draft = init(tmp_path / "runs")
    said = text_of(tmp_path / "runs")
    assert said["model"]["options"] == {"activation": activation.__name__.lower()}
    assert said["data"].get("standardize", []) == ([] if raw else ["inputs", "targets"])
    assert draft.missing == ()
    assert analyze(tmp_path / "runs/a/1.safetensors").model_r2 == pytest.approx(1)


def test_arrays_are_told_apart_by_their_shapes_and_files_by_their_names(tmp_path: Path) -> None:
    runs, network = tmp_path / "runs", teacher()
    save_state(runs / "1.safetensors", network)
    for name in ("validation", "the_train_set"):
        save_taught(tmp_path / "data" / f"{name}.npz", network, ("seen", "done"))
    save_data(tmp_path / "data" / "narrow_train.npz", x=np.ones((9, 4)), y=np.ones((9, 2)))
    init(runs)
    said = text_of(runs)
    assert said["data"] == {"path": "../data/the_train_set.npz", "inputs": "seen", "targets": "done"}
    assert said["heldout"] == {"path": "../data/validation.npz"}
    assert analyze(runs / "1.safetensors").model_r2 == pytest.approx(1)


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [("x", "y"), ("X_{}", "y_{}"), ("{}_inputs", "{}_targets"), ("images-{}-0", "labels-{}-0")],
)
def test_inputs_and_targets_in_two_files_of_the_usual_names_are_a_pair(
    inputs: str, targets: str, tmp_path: Path
) -> None:
    network = teacher()
    save_state(tmp_path / "1.safetensors", network)
    save_taught(tmp_path / "rows.npz", network)
    rows = np.load(tmp_path / "rows.npz")
    (tmp_path / "rows.npz").unlink()
    for part in ("train", "test"):
        np.save(tmp_path / f"{inputs.format(part)}.npy", rows["x"])
        np.save(tmp_path / f"{targets.format(part)}.npy", rows["y"])
    draft = init(tmp_path)
    said = text_of(tmp_path)
    names = [f"{word.format('train')}.npy" for word in (inputs, targets)]
    assert said["data"] == {"path": names[0], "targets": names[1]}
    if "{}" in inputs:
        assert said["heldout"] == {key: name.replace("train", "test") for key, name in said["data"].items()}
    assert draft.missing == ()
    assert f"data: {names[0]} and {names[1]}, 400 rows" in draft.found
    assert analyze(tmp_path / "1.safetensors").model_r2 == pytest.approx(1)


def test_what_does_not_fit_is_named_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "runs"  # beside it lies nothing
    save_state(folder / "1.safetensors", teacher())
    rows = np.random.default_rng(0).normal(size=(50, 9))
    np.savetxt(folder / "with_id.csv", rows[:, :8], delimiter=",")
    np.savetxt(folder / "wide.csv", rows, delimiter=",", header="a,b,c,d,e,f,g,h,i", comments="")
    np.savez(folder / "narrow.npz", x=rows[:, :4], y=rows[:, :2])
    np.savez(folder / "other.npz", seen=rows[:, :4], done=rows[:, :2])
    np.save(folder / "x.npy", rows[:, :5])
    np.save(folder / "y.npy", rows[:9, :2])
    (folder / "z.npz").write_bytes(b"")
    draft = init(folder)
    assert draft.missing == ("[data] path: no data file near fits the network's 5 inputs and 2 targets",)
    assert draft.left_out == (
        "narrow.npz: its inputs are 4 wide, its targets 2",
        "other.npz: which array holds the inputs? It has seen (50, 4), done (50, 2); name them with "
        "--inputs and --targets, or in [data] of nrc-probe.toml",
        "wide.csv: 9 columns, 5 inputs and 2 targets are 7",
        "with_id.csv: 8 columns, 5 inputs and 2 targets are 7 (is the first an id? "
        'Then inputs = "1:6", targets = "6:8")',
        "x.npy: inputs 'x.npy' have 50 rows, targets 'y.npy' have 9; expected as many",
        "and 1 more",
    )
    assert all(f"# looked at: {words}" in draft.text for words in draft.left_out)
    assert "looked at, and not taken for the data" in list(summary_lines(draft))
    save_taught(folder / "train.npz", teacher())
    assert init(folder, force=True).left_out == ()


def test_a_file_that_is_passed_over_for_one_farther_away_is_named(tmp_path: Path) -> None:
    network = teacher()
    save_state(tmp_path / "runs" / "1.safetensors", network)
    save_taught(tmp_path / "train.npz", network)
    save_data(tmp_path / "runs" / "narrow.npz", x=np.ones((9, 4)))
    draft = init(tmp_path / "runs")
    assert text_of(tmp_path / "runs")["data"]["path"] == "../train.npz"
    assert draft.left_out == ("narrow.npz: inputs 'x' have 9 rows, targets 'y' have 60; expected as many",)


def test_columns_without_names_are_a_guess_that_is_to_be_checked(tmp_path: Path) -> None:
    network = teacher()
    save_state(tmp_path / "1.safetensors", network)
    save_taught(tmp_path / "rows.npz", network)
    rows = np.load(tmp_path / "rows.npz")
    np.savetxt(tmp_path / "rows.csv", np.hstack([rows["x"], rows["y"]]), delimiter=",")
    (tmp_path / "rows.npz").unlink()
    draft = init(tmp_path)
    assert text_of(tmp_path)["data"] == {"path": "rows.csv", "inputs": "0:5", "targets": "5:7"}
    assert draft.missing == ("[data] inputs, targets: a guess by shapes alone, check it",)


def test_a_network_that_predicts_nothing_leaves_its_reading_to_fill_in(tmp_path: Path) -> None:
    save_network(tmp_path / "1.pth")
    save_data(tmp_path / "train.npz", y=np.random.default_rng(0).normal(size=(60, 2)))
    draft = init(tmp_path)
    said = text_of(tmp_path)
    assert said["data"] == {"path": "train.npz"}
    assert "options" not in said["model"] or said["model"]["options"] == {}
    assert len(draft.missing) == 1
    assert "no choice lets the network predict" in draft.missing[0]
    assert analyze(tmp_path / "1.pth").data.n == 60


def test_without_data_or_a_known_network_the_file_is_valid_and_says_what_is_left(tmp_path: Path) -> None:
    for name in ("empty", "nodata", "unknown"):
        (tmp_path / name).mkdir()
    save_network(tmp_path / "nodata" / "1.pth")
    torch.save(nn.GRU(3, 4).state_dict(), tmp_path / "unknown" / "1.pth")
    (tmp_path / "unknown" / "2.pth").write_bytes(b"broken")
    words = {
        "empty": ["no checkpoint opens here", "no data file near fits"],
        "nodata": ["[data] path: no data file near fits the network's 5 inputs and 2 targets"],
        "unknown": ["[model] architecture: 'weight_ih_l0' of shape", "no data file near fits"],
    }
    for name, expected in words.items():
        draft = init(tmp_path / name)
        assert len(draft.missing) == len(expected)
        assert all(word in reason for word, reason in zip(expected, draft.missing, strict=True)), (
            draft.missing
        )
        read_config(draft.path, trusted=False)
        assert "FILL IN" in draft.text


def test_what_checkpoints_say_themselves_is_left_to_them(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    save_data(tmp_path / "elsewhere.npz")
    save_checkpoint(teacher(nn.Tanh), tmp_path / "runs" / "1.safetensors", data=tmp_path / "elsewhere.npz")
    (tmp_path / "elsewhere.npz").rename(tmp_path / "gone")
    draft = init(tmp_path / "runs")
    said = text_of(tmp_path / "runs")
    assert (said["model"], said["data"], draft.missing) == ({}, {}, ())
    assert "as the checkpoints say themselves" in draft.text


def test_a_resnet_is_named_and_its_images_and_standardised_targets_are_recognised(tmp_path: Path) -> None:
    network = trained(ResNet(basic([1, 1, 1, 1]), nn.Linear(32, 2), kernel=3))
    images = np.random.default_rng(0).integers(0, 255, (12, 16, 16, 3), dtype=np.uint8)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        outputs = network(x)
        network.fc.weight /= outputs.std(0, correction=0)[:, None]
        network.fc.bias -= outputs.mean(0)
        network.fc.bias /= outputs.std(0, correction=0)
        targets = network(x) * 7 - 90
    save_state(tmp_path / "1.safetensors", network)
    np.savez(tmp_path / "train.npz", images=images, targets=targets.numpy())
    draft = init(tmp_path)
    said = text_of(tmp_path)
    assert said["model"]["architecture"] == "resnet"
    assert said["data"] == {"path": "train.npz", "standardize": ["targets"]}
    assert draft.missing == ()
    assert analyze(tmp_path / "1.safetensors").model_r2 == pytest.approx(1, abs=1e-4)


def test_a_file_that_is_there_is_replaced_only_by_force(tmp_path: Path) -> None:
    save_network(tmp_path / "1.pth")
    (tmp_path / "nrc-probe.toml").write_text("# mine\n")
    with pytest.raises(OutputError, match=r"nrc-probe\.toml': it is there already \(add --force"):
        init(tmp_path)
    assert (tmp_path / "nrc-probe.toml").read_text() == "# mine\n"
    init(tmp_path, force=True)
    assert text_of(tmp_path)["model"]["architecture"] == "mlp"


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("target", ["data.npz", "nothing.npz"])
def test_a_link_to_a_file_of_another_kind_is_not_written_through(
    target: str, force: bool, tmp_path: Path
) -> None:
    save_network(tmp_path / "1.pth")
    before = save_data(tmp_path / "data.npz").read_bytes()
    (tmp_path / "nrc-probe.toml").symlink_to(target)
    with pytest.raises(OutputError, match=r"toml': it is "):
        init(tmp_path, force=force)
    assert (tmp_path / "data.npz").read_bytes() == before
    assert not (tmp_path / "nothing.npz").exists()


def test_a_link_to_another_toml_is_written_through(tmp_path: Path) -> None:
    save_network(tmp_path / "1.pth")
    (tmp_path / "shared.toml").write_text("# mine\n")
    (tmp_path / "nrc-probe.toml").symlink_to("shared.toml")
    init(tmp_path, force=True)
    assert "[model]" in (tmp_path / "shared.toml").read_text()


def test_a_dump_that_lies_near_is_not_taken_for_the_data(tmp_path: Path) -> None:
    network = teacher()
    save_state(tmp_path / "1.safetensors", network)
    with h5py.File(tmp_path / "a.h5", "w") as book:
        book["x"], book["y"] = np.ones((400, 5), np.float32), np.ones((400, 2), np.float32)
    init(tmp_path)
    assert text_of(tmp_path)["data"]["path"] == "a.h5"
    with h5py.File(tmp_path / "a.h5", "a") as book:
        book.attrs["schema"] = "nrc-probe/activations/1"
    save_taught(tmp_path / "z.npz", network)
    init(tmp_path, force=True)
    assert text_of(tmp_path)["data"]["path"] == "z.npz"


def test_a_file_that_cannot_be_read_is_no_data_and_says_why(tmp_path: Path) -> None:
    save_state(tmp_path / "1.safetensors", teacher())
    with h5py.File(tmp_path / "a.h5", "w") as book:
        book["x"], book["y"] = np.ones((400, 5), np.float32), np.ones((400, 2), np.float32)
    with (tmp_path / "a.h5").open("rb") as other:
        flock(other, LOCK_EX)
        draft = init(tmp_path)
    assert "path" not in text_of(tmp_path)["data"]
    said = "\n".join((*summary_lines(draft), draft.text))
    assert "a.h5: cannot be read: Resource temporarily unavailable" in said


def test_a_place_that_is_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="none: expected a folder of checkpoints, got nothing there"):
        init(tmp_path / "none")


@pytest.mark.parametrize("name", ['a"b\\c', "line\nbreak", "\x7f\x1b[31m", "ünï🐍"])
def test_any_name_gives_valid_toml(name: str, tmp_path: Path) -> None:
    network = teacher()
    save_state(tmp_path / name / f"{name}.safetensors", network)
    save_taught(tmp_path / name / f"{name}.npz", network)
    init(tmp_path)
    assert text_of(tmp_path)["data"]["path"] == f"{name}/{name}.npz"
    assert analyze(tmp_path / name / f"{name}.safetensors").model_r2 == pytest.approx(1)


def test_files_of_other_kinds_and_damaged_ones_are_passed_over(tmp_path: Path) -> None:
    network = teacher()
    save_state(tmp_path / "1.safetensors", network)
    save_taught(tmp_path / "z.npz", network)
    for name in ("a.npz", "b.csv", "c.h5", "d.pt", "e.parquet"):
        (tmp_path / name).write_bytes(b"no data at all")
    np.savez(tmp_path / "f.npz")
    (tmp_path / "g.npz").mkdir()
    init(tmp_path)
    assert text_of(tmp_path)["data"]["path"] == "z.npz"
