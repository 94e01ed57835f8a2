"""Networks that the user names, networks that cannot be had, and descriptions of live ones."""

from __future__ import annotations

import re
import sys
import types
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import Named, ResNet, basic, saved, stack, trained
from torch import nn

from nrc_probe.architecture import ACTIVATIONS, build_network, describe, refill
from nrc_probe.errors import ArchitectureError, CodeRefusedError, ConfigError
from nrc_probe.spec import ModelSpec

# --- networks that the user names ---


def write_factory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    source = """
from torch import nn

def mlp(width=8):
    return nn.Sequential(nn.Linear(4, width), nn.Softplus(), nn.Linear(width, 2))

def text():
    return "no network"
"""
    (folder / "nets_of_a_user.py").write_text(source)
    monkeypatch.delitem(sys.modules, "nets_of_a_user", raising=False)
    return folder


def test_a_factory_is_called_with_the_options_and_filled(tmp_path, monkeypatch):
    folder = write_factory(tmp_path, monkeypatch)
    model = nn.Sequential(nn.Linear(4, 6), nn.Softplus(), nn.Linear(6, 2))
    spec = ModelSpec("nets_of_a_user:mlp", {"width": 6}, trusted=True, folder=folder)
    network = build_network(saved(model.state_dict()), spec)
    torch.testing.assert_close(network.module(torch.ones(1, 4)), model(torch.ones(1, 4)))
    assert (network.source, network.summary) == ("factory", "nets_of_a_user:mlp(width=6)")


@pytest.mark.parametrize(
    ("reference", "options", "message"),
    [
        (
            "nets_of_a_user:text",
            {},
            "nets_of_a_user:text() returned a str, expected a torch.nn.Module",
        ),
        (
            "nets_of_a_user:mlp",
            {"depth": 3},
            "nets_of_a_user:mlp(depth=3) failed: TypeError: mlp() got",
        ),
        (
            "nets_of_a_user:mlp",
            {},
            "the tensors do not fit the network: 1 missing ('2.bias'); 1 unexpected ('1.weight'); "
            "2 of another shape ('0.bias' (6,), expected (8,), '0.weight' (6, 4), expected (8, 4))",
        ),
    ],
)
def test_a_factory_that_does_not_fit_is_told_in_one_line(reference, options, message, tmp_path, monkeypatch):
    folder = write_factory(tmp_path, monkeypatch)
    tensors = {"0.weight": torch.ones(6, 4), "0.bias": torch.ones(6), "1.weight": torch.ones(2, 2)}
    spec = ModelSpec(reference, options, trusted=True, folder=folder)
    with pytest.raises(ArchitectureError, match=re.escape(f"run/7.pth: {message}")) as caught:
        build_network(saved({**tensors, "2.weight": torch.ones(2, 8)}), spec)
    assert "\n" not in str(caught.value)


def test_long_lists_of_misfits_are_cut(tmp_path, monkeypatch):
    folder = write_factory(tmp_path, monkeypatch)
    spec = ModelSpec("nets_of_a_user:mlp", trusted=True, folder=folder)
    message = "4 missing ('0.weight', '0.bias', '2.weight', ...); 1 unexpected ('W.weight')"
    with pytest.raises(ArchitectureError, match=re.escape(message)):
        build_network(saved({"W.weight": torch.ones(2, 4)}), spec)


def test_code_that_only_a_file_asks_for_is_not_run():
    with pytest.raises(CodeRefusedError, match="'nets:make' would run code"):
        build_network(saved({"w.weight": torch.ones(2, 2)}), ModelSpec("nets:make"))


def test_a_factory_that_is_not_there_is_an_error_of_the_configuration():
    with pytest.raises(ConfigError, match="importing no_such_module failed"):
        build_network(saved({}), ModelSpec("no_such_module:make", trusted=True))


def test_a_torchvision_that_is_not_there_names_the_extra_and_the_other_way(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ArchitectureError, match=r"nrc-probe\[vision\].*leave --model out"):
        build_network(saved({}), ModelSpec("torchvision:resnet18"))


