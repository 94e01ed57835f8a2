"""kill -9 at any moment of a dump: what is left is resumed to the right content, or refused."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from books import everything_in, study

import nrc_probe
from nrc_probe.errors import StoreError
from nrc_probe.store.committed import journal_of
from nrc_probe.store.writing import partial_of

ROOT = Path(__file__).parent.parent
ZYGOTE = """
import os, sys
import nrc_probe
from nrc_probe.store import writing
writing._SECONDS_BETWEEN_COMMITS = 0.0
nrc_probe.dump, nrc_probe.info
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child:
        print(child, flush=True)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        print("over", flush=True)
        sys.stdin.readline()  # until then its id is nobody else's, so that no other process is killed
        os.waitpid(child, 0)
        continue
    checkpoint, data, output, resume, *options = line.rstrip("\\n").split("\\t")
    nrc_probe.dump(checkpoint, data, output=output, resume=resume == "True", threads=1, batch_size=64,
                   **{name: value or True for name, value in (option.split("=") for option in options)})
    os._exit(0)
"""
"""A process that has imported everything, and forks one that dumps for every line that it reads."""


class Zygote:
    def __init__(self) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", ZYGOTE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            bufsize=0,
        )
        assert self.read() == "ready"

    def read(self) -> str:
        return self.process.stdout.readline().decode().strip()

    def begin(self, *words: object) -> int:
        """Start a dump in a process of its own; its id."""
        self.process.stdin.write(("\t".join(map(str, words)) + "\n").encode())
        return int(self.read())

    def end(self) -> None:
        """Wait until that process is gone."""
        assert self.read() == "over"
        self.process.stdin.write(b"\n")

    def has_ended(self) -> bool:
        return bool(select.select([self.process.stdout], [], [], 0)[0])


@pytest.fixture(scope="module")
def zygote():
    made = Zygote()
    yield made
    made.process.stdin.close()
    made.process.wait()
    made.process.stdout.close()


OPTIONS = [
    (),
    ("compression=gzip",),
    ("dtype=bfloat16",),
    ("moments=",),
    ("compression=lzf", "dtype=float16"),
]


LEFT = "killed, and left something to resume"


def kill_within(zygote: Zygote, seconds: float, output: Path, *words: object) -> bool:
    """Start a dump and kill -9 it so long after its file appeared; False where it was done before."""
    child = zygote.begin(*words)
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
    for options in OPTIONS:
        started = time.monotonic()
        child = zygote.begin(checkpoint, data, output, False, *options)
        zygote.end()
        assert child
        whole[options] = everything_in(output), time.monotonic() - started
        output.unlink()
    rng, kinds = random.Random(0), []
    for trial in range(5 * trials):
        if trial >= trials and kinds.count(LEFT) >= trials:
            break
        options = OPTIONS[trial % len(OPTIONS)]
        expected, duration = whole[options]
        words = (checkpoint, data, output)
        for resume in (False, *[True] * rng.randrange(3)):
            moment = duration * (trial % trials + rng.random()) / trials
            killed = kill_within(zygote, moment, output, *words, resume, *options)
            left = journal_of(partial_of(output)).exists()
            kinds.append(LEFT if killed and left else "killed" if killed else "done")
            if not output.exists():
                with pytest.raises(StoreError, match=r"a dump that is not complete|there is no such file"):
                    nrc_probe.score(output)
        zygote.begin(*words, True, *options)
        zygote.end()
        assert everything_in(output) == expected, (trial, options)
        assert sorted(path.name for path in folder.glob("a.h5*")) == ["a.h5"]
        output.unlink()
    assert kinds.count(LEFT) >= trials, kinds


def test_a_dump_that_was_killed_anywhere_is_resumed_to_the_content_of_one_that_was_not(zygote, tmp_path):
    kill_often(zygote, tmp_path, 5)


@pytest.mark.slow
def test_a_dump_that_was_killed_at_any_of_fifty_moments_is_resumed_to_the_same_content(zygote, tmp_path):
    kill_often(zygote, tmp_path, 50)
