"""How long a batch takes against the sum of its analyses: ratios, measured side by side in one run.

    python tests/benchmarks/batch.py --checkpoints 70 --rows 1000 --width 256 --depth 8

One side is a Python process that calls `analyze` once a checkpoint: import and first opening of the
data are paid once, and not counted. The other is `nrc-probe batch` as a whole process, counted from
its start to its end, with one worker and with more.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from measuring import Figure, network, over, show  # before torch

import torch  # isort: skip
import numpy as np
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
ANALYSES = """
import sys, time
from pathlib import Path
from nrc_probe.pools import keep_blas_to_one_thread
keep_blas_to_one_thread()  # as the command line does, before torch is imported
import nrc_probe
paths = sorted(Path("runs").iterdir())
nrc_probe.analyze(paths[0], "data.npz")
started = time.perf_counter()
for path in paths:
    nrc_probe.analyze(path, "data.npz")
print(time.perf_counter() - started)
"""


def write_run(folder: Path, checkpoints: int, rows: int, width: int, depth: int) -> None:
    """Networks of the paper's form and their data."""
    (folder / "runs").mkdir()
    for number in range(checkpoints):
        torch.manual_seed(number)
        save_file(network(11, width, depth, 3).state_dict(), folder / "runs" / f"{number}.safetensors")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 11), dtype=np.float32)
    np.savez(folder / "data.npz", x=x, y=x[:, :3] ** 2)


def analyses(folder: Path) -> float:
    """Seconds of the analyses alone, in one process."""
    command = [sys.executable, "-c", ANALYSES]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def batch(folder: Path, workers: int, checkpoints: int) -> float:
    """Seconds of the whole command, from the start of its process."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    words = ["batch", "runs", "-o", "out", "--data", "data.npz", "--workers", str(workers), "--quiet"]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "nrc_probe", *words], cwd=folder, env=ENVIRONMENT, check=True)
    seconds = time.perf_counter() - started
    assert len(list((folder / "out").iterdir())) == checkpoints
    return seconds


def figures(
    checkpoints: int, rows: int, width: int, depth: int, *, workers: Sequence[int], rounds: int
) -> Iterator[Figure]:
    """One line a number of workers."""
    alone: list[float] = []
    batches: dict[int, list[float]] = {count: [] for count in workers}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder, checkpoints, rows, width, depth)
        batch(folder, 1, checkpoints)  # warms the disk's cache up
        for _ in range(rounds):
            alone.append(analyses(folder))
            for count in workers:
                batches[count].append(batch(folder, count, checkpoints))
    for count, taken in batches.items():
        yield Figure(
            f"batch of {checkpoints}, {depth} x {width}, {rows:,} rows, {count} worker{'s'[: count - 1]} "
            f"({min(taken):.1f} to {max(taken):.1f} s)",
            "the analyses alone, in one process",
            over(taken, alone),
            goal="≤ 1.5",
        )


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoints", type=int, default=70)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    shape = (asked.checkpoints, asked.rows, asked.width, asked.depth)
    show(figures(*shape, workers=asked.workers, rounds=asked.rounds))


if __name__ == "__main__":
    main()
