"""Interruptions and full disks, all at once in one folder: nothing is lost, doubled, spoiled or left."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from soak import ROUND_SECONDS, Soak, described

SECONDS = float(os.environ.get("SOAK_SECONDS", 15 * 60))
SEED = int(os.environ.get("SOAK_SEED", 0))


def total(soak: Soak, kind: str) -> int:
    return sum(count for name, count in soak.tally.items() if name.endswith(f": {kind}"))


def told(soak: Soak) -> str:
    return "\n".join(["", *soak.log[-300:], *described(soak.tally)])


def test_a_few_disturbed_commands_at_once_leave_what_undisturbed_ones_do(tmp_path: Path) -> None:
    soak = Soak(tmp_path, SEED, lanes=1)
    try:
        soak.run(lambda number: number < 1, lambda _: lambda count: count < 8)
    finally:
        print(told(soak))
    assert total(soak, "kill") > 0
    assert total(soak, "limit") + total(soak, "disk") > 0


@pytest.mark.slow
def test_a_quarter_of_an_hour_of_disturbed_commands_leaves_what_undisturbed_ones_do(tmp_path: Path) -> None:
    soak, end = Soak(tmp_path, SEED, lanes=2), time.monotonic() + SECONDS

    def until_the_round_is_over(_: int):
        over = time.monotonic() + ROUND_SECONDS
        return lambda _: time.monotonic() < over

    try:
        soak.run(lambda _: time.monotonic() < end, until_the_round_is_over)
    finally:
        print(told(soak))
    wanted = {"kill": 60, "interrupt": 60, "limit": 60}
    share = min(1.0, SECONDS / 900)
    assert {kind: total(soak, kind) >= share * least for kind, least in wanted.items()} == dict.fromkeys(
        wanted, True
    )
