"""How long an analysis takes against the published way of measuring: ratios, side by side in one run.

    python tests/benchmarks/against_published.py --rows 4000 --width 256 --depth 8

The published way (Rangamani & Unal 2026; here in our own words, from its description) makes one pass over
the data for every layer, keeps all of its activations, centres N x N kernels by N x N matrices for CKA,
and fits NRC4 by a pseudo-inverse. It is timed with and without CKA, which takes nearly all of it. The bound
is what no analysis in one pass and exact precision can pass: the forward pass and one product a layer.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from measuring import Figure, network, over, show, times  # before torch

import torch  # isort: skip
from against_forward import INPUTS, TARGETS, bound
from torch import Tensor, nn

import nrc_probe

BATCH, RCOND = 128, 1e-3


def activations(model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """All inputs of one layer, (N, d), from a pass of its own."""
    kept: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].clone()))
    with torch.no_grad():
        for rows in x.split(BATCH):
            model(rows)
    hook.remove()
    return torch.cat(kept)


def dense_cka(A: Tensor, B: Tensor) -> float:  # the letters of the formula
    """Linear CKA by kernels of all pairs of rows: several (N, N) matrices, O(N³)."""
    n = len(A)
    centre = torch.eye(n) - torch.full((n, n), 1 / n)

    def hsic(one: Tensor, other: Tensor) -> Tensor:
        return torch.trace(centre @ (one @ one.T) @ centre @ (other @ other.T))

    return float(hsic(A, B) / (hsic(A, A) * hsic(B, B)).sqrt())


def published(model: nn.Module, x: Tensor, y: Tensor, *, with_cka: bool) -> list[tuple[float, ...]]:
    """NRC1 to NRC4 of every Linear, one layer at a time."""
    t = y.shape[1]
    scores = []
    for layer in (m for m in model.modules() if isinstance(m, nn.Linear)):
        H = activations(model, layer, x)
        centred = H - H.mean(0)
        U, s, _ = torch.linalg.svd(centred.T @ centred)
        nrc1 = float(1 - s[:t].sum() / s.sum())
        nrc2 = dense_cka(H[:, :t], y) if with_cka else 0.0
        V = torch.linalg.svd(layer.weight.detach(), full_matrices=False)[2][:t].T
        nrc3 = float(torch.linalg.svdvals(U[:, :t].T @ V).mean())
        probe = torch.linalg.pinv(H, rcond=RCOND) @ (y - y.mean(0))
        nrc4 = float((H @ probe - (y - y.mean(0))).square().mean())
        scores.append((nrc1, nrc2, nrc3, nrc4))
    return scores


def figures(rows: int, width: int, depth: int, *, rounds: int) -> Iterator[Figure]:
    """With CKA and without it."""
    torch.manual_seed(0)
    model = network(INPUTS, width, depth, TARGETS).eval()
    x, y = torch.randn(rows, INPUTS), torch.randn(rows, TARGETS)
    taken = times(
        {
            "all four metrics": lambda: published(model, x, y, with_cka=True),
            "all but CKA": lambda: published(model, x, y, with_cka=False),
            "ours": lambda: nrc_probe.analyze(model, (x, y)),
            "bound": bound(model, x, width, torch.float64),
        },
        rounds,
    )
    for name, goal in (("all four metrics", 1000), ("all but CKA", 20)):
        what = f"the published method, {name}: {depth} x {width}, {rows:,} rows"
        limit = over(taken[name], taken["bound"])
        yield Figure(what, "an analysis", over(taken[name], taken["ours"]), limit, f"≥ {goal:,}")


def main() -> None:
    """Print how many times longer the published way takes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=4_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    show(figures(asked.rows, asked.width, asked.depth, rounds=asked.rounds))


if __name__ == "__main__":
    main()
