"""One case: a format and a seed -> a damaged file, a command on it, and what it did wrong."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fuzz.mutations import CANARY, damage, is_strict_json
from fuzz.subjects import LONG_AGO, SUBJECTS
from fuzz.worker import Done, Server

MOST_KIB = 200 * 1024
"""Resident memory that no small file may cost."""


@dataclass(frozen=True)
class Case:
    """What was run, and what of it was wrong."""

    format: str
    seed: int
    victim: str
    command: str
    done: Done
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        again = f"PYTHONPATH=tests python -m fuzz {self.format} {self.seed}"
        what = "; ".join(self.wrong) or f"exit code {self.done.code}"
        said = self.done.err.strip()[-1500:]
        head = f"{self.format} {self.seed}: nrc-probe {self.command}, {self.victim} damaged: {what}"
        return f"{head}\n{said}\n({again})"


class Stock:
    """The folders of sound files, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._contents: dict[str, list[bytes]] = {}

    def folder(self, name: str) -> Path:
        """The folder of a format, made."""
        folder = self._folder / name
        if not folder.exists():
            folder.mkdir(parents=True)
            with contextlib.chdir(folder):  # files that hold their paths are then of one length everywhere
                SUBJECTS[name].make(Path())
        return folder

    def others(self, name: str) -> list[bytes]:
        """The contents of all files of a format: what pieces are taken from."""
        if name not in self._contents:
            files = sorted(path for path in self.folder(name).rglob("*") if path.is_file())
            self._contents[name] = [content for path in files if (content := path.read_bytes())]
        return self._contents[name]


def run_case(name: str, seed: int, stock: Stock, server: Server, folder: Path) -> Case:
    """Damage one file of a format in a fresh folder, run one command there, and look at what it did."""
    subject, rng = SUBJECTS[name], Random(f"{name} {seed}")
    shutil.copytree(stock.folder(name), folder)
    victim = rng.choice(sorted(path for path in folder.glob(subject.victims) if path.is_file()))
    victim.write_bytes(damage(victim.read_bytes(), rng, stock.others(name)))
    if victim.name.endswith(".lock"):
        os.utime(victim, (LONG_AGO, LONG_AGO))
    command = rng.choice(subject.commands)
    done, wrong = what_was_wrong(command, folder, subject.outputs, server)
    return Case(name, seed, str(victim.relative_to(folder)), command, done, wrong)


def what_was_wrong(
    command: str, folder: Path, outputs: tuple[str, ...], server: Server
) -> tuple[Done, tuple[str, ...]]:
    """Run one command in a folder; what it did beyond reading, and writing its `outputs` if all went well."""
    before = _digests(folder)
    done = server.run(shlex.split(command), folder)
    return done, (*_wrong_words(done), *_wrong_files(folder, before, outputs, done))


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


_ALLOCATION = re.compile(r"MemoryError|nable to allocate|not enough memory|can.t allocate|bad_alloc|Killed")


def _wrong_words(done: Done) -> Iterator[str]:
    """What an exit code, the words and the costs of a command say against it."""
    if done.hung:
        yield f"it did not end ({done.seconds:.0f} s of the processor)"
    elif done.code not in (0, 1, 2, 3):
        yield f"exit code {done.code}"
    if "Traceback" in done.err:
        yield "a traceback"
    lines = done.err.splitlines()
    if done.code in (1, 2) and not (len(lines) == 1 and lines[0].startswith("nrc-probe: ")):
        yield f"an error of {len(lines)} lines"
    if any("Warning:" in line for line in lines):
        yield "a warning of Python's"
    for line in (*lines, *done.out.splitlines()):
        if not line.isprintable():
            yield f"characters that do not print: {line[:100]!a}"
            break
    if _ALLOCATION.search(done.err + done.out):
        yield "memory was asked for before anything was checked"
    if done.extra_kib > MOST_KIB:
        yield f"{done.extra_kib // 1024} MiB of memory"


def _wrong_files(folder: Path, before: dict[str, str], outputs: tuple[str, ...], done: Done) -> Iterator[str]:
    """What the files in a folder say against the command that was run there."""
    if (folder / CANARY).exists():
        yield "code from the file was run"
    after = _digests(folder)
    for name in sorted(
        {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    ):
        if not any(fnmatch.fnmatch(name, pattern) or name.startswith("out.d/") for pattern in outputs):
            yield f"{name} was {'changed' if name in after and name in before else 'made or removed'}"
        elif name.endswith(".tmp"):
            yield f"{name} was left behind"
        elif done.code in (1, 2) and name in after and not _may_go_on(name):
            yield f"{name} was written in spite of the error"
        elif name in after and name.endswith(".json") and not is_strict_json((folder / name).read_text()):
            yield f"{name} is no JSON"


def _may_go_on(name: str) -> bool:
    """Whether a file is meant to stay after an error: what can be resumed."""
    return ".partial" in name
