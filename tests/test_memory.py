"""Memory does not grow with the number of rows: peak resident size of whole processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

DUMP = """
import sys
import nrc_probe
written = nrc_probe.dump(sys.argv[1], sys.argv[2], output=sys.argv[2] + ".dump", threads=1)
assert written.n == int(sys.argv[3]), written.n
assert len(written.layers) == 4
"""
SCORE = """
import sys
import torch
import nrc_probe
torch.set_num_threads(1)
result = nrc_probe.score(sys.argv[2] + ".dump")
assert result.data.n == int(sys.argv[3]), result.data.n
assert len(result.layers) == 4
"""
PROBE = """
import sys
import nrc_probe
result = nrc_probe.analyze(sys.argv[1], sys.argv[2], threads=1)
assert result.data.n == int(sys.argv[3]), result.data.n
assert len(result.layers) == 4
"""


PEAK = """
from pathlib import Path
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
"""Not ru_maxrss: Linux hands on to a program what the one that started it took at its most."""


def write_rows(path, n, block=50_000):
    """n rows of 16 inputs and 3 targets, never whole in memory."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", (n, 16), "f4", chunks=(4096, 16))
        y = file.create_dataset("y", (n, 3), "f4", chunks=(4096, 3))
        for start in range(0, n, block):
            rows = rng.standard_normal((min(block, n - start), 16), dtype=np.float32)
            x[start : start + len(rows)], y[start : start + len(rows)] = rows, rows[:, :3] ** 2


def peak_kib(checkpoint, data, n, program=PROBE):
    command = [sys.executable, "-c", program + PEAK, str(checkpoint), str(data), str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(checkpoint).parent)
    return int(done.stdout)


def save_mlp(path):
    torch.manual_seed(0)
    steps = [nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    model = nn.Sequential(*steps, nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 3))
    torch.save(model.state_dict(), path)


def compare(tmp_path, few, many):
    save_mlp(tmp_path / "net.pth")
    peaks = []
    for n in (few, many):
        write_rows(tmp_path / f"{n}.h5", n)
        peaks.append(peak_kib(tmp_path / "net.pth", tmp_path / f"{n}.h5", n))
    return peaks


def test_what_a_program_takes_is_told_and_not_what_started_it_took(tmp_path):
    ballast = bytearray(2**28)
    empty, more = (
        peak_kib(tmp_path / "c", tmp_path / "d", 0, program) for program in ("", "x = b'.' * 2**27")
    )
    assert empty < 2**16
    assert more > empty + 2**17 * 0.9
    assert len(ballast) == 2**28


def test_six_times_the_rows_take_the_same_memory(tmp_path):
    few, many = compare(tmp_path, 20_000, 120_000)
    assert many < 1.1 * few


@pytest.mark.slow
def test_a_million_rows_take_the_memory_of_fifty_thousand(tmp_path):
    few, many = compare(tmp_path, 50_000, 1_000_000)
    assert many < 1.1 * few


BUFFERS_KIB = 64 * 2**10
"""What blocks of inputs and HDF5's caches come to, which 10,000 rows do not fill."""


def dump_and_score(tmp_path, n):
    """Peaks of a dump and of the scoring of its file, which is gone afterwards."""
    data = tmp_path / f"{n}.h5"
    write_rows(data, n)
    peaks = [peak_kib(tmp_path / "net.pth", data, n, program) for program in (DUMP, SCORE)]
    size = Path(f"{data}.dump").stat().st_size
    Path(f"{data}.dump").unlink()
    data.unlink()
    return peaks, size


def test_a_dump_and_its_scoring_take_the_memory_of_six_times_fewer_rows(tmp_path):
    save_mlp(tmp_path / "net.pth")
    few, _ = dump_and_score(tmp_path, 10_000)
    many, size = dump_and_score(tmp_path, 60_000)
    assert size > 150 * 2**20
    for some, more in zip(few, many, strict=True):
        assert more < some + BUFFERS_KIB


@pytest.mark.slow
def test_a_dump_of_a_million_rows_and_its_scoring_take_the_memory_of_ten_thousand(tmp_path):
    save_mlp(tmp_path / "net.pth")
    few, _ = dump_and_score(tmp_path, 10_000)
    many, size = dump_and_score(tmp_path, 1_000_000)
    assert size > 3e9
    for some, more in zip(few, many, strict=True):
        assert more < some + BUFFERS_KIB
