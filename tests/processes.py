"""Processes that run nrc-probe, to be killed, interrupted or refused their disk."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
ZYGOTE = """
import _thread, gc, json, os, resource, signal, sys, time

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, once it has begun
from nrc_probe.__main__ import start
from nrc_probe.cli import main
from nrc_probe import probe, rescoring
from nrc_probe.report import contents, files, outputs, overview, page, progress, terminal
from nrc_probe.store import contents, writing
from nrc_probe.sweep import sweep, terminal
import h5py

writing._SECONDS_BETWEEN_COMMITS = 0.0
answers = os.fdopen(os.dup(1), "w", buffering=1)
nowhere, own_out, own_err = os.open(os.devnull, os.O_RDONLY), os.dup(1), os.dup(2)


def begin(order):
    streams = [os.open(order["streams"] + end, os.O_WRONLY) for end in (".out", ".err")]
    for number, stream in zip((1, 2), streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(order["folder"])
    most = order["largest_file"] or resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    sys.argv = ["nrc-probe", *order["words"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    start()


def run(order):
    try:
        begin(order)
    except SystemExit as end:
        return end.code or 0
    finally:
        sys.stdout.flush()


def stay(order):
    threads = _thread._count()
    try:
        return run(order)
    finally:
        while _thread._count() > threads:  # one may be about to interrupt the command, not the next one
            time.sleep(0.001)
        gc.collect()  # what an error's frames still hold open is no leak
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for number, stream in ((1, own_out), (2, own_err)):
            os.dup2(stream, number)


print("ready", file=answers)
for line in sys.stdin:
    order = json.loads(line)
    if order["stay"]:
        print(os.getpid(), file=answers)
        print(stay(order), file=answers)
        continue
    child = os.fork()
    if not child:
        os.setsid()
        os.dup2(nowhere, 0)
        code = run(order)
        if order["leaves_by_itself"]:
            sys.exit(code)
        os._exit(code)  # without taking torch down piece by piece, which takes a while
    print(child, file=answers)
    how = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    print(how.si_status if how.si_code == os.CLD_EXITED else -how.si_status, file=answers)
    sys.stdin.readline()  # until then its id is nobody else's, so that no other process is killed
    os.waitpid(child, 0)
"""
"""A process that has imported everything, and for every line that it reads runs a command line.

In a process forked for it, as `nrc-probe` would, or, where told to stay, in itself.
"""


def environment(**more: str) -> dict[str, str]:
    """For a process of this tree, on one thread, that no coverage is measured of.

    That would be written to a file, which a small disk or a limit on files refuses.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **more}


class Zygote:
    """Command lines that begin at once: each in a process of its own, forked from one that is ready."""

    def __init__(self, stays: bool = False, **variables: str) -> None:
        """stays: whether it runs every command in its one process. variables: of its environment."""
        self.stays = stays
        self._folder = tempfile.TemporaryDirectory()
        self._streams = Path(self._folder.name) / "std"
        for end in (".out", ".err"):
            os.mkfifo(f"{self._streams}{end}")
        # opened for both: neither end ever waits for the other
        self._ends = [os.open(f"{self._streams}{end}", os.O_RDWR | os.O_NONBLOCK) for end in (".out", ".err")]
        self.process = subprocess.Popen(
            [sys.executable, "-c", ZYGOTE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(**variables),
            bufsize=0,
        )
        assert self._read() == "ready"

    def begin(
        self, folder: Path, *words: object, largest_file: int = 0, leaves_by_itself: bool = False
    ) -> int:
        """Start `nrc-probe WORDS` in a folder; its process's id. largest_file: bytes, 0 for any.

        leaves_by_itself: with all that Python does at its end, which takes a while.
        """
        order = {
            "folder": str(folder),
            "words": list(map(str, words)),
            "streams": str(self._streams),
            "largest_file": largest_file,
            "leaves_by_itself": leaves_by_itself,
            "stay": self.stays,
        }
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        return int(self._read())

    def end(self) -> tuple[int, str, str]:
        """Wait until the command is over: its exit code (-9 where it was killed), and what it said."""
        code = int(self._read())
        said = [self._drained(end) for end in self._ends]
        if not self.stays:
            self.process.stdin.write(b"\n")
        return code, said[0], said[1]

    def has_ended(self) -> bool:
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        for end in self._ends:
            os.close(end)
        self._folder.cleanup()

    def _read(self) -> str:
        assert select.select([self.process.stdout], [], [], 120)[0], "it hangs"
        return self.process.stdout.readline().decode().strip()

    @staticmethod
    def _drained(end: int) -> str:
        pieces = []
        while select.select([end], [], [], 0)[0]:
            pieces.append(os.read(end, 2**16))
        return b"".join(pieces).decode()


def workers_of(pid: int) -> list[int]:
    """The processes that a batch has started."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def kill_all(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def serving(folder: Path) -> list[str]:
    """Workers, of batches begun in the folder or below, whose conductor is gone.

    Each ends when its checkpoint is done.
    """
    orphans = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes()
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            place = (path / "cwd").readlink()
        except OSError:
            continue
        if b"nrc_probe.sweep.worker" in line and parent == "1" and place.is_relative_to(folder):
            orphans.append(path.name)
    return orphans


def wait_for_orphans(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while serving(folder):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextmanager
def small_file_system(folder: Path, kib: int) -> Iterator[bool]:
    """A new folder that holds so much; False where the system does not let us mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    there = os.name == "posix" and not subprocess.run(mount, capture_output=True, check=False).returncode
    try:
        yield there
    finally:
        if there:
            subprocess.run(["umount", str(folder)], check=True)
