"""What all benchmarks share: a network, a clock, ratios of one run, and the line of a table that they make.

It keeps BLAS to one thread as the command line does, and must be imported before torch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from nrc_probe.pools import keep_blas_to_one_thread

keep_blas_to_one_thread()

import torch  # noqa: E402
from torch import nn  # noqa: E402

Run = Callable[[], object]
HEAD = "| measured | 1 is | median | spread | its bound | goal |\n|---|---|---|---|---|---|"


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    unit: str
    """What 1 is."""
    values: Sequence[float]
    """One a round."""
    bound: Sequence[float] = ()
    """What is inevitable, in the same rounds and the same unit; empty where nothing is known of it."""
    goal: str = ""

    def __str__(self) -> str:
        values = [_short(value) for value in (min(self.values), max(self.values))]
        spread = " to ".join(values) if len(self.values) > 1 else ""
        bound = _short(statistics.median(self.bound)) if self.bound else ""
        median = _short(statistics.median(self.values))
        return f"| {self.what} | {self.unit} | **{median}** | {spread} | {bound} | {self.goal} |"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}" if value >= 4 else f"{value:.2f}"


def show(figures: Iterable[Figure]) -> None:
    """Print the table, a line as it is found."""
    print(HEAD, flush=True)
    for figure in figures:
        print(figure, flush=True)


def network(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    """The paper's form: Linear and ReLU in turn, no biases."""
    widths = [inputs, *[width] * (depth - 1), outputs]
    steps: list[nn.Module] = []
    for d, out in pairwise(widths):
        steps += [nn.Linear(d, out, bias=False), nn.ReLU()]
    return nn.Sequential(*steps[:-1])


def seconds(run: Run) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def times(sides: Mapping[str, Run], rounds: int, *, warm_up: bool = True) -> dict[str, list[float]]:
    """Seconds of every side, one a round, in turn, so that a noisy machine disturbs all alike.

    warm_up: run a first round that is not counted, for caches and thread pools.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(-int(warm_up), rounds):
        for name, run in sides.items():
            taken = seconds(run)
            if round_number >= 0:
                found[name].append(taken)
    return found


def over(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """The ratio within every round."""
    return [one / other for one, other in zip(numerators, denominators, strict=True)]


@contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    """Torch computes with so many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
