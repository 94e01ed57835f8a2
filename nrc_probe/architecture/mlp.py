"""Tensors of Linears and norms -> the chain of modules they came from, and what was assumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, takewhile

from torch import Tensor, nn

from nrc_probe.architecture.ordering import WAYS_OUT, Link, Order, RunOrder, run_order
from nrc_probe.errors import ArchitectureError

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "identity": nn.Identity,
}

Step = tuple[str, nn.Module]
"""A module and its dotted name; "" for one that holds no tensors."""


@dataclass(frozen=True, eq=False)  # eq=False: modules compare by identity
class Blueprint:
    """A network before its tensors are loaded."""

    steps: tuple[Step, ...]
    """In the order in which they run."""
    summary: str
    assumptions: tuple[str, ...]


class Chain(nn.Module):
    """Modules that run one after the other, each found under its dotted name."""

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__()
        # A tuple is not registered: activations without a name cannot clash with tensor names.
        self._steps = tuple(module for _, module in steps)
        for name, module in steps:
            if name:
                self._register_at(name, module)

    def _register_at(self, name: str, module: nn.Module) -> None:
        *containers, last = name.split(".")
        parent: nn.Module = self
        for container in containers:
            if container not in dict(parent.named_children()):
                parent.add_module(container, nn.Module())
            parent = parent.get_submodule(container)
        parent.add_module(last, module)

    def forward(self, x: Tensor) -> Tensor:
        """What the last module makes of it."""
        for module in self._steps:
            x = module(x)
        return x


def mlp_blueprint(tensors: Mapping[str, Tensor], activation: str | None, *, file_order: bool) -> Blueprint:
    """The MLP that `tensors` come from; `activation` None: ReLU, listed as an assumption.

    file_order: whether the tensors stand in the order in which training registered them.
    Raises ArchitectureError where a tensor is of no Linear or norm, or widths do not chain.
    """
    order = run_order(read_links(tensors), file_order=file_order)
    places = [
        _activation_place(order.links, start, stop) for start, stop in pairwise(_linear_places(order.links))
    ]
    active = {place for place in places if place is not None}
    return Blueprint(
        steps=tuple(_steps(order.links, active, activation or "relu")),
        summary=_summary(order.links, _shown_activation(activation) if active else None),
        assumptions=tuple(_assumptions(order, active, activation)),
    )


# --- tensors -> links ---


def read_links(tensors: Mapping[str, Tensor]) -> list[Link]:
    """One Link for each Linear or norm, in the order of `tensors`.

    Raises ArchitectureError at the first tensor that belongs to neither.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        modules.setdefault(module, {})[part] = tensor
    links = [_read_link(name, parts) for name, parts in modules.items()]
    if all(link.is_norm for link in links):
        raise ArchitectureError(f"there is no Linear among the {len(tensors)} tensors; {WAYS_OUT}")
    return links


def _read_link(name: str, parts: Mapping[str, Tensor]) -> Link:
    for read in (_read_linear, _read_batch_norm, _read_layer_norm):
        link = read(name, parts)
        if link is not None:
            return link
    part = min(parts, key=lambda part: part in ("weight", "bias"))  # the one out of place
    full = f"{name}.{part}".removeprefix(".")
    raise ArchitectureError(
        f"'{full}' of shape {tuple(parts[part].shape)} is of neither a Linear nor a norm; {WAYS_OUT}"
    )


def _read_linear(name: str, parts: Mapping[str, Tensor]) -> Link | None:
    if not {"weight"} <= parts.keys() <= {"weight", "bias"} or parts["weight"].ndim != 2:
        return None
    outputs, inputs = parts["weight"].shape
    if "bias" in parts and parts["bias"].shape != (outputs,):
        return None
    return Link(name, "Linear", inputs, outputs, weight=True, bias="bias" in parts)


def _read_batch_norm(name: str, parts: Mapping[str, Tensor]) -> Link | None:
    own = parts.keys() - {"running_mean", "running_var", "num_batches_tracked"}
    if not {"running_mean", "running_var"} <= parts.keys() or own not in (
        set(),
        {"weight", "bias"},
    ):
        return None
    width = parts["running_mean"].numel()
    return Link(name, "BatchNorm", width, width, weight=bool(own), bias=bool(own))


def _read_layer_norm(name: str, parts: Mapping[str, Tensor]) -> Link | None:
    if not {"weight"} <= parts.keys() <= {"weight", "bias"} or parts["weight"].ndim != 1:
        return None
    width = parts["weight"].numel()
    return Link(name, "LayerNorm", width, width, weight=True, bias="bias" in parts)


# --- where the activations stand ---


