"""What `save_checkpoint` writes, `analyze` opens with no other word."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from networks import Named, ResNet, basic, stack, trained
from safetensors import safe_open
from torch import nn

from nrc_probe import analyze, save_checkpoint, saving
from nrc_probe.architecture import ACTIVATIONS
from nrc_probe.errors import (
    ArchitectureError,
    CodeRefusedError,
    ConfigError,
    DataError,
    OutputError,
)


@pytest.fixture
def data(tmp_path):
    """A training and a test file, 5 inputs and 2 targets."""
    rng = np.random.default_rng(0)
    for name, n in (("train", 80), ("test", 30)):
        x = rng.standard_normal((n, 5)).astype(np.float32) * 3 + 1
        np.savez(tmp_path / f"{name}.npz", x=x, y=x[:, :2] ** 2)
    return tmp_path


def written(path):
    """The metadata, as it stands in the file."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["nrc_probe"])


def arrays(path):
    with np.load(path) as file:
        return file["x"], file["y"]


def assert_opens_as(model, path, x, y):
    """The file alone scores as the live module does on the same rows."""
    expected, got = analyze(model, (x, y)), analyze(path)
    assert got.model_mse == pytest.approx(expected.model_mse, rel=1e-6)
    assert [layer.name for layer in got.layers] == [layer.name for layer in expected.layers]
    for a, b in zip(got.layers, expected.layers, strict=True):
        assert a.nrc1 == pytest.approx(b.nrc1, abs=1e-6)
        assert a.nrc3 == pytest.approx(b.nrc3, abs=1e-6)
        assert a.nrc4 == pytest.approx(b.nrc4, rel=1e-4)


# ----------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_mlp_comes_back_with_its_activation(data, activation):
    model = nn.Sequential(*stack([5, 8, 8, 2], lambda _: ACTIVATIONS[activation]()))
    path = data / "m.safetensors"
    save_checkpoint(model, path, data=data / "train.npz")
    assert_opens_as(model, path, *arrays(data / "train.npz"))
    assert written(path)["model"]["options"] == {"activation": activation}
    assert analyze(path).model.assumptions == ()


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
def test_an_mlp_with_norms_comes_back(data, norm):
    model = trained(nn.Sequential(*stack([5, 8, 8, 2], norm, nn.ReLU)))
    save_checkpoint(model, data / "m.safetensors", data=data / "train.npz")
    assert_opens_as(model, data / "m.safetensors", *arrays(data / "train.npz"))


def test_a_resnet_comes_back(tmp_path):
    torch.manual_seed(2)
    model = trained(ResNet(basic([1, 1]), nn.Linear(8, 2), kernel=3))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((24, 3, 8, 8)).astype(np.float32)
    y = rng.standard_normal((24, 2))
    np.savez(tmp_path / "images.npz", x=x, y=y)
    save_checkpoint(model, tmp_path / "m.safetensors", data=tmp_path / "images.npz")
    assert_opens_as(model, tmp_path / "m.safetensors", x, y)


def test_a_network_whose_weights_lie_channels_last_comes_back(tmp_path):
    model = trained(ResNet(basic([1, 1]), nn.Linear(8, 2), kernel=3))
    model = model.to(memory_format=torch.channels_last)
    save_checkpoint(model, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("conv1.weight"), model.conv1.weight)


