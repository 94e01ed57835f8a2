"""How much memory an analysis takes beyond its imports, against rows, width and depth; and the start-up.

    python tests/benchmarks/memory.py --rows 10000 100000 1000000 --widths 256 512 1024 --depths 4 8 16

Every figure is the peak resident size of a whole `nrc-probe analyze` less that of `nrc-probe layers` on
the same checkpoint, which imports and builds the same but reads no data. `sums` is what the moments of
all layers take by themselves. Start-up is `nrc-probe --help` over `python -c pass`, median of runs in turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import torch
from against_forward import network

INPUTS, TARGETS, BLOCK = 16, 3, 50_000
MEBI = 2**20


def write_rows(path: Path, n: int) -> None:
    """n rows of inputs and targets, never whole in memory."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as book:
        x = book.create_dataset("x", (n, INPUTS), "f4", chunks=(4096, INPUTS))
        y = book.create_dataset("y", (n, TARGETS), "f4", chunks=(4096, TARGETS))
        for start in range(0, n, BLOCK):
            rows = rng.standard_normal((min(BLOCK, n - start), INPUTS), dtype=np.float32)
            x[start : start + len(rows)], y[start : start + len(rows)] = rows, rows[:, :TARGETS] ** 2


def peak(*arguments: str) -> int:
    """Peak resident bytes of one command, which must succeed."""
    process = subprocess.Popen([sys.executable, "-m", "nrc_probe", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"nrc-probe {' '.join(arguments)} failed")
    return usage.ru_maxrss * 1024


def row(folder: Path, n: int, width: int, depth: int) -> str:
    """One line of the table."""
    data, checkpoint = folder / f"{n}.h5", folder / "net.pth"
    if not data.exists():
        write_rows(data, n)
    torch.manual_seed(0)
    torch.save(network(INPUTS, width, depth, TARGETS).state_dict(), checkpoint)
    taken = peak("analyze", str(checkpoint), "--data", str(data), "--threads", "1", "-q")
    taken -= peak("layers", str(checkpoint))
    sums = 8 * ((INPUTS + TARGETS + 1) ** 2 + (depth - 1) * (width + TARGETS + 1) ** 2)
    return f"{n:>9,} {width:>6} {depth:>6} {taken / MEBI:>5.0f} {sums / MEBI:>6.0f}"


def start_up(rounds: int) -> float:
    """`nrc-probe --help` over an empty program."""

    def seconds(*command: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - started

    pairs = [(seconds("-m", "nrc_probe", "--help"), seconds("-c", "pass")) for _ in range(rounds)]
    return statistics.median(ours / empty for ours, empty in pairs)


def main() -> None:
    """Print the table, one thing varied at a time from the first of the others."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    n, width, depth = asked.rows[0], asked.widths[0], asked.depths[0]
    shapes = [
        *((rows, width, depth) for rows in asked.rows),
        *((n, wide, depth) for wide in asked.widths[1:]),
        *((n, width, deep) for deep in asked.depths[1:]),
    ]
    print("     rows  width layers   MiB   sums")
    with tempfile.TemporaryDirectory() as folder:
        for shape in shapes:
            print(row(Path(folder), *shape), flush=True)
    print(f"start-up: --help takes {start_up(asked.rounds):.1f} times an empty Python program")


if __name__ == "__main__":
    main()
