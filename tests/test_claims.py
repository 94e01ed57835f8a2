"""One claim, one owner, and none that outlives its owner."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nrc_probe.sweep import claims

ROOT = Path(__file__).parents[1]
HOLD = (
    "import sys, time, pathlib; from nrc_probe.sweep import claims; "
    "claim = claims.take(pathlib.Path(sys.argv[1])); print(claim.token, flush=True); time.sleep(60)"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".1.pt.lock"


def held_by_another(path: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-c", HOLD, str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, process.stdout.readline().strip()


def write(path: Path, age: float = 0, **owner: object) -> None:
    path.write_text(json.dumps(owner) if owner else "")
    os.utime(path, (time.time() - age,) * 2)


def test_a_claim_is_had_once_and_again_after_its_release(path: Path) -> None:
    claim = claims.take(path)
    assert claim is not None
    assert claims.take(path) is None
    claim.release()
    assert not path.exists()
    again = claims.take(path)
    assert again is not None
    again.release()


def test_a_claim_holds_while_its_process_runs_and_is_lost_when_it_is_killed(path: Path) -> None:
    process, token = held_by_another(path)
    with process:
        left = path.with_name(f".1.pt.json.{token}.x1.tmp")
        others = path.with_name(".1.pt.json.0123456789ab.x1.tmp")
        left.touch()
        others.touch()
        assert claims.take(path) is None
        process.kill()
        deadline = time.monotonic() + 10
        while (claim := claims.take(path)) is None:  # not waited for: a zombie has lost its claim too
            assert time.monotonic() < deadline
    assert json.loads(path.read_text())["token"] == claim.token
    assert (left.exists(), others.exists()) == (False, True)
    claim.release()


def test_a_number_that_another_process_has_by_now_is_no_owner(path: Path) -> None:
    write(path, token="a", place=claims._place(), pid=os.getpid(), started="1")
    claim = claims.take(path)
    assert claim is not None
    claim.release()


def test_an_owner_on_another_machine_is_gone_when_it_is_silent_for_long(path: Path) -> None:
    write(path, age=60, token="a", place="elsewhere", pid=os.getpid())
    assert claims.take(path) is None
    write(path, age=200, token="a", place="elsewhere", pid=os.getpid())
    claim = claims.take(path)
    assert claim is not None
    claim.release()


def test_a_claim_without_an_owner_is_given_time_to_be_written(path: Path) -> None:
    write(path)
    assert claims.take(path) is None
    write(path, age=10)
    claim = claims.take(path)
    assert claim is not None
    claim.release()


def test_a_clock_that_was_set_back_does_not_keep_a_silent_owner(path: Path) -> None:
    write(path, age=-60, token="a", place="elsewhere", pid=1)
    assert claims.take(path) is None
    write(path, age=-(10**6), token="a", place="elsewhere", pid=1)
    claim = claims.take(path)
    assert claim is not None
    claim.release()


@pytest.mark.parametrize("pid", [0, -1])
def test_a_number_that_means_many_processes_is_no_owner(path: Path, pid: int) -> None:
    write(path, token="a", place=claims._place(), pid=pid)
    claim = claims.take(path)
    assert claim is not None
    claim.release()


def test_a_claim_nested_too_deeply_names_no_owner(path: Path) -> None:
    path.write_text("[" * 10**5)
    os.utime(path, (time.time() - 10,) * 2)
    claim = claims.take(path)
    assert claim is not None
    claim.release()


IN_THE_WAY = {
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "pipe": os.mkfifo,
}


@pytest.mark.parametrize("case", IN_THE_WAY)
def test_what_is_no_file_is_no_claim_and_makes_way(path: Path, case: str) -> None:
    IN_THE_WAY[case](path)
    claim = claims.take(path)
    assert claim is not None
    assert json.loads(path.read_text())["token"] == claim.token
    claim.release()


def test_a_folder_in_a_claim_s_place_is_an_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        claims.take(path)


def test_an_owner_shows_that_it_lives(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_HEARTBEAT_SECONDS", 0.01)
    claim = claims.take(path)
    assert claim is not None
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 10
    while path.stat().st_mtime == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    claim.release()


def test_a_claim_that_was_taken_over_is_not_released_by_its_first_owner(path: Path) -> None:
    claim = claims.take(path)
    assert claim is not None
    write(path, token="b", place="elsewhere", pid=1)
    claim.release()
    assert json.loads(path.read_text())["token"] == "b"


def test_of_many_who_find_a_lost_claim_one_takes_it_over(path: Path) -> None:
    for _ in range(30):
        write(path, token="a", place=claims._place(), pid=2**22 + 5, started="1")
        barrier, taken = threading.Barrier(8), []

        def race(barrier: threading.Barrier = barrier, taken: list[object] = taken) -> None:
            barrier.wait()
            if claim := claims.take(path):
                taken.append(claim)

        threads = [threading.Thread(target=race) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 1
        taken[0].release()
        assert not path.exists()


def test_a_stopped_process_keeps_its_claim(path: Path) -> None:
    process, _ = held_by_another(path)
    with process:
        process.send_signal(signal.SIGSTOP)
        assert claims.take(path) is None
        process.kill()


def test_a_disk_that_is_full_leaves_no_claim_that_names_nobody(path: Path) -> None:
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, most[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            claims.take(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert not list(path.parent.iterdir())


def test_to_ask_for_the_time_leaves_nothing_though_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Path]] = []
    look = os.fstat
    monkeypatch.setattr(os, "fstat", lambda file: (seen.append(list(tmp_path.iterdir())), look(file))[1])
    assert abs(claims._now(tmp_path) - time.time()) < 60
    assert seen
    assert not any(seen)


@pytest.mark.parametrize("seen", [True, False])
def test_a_process_of_another_user_keeps_its_claim_though_the_system_hides_it(
    seen: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, _ = held_by_another(path)
    started = claims._started(process.pid)

    def refuse(*_: object) -> None:
        raise PermissionError

    with process, monkeypatch.context() as patch:
        patch.setattr(os, "kill", refuse)
        patch.setattr(claims, "_started", lambda _: started if seen else None)
        assert claims.take(path) is None
        patch.undo()
        process.kill()


def test_a_process_that_is_not_there_has_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    assert claims._started(2**22 + 5) is None

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert claims._started(1) == ""
