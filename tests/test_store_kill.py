"""kill -9 at any moment of a dump: what is left is resumed to the right content, or refused."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from books import everything_in, study
from processes import Zygote

import nrc_probe
from nrc_probe.errors import StoreError
from nrc_probe.store.committed import journal_of
from nrc_probe.store.writing import partial_of


@pytest.fixture(scope="module")
def zygote():
    made = Zygote()
    yield made
    made.close()


OPTIONS = [
    (),
    ("--compression", "gzip"),
    ("--dtype", "bfloat16"),
    ("--moments",),
    ("--compression", "lzf", "--dtype", "float16"),
]


LEFT = "killed, and left something to resume"


def kill_within(zygote: Zygote, seconds: float, output: Path, *words: object) -> bool:
    """Start a dump and kill -9 it so long after its file appeared; False where it was done before."""
    child = zygote.begin(output.parent, *words)
    while not (partial_of(output).exists() or zygote.has_ended()):
        time.sleep(0.0005)
    time.sleep(seconds)
    done = zygote.has_ended()
    if not done:
        os.kill(child, signal.SIGKILL)
    zygote.end()
    return not done


def kill_often(zygote: Zygote, folder: Path, trials: int) -> None:
    """Kill dumps and resume them, `trials` times and until as many kills left something to resume."""
    checkpoint, data = study(folder, 12_000)
    output, whole = folder / "a.h5", {}
    words = ("dump", checkpoint, "--data", data, "-o", output, "--threads", 1, "--batch-size", 64, "-q")
    for options in OPTIONS:
        started = time.monotonic()
        zygote.begin(folder, *words, *options)
        assert zygote.end()[0] == 0
        whole[options] = everything_in(output), time.monotonic() - started
        output.unlink()
    rng, kinds = random.Random(0), []
    for trial in range(5 * trials):
        if trial >= trials and kinds.count(LEFT) >= trials:
            break
        options = OPTIONS[trial % len(OPTIONS)]
        expected, duration = whole[options]
        for resume in ((), *[("--resume",)] * rng.randrange(3)):
            moment = duration * (trial % trials + rng.random()) / trials
            killed = kill_within(zygote, moment, output, *words, *resume, *options)
            left = journal_of(partial_of(output)).exists()
            kinds.append(LEFT if killed and left else "killed" if killed else "done")
            if not output.exists():
                with pytest.raises(StoreError, match=r"a dump that is not complete|there is no such file"):
                    nrc_probe.score(output)
        zygote.begin(folder, *words, "--resume", *options)
        assert zygote.end()[0] == 0
        assert everything_in(output) == expected, (trial, options)
        assert sorted(path.name for path in folder.glob("a.h5*")) == ["a.h5"]
        output.unlink()
    assert kinds.count(LEFT) >= trials, kinds


def test_a_dump_that_was_killed_anywhere_is_resumed_to_the_content_of_one_that_was_not(zygote, tmp_path):
    kill_often(zygote, tmp_path, 5)


@pytest.mark.slow
def test_a_dump_that_was_killed_at_any_of_fifty_moments_is_resumed_to_the_same_content(zygote, tmp_path):
    kill_often(zygote, tmp_path, 50)
