"""How fast a dump writes and a score reads, against h5py with the same bytes in the same chunks.

    python tests/benchmarks/store_throughput.py --rows 40000 --width 512 --layers 6

The network costs next to nothing: a narrow input is repeated until it is wide, every layer reads that,
and gives one of its numbers. All sides use the same folder, in turn. Raw writing is what a script would do
that had all features: write whole chunks of them by `dataset[a:b] = rows`; raw reading is its reverse. A
score must also multiply what it reads: its bound is raw reading and one product a chunk.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from measuring import Figure, over, show, times  # before torch

import torch  # isort: skip
import h5py
import numpy as np
from torch import Tensor, nn

import nrc_probe
from nrc_probe.products import add_upper_product
from nrc_probe.store.layout import chunk_rows

INPUTS = 16


class Glance(nn.Linear):
    """A layer that costs nothing: it looks at one of its features."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, width) -> (n, 1)"""
        return x[:, :1]


class Glances(nn.Module):
    """Layers that all read the input, repeated until it is wide; their sum is the prediction."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.times = width // INPUTS
        self.layers = nn.ModuleList(Glance(self.times * INPUTS, 1) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """(n, INPUTS) -> (n, 1)"""
        wide = x.repeat(1, self.times)
        return sum((layer(wide) for layer in self.layers), torch.zeros(len(x), 1))


def raw_write(path: Path, features: np.ndarray, layers: int, n: int) -> None:
    """The same data sets, chunks and bytes, by h5py alone."""
    width, rows = features.shape[1], len(features)
    with h5py.File(path, "w") as book:
        shape = {"shape": (0, width), "maxshape": (None, width), "chunks": (rows, width)}
        datasets = [book.create_dataset(f"layers/{k}", dtype="f4", **shape) for k in range(layers)]
        for start in range(0, n, rows):
            for dataset in datasets:
                dataset.resize(start + rows, 0)
                dataset[start : start + rows] = features


def raw_read(path: Path, *, multiply: bool) -> None:
    """All features, a chunk at a time; if asked, with the product that scores cannot do without."""
    with h5py.File(path, "r") as book:
        for group in book["layers"].values():
            dataset = group["features"]
            width = dataset.shape[1]
            rows, total = np.empty((dataset.chunks[0], width), "f4"), torch.zeros(width, width).double()
            for start in range(0, len(dataset), len(rows)):
                dataset.read_direct(rows, np.s_[start : start + len(rows)])
                if multiply:
                    add_upper_product(torch.from_numpy(rows).double(), total)


def figures(
    rows: int, width: int, layers: int, *, rounds: int, folder: Path | None = None
) -> Iterator[Figure]:
    """Writing, then reading."""
    torch.manual_seed(0)
    chunk = chunk_rows(width, "float32", rows)
    n = rows // chunk * chunk
    x, model = torch.randn(n, INPUTS), Glances(width, layers).eval()
    y, features = x[:, :1].clone(), np.tile(x[:chunk].numpy(), width // INPUTS)
    what = f"{layers} layers of width {width}, {n:,} rows, {n * width * layers * 4 / 2**20:,.0f} MiB"
    with tempfile.TemporaryDirectory(dir=folder) as place:
        ours, raw = Path(place) / "dump.h5", Path(place) / "raw.h5"

        def dump() -> None:
            ours.unlink(missing_ok=True)
            nrc_probe.dump(model, (x, y), output=ours, device="cpu")

        def write() -> None:
            raw.unlink(missing_ok=True)
            raw_write(raw, features, layers, n)

        taken = times({"dump": dump, "raw": write}, rounds)
        yield Figure(
            f"rate of dump: {what}", "h5py's raw writing", over(taken["raw"], taken["dump"]), goal="≥ 0.8"
        )
        reading = {
            "score": lambda: nrc_probe.score(ours),
            "raw": lambda: raw_read(ours, multiply=False),
            "bound": lambda: raw_read(ours, multiply=True),
        }
        taken = times(reading, rounds)
        limit = over(taken["bound"], taken["raw"])
        yield Figure(f"score: {what}", "h5py's raw reading", over(taken["score"], taken["raw"]), limit)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=None, help="Where to write. Default: a temporary one.")
    asked = parser.parse_args()
    show(figures(asked.rows, asked.width, asked.layers, rounds=asked.rounds, folder=asked.folder))


if __name__ == "__main__":
    main()
