"""What this machine can hold: asked before a file's word about its size is taken."""

from __future__ import annotations

import os

from nrc_probe.errors import DataError


def check_memory(needed: int, what: str) -> None:
    """Raise DataError where `what` needs more bytes than this machine has."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise DataError(f"{what} needs {needed} bytes, this machine has {memory}")
