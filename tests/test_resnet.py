"""ResNets rebuilt from names and shapes, against plainly written ones and torchvision's."""

from __future__ import annotations

import re
import types

import pytest
import torch
from networks import ResNet, assert_rebuilt, basic, bottleneck, network_of, saved
from torch import Tensor, nn

from nrc_probe.architecture import build_network
from nrc_probe.errors import ArchitectureError
from nrc_probe.spec import ModelSpec


@pytest.mark.parametrize("inputs", [1, 3, 4])
@pytest.mark.parametrize("kernel", [3, 7])
def test_a_resnet_of_basic_blocks_is_rebuilt_for_any_stem(inputs, kernel):
    model = ResNet(basic([2, 2, 2, 2]), nn.Linear(32, 2), inputs=inputs, kernel=kernel)
    network = assert_rebuilt(model, torch.randn(2, inputs, 32, 32))
    stem = f"{kernel}x{kernel} stem" + ("" if inputs == 3 else f" on {inputs} channels")
    assert network.summary == f"ResNet-18 (BasicBlock 2-2-2-2), {stem}, head Linear(32, 2)"
    (strides,) = network.assumptions
    assert strides.startswith("Strides cannot be seen")
    assert ("max pooling" in strides) == (kernel == 7)


def test_twelve_blocks_in_one_stage_run_in_natural_order():
    assert_rebuilt(ResNet(basic([1, 12]), nn.Linear(8, 1)), torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("depths", [[1], [2, 1], [3, 4, 6, 3], [1, 1, 1, 1, 1]])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_resnet_of_bottlenecks_is_rebuilt_for_any_depth_and_groups(depths, groups):
    head = nn.Linear(16 * 2 ** (len(depths) - 1), 2)
    model = ResNet(bottleneck(depths, groups), head)
    network = assert_rebuilt(model, torch.randn(2, 3, 64, 64))
    assert f"ResNet-{3 * sum(depths) + 2} (Bottleneck" in network.summary


def test_convolutions_with_biases_are_rebuilt():
    model = ResNet(basic([1, 1], bias=True), nn.Linear(8, 1, bias=False), bias=True)
    assert_rebuilt(model, torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.BatchNorm1d])
def test_a_sequential_head_is_rebuilt_and_its_activation_is_an_assumption(norm):
    head = nn.Sequential(nn.Linear(8, 8), norm(8), nn.ReLU(), nn.Linear(8, 2))
    network = assert_rebuilt(ResNet(basic([1, 1]), head), torch.randn(2, 3, 32, 32))
    assert network.summary.endswith(f"head Linear(8, 8)-{norm.__name__}-ReLU-Linear(8, 2)")
    assert "assumed to be ReLU" in network.assumptions[1]


def test_a_resnet_inside_a_wrapper_is_found_under_its_names():
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = ResNet(basic([1, 1]), nn.Linear(8, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    network = assert_rebuilt(Wrapped(), torch.randn(2, 3, 32, 32))
    assert isinstance(network.module.get_submodule("net.layer1.0.conv1"), nn.Conv2d)


def test_every_module_with_tensors_is_called_once_in_the_order_of_registration():
    network = network_of(ResNet(bottleneck([1, 1]), nn.Linear(32, 2))).module
    called: list[str] = []
    holders = [n for n, m in network.named_modules() if next(m.parameters(recurse=False), None) is not None]
    for name in holders:
        network.get_submodule(name).register_forward_hook(lambda *_, name=name: called.append(name))
    network(torch.randn(2, 3, 32, 32))
    assert called == holders


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 64),
        ("resnet34", 64),
        ("resnet50", 64),
        ("resnext50_32x4d", 64),
        ("wide_resnet50_2", 64),
    ],
)
def test_outputs_equal_torchvisions(name, size):
    models = _torchvision_models()
    model = models.get_model(name, weights=None, num_classes=2)
    network = assert_rebuilt(model, torch.randn(2, 3, size, size))
    named = build_network(saved(model.state_dict()), ModelSpec(architecture=f"torchvision:{name}"))
    assert named.summary == f"torchvision {name}(num_classes=2)"
    x = torch.randn(1, 3, size, size)
    torch.testing.assert_close(named.module.eval()(x), network.module(x))


def _torchvision_models() -> types.ModuleType:
    try:
        import torchvision.models
    except (ImportError, RuntimeError, Warning) as error:  # the latter: built for another torch
        pytest.skip(f"torchvision cannot be imported: {error}")
    return torchvision.models


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.weight": (2, 9)}, "'layer2.0' gives 8 channels, 'fc' takes 9 values"),
        (
            {"layer1.0.conv2.weight": (4, 3, 3, 3)},
            "'layer1.0.conv2' takes groups of 3 channels, the layer before gives 4",
        ),
        (
            {"bn1.running_mean": None},
            "a ResNet has 'bn1.running_mean' of 1 dimensions, got nothing",
        ),
        (
            {"layer2.0.downsample.0.weight": None},
            "'layer2.0' turns 4 channels into 8 and has no downsample",
        ),
        ({"fc.weight": None, "fc.bias": None}, "the ResNet has no head such as 'fc'"),
        ({"layer1.0.se.weight": (4,)}, "1 unexpected ('layer1.0.se.weight')"),
    ],
)
def test_resnets_that_do_not_fit_together_are_refused(change, message):
    tensors = ResNet(basic([1, 1]), nn.Linear(8, 2)).state_dict()
    tensors.update({name: torch.ones(shape) for name, shape in change.items() if shape})
    kept = {name: tensor for name, tensor in tensors.items() if change.get(name, ()) is not None}
    with pytest.raises(ArchitectureError, match=re.escape(message)):
        build_network(saved(kept), ModelSpec())
