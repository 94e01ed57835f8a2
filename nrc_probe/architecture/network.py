"""Checkpoint, and what was said about its network -> the network, and what was assumed."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nrc_probe.architecture.mlp import ACTIVATIONS, Blueprint, Chain, mlp_blueprint
from nrc_probe.architecture.ordering import WAYS_OUT
from nrc_probe.architecture.resnet import resnet_blueprint, resnet_prefix
from nrc_probe.checkpoint import Checkpoint
from nrc_probe.errors import ArchitectureError, ProbeError
from nrc_probe.factory import is_factory, load_factory
from nrc_probe.spec import ModelSpec

__all__ = ["ACTIVATIONS", "Network", "build_network", "describe", "refill"]

_FAMILIES: Mapping[str, Callable[..., Blueprint]] = {
    "mlp": mlp_blueprint,
    "resnet": resnet_blueprint,
}
_TORCHVISION = "torchvision:"
_KNOWN = "'mlp', 'resnet', 'torchvision:NAME', 'package.module:function', or nothing (inferred)"
_TOLERANCE: Mapping[torch.dtype, float] = {
    # Relative to the largest output. The same operations on one device hardly differ at all; the
    # tanh form of GELU differs from the exact one by 1e-4, which float32 can and should tell.
    torch.float64: 1e-9,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 2e-2,
}
_SHOWN = 3  # names listed of each kind of misfit: the line must stay readable


@dataclass(frozen=True, eq=False)  # eq=False: modules compare by identity
class Network:
    """A network with a checkpoint's tensors in it, and how it was come by."""

    module: nn.Module
    """Holds copies: the checkpoint stays as it is. In training mode until told otherwise."""
    source: str
    """"inferred", "torchvision", "factory" or "module"."""
    summary: str
    """One line, such as "MLP 11-256x7-3, ReLU, no biases"."""
    assumptions: tuple[str, ...]
    """What a state dict does not show and was assumed, one sentence each."""


def build_network(checkpoint: Checkpoint, spec: ModelSpec) -> Network:
    """The network that `spec` names or the tensors show, with the checkpoint's tensors in it.

    Raises ArchitectureError, in one line that starts with the checkpoint's path, where there is
    none or the tensors do not fit it; CodeRefusedError and ConfigError as `load_factory` does.
    """
    try:
        return _build(checkpoint, spec)
    except ArchitectureError as error:
        raise ArchitectureError(f"{checkpoint.path}: {error}") from error


def refill(network: Network, checkpoint: Checkpoint) -> Network:
    """`network`, its module the same object, with the tensors of another checkpoint in it.

    They have the names, shapes, types and order of those that it was built from.
    """
    try:
        _load(network.module, checkpoint.tensors, assign=True)
    except ArchitectureError as error:
        raise ArchitectureError(f"{checkpoint.path}: {error}") from error
    return network


def _build(checkpoint: Checkpoint, spec: ModelSpec) -> Network:
    wanted = spec.architecture
    if wanted is None or wanted in _FAMILIES:
        return _inferred(checkpoint, spec)
    if wanted.startswith(_TORCHVISION):
        return _from_torchvision(checkpoint, wanted.removeprefix(_TORCHVISION), spec.options)
    if is_factory(wanted):
        return _from_factory(checkpoint, wanted, spec)
    raise ArchitectureError(f"unknown architecture '{wanted}'; known: {_KNOWN}")


# --- read off the tensors ---


def _inferred(checkpoint: Checkpoint, spec: ModelSpec) -> Network:
    tensors = checkpoint.tensors
    family = spec.architecture or _family(tensors)
    activation = _activation(family, spec.options)
    _check_dense_floats(tensors)
    with torch.device("meta"):  # values come from the checkpoint; the random state stays untouched
        plan = _FAMILIES[family](tensors, activation, file_order=checkpoint.format == "torch")
        module = _assemble(plan)
    _load(module, tensors, assign=True)  # assign: half precision stays half
    _forget_absent_counters(module, tensors)
    return Network(module, "inferred", plan.summary, plan.assumptions)