def test_tied_weights_are_written_twice_and_come_back(data):
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
    model[2].weight = model[0].weight
    save_checkpoint(model, data / "m.safetensors", data=data / "train.npz")
    assert_opens_as(model, data / "m.safetensors", *arrays(data / "train.npz"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_precision_of_the_weights_comes_back(data, dtype):
    model = nn.Sequential(*stack([5, 8, 2], lambda _: nn.Tanh()))
    model.to(dtype)
    save_checkpoint(model, data / "m.safetensors", data=data / "train.npz")
    with safe_open(data / "m.safetensors", "pt") as file:
        assert file.get_tensor("0.weight").dtype == dtype
    assert_opens_as(model, data / "m.safetensors", *arrays(data / "train.npz"))


def test_all_that_was_said_comes_back(data):
    model = nn.Sequential(*stack([5, 8, 2], nn.ReLU))
    save_checkpoint(
        model,
        data / "m.safetensors",
        data=data / "train.npz",
        heldout=data / "test.npz",
        inputs="x",
        targets="y",
        standardize=["inputs", "targets"],
        epoch=12,
        step=3400,
        weight_decay=5e-4,
        learning_rate=0.1,
    )
    result = analyze(data / "m.safetensors")
    facts = result.checkpoint
    assert (facts.epoch, facts.step) == (12, 3400)
    assert (facts.weight_decay, facts.learning_rate) == (5e-4, 0.1)
    assert result.data.standardized == ("inputs", "targets")
    assert (result.data.n, result.heldout.data.n) == (80, 30)


def test_numbers_of_numpy_and_torch_are_written_as_plain_ones(data):
    model = nn.Sequential(*stack([5, 8, 2], nn.ReLU))
    save_checkpoint(
        model,
        data / "m.safetensors",
        data=data / "train.npz",
        epoch=np.int64(3),
        weight_decay=torch.tensor(0.25),
    )
    facts = analyze(data / "m.safetensors").checkpoint
    assert (facts.epoch, facts.weight_decay) == (3, 0.25)


@pytest.mark.parametrize("role", ["inputs", "targets"])
def test_one_role_to_standardise_may_be_a_plain_text(data, role):
    model = nn.Sequential(*stack([5, 8, 2], nn.ReLU))
    save_checkpoint(model, data / "m.safetensors", data=data / "train.npz", standardize=role)
    assert analyze(data / "m.safetensors").data.standardized == (role,)


# ------------------------------------------------------------------------------------------ paths


def test_data_are_found_after_the_folder_has_moved(data, tmp_path_factory, monkeypatch):
    run = data / "runs" / "one"
    run.mkdir(parents=True)
    monkeypatch.chdir(data)
    model = nn.Sequential(*stack([5, 8, 2], nn.ReLU))
    save_checkpoint(
        model,
        "runs/one/m.safetensors",
        data="train.npz",
        heldout=data / "test.npz",
    )
    assert written(run / "m.safetensors")["data"]["path"] == "../../train.npz"
    assert written(run / "m.safetensors")["heldout"]["path"] == "../../test.npz"
    monkeypatch.undo()
    moved = tmp_path_factory.mktemp("elsewhere") / "all"
    shutil.move(data, moved)
    result = analyze(moved / "runs" / "one" / "m.safetensors")
    assert (result.data.n, result.heldout.data.n) == (80, 30)


def test_a_file_of_statistics_is_found_from_the_checkpoint(data, monkeypatch):
    (data / "run").mkdir()
    x, _ = arrays(data / "train.npz")
    np.savez(data / "scale.npz", inputs_mean=x.mean(0), inputs_std=x.std(0))
    model = nn.Sequential(*stack([5, 8, 2], nn.ReLU))
    monkeypatch.chdir(data)
    save_checkpoint(model, data / "run" / "m.safetensors", data="train.npz", standardize="scale.npz")
    monkeypatch.chdir(data / "run")
    assert analyze("m.safetensors").data.standardized == ("inputs",)


def test_targets_in_a_file_of_their_own_are_found_from_the_checkpoint(data, monkeypatch):
    (data / "run").mkdir()
    x, y = arrays(data / "train.npz")
    np.save(data / "x.npy", x)
    np.save(data / "y.npy", y)
    model = nn.Sequential(*stack([5, 8, 2], nn.ReLU))
    monkeypatch.chdir(data)
    save_checkpoint(model, "run/m.safetensors", data="x.npy", targets="y.npy")
    monkeypatch.chdir(data / "run")
    assert_opens_as(model, data / "run" / "m.safetensors", x, y)


def test_a_factory_of_data_is_written_as_it_is_and_runs_only_where_code_is_allowed(data, monkeypatch):
    (data / "my_rows_of_saving.py").write_text(
        "import torch\n\ndef rows():\n    return torch.randn(20, 5), torch.randn(20, 2)\n"
    )
    monkeypatch.chdir(data)
    model = nn.Sequential(*stack([5, 8, 2], nn.ReLU))
    save_checkpoint(model, data / "m.safetensors", data="my_rows_of_saving:rows")
    with pytest.raises(CodeRefusedError, match="my_rows_of_saving:rows"):
        analyze(data / "m.safetensors")
    assert analyze(data / "m.safetensors", allow_code=True).data.n == 20


def test_a_factory_of_the_network_runs_only_where_code_is_allowed(data, monkeypatch):
    (data / "my_net_of_saving.py").write_text(
        "from torch import nn\n\n"
        "def net(width):\n"
        "    return nn.Sequential(nn.Linear(5, width), nn.Softplus(), nn.Linear(width, 2))\n"
    )
    monkeypatch.chdir(data)
    model = nn.Sequential(nn.Linear(5, 7), nn.Softplus(), nn.Linear(7, 2))
    save_checkpoint(
        model,
        data / "m.safetensors",
        data=data / "train.npz",
        architecture="my_net_of_saving:net",
        model_options={"width": 7},
    )
    with pytest.raises(CodeRefusedError, match="my_net_of_saving:net"):
        analyze(data / "m.safetensors")
    got = analyze(data / "m.safetensors", allow_code=True)
    assert got.model_mse == pytest.approx(analyze(model, arrays(data / "train.npz")).model_mse)


# ----------------------------------------------------------------------------------------- refused


def softplus():
    return nn.Sequential(nn.Linear(5, 8), nn.Softplus(), nn.Linear(8, 2))


def residual():
    class Adds(nn.Sequential):
        def forward(self, x):
            return self[2](self[1](self[0](x)).relu() + x)

    return Adds(nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 2))


@pytest.mark.parametrize("make", [softplus, residual])
def test_a_network_that_cannot_be_rebuilt_is_refused_in_one_line(tmp_path, make):
    with pytest.raises(ArchitectureError, match="cannot be rebuilt from its tensors alone") as error:
        save_checkpoint(make(), tmp_path / "m.safetensors")
    assert "\n" not in str(error.value)
    assert 'architecture="package.module:function"' in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_a_layer_to_try_it_on_asks_for_an_example(tmp_path):
    with pytest.raises(ArchitectureError, match="give example=inputs"):
        save_checkpoint(nn.Conv1d(3, 2, 1), tmp_path / "m.safetensors")


def test_a_network_that_fails_on_the_example_says_how(tmp_path):
    model = Named({"a": nn.Linear(5, 4), "b": nn.Linear(9, 2)}, "a b")
    with pytest.raises(ArchitectureError, match=r"^the network's call on the example failed"):
        save_checkpoint(model, tmp_path / "m.safetensors", example=torch.randn(3, 5))


def test_a_network_that_fails_on_our_own_example_is_told_what_to_give(tmp_path):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 1)
            block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(block, 1, enable_nested_tensor=False)
            self.place = nn.Parameter(torch.randn(1, 10, 8))

        def forward(self, x):
            return self.head(self.encoder(self.embed(x) + self.place[:, : x.shape[1]]).mean(1))

    with pytest.raises(ArchitectureError) as error:
        save_checkpoint(Reader(), tmp_path / "m.safetensors")
    message = str(error.value)
    assert message.startswith("Reader fails on random inputs (8, 4), a guess (the network's call on")
    assert "give example=inputs if it is an MLP or a ResNet" in message
    assert 'architecture="package.module:function"' in message
    assert "\n" not in message
    with pytest.raises(
        ArchitectureError, match=r"^Reader cannot be rebuilt from its tensors alone: give arch"
    ):
        save_checkpoint(Reader(), tmp_path / "m.safetensors", example=torch.randn(3, 10, 4))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["m.pt", "m", "m.safetensors.pth", "safetensors"])
