"""How long an analysis takes against the bare forward pass: ratios, measured side by side in one run.

    python tests/benchmarks/against_forward.py --rows 20000 --width 512 --depth 8

Both sides run the same batches through the same network; the analysis adds all layers' moments,
decompositions and scores. The bound is the forward pass with the products alone: what is inevitable.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from measuring import Figure, Run, network, over, show, threads_of_torch, times  # before torch

import torch  # isort: skip
from torch import nn

import nrc_probe
from nrc_probe.forward import default_batch_size
from nrc_probe.products import add_upper_product

INPUTS, TARGETS = 11, 3


def forward(model: nn.Module, x: torch.Tensor, device: torch.device) -> Run:
    """The bare forward pass over all rows."""

    @torch.no_grad()
    def run() -> None:
        for rows in x.split(default_batch_size((INPUTS,))):
            model(rows.to(device))
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def bound(model: nn.Module, x: torch.Tensor, width: int, dtype: torch.dtype) -> Run:
    """The forward pass and, for every wide layer, one symmetric product a batch.

    The forward pass takes all threads; then each thread takes the products of a layer at a time.
    """
    batch = default_batch_size((INPUTS,))
    wide = [m for m in model.modules() if isinstance(m, nn.Linear) and m.in_features == width]
    rows = torch.randn(batch, width, dtype=dtype)
    totals = [torch.zeros(width, width, dtype=torch.float64) for _ in wide]
    bare = forward(model, x, torch.device("cpu"))

    def products(total: torch.Tensor) -> None:
        for part in x.split(batch):
            add_upper_product(rows[: len(part)], total)

    def run() -> None:
        bare()
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            list(threads.map(products, totals))

    return run


def figures(
    rows: int, width: int, depth: int, *, rounds: int, threads: int, device: str = "cpu"
) -> Iterator[Figure]:
    """Both precisions of one shape; minutes of a single round need no warm-up."""
    torch.manual_seed(0)
    place = torch.device(device)
    model = network(INPUTS, width, depth, TARGETS).to(place).eval()
    data = torch.randn(rows, INPUTS), torch.randn(rows, TARGETS)
    sides: dict[str, Run] = {"forward": forward(model, data[0], place)}
    for precision, dtype in (("exact", torch.float64), ("fast", torch.float32)):
        sides[precision] = lambda precision=precision: nrc_probe.analyze(
            model, data, precision=precision, device=device, threads=threads
        )
        if place.type == "cpu":
            sides[f"bound of {precision}"] = bound(model, data[0], width, dtype)
    with threads_of_torch(threads):
        taken = times(sides, rounds, warm_up=rounds > 1)
    for precision, goal in (("exact", 2.1), ("fast", 1.7)):
        yield Figure(
            f"analysis, {precision}: {depth} x {width}, {rows:,} rows, {threads} thread{'s'[: threads - 1]}",
            "the bare forward pass",
            over(taken[precision], taken["forward"]),
            over(taken[f"bound of {precision}"], taken["forward"]) if place.type == "cpu" else (),
            f"≤ {goal}" if (width, rows) == (512, 20_000) else "",
        )


def main() -> None:
    """Print the ratio of each precision to the bare forward pass."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    show(
        figures(
            asked.rows,
            asked.width,
            asked.depth,
            rounds=asked.rounds,
            threads=asked.threads,
            device=asked.device,
        )
    )


if __name__ == "__main__":
    main()