def _linear_places(links: Order) -> list[int]:
    return [place for place, link in enumerate(links) if not link.is_norm]


def _activation_place(links: Order, start: int, stop: int) -> int | None:
    """The place that the activation between two Linears follows; None where there is none.

    In an nn.Sequential it stands where the indices leave a gap; elsewhere it stands behind the
    norm, unless the norm shares a block with the Linear after it.

    start, stop: places of the two Linears.
    """
    if _shows_gaps(links, start, stop):
        index = [int(link.name.rpartition(".")[2]) for link in links[start : stop + 1]]
        gaps = [place for place, (a, b) in enumerate(pairwise(index), start) if b - a > 1]
        return gaps[-1] if gaps else None
    return start if _leads_a_block(links, start, stop) else stop - 1


def _shows_gaps(links: Order, start: int, stop: int) -> bool:
    """Whether these links are of one nn.Sequential whose indices skip modules without tensors."""
    container = links[start].name.rpartition(".")[0]
    names = [link.name.rpartition(".") for link in links]
    siblings = {place: last for place, (parent, _, last) in enumerate(names) if parent == container}
    if not siblings.keys() >= set(range(start, stop + 1)):
        return False
    if not all(last.isdecimal() for last in siblings.values()):
        return False
    indices = sorted(map(int, siblings.values()))
    return any(b - a > 1 for a, b in pairwise(indices))


def _leads_a_block(links: Order, start: int, stop: int) -> bool:
    """Whether the norm between two Linears is of one block with the second."""
    if stop - start < 2:
        return False
    norm = links[start + 1].name
    return _shared(norm, links[stop].name) > _shared(norm, links[start].name)


def _shared(one: str, other: str) -> int:
    """How many leading parts two dotted names share."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


# --- links -> modules, and what to say about them ---


def _steps(links: Order, active: set[int], activation: str) -> Iterator[Step]:
    for place, link in enumerate(links):
        yield link.name, _module(link)
        if place in active:
            yield "", ACTIVATIONS[activation]()


def _module(link: Link) -> nn.Module:
    if link.kind == "Linear":
        return nn.Linear(link.inputs, link.outputs, bias=link.bias)
    if link.kind == "BatchNorm":
        return nn.BatchNorm1d(link.inputs, affine=link.weight)
    return nn.LayerNorm(link.inputs, bias=link.bias)


def _assumptions(order: RunOrder, active: set[int], activation: str | None) -> Iterator[str]:
    links = order.links
    if active and activation is None:
        yield (
            "The activation is assumed to be ReLU, since a state dict does not show it; "
            "--activation changes it."
        )
    if not order.certain:
        names = ", ".join(link.name for link in links)
        yield f"The order of the layers is assumed, since names and widths allow others: {names}."
    linears = _linear_places(links)
    normed = [(start, stop) for start, stop in pairwise(linears) if stop - start > 1]
    unseen = [(start, stop) for start, stop in normed if not _shows_gaps(links, start, stop)]
    if any(not _leads_a_block(links, *span) for span in unseen):
        yield "Each norm is assumed to stand between its Linear and the activation."
    if any(_leads_a_block(links, *span) for span in unseen):
        yield "A norm in one block with the Linear after it is assumed to follow the activation."
    if any(link.kind == "LayerNorm" and not link.bias for link in links):
        yield "A norm without bias is assumed to be a LayerNorm; an RMSNorm looks the same."


def _shown_activation(activation: str | None) -> str:
    """Its torch name; where none was said, that ReLU is assumed."""
    return "ReLU (assumed)" if activation is None else type(ACTIVATIONS[activation]()).__name__


def _summary(links: Order, activation: str | None) -> str:
    """One line such as "MLP 11-256x7-3, ReLU, no biases"."""
    linears = [link for link in links if not link.is_norm]
    kinds = sorted({link.kind for link in links if link.is_norm})
    name = "MLP" if len(linears) > 1 else "linear model"
    shape = f"{name} {_widths([linears[0].inputs, *(link.outputs for link in linears)])}"
    biased = sum(link.bias for link in linears)
    biases = {0: "no biases", len(linears): "biases"}.get(biased, f"{biased} with a bias")
    return ", ".join([shape, *kinds, *([activation] if activation else []), biases])


def _widths(widths: Sequence[int]) -> str:
    """Widths joined by "-", with runs of hidden ones counted: 11-256x7-3."""
    first, *hidden, last = widths
    runs = [(width, len(list(group))) for width, group in groupby(hidden)]
    middle = [f"{width}x{count}" if count > 1 else f"{width}" for width, count in runs]
    return "-".join([str(first), *middle, str(last)])
