"""The command line in a process of its own for every case, without a start of the interpreter for each.

A server imports all there is once; for a case it forks, and the child runs the command with bounded
memory and time. Peak memory, exit code and output go back as a line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CPU_SECONDS = 10
WALL_SECONDS = 60
"""More than the processor's time: a loaded machine must not look like a hang."""
MORE_ADDRESSES = 4 * 2**30
"""Address space beyond the server's own."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    """The exit code; below 0, the signal that ended it."""
    out: str
    err: str
    seconds: float
    """Of the processor."""
    extra_kib: int
    """Peak resident memory above the server's."""
    hung: bool


class Server:
    """Runs commands one after the other."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, words: list[str], folder: Path) -> Done:
        """`nrc-probe WORDS` in a folder."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps({"words": words, "folder": str(folder)}), file=self._process.stdin, flush=True)
        return Done(**json.loads(self._process.stdout.readline()))


@contextmanager
def server() -> Iterator[Server]:
    """A server, which ends with the context."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    bounded = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with subprocess.Popen(
        [sys.executable, "-m", "fuzz.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **bounded, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
    ) as process:
        yield Server(process)
        assert process.stdin
        process.stdin.close()


def _serve() -> None:
    _import_everything()
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(_run(asked["words"], asked["folder"])), flush=True)


def _import_everything() -> None:
    import importlib
    import pkgutil

    import nrc_probe

    for module in pkgutil.walk_packages(nrc_probe.__path__, "nrc_probe."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("h5py", "pyarrow.parquet", "PIL.Image", "PIL.JpegImagePlugin", "PIL.PngImagePlugin"):
        try:
            importlib.import_module(name)
        except ImportError:  # an extra that is not there
            continue


def _run(words: list[str], folder: str) -> dict[str, object]:
    before = _resident_kib()
    streams = [os.memfd_create(name) for name in ("out", "err")]
    child = os.fork()
    if not child:
        _be_the_command(words, folder, streams)
    status, usage, hung = _waited_for(child)
    out, err = (_content(stream) for stream in streams)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "out": out,
        "err": err,
        "seconds": usage.ru_utime + usage.ru_stime,
        "extra_kib": usage.ru_maxrss - before,
        "hung": hung or os.waitstatus_to_exitcode(status) == -signal.SIGXCPU,
    }


def _be_the_command(words: list[str], folder: str, streams: list[int]) -> None:
    """Become the command, from which nothing returns."""
    from nrc_probe.cli import main

    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(streams[0], 1)
        os.dup2(streams[1], 2)
        os.chdir(folder)
        addresses = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (addresses + MORE_ADDRESSES,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.argv = ["nrc-probe", *words]
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]  # there is one
        code = 71
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _waited_for(child: int) -> tuple[int, resource.struct_rusage, bool]:
    """How the child ended, and whether it had to be killed."""
    end, pause = time.monotonic() + WALL_SECONDS, 0.001
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return status, usage, False
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            return status, usage, True
        time.sleep(pause)
        pause = min(0.02, pause * 1.5)


def _content(stream: int) -> str:
    os.lseek(stream, 0, os.SEEK_SET)
    with os.fdopen(stream, "rb") as file:
        return file.read(10**7).decode("utf-8", "backslashreplace")


def _resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


if __name__ == "__main__":
    _serve()