def _family(tensors: Mapping[str, Tensor]) -> str:
    """Which family's names and dimensions `tensors` have. Raises ArchitectureError for none."""
    if resnet_prefix(tensors) is not None:
        return "resnet"
    if any(tensor.ndim == 2 for tensor in tensors.values()) and all(
        tensor.ndim <= 2 for tensor in tensors.values()
    ):
        return "mlp"
    raise ArchitectureError(f"neither an MLP nor a ResNet: {_seen(tensors)}; {WAYS_OUT}")


def _seen(tensors: Mapping[str, Tensor]) -> str:
    """Such as "12 weights from 'conv1' to 'head', of 2 and 4 dimensions"."""
    weights = [name for name, tensor in tensors.items() if tensor.ndim > 1]
    if not weights:
        return f"{len(tensors)} tensors, none of 2 or more dimensions"
    first, last = (name.removesuffix(".weight") for name in (weights[0], weights[-1]))
    ndims = sorted({tensors[name].ndim for name in weights})
    dimensions = " and ".join(map(str, ndims))
    return f"{len(weights)} weights from '{first}' to '{last}', of {dimensions} dimensions"


def _activation(family: str, options: Mapping[str, object]) -> str | None:
    """The name of the activation that was asked for. Raises ArchitectureError for other options."""
    for option in options.keys() - {"activation"}:
        raise ArchitectureError(f"'{family}' takes no option '{option}'; known: activation")
    wanted = options.get("activation")
    if wanted is not None and not (isinstance(wanted, str) and wanted in ACTIVATIONS):
        raise ArchitectureError(f"unknown activation '{wanted}'; known: {', '.join(ACTIVATIONS)}")
    return None if wanted is None else str(wanted)


def _check_dense_floats(tensors: Mapping[str, Tensor]) -> None:
    """Raise ArchitectureError at the first tensor that no Linear, convolution or norm can hold."""
    for name, tensor in tensors.items():
        dense = tensor.layout == torch.strided and not tensor.is_quantized
        # Below two bytes lie the 8-bit floats, which no layer computes with.
        wide_float = tensor.is_floating_point() and tensor.itemsize > 1
        if not dense or not (wide_float or name.endswith("num_batches_tracked")):
            kind = f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
            raise ArchitectureError(
                f"'{name}' is {kind}, expected dense floats: save the network dequantised, or {WAYS_OUT}"
            )
        if not tensor.numel():
            shape = tuple(tensor.shape)
            raise ArchitectureError(f"'{name}' is empty, of shape {shape}; expected values, or {WAYS_OUT}")


def _assemble(plan: Blueprint) -> nn.Module:
    """The steps as one module; a state dict of one bare Linear is that Linear."""
    if len(plan.steps) == 1 and not plan.steps[0][0]:
        return plan.steps[0][1]
    return Chain(plan.steps)


