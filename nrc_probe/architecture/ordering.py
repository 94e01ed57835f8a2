"""Names and widths of Linears and norms -> the order in which they run.

A state dict has no order to rely on: safetensors returns `layers.10` before `layers.2`. What can be
relied on: numbers in names count upwards, parts of one container run together, and widths meet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, pairwise
from typing import Literal

from nrc_probe.errors import ArchitectureError

WAYS_OUT = (
    "name the network with --model, in nrc-probe.toml, "
    "or inside the file by writing it with nrc_probe.save_checkpoint"
)
_TRIALS = 20_000  # about a second; names of a real network need a handful

# fmt: off
_FIRST = {"input", "in", "inp", "stem", "embed", "embedding", "first", "encoder", "enc", "backbone",
          "features", "feature"}
_LAST = {"output", "out", "head", "last", "final", "readout", "classifier", "regressor", "decoder",
         "dec", "w"}
# fmt: on


@dataclass(frozen=True)
class Link:
    """One Linear or norm, as its tensors show it."""

    name: str
    kind: Literal["Linear", "BatchNorm", "LayerNorm"]
    inputs: int
    outputs: int
    """Equal to `inputs` for a norm."""
    weight: bool
    """False only for a norm without parameters of its own."""
    bias: bool

    @property
    def is_norm(self) -> bool:
        """Whether the link leaves the width alone."""
        return self.kind != "Linear"


Order = tuple[Link, ...]
_Habits = Mapping[tuple[str, ...], tuple[str, ...]]
"""Patterns in the order in which containers of a path ran them."""


@dataclass(frozen=True)
class RunOrder:
    """Links in the order in which they run, each fitting the one before."""

    links: Order
    certain: bool
    """False where names and widths allow another order as well."""


def run_order(links: Sequence[Link], *, file_order: bool) -> RunOrder:
    """The order in which `links` run.

    file_order: whether `links` stand in the order of registration, which wins where it fits.
    Raises ArchitectureError, with the first place that does not fit, where no order does.
    """
    given = tuple(links)
    if file_order and _runs(given):
        return RunOrder(given, certain=True)
    linears = [link for link in links if not link.is_norm]
    norms = [link for link in links if link.is_norm]
    linear_orders = _linear_orders(linears, file_order=file_order)
    rules: tuple[Callable[[], Iterable[Order]], ...] = (
        lambda: _norms_by_number(linear_orders, norms),
        lambda: _natural_orders(links),
        lambda: _norms_by_rank(linear_orders, norms),
    )
    for rule in rules:
        possible = _first_two(rule())
        if possible:
            return RunOrder(possible[0], certain=len(possible) == 1)
    raise ArchitectureError(f"the layers do not chain: {_misfit(linear_orders, norms)}; {WAYS_OUT}")


def _meet(before: Link, after: Link) -> bool:
    """Whether `after` takes what `before` gives; a norm behind a norm is nobody's network."""
    return before.outputs == after.inputs and not (before.is_norm and after.is_norm)


def _runs(order: Order) -> bool:
    return all(_meet(before, after) for before, after in pairwise(order))


def _first_two(orders: Iterable[Order]) -> list[Order]:
    """The first two different orders among those that run, or fewer."""
    found: list[Order] = []
    for order in islice(orders, _TRIALS):
        if order and _runs(order) and order not in found:
            found.append(order)
        if len(found) == 2:
            break
    return found


def _linear_orders(linears: Sequence[Link], *, file_order: bool) -> list[Order]:
    """Up to two orders in which the Linears run; where none does, the one that breaks last."""
    if file_order and _runs(tuple(linears)):
        return [tuple(linears)]
    return _first_two(_natural_orders(linears)) or [_furthest(linears)]


def _furthest(linears: Sequence[Link]) -> Order:
    """The order that runs as far as any before it breaks."""
    best = max(islice(_search(linears, _meet), _TRIALS), key=len)
    return (*best, *(link for link in _natural_order(linears) if link not in best))


# --- natural order: numbers count upwards, containers stay together ---


def _pattern(part: str) -> str:
    """`part` of a dotted name without its numbers: parts of one pattern are counted through."""
    return re.sub(r"\d+", "#", part)


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", name))


def _habit(pattern: str) -> tuple[int, str]:
    """Sort key: where networks usually have a part of this name (input, ..., head)."""
    words = set(re.findall(r"[a-z]+", pattern.lower()))
    return bool(words & _LAST) - bool(words & _FIRST), pattern


@dataclass(frozen=True)
class _Container:
    """What is still to run of one container: runs of numbered parts, in an order to be chosen."""

    path: tuple[str, ...]
    """Patterns of its own name: containers of one path are ordered alike."""
    parts: Mapping[str, tuple[Link | _Container, ...]]
    """By pattern, most usual first; the parts of one pattern in the order of their numbers."""


def _natural_order(links: Sequence[Link]) -> Order:
    """The most natural order, whether widths meet or not."""
    return next(_search(links, lambda *_: True), ())


