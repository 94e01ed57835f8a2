"""Commands in one folder, and what each must leave there: compared with what it left undisturbed."""

from __future__ import annotations

import json
import math
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from books import everything_in
from runs import same, save_data
from safetensors.torch import save_file
from torch import nn

import nrc_probe
from nrc_probe.result import Result

CHECKPOINTS = [f"epoch_{epoch}.safetensors" for epoch in range(5)]
NET = f"runs/{CHECKPOINTS[0]}"


@dataclass(frozen=True)
class Command:
    words: tuple[str, ...]
    outputs: tuple[str, ...]
    """Files that it leaves."""

    def on(self, folder: str) -> tuple[str, ...]:
        """Its words with all that it writes in another folder."""
        places = {*self.outputs, *(name.partition("/")[0] for name in self.outputs)}
        return tuple(f"{folder}/{word}" if word in places else word for word in self.words)


_ONE = ("--threads", "1")
COMMANDS = {
    "dump": Command(
        ("dump", NET, "--data", "data.npz", "-o", "a.h5", "--batch-size", "250", "--yes", *_ONE), ("a.h5",)
    ),
    "sums": Command(
        ("dump", NET, "--data", "half_1.npz", "-o", "m1.h5", "--moments-only", "--yes", *_ONE), ("m1.h5",)
    ),
    "merge": Command(("merge", "m1.h5", "m2.h5", "-o", "m.h5"), ("m.h5",)),
    "batch": Command(
        ("batch", "runs", "-o", "results", "--data", "data.npz", *_ONE),
        tuple(f"results/{name}.json" for name in CHECKPOINTS),
    ),
    "analyze": Command(
        ("analyze", NET, "--data", "data.npz", "-o", "r.json", "-o", "r.csv", "-o", "r.html", *_ONE),
        ("r.json", "r.csv", "r.html"),
    ),
    "score": Command(("score", "a.h5", "--json", "s.json"), ("s.json",)),
    "report": Command(("report", "given", "--html", "t.html", "--csv", "t.csv"), ("t.html", "t.csv")),
}
"""In an order in which each finds what it reads."""
OUTPUTS = [name for command in COMMANDS.values() for name in command.outputs]
LOOKS = (
    ("info", "a.h5"),
    ("info", "a.h5.partial"),
    ("info", "m1.h5"),
    ("score", "a.h5", "-q"),
    ("score", "m.h5"),
    ("report", "results"),
    ("report", "results", "-q", "--csv", "-"),
)
"""Commands that only read: what is there may be unfinished, or not be there."""


# ------------------------------------------------------------------------------------------- content


def make_inputs(folder: Path) -> None:
    (folder / "runs").mkdir(parents=True)
    for epoch, name in enumerate(CHECKPOINTS):
        torch.manual_seed(epoch)
        steps = [nn.Linear(5, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 2)]
        save_file(nn.Sequential(*steps).state_dict(), folder / "runs" / name)
    whole = save_data(folder / "data.npz", n=5000)
    with np.load(whole) as data:
        for half, rows in (("half_1", slice(0, 2500)), ("half_2", slice(2500, None))):
            np.savez(folder / f"{half}.npz", x=data["x"][rows], y=data["y"][rows])


def content_of(path: Path) -> object:
    """What a finished file says; an error where it is not whole."""
    if path.name == "a.h5":
        return everything_in(path)
    if path.suffix == ".h5":
        return nrc_probe.score(path)
    text = path.read_text(encoding="utf-8")
    return Result.from_json(text) if path.suffix == ".json" else text


def agree(one: object, other: object) -> bool:
    """Whether two contents say the same, but for when and how fast they were made."""
    if isinstance(one, Result) and isinstance(other, Result):
        return same(one, other)
    if isinstance(one, str) and isinstance(other, str):
        return _texts_agree(_timeless(one), _timeless(other))
    return one == other


def _timeless(text: str) -> str:
    text = re.sub(r'"(seconds|created)": ?("[^"]*"|[\d.e+-]+)', "", text)
    return re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\+00:00)?|\b[\d.]+ s\b", "", text)


_NUMBER = re.compile(r"-?\d+\.\d+(?:e[+-]\d+)?")


def _texts_agree(one: str, other: str) -> bool:
    mine, its = (list(map(float, _NUMBER.findall(text))) for text in (one, other))
    return _NUMBER.split(one) == _NUMBER.split(other) and all(
        math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9) for x, y in zip(mine, its, strict=True)
    )


def is_of(result: object, reference: object) -> bool:
    """Whether a result is of the same checkpoint and data: others were there while a file was damaged."""
    if not (isinstance(result, Result) and isinstance(reference, Result)):
        return True
    return (result.checkpoint.sha256, result.data.sha256) == (
        reference.checkpoint.sha256,
        reference.data.sha256,
    )


# ------------------------------------------------------------------------------------------- the folder


@dataclass
class Ground:
    """The folder that all work in, and what must come of it."""

    folder: Path
    reference: Mapping[str, object]
    seconds: Mapping[str, float]
    """How long each command takes when nobody disturbs it."""
    sizes: Mapping[str, int]
    """The largest file that it leaves, in bytes."""
    has_disk: bool = False
    spoiled: set[str] = field(default_factory=set)
    """Finished files that were damaged on purpose, and not mended yet."""
    _seen: dict[str, object] = field(default_factory=dict)

    def check(self, below: str = "", anew: bool = False) -> None:
        """Every finished file that is there now, below the folder, is right.

        anew: also those that were looked at before, and have not changed since.
        """
        if anew:
            self._seen.clear()
        for name, expected in self.reference.items():
            path = self.folder / below / name
            try:
                status = path.stat()
                version = (status.st_ino, status.st_size, status.st_mtime_ns)
                if name in self.spoiled or self._seen.get(f"{below}{name}") == version:
                    continue
                found = content_of(path)
            except FileNotFoundError:  # not made yet, or removed by another lane
                continue
            if is_of(found, expected):
                assert agree(found, expected), f"{below}{name} is not what it should be"
                self._seen[f"{below}{name}"] = version
        for path in (self.folder / below / "results").glob("*.failed.json"):
            try:
                assert "reason" in json.loads(path.read_text())
            except FileNotFoundError:
                continue

    def names(self) -> list[str]:
        """Every file, below the folder; but not what stands on the small disk."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(
            name for path in files if not (name := str(path.relative_to(self.folder))).startswith("disk")
        )


FULL = ("File too large", "No space left on device", "free some")


def check_words(code: int, err: str, told: str) -> None:
    """A command ended as commands may: in one line, with a code that it could have."""
    assert "Traceback" not in err, f"{told}: {err}"
    assert "Exception ignored" not in err, f"{told}: {err}"
    assert code in (0, 1, 3, 130, -signal.SIGKILL), f"{told}: {code} {err}"
    assert code != 3 or told.startswith("batch"), told
    last = err.splitlines()[-1] if err.strip() else ""
    beginning = {1: "nrc-probe: ", 130: "nrc-probe: interrupted"}.get(code, "")
    assert last.startswith(beginning), f"{told}: {code} {err}"
