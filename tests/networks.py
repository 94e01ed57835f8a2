"""Real modules under the names that training scripts give them, to be rebuilt."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from nrc_probe.architecture import Network, build_network
from nrc_probe.checkpoint import Checkpoint
from nrc_probe.spec import ModelSpec


def saved(tensors: dict[str, Tensor], fmt: str = "safetensors") -> Checkpoint:
    """A checkpoint as its loader returns it: safetensors in lexical order, torch in its own."""
    ordered = dict(sorted(tensors.items())) if fmt == "safetensors" else dict(tensors)
    return Checkpoint(path=Path("run/7.pth"), sha256="", format=fmt, tensors=ordered)


def trained(module: nn.Module) -> nn.Module:
    """Random values everywhere, as after training: running statistics and gains that matter."""
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif tensor.ndim == 1:
            tensor.normal_().add_(0.3)
    return module.eval()


def network_of(module: nn.Module, fmt: str = "safetensors", **options: object) -> Network:
    return build_network(saved(module.state_dict(), fmt), ModelSpec(options=options))


def assert_rebuilt(module: nn.Module, x: Tensor, fmt: str = "safetensors", **options: object) -> Network:
    """The network inferred from `module`'s tensors gives its outputs and has its tensor names."""
    trained(module)
    network = network_of(module, fmt, **options)
    with torch.no_grad():
        torch.testing.assert_close(network.module.eval()(x), module(x))
    assert network.module.state_dict().keys() == module.state_dict().keys()
    assert network.source == "inferred"
    return network


def stack(widths: list[int], *between: object, bias: bool = True) -> list[nn.Module]:
    """Linears with what `between` makes for each hidden width (a type, called with the width)."""
    modules: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        modules += [nn.Linear(inputs, outputs, bias=bias)]
        modules += [make(outputs) if make is not nn.ReLU else nn.ReLU() for make in between]
    return [*modules, nn.Linear(widths[-2], widths[-1], bias=bias)]


class Named(nn.Module):
    """Modules under given names, registered in one order and run in another."""

    def __init__(self, modules: dict[str, nn.Module], run: str) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.run = run.split()

    def forward(self, x: Tensor) -> Tensor:
        for name in self.run:
            x = x.relu() if name == "relu" else self.get_submodule(name)(x)
        return x


class Residual(nn.Module):
    """A residual block written down plainly: kernels 3-3, or 1-3-1 with the stride on the 3."""

    def __init__(self, channels: int, widths: list[int], stride: int, groups: int = 1, bias: bool = False):
        super().__init__()
        self.count = len(widths)
        kernels, strided = ([3, 3], 0) if self.count == 2 else ([1, 3, 1], 1)
        inputs = [channels, *widths]
        for k, (width, kernel) in enumerate(zip(widths, kernels, strict=True)):
            conv = nn.Conv2d(
                *(inputs[k], width, kernel),
                stride=stride if k == strided else 1,
                padding=kernel // 2,
                groups=groups if (kernel == 3 and self.count == 3) else 1,
                bias=bias,
            )
            self.add_module(f"conv{k + 1}", conv)
            self.add_module(f"bn{k + 1}", nn.BatchNorm2d(width))
        if stride != 1 or channels != widths[-1]:
            conv = nn.Conv2d(channels, widths[-1], 1, stride=stride, bias=bias)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(widths[-1]))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for k in range(1, self.count + 1):
            out = self.get_submodule(f"bn{k}")(self.get_submodule(f"conv{k}")(out))
            out = out.relu() if k < self.count else out
        return (out + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


class ResNet(nn.Module):
    """Stem, stages and head under torchvision's names."""

    def __init__(
        self,
        blocks: list[list[Residual]],
        head: nn.Module,
        *,
        inputs: int = 3,
        width: int = 4,
        kernel: int = 7,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            inputs, width, kernel, stride=2 if kernel == 7 else 1, padding=kernel // 2, bias=bias
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = kernel == 7
        self.stages = len(blocks)
        for k, stage in enumerate(blocks, 1):
            self.add_module(f"layer{k}", nn.Sequential(*stage))
        self.fc = head

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = nn.functional.max_pool2d(x, 3, stride=2, padding=1) if self.pool else x
        for k in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{k}")(x)
        return self.fc(x.mean((2, 3)))


def basic(depths: list[int], width: int = 4, **options: bool) -> list[list[Residual]]:
    """Stages of basic blocks; the width doubles from stage to stage."""
    stages, channels = [], width
    for k, depth in enumerate(depths):
        out, stage = width * 2**k, []
        for index in range(depth):
            stage.append(Residual(channels, [out, out], 2 if k and not index else 1, **options))
            channels = out
        stages.append(stage)
    return stages


def bottleneck(depths: list[int], groups: int = 1) -> list[list[Residual]]:
    """Stages of bottlenecks of inner width 4, 8, ... and four times that outside."""
    stages, channels = [], 4
    for k, depth in enumerate(depths):
        inner, stage = 4 * 2**k, []
        for index in range(depth):
            widths = [inner, inner, 4 * inner]
            stage.append(Residual(channels, widths, 2 if k and not index else 1, groups))
            channels = 4 * inner
        stages.append(stage)
    return stages