def fake_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torchvision with one model, which torch cannot tell from the real one."""
    models = types.ModuleType("torchvision.models")
    models.list_models = lambda **_: ["tiny", "resnet18"]  # type: ignore[attr-defined]

    def get_model(_: str, *, num_classes: int = 1000, **__: None) -> nn.Module:
        return nn.Sequential(OrderedDict(fc=nn.Linear(4, num_classes)))

    models.get_model = get_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


def test_torchvision_models_take_the_number_of_outputs_from_the_head(monkeypatch):
    fake_torchvision(monkeypatch)
    tensors = {"fc.weight": torch.ones(3, 4), "fc.bias": torch.ones(3)}
    network = build_network(saved(tensors), ModelSpec("torchvision:tiny"))
    assert (network.source, network.summary) == ("torchvision", "torchvision tiny(num_classes=3)")
    with pytest.raises(ArchitectureError, match=r"'fc.weight' \(3, 4\), expected \(5, 4\)"):
        build_network(saved(tensors), ModelSpec("torchvision:tiny", {"num_classes": 5}))


def test_an_unknown_torchvision_model_is_told_its_neighbours(monkeypatch):
    fake_torchvision(monkeypatch)
    with pytest.raises(ArchitectureError, match="no model 'resnet81'; near: resnet18"):
        build_network(saved({}), ModelSpec("torchvision:resnet81"))


# --- what cannot be inferred ---

WAYS = "--model, in nrc-probe.toml, or inside the file by writing it with nrc_probe.save_checkpoint"


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            {"a.0.weight": (8, 4), "a.2.weight": (6, 9)},
            "the layers do not chain: 'a.0' gives 8 values, 'a.2' takes 9",
        ),
        (
            {"a.0.weight": (8, 4), "a.2.weight": (6, 8), "norm.weight": (5,), "norm.bias": (5,)},
            "norm 'norm' of width 5 has no place of its own between the Linears",
        ),
        (
            {"conv1.weight": (8, 3, 5, 5), "mid.weight": (9, 8), "head.weight": (2, 9)},
            "neither an MLP nor a ResNet: 3 weights from 'conv1' to 'mid', of 2 and 4 dimensions",
        ),
        (
            {"attn.in_proj_weight": (12, 4), "head.weight": (2, 4)},
            "'attn.in_proj_weight' of shape (12, 4) is of neither a Linear nor a norm",
        ),
        (
            {f"{name}.weight": (8, 8) for name in "abcdefghijklm"} | {"stray.weight": (2, 5)},
            "the layers do not chain: 'm' gives 8 values, 'stray' takes 5",
        ),
        ({"scale": (3,)}, "neither an MLP nor a ResNet: 1 tensors, none of 2 or more dimensions"),
        ({}, "neither an MLP nor a ResNet: 0 tensors"),
    ],
)
def test_other_networks_are_refused_with_what_was_seen_and_three_ways_out(shapes, message):
    tensors = {name: torch.ones(shape) for name, shape in shapes.items()}
    with pytest.raises(ArchitectureError, match=re.escape(message)) as caught:
        build_network(saved(tensors), ModelSpec())
    assert str(caught.value).startswith("run/7.pth: ")
    assert str(caught.value).endswith(WAYS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            ModelSpec("vgg"),
            "unknown architecture 'vgg'; known: 'mlp', 'resnet', 'torchvision:NAME'",
        ),
        (ModelSpec("mlp", {"depth": 3}), "'mlp' takes no option 'depth'; known: activation"),
        (
            ModelSpec(options={"activation": "swish"}),
            "unknown activation 'swish'; known: relu, gelu, silu, tanh, leaky_relu, elu, identity",
        ),
        (ModelSpec("resnet"), "a ResNet has 'conv1.weight' and 'layer1.0.conv1.weight'"),
    ],
)
def test_words_that_are_not_known_are_answered_with_those_that_are(spec, message):
    with pytest.raises(ArchitectureError, match=re.escape(message)):
        build_network(saved({"w.weight": torch.ones(2, 2)}), spec)


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.ones(2, 2, dtype=torch.int8), "int8, strided"),
        (torch.ones(2, 2).to_sparse(), "float32, sparse_coo"),
        (torch.ones(2, 2).to(torch.float8_e4m3fn), "float8_e4m3fn, strided"),
    ],
)
def test_weights_that_are_no_dense_floats_are_refused_by_name(tensor, kind):
    with pytest.raises(ArchitectureError, match=f"'w.weight' is {kind}, expected dense floats"):
        build_network(saved({"w.weight": tensor}), ModelSpec())


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_an_empty_weight_is_refused_by_name_without_torch_s_warning(shape):
    with pytest.raises(ArchitectureError, match=re.escape(f"'w.weight' is empty, of shape {shape}")):
        build_network(saved({"w.weight": torch.ones(shape)}), ModelSpec())


# --- describe ---


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_describe_finds_the_activation(name):
    model = nn.Sequential(*stack([4, 16, 16, 2], nn.BatchNorm1d, lambda _: ACTIVATIONS[name]()))
    spec = describe(trained(model), torch.randn(32, 4))
    assert spec == ModelSpec("mlp", {"activation": name})


def test_describe_knows_a_resnet():
    model = trained(ResNet(basic([1, 1]), nn.Linear(8, 2)))
    spec = describe(model, torch.randn(4, 3, 32, 32))
    assert spec == ModelSpec("resnet", {"activation": "relu"})


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_describe_tells_close_activations_apart_at_every_precision(name, dtype):
    model = nn.Sequential(*stack([4, 16, 2], lambda _: ACTIVATIONS[name]())).to(dtype)
    spec = describe(model, torch.randn(32, 4, dtype=dtype))
    assert spec == ModelSpec("mlp", {"activation": name})


@pytest.mark.parametrize("activation", [nn.Softplus(), nn.GELU(approximate="tanh"), nn.LeakyReLU(0.2)])
def test_describe_is_none_where_nothing_gives_the_same_outputs(activation):
    model = nn.Sequential(nn.Linear(4, 16), activation, nn.Linear(16, 2))
    assert describe(model, 3 * torch.randn(32, 4)) is None


def test_describe_is_none_where_lexical_order_would_mislead():
    model = Named({"zeta": nn.Linear(5, 5), "alpha": nn.Linear(5, 5)}, "zeta relu alpha")
    assert describe(model, torch.randn(32, 5)) is None


def test_describe_is_none_where_outputs_are_not_numbers():
    model = nn.Sequential(*stack([4, 8, 2], nn.ReLU))
    nn.init.constant_(model[0].weight, float("nan"))
    assert describe(model, torch.randn(8, 4)) is None
    assert describe(nn.Identity(), torch.randn(8, 4)) is None
    assert describe(nn.Linear(4, 2), torch.randn(0, 4)) is None


def test_describe_restores_the_mode_of_every_submodule():
    model = nn.Sequential(*stack([4, 8, 2], nn.BatchNorm1d, nn.ReLU)).train()
    model[1].eval()
    modes = [part.training for part in model.modules()]
    describe(model, torch.randn(8, 4))
    assert [part.training for part in model.modules()] == modes


def test_describe_tells_in_one_line_that_the_example_does_not_fit():
    with pytest.raises(ArchitectureError, match="the network's call on the example failed: Runtime"):
        describe(nn.Sequential(nn.Linear(4, 2)), torch.randn(8, 5))


def test_a_network_is_not_filled_with_tensors_of_other_shapes():
    checkpoint = saved(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).state_dict())
    network = build_network(checkpoint, ModelSpec())
    other = replace(checkpoint, tensors={name: t[..., :1] for name, t in checkpoint.tensors.items()})
    with pytest.raises(ArchitectureError, match=rf"^{checkpoint.path}: "):
        refill(network, other)


def test_a_network_without_real_outputs_has_no_spec():
    assert describe(nn.Sequential(nn.Linear(4, 2), Rounded()), torch.randn(3, 4)) is None


class Rounded(nn.Module):
    def forward(self, x):
        return x.round().long()
