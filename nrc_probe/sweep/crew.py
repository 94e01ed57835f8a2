"""Several processes that score at the same time; one that dies costs its checkpoint, not the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import suppress
from multiprocessing.connection import Pipe, wait

from nrc_probe.errors import ProbeError
from nrc_probe.sweep.outcome import Outcome
from nrc_probe.sweep.queue import Queue
from nrc_probe.sweep.scorer import Errand, Scorer

_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""What torch reads; that BLAS has one thread is the worker's own concern."""
_SERVE = (
    "import os, sys; sys.path[:] = sys.argv[2:]; "
    "from nrc_probe.sweep.worker import serve; serve(int(sys.argv[1])); "
    "sys.stdout.flush(); os._exit(0)"  # without taking torch down piece by piece, which takes a while
)
_LOOK_UP_SECONDS = 0.2
"""How often the crew looks whether it was asked to stop, and whether others have finished."""
_GRACE_SECONDS = 5.0
_STARTS_LOST = 3
"""Workers that may be killed before they are ready: by chance, but not all of them again and again."""


def score_together(
    queue: Queue, errand: Errand, workers: int, threads: int, stopped: Callable[[], bool]
) -> Generator[Outcome, None, None]:
    """Outcomes as they come, of `workers` processes with `threads` CPU threads each; some are "taken".

    stopped: once it says so, nothing new is begun. Raises ProbeError where no process can start.
    """
    own = Scorer(errand)
    lost_starts = 0
    crew = [_Worker(errand, threads) for _ in range(workers)]
    try:
        while any(worker.name for worker in crew) or (queue and not stopped()):
            for worker in crew:
                name = queue.next() if worker.is_idle and not stopped() else None
                if name is not None:
                    worker.begin(name, own.version(name))
            for worker in _with_news(crew):
                outcome = _hear(worker, own)
                if outcome:
                    yield outcome
            lost_starts += sum(worker.is_dead and not worker.is_ready for worker in crew)
            if lost_starts > _STARTS_LOST:
                raise ProbeError("worker processes are killed as they start (try fewer --workers)")
            crew = [_Worker(errand, threads) if worker.is_dead else worker for worker in crew]
    finally:
        for worker in crew:
            worker.line.close()
        for worker in crew:
            worker.end()
            if worker.name:
                own.clear(worker.name)


class _Worker:
    """One process, the line to it, and what it is doing."""

    def __init__(self, errand: Errand, threads: int) -> None:
        self.line, other_end = Pipe()
        self.name: str | None = None
        """The checkpoint that it works on."""
        self.before: object = None
        self.is_dead = False
        self.is_ready = False
        with other_end:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, str(other_end.fileno()), *sys.path],
                pass_fds=[other_end.fileno()],
                env={**os.environ, **dict.fromkeys(_POOLS, str(threads))},
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for this process alone: workers finish what they do
            )
        self._send(errand)

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a name."""
        return self.is_ready and not self.name and not self.is_dead

    def begin(self, name: str, before: object) -> None:
        """Give it a checkpoint to score; before: the version of its result until now."""
        self.name, self.before = name, before
        self._send(name)

    def hear(self) -> Outcome | None:
        """What it has to say; None where it is just ready. Raises EOFError where it has died."""
        try:
            outcome: Outcome | None = self.line.recv()
        except (EOFError, OSError) as error:
            self.is_dead = True
            raise EOFError from error
        self.is_ready, self.name = True, None
        return outcome

    def last_words(self) -> str:
        """How it ended, for the user."""
        code = self._process.wait()
        if not self.is_ready and code >= 0:
            raise ProbeError(f"a worker process could not start (exit code {code}): try without --workers")
        if code >= 0:
            return f"its worker process ended with exit code {code}"
        name = signal.Signals(-code).name
        memory = ": was there enough memory?" if -code == signal.SIGKILL else ""
        return f"its worker process was ended by {name}{memory}"

    def end(self) -> None:
        """Wait until it has ended by itself; end it where it is busy, or does not."""
        patience = 0.0 if self.name else _GRACE_SECONDS
        for insist in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(patience)
                return
            except subprocess.TimeoutExpired:
                insist()
                patience = _GRACE_SECONDS
        self._process.wait()

    def _send(self, what: object) -> None:
        with suppress(OSError):  # it has died: `hear` finds out
            self.line.send(what)


def _with_news(crew: list[_Worker]) -> list[_Worker]:
    lines = wait([worker.line for worker in crew], _LOOK_UP_SECONDS)
    return [worker for worker in crew if worker.line in lines]


def _hear(worker: _Worker, own: Scorer) -> Outcome | None:
    """What a worker reports; of one that has died, what became of its checkpoint."""
    try:
        return worker.hear()
    except EOFError:
        words = worker.last_words()
        worker.line.close()
        return own.bury(worker.name, words, worker.before) if worker.name else None
