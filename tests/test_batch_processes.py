"""Whole processes that are killed, interrupted or run beside each other: nothing is lost or done twice."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from processes import kill_all, wait_for_orphans, workers_of
from runs import same, save_data
from safetensors.torch import save_file
from torch import nn

from nrc_probe import batch
from nrc_probe.errors import ProbeError
from nrc_probe.result import Result
from nrc_probe.sweep import crew

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
COUNT = 24


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `runs` of networks wide enough that scoring all of them takes a while, and `data.npz`."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "runs").mkdir()
    for epoch in range(COUNT):
        torch.manual_seed(epoch)
        steps = [nn.Linear(5, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2)]
        save_file(nn.Sequential(*steps).state_dict(), folder / "runs" / f"epoch_{epoch}.safetensors")
    save_data(folder / "data.npz", n=1500)
    return folder


@pytest.fixture(scope="module")
def reference(runs: Path) -> dict[str, Result]:
    """The results of a run that nobody disturbed, by the files' names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(runs)
        batch("runs", "reference", "data.npz", threads=1)
    return read(runs / "reference")


def read(output: Path) -> dict[str, Result]:
    """Every file in the folder is a whole result: nothing else is left there."""
    return {str(path.relative_to(output)): Result.from_json(path.read_text()) for path in files(output)}


def assert_all_there(output: Path, reference: dict[str, Result]) -> None:
    """Every result, the same as in a run that nobody disturbed, and nothing else."""
    found = read(output)
    assert list(found) == list(reference)
    assert [name for name in found if not same(found[name], reference[name])] == []


def files(output: Path) -> list[Path]:
    return sorted(path for path in output.rglob("*") if path.is_file())


def start(runs: Path, output: Path, *words: str) -> subprocess.Popen[str]:
    return start_in(runs, "runs", output, "--data", "data.npz", *words)