def _natural_orders(links: Sequence[Link]) -> Iterator[Order]:
    """Orders that run, count upwards and keep containers together; the most natural first."""
    # Dead ends come too, cut short: whoever counts trials must see them.
    return (order if len(order) == len(links) else () for order in _search(links, _meet))


def _search(links: Sequence[Link], meet: Callable[[Link, Link], bool]) -> Iterator[Order]:
    """Every order in turn, depth first; those that break are given up to where they do."""
    root = _contain([(tuple(link.name.split(".")), link) for link in links], ())
    stack: list[tuple[Order, tuple[Link | _Container, ...], _Habits]] = [((), (root,), {})]
    while stack:
        done, agenda, habits = stack.pop()
        if not agenda:
            yield done
        elif isinstance(agenda[0], _Container):
            choices = _choices(agenda[0], habits)
            stack += [(done, (*todo, *agenda[1:]), then) for todo, then in reversed(choices)]
        elif not done or meet(done[-1], agenda[0]):
            stack.append(((*done, agenda[0]), agenda[1:], habits))
        else:
            yield done


def _contain(named: Sequence[tuple[tuple[str, ...], Link]], path: tuple[str, ...]) -> _Container:
    """The tree of containers that the dotted names spell out."""
    children: dict[str, list[tuple[tuple[str, ...], Link]]] = {}
    for (head, *tail), link in named:
        children.setdefault(head, []).append((tuple(tail), link))
    parts: dict[str, tuple[Link | _Container, ...]] = {}
    for head in sorted(children, key=lambda name: (_habit(_pattern(name)), _numbers(name))):
        links = [link for tail, link in children[head] if not tail]
        deeper = [(tail, link) for tail, link in children[head] if tail]
        inner = [_contain(deeper, (*path, _pattern(head)))] if deeper else []
        parts[_pattern(head)] = (*parts.get(_pattern(head), ()), *links, *inner)
    return _Container(path, parts)


def _choices(container: _Container, habits: _Habits) -> list[tuple[tuple[Link | _Container, ...], _Habits]]:
    """What can run first in `container`, with what then remains of it; habits after that choice.

    A container follows the order that one of the same path before it had.
    """
    path = container.path
    known = habits.get(path, ())
    due = [pattern for pattern in known if pattern in container.parts][:1]
    choices = []
    for pattern, parts in container.parts.items():
        if pattern in known and pattern not in due:
            continue
        others = {name: rest for name, rest in container.parts.items() if name != pattern}
        rest = (_Container(path, others),) if others else ()
        then = habits if pattern in known else {**habits, path: (*known, pattern)}
        choices.append(((*parts, *rest), then))
    return choices


# --- norms whose names stand apart from the Linears' ---


def _norms_by_number(linear_orders: Sequence[Order], norms: Sequence[Link]) -> Iterator[Order]:
    """`bn2` behind `fc2`: each norm behind the one Linear that has its numbers."""
    by_number = {_numbers(norm.name): norm for norm in norms}
    if not norms or () in by_number or len(by_number) < len(norms):
        return
    for linears in linear_orders:
        order: list[Link] = []
        for linear in linears:
            norm = by_number.get(_numbers(linear.name))
            order += [linear] if norm is None else [linear, norm]
        if len(order) == len(linears) + len(norms):
            yield tuple(order)


def _norms_by_rank(linear_orders: Sequence[Order], norms: Sequence[Link]) -> Iterator[Order]:
    """The k-th norm behind the k-th Linear; before it; then all other ways to place them."""
    count = len(norms)
    ordered = _natural_order(norms)
    for linears in linear_orders:
        yield _placed(linears, ordered, range(1, count + 1))
        yield _placed(linears, ordered, range(count))
        for places in combinations(range(len(linears) + 1), count):
            yield _placed(linears, ordered, places)


def _placed(linears: Order, norms: Order, places: Sequence[int]) -> Order:
    """Each norm behind `place` Linears; norms that find no place stand at the end."""
    waiting = list(zip(places, norms, strict=True))
    order: list[Link] = []
    for passed, linear in enumerate(linears):
        order += [norm for place, norm in waiting if place == passed]
        order.append(linear)
    return (*order, *(norm for place, norm in waiting if place >= len(linears)))


def _misfit(linear_orders: Sequence[Order], norms: Sequence[Link]) -> str:
    """The first place at which the most natural order breaks."""
    linears = linear_orders[0]
    for before, after in pairwise(linears):
        if before.outputs != after.inputs:
            return f"'{before.name}' gives {before.outputs} values, '{after.name}' takes {after.inputs}"
    widths = {linears[0].inputs, *(link.outputs for link in linears)}
    strays = [norm for norm in norms if norm.inputs not in widths]
    norm = (strays or norms)[0]
    return f"norm '{norm.name}' of width {norm.inputs} has no place of its own between the Linears"
