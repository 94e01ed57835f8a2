"""What holds for every test."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line does, before numpy is imported

import pytest
import torch


def pytest_configure() -> None:
    """Ctrl-C works in tests of it, and in the processes they start, even if the shell ignores it.

    A shell does so for what it runs in the background, and processes inherit that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def same_random_values_in_every_run() -> None:
    torch.manual_seed(0)
