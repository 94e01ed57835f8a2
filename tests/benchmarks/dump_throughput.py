"""How fast a dump writes, against h5py writing the same bytes in the same chunks: ratios of one run.

    python tests/benchmarks/dump_throughput.py --rows 40000 --width 512 --layers 6

The network costs next to nothing: a narrow input is repeated until it is wide, every layer reads that,
and gives one of its numbers. Both sides write to the same folder, in turn, each to a file that was not
there; the figure is the median over rounds of the ratio within a round. `raw` is what a script would do
that had all features: write whole chunks of them by `dataset[a:b] = rows`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from nrc_probe.pools import keep_blas_to_one_thread

keep_blas_to_one_thread()  # as the command line does, before torch is imported

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from against_forward import seconds  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import nrc_probe  # noqa: E402
from nrc_probe.store.layout import chunk_rows  # noqa: E402

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


def main() -> None:
    """Print the throughput of both, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=None, help="Where to write. Default: a temporary one.")
    asked = parser.parse_args()

    torch.manual_seed(0)
    rows = chunk_rows(asked.width, "float32", asked.rows)
    n = asked.rows // rows * rows
    x, model = torch.randn(n, INPUTS), Glances(asked.width, asked.layers).eval()
    y, features = x[:, :1].clone(), np.tile(x[:rows].numpy(), asked.width // INPUTS)
    size = n * asked.width * asked.layers * 4 / 2**20
    speeds: dict[str, list[float]] = {"dump": [], "raw": []}
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        paths = {name: Path(folder) / f"{name}.h5" for name in speeds}
        runs = {
            "dump": lambda: nrc_probe.dump(model, (x, y), output=paths["dump"], device="cpu"),
            "raw": lambda: raw_write(paths["raw"], features, asked.layers, n),
        }
        for round_number in range(asked.rounds + 1):
            for name, run in runs.items():
                speed = size / seconds(run)
                paths[name].unlink()
                if round_number:  # the first round warms caches up
                    speeds[name].append(speed)
    print(
        f"{asked.layers} layers of width {asked.width}, {n:,} rows, {size:,.0f} MiB in chunks of {rows} rows"
    )
    for name, values in speeds.items():
        low, high = min(values), max(values)
        print(f"{name:<5} {statistics.median(values):,.0f} MiB/s  (from {low:,.0f} to {high:,.0f})")
    ratios = [mine / its for mine, its in zip(speeds["dump"], speeds["raw"], strict=True)]
    print(f"ratio {statistics.median(ratios):.2f}  (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
