"""Tensors named as in torchvision's ResNets -> the network they came from, and what was assumed.

Source: He et al. 2016, Deep Residual Learning for Image Recognition; strides as in torchvision.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from nrc_probe.architecture.mlp import ACTIVATIONS, Blueprint, Step, mlp_blueprint
from nrc_probe.architecture.ordering import WAYS_OUT
from nrc_probe.errors import ArchitectureError

_SIGNATURE = re.compile(r"(.*\.)?layer1\.0\.conv1\.weight")
_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.")
_STRIDES = (
    "Strides cannot be seen in a state dict: the first block of each layer after layer1 "
    "is assumed to halve the map"
)


class Block(nn.Module):
    """A residual block: convolutions, each normalised, around a shortcut."""

    def __init__(self, steps: list[Step], downsample: nn.Module | None, relu: nn.Module) -> None:
        super().__init__()
        for name, module in steps:
            self.add_module(name, module)
        self.relu = relu
        self.downsample = downsample
        self._path = tuple(module for _, module in steps)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) maps of the block."""
        *path, last = self._path
        out = x
        for place, module in enumerate(path, 1):
            out = module(out)
            if place % 2 == 0:
                out = self.relu(out)
        out = last(out)
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class _Reader:
    """Modules read off tensors whose names all start with `prefix`."""

    tensors: Mapping[str, Tensor]
    prefix: str
    activation: str

    def conv(self, name: str, channels: int, stride: int = 1) -> nn.Conv2d:
        """The convolution `name` of maps with `channels` channels, padded to keep their size."""
        weight = self._tensor(f"{name}.weight", ndim=4)
        outputs, per_group, *kernel = weight.shape
        if channels % per_group:
            raise ArchitectureError(
                f"'{self.prefix}{name}' takes groups of {per_group} channels, "
                f"the layer before gives {channels}; {WAYS_OUT}"
            )
        return nn.Conv2d(
            channels,
            outputs,
            (kernel[0], kernel[1]),
            stride=stride,
            padding=(kernel[0] // 2, kernel[1] // 2),
            groups=channels // per_group,
            bias=self.has(f"{name}.bias"),
        )

    def norm(self, name: str) -> nn.BatchNorm2d:
        """The BatchNorm `name`."""
        width = self._tensor(f"{name}.running_mean", ndim=1).numel()
        return nn.BatchNorm2d(width, affine=self.has(f"{name}.weight"))

    def relu(self) -> nn.Module:
        """A new activation, in place where it can be, as in torchvision."""
        activation = ACTIVATIONS[self.activation]()
        if isinstance(activation, nn.ReLU):
            activation.inplace = True
        return activation

    def has(self, name: str) -> bool:
        """Whether there is a tensor `name`."""
        return f"{self.prefix}{name}" in self.tensors

    def _tensor(self, name: str, ndim: int) -> Tensor:
        tensor = self.tensors.get(f"{self.prefix}{name}")
        if tensor is None or tensor.ndim != ndim:
            got = "nothing" if tensor is None else f"shape {tuple(tensor.shape)}"
            raise ArchitectureError(
                f"a ResNet has '{self.prefix}{name}' of {ndim} dimensions, got {got}; {WAYS_OUT}"
            )
        return tensor


def resnet_prefix(tensors: Mapping[str, Tensor]) -> str | None:
    """What stands before `conv1` and `layer1` in the names; None where they are not a ResNet's."""
    for name in tensors:
        match = _SIGNATURE.fullmatch(name)
        prefix = match[1] or "" if match else ""
        if match and all(_is_conv(tensors.get(key)) for key in (name, f"{prefix}conv1.weight")):
            return prefix
    return None


def _is_conv(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.ndim == 4


def resnet_blueprint(tensors: Mapping[str, Tensor], activation: str | None, *, file_order: bool) -> Blueprint:
    """The ResNet that `tensors` come from: any width, depth, groups and input channels.

    A 7x7 stem has stride 2 and a max pooling behind it, a 3x3 one neither. All tensors outside
    stem and blocks are the head: a chain of Linears and norms, read as in `mlp_blueprint`.

    activation: of blocks and head; None: ReLU, which only for the head is an assumption.
    file_order: as in `mlp_blueprint`.
    """
    prefix = resnet_prefix(tensors)
    if prefix is None:
        raise ArchitectureError(
            f"a ResNet has 'conv1.weight' and 'layer1.0.conv1.weight' of 4 dimensions; {WAYS_OUT}"
        )
    read = _Reader(tensors, prefix, activation or "relu")
    body = [*_stem(read), *_stages(read, _depths(read))]
    head = _head(read, activation, file_order=file_order)
    _check_meeting(body[-1], head)
    steps = [(prefix + name, module) for name, module in body]
    pool: list[Step] = [(f"{prefix}avgpool", nn.AdaptiveAvgPool2d(1)), ("", nn.Flatten(1))]
    return Blueprint(
        steps=(*steps, *pool, *head.steps),
        summary=_summary(read, head),
        assumptions=(_strides(read), *head.assumptions),
    )


# --- stem and stages ---


def _stem(read: _Reader) -> Iterator[Step]:
    kernel = _kernel(read)
    channels = read.tensors[f"{read.prefix}conv1.weight"].shape[1]
    yield "conv1", read.conv("conv1", channels, stride=2 if kernel > 3 else 1)
    yield "bn1", read.norm("bn1")
    yield "relu", read.relu()
    if kernel > 3:
        yield "maxpool", nn.MaxPool2d(3, stride=2, padding=1)


def _kernel(read: _Reader) -> int:
    return read.tensors[f"{read.prefix}conv1.weight"].shape[-1]


def _depths(read: _Reader) -> dict[int, int]:
    """Number of blocks by stage, in their order."""
    found = [_BLOCK.match(name.removeprefix(read.prefix)) for name in read.tensors]
    blocks = sorted({(int(match[1]), int(match[2])) for match in found if match})
    stages = [stage for stage, _ in blocks]
    return {stage: stages.count(stage) for stage in dict.fromkeys(stages)}


def _stages(read: _Reader, depths: Mapping[int, int]) -> Iterator[Step]:
    channels = read.tensors[f"{read.prefix}conv1.weight"].shape[0]
    for stage, depth in depths.items():
        for index in range(depth):
            name = f"layer{stage}.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            block, channels = _block(read, name, channels, stride)
            yield name, block


def _block(read: _Reader, name: str, channels: int, stride: int) -> tuple[Block, int]:
    """One block and the number of channels that it gives."""
    shrinks = read.has(f"{name}.downsample.0.weight")
    strided = 2 if _is_bottleneck(read, name) else 1
    steps: list[Step] = []
    width = channels
    for place in range(1, 4 if _is_bottleneck(read, name) else 3):
        here = stride if place == strided and shrinks else 1
        conv = read.conv(f"{name}.conv{place}", width, here)
        width = conv.out_channels
        steps += [(f"conv{place}", conv), (f"bn{place}", read.norm(f"{name}.bn{place}"))]
    if not shrinks and width != channels:
        raise ArchitectureError(
            f"'{read.prefix}{name}' turns {channels} channels into {width} and has no downsample; {WAYS_OUT}"
        )
    shortcut = _shortcut(read, f"{name}.downsample", channels, stride) if shrinks else None
    return Block(steps, shortcut, read.relu()), width


def _is_bottleneck(read: _Reader, name: str) -> bool:
    return read.has(f"{name}.conv3.weight")


def _shortcut(read: _Reader, name: str, channels: int, stride: int) -> nn.Module:
    return nn.Sequential(read.conv(f"{name}.0", channels, stride), read.norm(f"{name}.1"))


# --- head, and what to say ---


def _head(read: _Reader, activation: str | None, *, file_order: bool) -> Blueprint:
    """The chain of all tensors that stand outside stem and blocks."""
    body = re.compile(re.escape(read.prefix) + r"(conv1|bn1|layer\d+\.\d+)\.")
    tensors = {name: tensor for name, tensor in read.tensors.items() if not body.match(name)}
    if not tensors:
        raise ArchitectureError(f"the ResNet has no head such as '{read.prefix}fc'; {WAYS_OUT}")
    return mlp_blueprint(tensors, activation, file_order=file_order)


def _check_meeting(last: Step, head: Blueprint) -> None:
    """Raise ArchitectureError unless the head takes what the last block gives."""
    *_, gives = [m.num_features for m in last[1].children() if isinstance(m, nn.BatchNorm2d)]
    name, module = next(step for step in head.steps if isinstance(step[1], nn.Linear))
    takes = module.in_features
    if takes != gives:
        raise ArchitectureError(
            f"'{last[0]}' gives {gives} channels, '{name}' takes {takes} values; {WAYS_OUT}"
        )


def _strides(read: _Reader) -> str:
    if _kernel(read) > 3:
        return f"{_STRIDES}, as are conv1 and a max pooling behind it."
    return f"{_STRIDES}; conv1 is assumed to keep it."


def _summary(read: _Reader, head: Blueprint) -> str:
    """One line such as "ResNet-18 (BasicBlock 2-2-2-2), 3x3 stem, head Linear(512, 2)"."""
    depths = _depths(read)
    bottleneck = _is_bottleneck(read, "layer1.0")
    layers = sum(depths.values()) * (3 if bottleneck else 2) + 2
    kind = "Bottleneck" if bottleneck else "BasicBlock"
    _, channels, *kernel = read.tensors[f"{read.prefix}conv1.weight"].shape
    stem = f"{kernel[0]}x{kernel[1]} stem" + (f" on {channels} channels" if channels != 3 else "")
    blocks = f"{kind} {'-'.join(map(str, depths.values()))}"
    modules = "-".join(_short(module) for _, module in head.steps)
    return f"ResNet-{layers} ({blocks}), {stem}, head {modules}"


def _short(module: nn.Module) -> str:
    name = type(module).__name__
    if isinstance(module, nn.Linear):
        return f"{name}({module.in_features}, {module.out_features})"
    return name