def test_a_name_that_promises_another_format_is_refused(tmp_path, name):
    with pytest.raises(OutputError) as error:
        save_checkpoint(nn.Linear(5, 2), tmp_path / name)
    assert str(error.value) == (
        f"cannot write '{tmp_path / name}': "
        "what save_checkpoint writes needs a name that ends in .safetensors"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_is_listed_comes_back(data):
    np.savetxt(data / "d.csv", np.ones((9, 7)), delimiter=",", header="a,b,c,d,e,f,g")
    save_checkpoint(
        nn.Linear(5, 2), data / "m.safetensors", data=data / "d.csv", inputs=["0:4", "e"], targets=["f", "g"]
    )
    assert written(data / "m.safetensors")["data"]["inputs"] == "0:4,e"
    assert analyze(data / "m.safetensors").data.n == 9


def test_an_option_of_a_wrong_type_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="option 'standardize': expected a text or a list of texts, got 1"):
        save_checkpoint(nn.Linear(5, 2), tmp_path / "m.safetensors", standardize=1)


def test_a_state_that_is_more_than_tensors_is_refused(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"note": 1}

        def set_extra_state(self, _):
            pass

    with pytest.raises(ArchitectureError, match="'_extra_state' of Extra's state is a dict"):
        save_checkpoint(Extra(5, 2), tmp_path / "m.safetensors", architecture="mlp")
    assert list(tmp_path.iterdir()) == []


def test_an_option_without_a_json_form_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no JSON form \(a set\)"):
        save_checkpoint(
            nn.Linear(5, 2),
            tmp_path / "m.safetensors",
            architecture="a:b",
            model_options={"names": {1, 2}},
        )
    assert list(tmp_path.iterdir()) == []


def test_missing_data_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match=r"gone\.npz: there is no such data file to name in"):
        save_checkpoint(nn.Linear(5, 2), tmp_path / "m.safetensors", data=tmp_path / "gone.npz")
    with pytest.raises(DataError, match=r"scale\.npz: there is no such data file"):
        save_checkpoint(
            nn.Linear(5, 2),
            tmp_path / "m.safetensors",
            data=__file__,
            standardize=str(tmp_path / "scale.npz"),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OutputError, match="there is no folder"):
        save_checkpoint(nn.Linear(5, 2), tmp_path / "no" / "m.safetensors")


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    save_checkpoint(nn.Linear(5, 2), path, epoch=1)
    old = path.read_bytes()

    def fails(_tensors, temporary, _metadata):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "save_file", fails)
    with pytest.raises(OutputError, match="No space left on device"):
        save_checkpoint(nn.Linear(5, 2), path, epoch=2)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------------- the live module stays as is


def test_saving_changes_nothing_of_the_model(tmp_path):
    model = trained(nn.Sequential(*stack([5, 8, 8, 2], nn.BatchNorm1d, nn.ReLU)))
    model.train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    drawn = torch.get_rng_state()
    save_checkpoint(model, tmp_path / "m.safetensors")
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_training_on_after_saving_does_not_reach_the_file(tmp_path):
    model = nn.Linear(5, 2)
    save_checkpoint(model, tmp_path / "m.safetensors")
    kept = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("weight"), kept)