def _forget_absent_counters(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Drop `num_batches_tracked`, which evaluation does not use, where the checkpoint has none."""
    for name, norm in module.named_modules():
        counted = isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
        if counted and f"{name}.num_batches_tracked" not in tensors:
            norm.num_batches_tracked = None


# --- named by the user ---


def _from_torchvision(checkpoint: Checkpoint, name: str, options: Mapping[str, object]) -> Network:
    models = _torchvision_models()
    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
        raise ArchitectureError(f"torchvision has no model '{name}'; near: {', '.join(close)}")
    head = checkpoint.tensors.get("fc.weight")
    given = {**({} if head is None else {"num_classes": head.shape[0]}), **options}
    with _one_line(f"torchvision's {name}{_call(given)}"):
        module = models.get_model(name, weights=None, **given)
    _load(module, checkpoint.tensors, assign=True)
    return Network(module, "torchvision", f"torchvision {name}{_call(given)}", ())


def _torchvision_models() -> Any:
    try:
        return importlib.import_module("torchvision.models")
    except Exception as error:  # built for another torch, it fails in many ways
        raise ArchitectureError(
            f"torchvision cannot be imported ({_line(error)}): install nrc-probe[vision], "
            "or leave --model out, since ResNets are inferred without torchvision"
        ) from error


def _from_factory(checkpoint: Checkpoint, reference: str, spec: ModelSpec) -> Network:
    factory = load_factory(reference, trusted=spec.trusted, folder=spec.folder)
    call = f"{reference}{_call(spec.options)}"
    with _one_line(call):
        module = factory(**spec.options)
    if not isinstance(module, nn.Module):
        raise ArchitectureError(f"{call} returned a {type(module).__name__}, expected a torch.nn.Module")
    _load(module, checkpoint.tensors, assign=False)  # the factory decides on device and precision
    return Network(module, "factory", call, ())


@contextmanager
def _one_line(call: str) -> Iterator[None]:
    """Turn whatever code from outside raises into an ArchitectureError."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise ArchitectureError(f"{call} failed: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _call(options: Mapping[str, object]) -> str:
    return f"({', '.join(f'{name}={value!r}' for name, value in options.items())})"


# --- loading ---


def _load(module: nn.Module, tensors: Mapping[str, Tensor], *, assign: bool) -> None:
    """Put copies of `tensors` into `module`, each in its place and none left over.

    assign: as in `load_state_dict`. Raises ArchitectureError, with the first few that do not fit.
    """
    copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    try:
        module.load_state_dict(copies, strict=True, assign=assign)
    except Exception as error:  # user modules have load hooks of their own
        misfits = "; ".join(_misfits(module.state_dict(), tensors)) or _line(error)
        raise ArchitectureError(f"the tensors do not fit the network: {misfits}") from error


def _misfits(expected: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """What is missing, unexpected or of another shape, with counts."""
    missing = [repr(name) for name in expected if name not in tensors]
    unexpected = [repr(name) for name in tensors if name not in expected]
    reshaped = [
        f"'{name}' {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
        for name, tensor in tensors.items()
        if isinstance(expected.get(name), Tensor) and expected[name].shape != tensor.shape
    ]
    for kind, found in (
        ("missing", missing),
        ("unexpected", unexpected),
        ("of another shape", reshaped),
    ):
        if found:
            yield f"{len(found)} {kind} ({_few(found)})"


def _few(items: Sequence[str]) -> str:
    return ", ".join([*items[:_SHOWN], *(["..."] if len(items) > _SHOWN else [])])


# --- the other way round ---


def describe(module: nn.Module, example: Tensor) -> ModelSpec | None:
    """The spec from which `build_network` rebuilds `module`'s outputs, None if there is none.

    example: (n, ...) inputs on which outputs are compared, in evaluation mode; afterwards each
    submodule is in its own mode again. The spec holds for files of any format.
    Raises ArchitectureError where `module` fails on the example.
    """
    with _evaluating(module), torch.no_grad(), _one_line("the network's call on the example"):
        expected = module(example)
    parts = [expected, *module.state_dict().values()]  # a state may hold more than tensors
    if not all(isinstance(part, Tensor) for part in parts) or not expected.is_floating_point():
        return None
    misses = {name: _miss(module, name, example, expected) for name in ACTIVATIONS}
    best = min(misses, key=lambda name: misses[name])
    if misses[best] > _TOLERANCE.get(expected.dtype, 0.0):
        return None
    return ModelSpec(_family(module.state_dict()), {"activation": best})


def _miss(module: nn.Module, activation: str, example: Tensor, expected: Tensor) -> float:
    """How far the outputs are off with this activation, for the worse file; inf where it fails."""
    spec = ModelSpec(options={"activation": activation})
    try:
        rebuilt = [build_network(saved, spec).module.eval() for saved in _saved(module)]
        with torch.no_grad():
            outputs = [network(example) for network in rebuilt]
    except (ProbeError, RuntimeError):  # RuntimeError: torch's word for inputs that do not fit
        return math.inf
    return max(_distance(output, expected) for output in outputs)


def _distance(output: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected value; inf where it is not a number."""
    if output.shape != expected.shape or not expected.numel():
        return math.inf
    output, expected = output.cpu().double(), expected.cpu().double()
    scale = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    distance = float((output - expected).abs().max() / scale)
    return distance if math.isfinite(distance) else math.inf


def _saved(module: nn.Module) -> Iterator[Checkpoint]:
    """What a file would return of `module`: its own order from torch, lexical from safetensors."""
    tensors = module.state_dict()
    yield Checkpoint(Path("model"), "", "torch", tensors)
    yield Checkpoint(Path("model"), "", "safetensors", dict(sorted(tensors.items())))


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards each submodule is in its own mode again."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
