"""How long an analysis takes against the bare forward pass: ratios, measured side by side in one run.

    python tests/benchmarks/against_forward.py --rows 20000 --width 512 --depth 8

Both sides run the same batches through the same network; the analysis adds all layers' moments,
decompositions and scores. a `bound` is the forward pass with the products alone: what is inevitable.
Rounds alternate, so that a noisy machine disturbs all alike; the figure is the median over rounds of
the ratio within a round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from nrc_probe.pools import keep_blas_to_one_thread

keep_blas_to_one_thread()  # as the command line does, before torch is imported

import torch  # noqa: E402
from torch import nn  # noqa: E402

import nrc_probe  # noqa: E402
from nrc_probe.forward import default_batch_size  # noqa: E402
from nrc_probe.products import add_upper_product  # noqa: E402


def network(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    """The paper's form: Linear and ReLU in turn, no biases."""
    widths = [inputs, *[width] * (depth - 1), outputs]
    steps: list[nn.Module] = []
    for d, out in pairwise(widths):
        steps += [nn.Linear(d, out, bias=False), nn.ReLU()]
    return nn.Sequential(*steps[:-1])


def bound(model: nn.Module, x: torch.Tensor, width: int, dtype: torch.dtype) -> Callable[[], object]:
    """The forward pass and, for every wide layer, one symmetric product a batch: what is inevitable.

    The forward pass takes all threads; then each thread takes the products of a layer at a time.
    """
    batch = default_batch_size((x.shape[1],))
    wide = [m for m in model.modules() if isinstance(m, nn.Linear) and m.in_features == width]
    rows = torch.randn(batch, width, dtype=dtype)
    totals = [torch.zeros(width, width, dtype=torch.float64) for _ in wide]

    def products(total: torch.Tensor) -> None:
        for part in x.split(batch):
            add_upper_product(rows[: len(part)], total)

    @torch.no_grad()
    def run() -> None:
        for part in x.split(batch):
            model(part)
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            list(threads.map(products, totals))

    return run


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    """Print the ratio of each precision to the bare forward pass."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()

    torch.manual_seed(0)
    device = torch.device(asked.device)
    model = network(11, asked.width, asked.depth, 3).to(device).eval()
    x, y = torch.randn(asked.rows, 11), torch.randn(asked.rows, 3)
    batch = default_batch_size((11,))

    @torch.no_grad()
    def forward() -> None:
        for rows in x.split(batch):
            model(rows.to(device))
        if device.type == "cuda":
            torch.cuda.synchronize()

    def analysis(precision: str) -> Callable[[], object]:
        return lambda: nrc_probe.analyze(model, (x, y), precision=precision, device=asked.device)

    sides = {"exact": analysis("exact"), "fast": analysis("fast")}
    if device.type == "cpu":
        sides["exact bound"] = bound(model, x, asked.width, torch.float64)
        sides["fast bound"] = bound(model, x, asked.width, torch.float32)
    ratios: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(asked.rounds + 1):
        bare = seconds(forward)
        for name, run in sides.items():
            ratio = seconds(run) / bare
            if round_number:  # the first round warms caches and thread pools up
                ratios[name].append(ratio)
    print(f"{asked.depth} x {asked.width}, {asked.rows:,} rows, {device}; forward pass = 1")
    for name, values in ratios.items():
        low, high = min(values), max(values)
        print(f"{name:<12}{statistics.median(values):.2f}  (from {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
