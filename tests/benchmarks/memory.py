"""How much memory an analysis takes beyond its imports, against rows, width and depth; and the start-up.

    python tests/benchmarks/memory.py --rows 10000 100000 1000000 --widths 256 512 1024 --depths 4 8 16

Every figure is the peak resident size of a whole `nrc-probe analyze` less that of `nrc-probe layers` on
the same checkpoint, which imports and builds the same but reads no data. The sums are what the moments of
all layers take by themselves. Start-up is `nrc-probe --help` over `python -c pass`, in turn.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from measuring import Figure, Run, network, over, show, times  # before torch

import torch  # isort: skip
import h5py
import numpy as np

INPUTS, TARGETS, BLOCK = 16, 3, 50_000
MEBI = 2**20
COMMAND = """
import sys
from pathlib import Path
from nrc_probe.cli import main
try:
    main()
except SystemExit as end:
    if end.code:
        raise
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def write_rows(path: Path, n: int) -> None:
    """n rows of inputs and targets, never whole in memory."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as book:
        x = book.create_dataset("x", (n, INPUTS), "f4", chunks=(min(n, 4096), INPUTS))
        y = book.create_dataset("y", (n, TARGETS), "f4", chunks=(min(n, 4096), TARGETS))
        for start in range(0, n, BLOCK):
            rows = rng.standard_normal((min(BLOCK, n - start), INPUTS), dtype=np.float32)
            x[start : start + len(rows)], y[start : start + len(rows)] = rows, rows[:, :TARGETS] ** 2


def peak(*arguments: str) -> int:
    """Peak resident bytes of one command, which must succeed.

    Not ru_maxrss: Linux hands on to a program what the one that started it took at its most.
    """
    command = [sys.executable, "-c", COMMAND, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return int(done.stdout.split()[-1]) * 1024


def memory(folder: Path, n: int, width: int, depth: int) -> Figure:
    """What the analysis of one shape takes."""
    data, checkpoint = folder / f"{n}.h5", folder / "net.pth"
    if not data.exists():
        write_rows(data, n)
    torch.manual_seed(0)
    torch.save(network(INPUTS, width, depth, TARGETS).state_dict(), checkpoint)
    taken = peak("analyze", str(checkpoint), "--data", str(data), "--threads", "1", "-q")
    taken -= peak("layers", str(checkpoint))
    sums = 8 * ((INPUTS + TARGETS + 1) ** 2 + (depth - 1) * (width + TARGETS + 1) ** 2)
    what = f"peak memory beyond `layers`: {depth} x {width}, {n:,} rows (its sums: {sums / MEBI:.1f} MiB)"
    return Figure(what, "MiB", [taken / MEBI])


def start_up(rounds: int) -> Figure:
    """`nrc-probe --help` over an empty program."""
    commands = {"--help": ("-m", "nrc_probe", "--help"), "empty": ("-c", "pass")}

    def starter(words: Sequence[str]) -> Run:
        return lambda: subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)

    taken = times({name: starter(words) for name, words in commands.items()}, rounds)
    what = f"start-up: --help ({1000 * min(taken['--help']):.0f} to {1000 * max(taken['--help']):.0f} ms)"
    return Figure(what, "an empty Python program", over(taken["--help"], taken["empty"]))


def figures(
    rows: Sequence[int], widths: Sequence[int], depths: Sequence[int], *, rounds: int
) -> Iterator[Figure]:
    """Memory, one thing varied at a time from the first of the others; then the start-up."""
    n, width, depth = rows[0], widths[0], depths[0]
    shapes = [
        *((count, width, depth) for count in rows),
        *((n, wide, depth) for wide in widths[1:]),
        *((n, width, deep) for deep in depths[1:]),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for shape in shapes:
            yield memory(Path(folder), *shape)
    yield start_up(rounds)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    show(figures(asked.rows, asked.widths, asked.depths, rounds=asked.rounds))


if __name__ == "__main__":
    main()
