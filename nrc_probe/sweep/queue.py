"""The checkpoints that still want their turn."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

_PAUSE_SECONDS = 0.2


class Queue:
    """Names in order; one that another process works on comes again after the rest."""

    def __init__(self, names: Iterable[str]) -> None:
        self._fresh = deque(names)
        self._again: deque[tuple[float, str]] = deque()

    def __bool__(self) -> bool:
        return bool(self._fresh or self._again)

    def next(self) -> str | None:
        """The next name; None while all that are left wait for others to finish."""
        if self._fresh:
            return self._fresh.popleft()
        if self._again and self._again[0][0] <= time.monotonic():
            return self._again.popleft()[1]
        return None

    def put_back(self, name: str) -> None:
        """Let a name come again, a little later."""
        self._again.append((time.monotonic() + _PAUSE_SECONDS, name))
