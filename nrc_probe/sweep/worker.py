"""A process that scores what it is told, one checkpoint at a time, until nobody tells it any more."""

from __future__ import annotations

from multiprocessing.connection import Connection

from nrc_probe.pools import keep_blas_to_one_thread


def serve(handle: int) -> None:
    """Read an Errand, then names; answer each with its Outcome. The end is when the line closes.

    handle: the file descriptor of this end.
    """
    keep_blas_to_one_thread()  # before numpy and torch are imported
    from nrc_probe.sweep.scorer import Scorer

    with Connection(handle) as line:
        try:
            scorer = Scorer(line.recv())
            line.send(None)  # ready
            while True:
                line.send(scorer.score(line.recv()))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
