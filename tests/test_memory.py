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

PROBE = """
import resource, sys
import nrc_probe
result = nrc_probe.analyze(sys.argv[1], sys.argv[2], threads=1)
assert result.data.n == int(sys.argv[3]), result.data.n
assert len(result.layers) == 4
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write_rows(path, n, block=50_000):
    """n rows of 16 inputs and 3 targets, never whole in memory."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", (n, 16), "f4", chunks=(4096, 16))
        y = file.create_dataset("y", (n, 3), "f4", chunks=(4096, 3))
        for start in range(0, n, block):
            rows = rng.standard_normal((min(block, n - start), 16), dtype=np.float32)
            x[start : start + len(rows)], y[start : start + len(rows)] = rows, rows[:, :3] ** 2


def peak_kib(checkpoint, data, n):
    command = [sys.executable, "-c", PROBE, str(checkpoint), str(data), str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(checkpoint).parent)
    return int(done.stdout)


def compare(tmp_path, few, many):
    torch.manual_seed(0)
    steps = [nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    model = nn.Sequential(*steps, nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 3))
    torch.save(model.state_dict(), tmp_path / "net.pth")
    peaks = []
    for n in (few, many):
        write_rows(tmp_path / f"{n}.h5", n)
        peaks.append(peak_kib(tmp_path / "net.pth", tmp_path / f"{n}.h5", n))
    return peaks


def test_six_times_the_rows_take_the_same_memory(tmp_path):
    few, many = compare(tmp_path, 20_000, 120_000)
    assert many < 1.1 * few


@pytest.mark.slow
def test_a_million_rows_take_the_memory_of_fifty_thousand(tmp_path):
    few, many = compare(tmp_path, 50_000, 1_000_000)
    assert many < 1.1 * few
