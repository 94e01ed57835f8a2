"""No damage to a file that is read crashes, hangs or costs much, runs code, or leaves a half output.

`PYTHONPATH=tests python -m fuzz FORMAT SEED` runs one case again, and says what of it was wrong.
"""

from __future__ import annotations

import importlib.util
import shutil

import pytest
from fuzz import worker
from fuzz.cases import Stock, run_case, what_was_wrong
from fuzz.subjects import SUBJECTS
from runs import save_network

CASES = 13
"""Of every format in the default suite: over 300 in all."""
SLOW_CASES = 425
"""Of every format, in the place of which `slow` runs over 10,000."""
EXTRAS = {"parquet": "pyarrow", "images": "PIL"}


@pytest.fixture(scope="module")
def server():
    with worker.server() as running:
        yield running


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    return Stock(tmp_path_factory.mktemp("sound"))


@pytest.fixture(params=SUBJECTS)
def name(request):
    extra = EXTRAS.get(request.param)
    if extra and importlib.util.find_spec(extra) is None:
        pytest.skip(f"{extra} is not installed")
    return request.param


def check(name, seeds, stock, server, folder):
    wrong = []
    for seed in seeds:
        place = folder / str(seed)
        case = run_case(name, seed, stock, server, place)
        if case.wrong:
            wrong.append(f"{case}\n(the folder with the damaged file: {place})")
        else:
            shutil.rmtree(place)
    assert not wrong, "\n\n".join(wrong)


def test_damaged_files_are_refused_or_read_and_do_no_harm(name, stock, server, tmp_path):
    check(name, range(CASES), stock, server, tmp_path)


@pytest.mark.slow
def test_no_damage_to_a_file_does_harm(name, stock, server, tmp_path):
    check(name, range(SLOW_CASES), stock, server, tmp_path)


def test_the_commands_read_the_same_files_sound(name, stock, server, tmp_path):
    for place, command in enumerate(SUBJECTS[name].commands):
        folder = tmp_path / str(place)
        shutil.copytree(stock.folder(name), folder)
        done, wrong = what_was_wrong(command, folder, SUBJECTS[name].outputs, server)
        # one checkpoint of the batches is empty, which is recorded
        assert done.code == (3 if command.startswith("batch runs") and "dry" not in command else 0), done.err
        assert not wrong


TRAPS = """
import os, sys, time
from pathlib import Path
def spin():
    while True: pass
def wait():
    time.sleep(1000)
def touch():
    os.mkdir("canary")
def allocate():
    return bytearray(b"x" * 2**29)
def abort():
    os.abort()
def fail():
    raise KeyboardInterrupt
def litter():
    Path("out.json").write_text("{}")
    raise ValueError
def forge():
    Path("net.pth").write_text("")
def steer():
    sys.stderr.write("\\x1b[2J")
def claim():
    raise MemoryError
"""
SEEN = {
    "touch": "code from the file was run",
    "allocate": " MiB of memory",
    "abort": "exit code -6",
    "fail": "exit code 130",
    "litter": "out.json was written in spite of the error",
    "forge": "net.pth was changed",
    "steer": "characters that do not print",
    "claim": "memory was asked for before anything was checked",
    "nothing": "",
}
SEEN_SLOWLY = {"spin": "it did not end", "wait": "it did not end"}


def what_is_seen(trap, server, folder):
    save_network(folder / "net.pth")
    (folder / "traps.py").write_text(TRAPS)
    return what_was_wrong(f"analyze net.pth -q --data traps:{trap}", folder, ("out.*",), server)[1]


@pytest.mark.parametrize("trap", SEEN)
def test_what_goes_wrong_is_seen(trap, server, tmp_path):
    wrong = what_is_seen(trap, server, tmp_path)
    assert any(SEEN[trap] in word for word in wrong) if SEEN[trap] else not wrong


@pytest.mark.slow
@pytest.mark.parametrize("trap", SEEN_SLOWLY)
def test_what_never_ends_is_seen(trap, server, tmp_path):
    assert SEEN_SLOWLY[trap] in what_is_seen(trap, server, tmp_path)[0]