def start_in(folder: Path, *words: object) -> subprocess.Popen[str]:
    """A batch in a session of its own, as in a terminal of its own."""
    checkpoints, output, *options = words
    command = [sys.executable, "-m", "nrc_probe", "batch", checkpoints, "-o", output, *options]
    return subprocess.Popen(
        list(map(str, command)),
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def counts(out: str) -> tuple[int, int]:
    """Checkpoints scored, and done already, in a table's last line."""
    found = {word: int(count) for count, word in re.findall(r"(\d+) (scored|done already)", out)}
    return found.get("scored", 0), found.get("done already", 0)


def wait_for_work(output: Path, process: subprocess.Popen[str]) -> None:
    """Until the first claim or result is there."""
    deadline = time.monotonic() + 120
    while not (output.is_dir() and files(output)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill(process: subprocess.Popen[str], whom: str) -> None:
    """SIGKILL to the conductor, to one of its workers, or to all of them."""
    workers = workers_of(process.pid)
    victims = {"conductor": [process.pid], "worker": workers[:1], "all": [process.pid, *workers]}[whom]
    kill_all(victims)


def whole_results(output: Path) -> dict[str, bytes]:
    """The finished results; those who were killed may have left claims and temporary files beside."""
    found = {}
    for path in files(output):
        if not path.name.startswith("."):
            json.loads(path.read_text())  # no partial file, whoever was killed
            found[path.name] = path.read_bytes()
    return {name: text for name, text in found.items() if not name.endswith(".failed.json")}


def kill_and_go_on(
    runs: Path, output: Path, reference: dict[str, Result], whom: str, chance: random.Random, resume: str
) -> int:
    """How many results there were when the kill had been; afterwards everything is as in a whole run."""
    process = start(runs, output, "--workers", "2", "--quiet")
    wait_for_work(output, process)
    time.sleep(chance.uniform(0, 1.5))
    if process.poll() is None:
        kill(process, whom)
    code, _, err = finish(process)
    assert code in ((-signal.SIGKILL, 0) if whom != "worker" else (0, 3)), err
    before = whole_results(output)
    if resume == "process":
        code, _, err = finish(start(runs, output, "--workers", "2", "--quiet"))
        assert code == 0, err
    else:
        assert not batch("runs", output, "data.npz", threads=1).failed
    assert_all_there(output, reference)
    after = whole_results(output)
    assert {name: after[name] for name in before} == before  # nothing is done twice
    return len(before)


@pytest.mark.parametrize("whom", [pytest.param("conductor", marks=pytest.mark.slow), "worker", "all"])
def test_after_a_kill_the_same_command_completes_what_is_missing_and_repeats_nothing(
    whom: str, runs: Path, reference: dict[str, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    kill_and_go_on(runs, tmp_path / "out", reference, whom, random.Random(whom), "here")


@pytest.mark.slow
def test_fifty_kills_at_random_moments_lose_double_and_spoil_nothing(
    runs: Path, reference: dict[str, Result], tmp_path: Path
) -> None:
    chance = random.Random(50)
    done = []
    for round_number in range(50):
        whom = ("conductor", "worker", "all")[round_number % 3]
        output = tmp_path / str(round_number)
        done.append(kill_and_go_on(runs, output, reference, whom, chance, "process"))
    print(f"results that were there after each kill: {done}")
    assert len({count for count in done if 0 < count < COUNT}) > 5  # the moments were in the work


def test_two_batches_on_one_output_folder_share_the_work(
    runs: Path, reference: dict[str, Result], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    both = [start(runs, output) for _ in range(2)]
    ends = [finish(process) for process in both]
    assert [code for code, _, _ in ends] == [0, 0]
    scored, found = zip(*(counts(out) for _, out, _ in ends), strict=True)
    assert sum(scored) == COUNT  # each by one of them
    assert sum(scored) + sum(found) == 2 * COUNT  # and both have all in their table
    assert_all_there(output, reference)


@pytest.mark.parametrize("words", [(), pytest.param(("--workers", "2"), marks=pytest.mark.slow)])
def test_ctrl_c_ends_a_batch_after_the_running_checkpoint(
    words: tuple[str, ...], runs: Path, reference: dict[str, Result], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    process = start(runs, output, *words)
    wait_for_work(output, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of the group
    code, out, err = finish(process)
    assert (code, out) == (130, "")
    last = err.splitlines()[-1]
    told = re.fullmatch(
        rf"nrc-probe: interrupted after (\d+) of {COUNT} checkpoints \(the same command goes on.*\)", last
    )
    assert told, err
    assert 0 < int(told[1]) == len(read(output)) < COUNT
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(runs)
        sweep = batch("runs", output, "data.npz", threads=1)
    assert sweep.count("unchanged") == int(told[1])
    assert_all_there(output, reference)


@pytest.mark.slow
def test_ctrl_c_twice_ends_at_once_and_leaves_no_claim(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "slow_data.py").write_text(
        "import time, torch\n"
        "class Rows(list):\n"
        "    def __iter__(self):\n"
        "        time.sleep(60); return super().__iter__()\n"
        "def make():\n"
        "    return Rows([(torch.randn(9, 5), torch.randn(9, 2))])\n"
    )
    for words in ((), ("--workers", "2")):
        output = tmp_path / f"out{len(words)}"
        command = ["--data", "slow_data:make", *words]
        process = start_in(tmp_path, runs / "runs", output, *command)
        wait_for_work(output, process)
        for _ in range(2):
            time.sleep(0.5)
            os.killpg(process.pid, signal.SIGINT)
        pressed = time.monotonic()
        code, _, err = finish(process)
        assert (code, err.splitlines()[-1]) == (130, "nrc-probe: interrupted")
        assert time.monotonic() - pressed < 30  # the data would have slept for a minute
        assert files(output) == []


def test_a_worker_that_is_killed_or_ends_costs_its_checkpoint_alone(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text(
        "import os, signal, torch\n"
        "from torch import nn\n"
        "class Deadly(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        if abs(float(self[0].weight[0, 0]) - DEATH) < 1e-9:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        if abs(float(self[0].weight[0, 0]) - END) < 1e-9:\n"
        "            os._exit(7)\n"
        "        return super().forward(x)\n"
        f"DEATH, END = {first_weight(3)!r}, {first_weight(5)!r}\n"
        "def make():\n"
        "    return Deadly(nn.Linear(5, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    names = [f"epoch_{epoch}.safetensors" for epoch in range(6)]
    sweep = batch(runs / "runs", "out", runs / "data.npz", include=names, model="deadly:make", workers=2)
    assert [outcome.checkpoint for outcome in sweep.outcomes] == names
    assert {outcome.checkpoint: outcome.reason for outcome in sweep.failed} == {
        names[3]: "its worker process was ended by SIGKILL: was there enough memory?",
        names[5]: "its worker process ended with exit code 7",
    }
    expected = [f"{name}.failed.json" if name in (names[3], names[5]) else f"{name}.json" for name in names]
    assert [path.name for path in files(Path("out"))] == sorted(expected)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("raise SystemExit(9)", r"a worker process could not start \(exit code 9\): try without --workers"),
        ("import os; os.kill(os.getpid(), 9)", "worker processes are killed as they start"),
    ],
)
def test_workers_that_cannot_start_end_the_batch(
    start: str, words: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "_SERVE", start)
    with pytest.raises(ProbeError, match=words):
        batch(runs / "runs", tmp_path / "out", runs / "data.npz", workers=2)
    assert files(tmp_path / "out") == []


@pytest.mark.slow
def test_a_worker_that_is_killed_as_it_starts_is_replaced(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    die_once = (
        f"import os, pathlib; mark = pathlib.Path({str(mark)!r}); "
        "mark.exists() or (mark.touch(), os.kill(os.getpid(), 9)); "
    )
    monkeypatch.setattr(crew, "_SERVE", die_once + crew._SERVE)
    names = ["epoch_1.safetensors", "epoch_2.safetensors"]
    sweep = batch(runs / "runs", tmp_path / "out", runs / "data.npz", include=names, workers=2)
    assert sweep.count("scored") == 2


@pytest.mark.slow
def test_an_error_on_the_way_leaves_no_worker_and_no_claim(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: (began.append(real(*a, **k)), began[-1])[1])

    def fail(*_: object) -> None:
        raise RuntimeError("no progress")

    with pytest.raises(RuntimeError, match="no progress"):
        batch(runs / "runs", tmp_path / "out", runs / "data.npz", workers=2, progress=fail)
    assert [process.poll() is not None for process in began] == [True, True]
    assert not list((tmp_path / "out").glob(".*"))


def first_weight(seed: int) -> float:
    torch.manual_seed(seed)
    return float(nn.Linear(5, 128).weight[0, 0].detach())


@pytest.fixture(autouse=True)
def no_process_is_left(runs: Path, tmp_path: Path) -> Iterator[None]:
    yield
    for folder in (runs, tmp_path, Path.cwd()):
        wait_for_orphans(folder)
