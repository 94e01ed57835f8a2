"""Many commands at once in one folder, killed, interrupted, refused their disk: what holds all the time.

Every command has a reference, made where nobody disturbed it. Whenever a command is over, whatever lies
under the name of a finished file must say what the reference says; in the end all of it is there, and
nothing else.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from commands import (
    CHECKPOINTS,
    COMMANDS,
    FULL,
    LOOKS,
    OUTPUTS,
    Ground,
    check_words,
    content_of,
    is_of,
    make_inputs,
)
from processes import Zygote, kill_all, small_file_system, wait_for_orphans, workers_of

DISK_KIB = 600
ROUND_SECONDS = 12.0


@dataclass
class Lane:
    """Runs one command after the other; several lanes work in one folder at once."""

    zygote: Zygote
    ground: Ground
    chance: random.Random
    tally: Counter[str]
    owns_disk: bool = False
    log: list[str] = field(default_factory=list)

    def work(self, goes_on: Callable[[int], bool]) -> None:
        count = 0
        while goes_on(count):
            self.step()
            count += 1

    def step(self) -> None:
        """One command, perhaps disturbed; then all that is there is right."""
        if self.chance.random() < 0.15:
            return self.look()
        name = [*COMMANDS, "dump", "batch", "dump"][self.chance.randrange(len(COMMANDS) + 3)]
        command = COMMANDS[name]
        kinds = ["interrupt", "limit", "interrupt", "limit", "nothing"]
        kinds += ["disk"] * 2 * (self.owns_disk and self.ground.has_disk)
        kinds += ["kill"] * 3 * (name in ("dump", "batch") and not self.zygote.stays)
        kind = self.chance.choice(kinds)
        words = command.on("disk") if kind == "disk" else command.words
        words += ("--resume",) * (name == "dump" and self.chance.random() < 0.75)
        words += ("--workers", "2") * (name == "batch" and self.chance.random() < 0.4)
        words += ("--force",) * (name == "batch" and self.chance.random() < 0.2)
        if name == "batch" and kind != "disk":
            self.forget_some()
        if kind == "disk":
            self.fill_disk(name)
        said = self.run(name, kind, words)
        below = "disk/" if kind == "disk" else ""
        if said[0] == 0 and name != "batch":  # whose results others may have removed
            assert all((self.ground.folder / below / output).is_file() for output in command.outputs)
        if kind == "disk":
            self.ground.check(below)
            empty(self.ground.folder / "disk")
        self.ground.check()
        self.count(name, kind, *said)
        return None

    def run(self, name: str, kind: str, words: tuple[str, ...]) -> tuple[int, str, str]:
        largest = self.some_bytes(name) if kind == "limit" else 0
        whole = self.chance.random() < 0.15
        pid = self.zygote.begin(self.ground.folder, *words, largest_file=largest, leaves_by_itself=whole)
        moment = self.ground.seconds[name] * self.chance.uniform(0, 1.5)
        if kind in ("kill", "interrupt"):
            self.wait(moment)
            self.disturb(kind, pid)
        code, out, err = self.zygote.end()
        told = f"{name} {' '.join(words[-3:])} ({kind} {largest or round(moment, 3)})"
        self.log.append(f"{told}: {code}")
        check_words(code, err, told)
        assert kind == "kill" or code != -signal.SIGKILL, told
        assert kind == "interrupt" or code != 130, told
        return code, out, err

    def wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.zygote.has_ended():
            time.sleep(0.001)

    def disturb(self, kind: str, pid: int) -> None:
        if self.zygote.has_ended():
            return
        if kind == "kill":
            workers = workers_of(pid)
            kill_all(self.chance.choice([[pid], [pid, *workers], workers[:1] or [pid]]))
            return
        for _ in range(self.chance.choice([1, 1, 2])):
            os.kill(pid, signal.SIGINT)
            self.wait(self.chance.uniform(0, 0.2))

    def count(self, name: str, kind: str, code: int, out: str, err: str) -> None:
        text = " ".join(f"{out} {err}".split())
        landed = {
            "kill": code == -signal.SIGKILL or "SIGKILL" in text,
            "interrupt": code == 130,
            "limit": any(word in text for word in FULL),
            "disk": any(word in text for word in FULL),
        }
        self.tally[f"{name}: {kind}"] += kind == "nothing" or landed[kind]
        self.tally[name] += 1

    def look(self) -> None:
        words = self.chance.choice(LOOKS)
        self.zygote.begin(self.ground.folder, *words)
        code, _, err = self.zygote.end()
        self.log.append(f"{' '.join(words)}: {code}")
        check_words(code, err, " ".join(words))
        assert code in (0, 1)
        self.tally["look"] += 1

    def forget_some(self) -> None:
        """Remove some results, so that there is something to do."""
        for name in COMMANDS["batch"].outputs:
            if self.chance.random() < 0.5:
                (self.ground.folder / name).unlink(missing_ok=True)

    def some_bytes(self, name: str) -> int:
        """Rather too few for what a command writes, but hardly none."""
        most = 1.2 * self.ground.sizes[name]
        return int(math.exp(self.chance.uniform(math.log(100), math.log(most))))

    def fill_disk(self, name: str) -> None:
        """Leave some room on the small disk, rather too little."""
        used = max(0, DISK_KIB * 1024 - self.some_bytes(name))
        (self.ground.folder / "disk" / "ballast").write_bytes(bytes(used // 4096 * 4096))


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------- the end of a round


def succeed(zygote: Zygote, folder: Path, *words: str) -> str:
    """Run a command that nobody disturbs; what it printed."""
    zygote.begin(folder, *words)
    code, out, err = zygote.end()
    assert code == 0, f"{words}: {code} {err}"
    check_words(code, err, words[0])
    return out


def complete(ground: Ground, zygote: Zygote) -> None:
    """Say every command once more: all that was left is gone on with, and nothing is left beside."""
    for name, command in COMMANDS.items():
        succeed(zygote, ground.folder, *command.words, *(("--resume",) if name == "dump" else ()))
    ground.check(anew=True)
    given = [f"given/{Path(name).name}" for name in COMMANDS["batch"].outputs]
    inputs = [*(f"runs/{name}" for name in CHECKPOINTS), "data.npz", "half_1.npz", "half_2.npz", "m2.h5"]
    assert ground.names() == sorted([*OUTPUTS, *given, *inputs])
    for name in COMMANDS["batch"].outputs:
        assert is_of(content_of(ground.folder / name), ground.reference[name]), f"{name} is out of date"


def two_batches(ground: Ground, zygotes: Iterable[Zygote]) -> None:
    """Two batches on one output folder: every checkpoint is scored by one of them."""
    shutil.rmtree(ground.folder / "results")
    both = list(zygotes)[:2]
    for zygote in both:
        zygote.begin(ground.folder, *COMMANDS["batch"].words)
    said = [zygote.end() for zygote in both]
    assert [code for code, _, _ in said] == [0] * len(both), said
    scored = sum(int(count) for _, out, _ in said for count in re.findall(r"(\d+) scored", out))
    assert scored == len(CHECKPOINTS), said
    ground.check()


DAMAGES = {
    "a.h5": ("dump", ("score", "dump")),
    "a.h5.partial": ("dump", ("dump", "score")),
    "a.h5.partial.journal": ("dump", ("dump", "score")),
    "m1.h5": ("sums", ("merge",)),
    "results/*.json": ("batch", ("batch",)),
    "results/.*.lock": ("batch", ("batch",)),
    "runs/*.safetensors": ("", ("batch", "analyze", "dump")),
    "data.npz": ("", ("batch", "analyze", "dump")),
}
"""What is damaged; which command leaves it, and which ones then meet it."""


def damage(path: Path, chance: random.Random) -> None:
    """Cut a file short, or change a byte of it."""
    content = bytearray(path.read_bytes())
    if not content or path.suffix == ".lock" or chance.random() < 0.4:
        path.write_bytes(content[: chance.randrange(len(content) + 1)])
        return
    place = chance.randrange(len(content))
    # of a text a byte that no text has: another digit is another result, not a damaged one
    content[place] = 0xFF if path.suffix == ".json" else content[place] ^ (1 << chance.randrange(8))
    path.write_bytes(content)


def leave(lane: Lane, pattern: str) -> None:
    """Run the command that leaves such a file, killed where only a kill does, until there is one."""
    name, _ = DAMAGES[pattern]
    kind = "kill" if "partial" in pattern or "lock" in pattern else "nothing"
    for _ in range(50):
        if any(lane.ground.folder.glob(pattern)):
            return
        if name == "batch":
            lane.forget_some()
        # a kill leaves it earlier where the dump is begun anew; without one it is to succeed
        goes_on = ("--resume",) if name == "dump" and kind == "nothing" else ()
        lane.run(name, kind, COMMANDS[name].words + goes_on)
    raise AssertionError(f"no {pattern} is left")


def forget_owner(lock: Path) -> None:
    """Remove what a killed process left of a result: only its lock, to be damaged, tells that it is dead."""
    token = json.loads(lock.read_text() or "{}").get("token", "none")
    for left in lock.parent.glob(f".*.{token}.*.tmp"):
        left.unlink()


def damage_and_mend(ground: Ground, lane: Lane, inputs: Path) -> None:
    """Damage one file; whoever meets it says so, and goes on from the right content once it is mended."""
    chance, folder = lane.chance, ground.folder
    pattern = chance.choice(list(DAMAGES))
    leave(lane, pattern)
    victim = chance.choice(sorted(folder.glob(pattern)))
    name = str(victim.relative_to(folder))
    is_input = (inputs / name).is_file()
    if victim.suffix == ".lock":
        forget_owner(victim)
    damage(victim, chance)
    ground.spoiled = {name, *(OUTPUTS if is_input else ())}
    for command in DAMAGES[pattern][1]:
        words = COMMANDS[command].words + (("--resume",) if command == "dump" else ())
        lane.log.append(f"{name} is damaged")
        lane.run(command, "nothing", words)
        if command == "batch":
            ground.spoiled.discard(name)
        ground.check()
    lane.tally[f"damaged: {pattern}"] += 1
    if is_input:
        shutil.copyfile(inputs / name, victim)
        doubtful = [output for output in OUTPUTS if not output.startswith("results/")]
    else:
        doubtful = [name] if name in OUTPUTS and not name.startswith("results/") else []
    for output in (*doubtful, "a.h5.partial", "a.h5.partial.journal"):
        (folder / output).unlink(missing_ok=True)
    ground.spoiled = set()


# ------------------------------------------------------------------------------------------- all of it


@dataclass
class Soak:
    folder: Path
    seed: int
    lanes: int
    """Besides the one that runs all its commands in one process."""
    tally: Counter[str] = field(default_factory=Counter)
    log: list[str] = field(default_factory=list)

    def run(self, rounds: Callable[[int], bool], goes_on: Callable[[int], Callable[[int], bool]]) -> None:
        """Rounds as long as `rounds` says, of the round's number; in each, lanes as `goes_on(round)` says."""
        temporary = self.folder / "tmp"
        temporary.mkdir()
        shared_memory = _shared_memory()
        with ExitStack() as stack:
            with ThreadPoolExecutor() as pool:
                stays = [False] * self.lanes + [True]
                zygotes = list(pool.map(lambda stay: Zygote(stay, TMPDIR=str(temporary)), stays))
            for zygote in zygotes:
                stack.callback(zygote.close)
            ground = self.reference(zygotes[0])
            resident = _Resident(zygotes[-1])
            number = 0
            while rounds(number):
                self.round(number, ground, zygotes, goes_on(number))
                resident.check()
                number += 1
            self.tally["rounds"] = number
        assert list(temporary.iterdir()) == []
        deadline = time.monotonic() + 30  # others may use some for a while
        while not _shared_memory() <= shared_memory:
            assert time.monotonic() < deadline
            time.sleep(0.5)

    def reference(self, zygote: Zygote) -> Ground:
        """What every command leaves, where nobody disturbs it."""
        make_inputs(self.folder / "inputs")
        folder = self.folder / "reference"
        shutil.copytree(self.folder / "inputs", folder)
        seconds = {}
        second = tuple(
            {"half_1.npz": "half_2.npz", "m1.h5": "m2.h5"}.get(word, word) for word in COMMANDS["sums"].words
        )
        succeed(zygote, folder, *second)
        for name, command in COMMANDS.items():
            if name == "report":
                shutil.copytree(folder / "results", folder / "given")
            began = time.monotonic()
            succeed(zygote, folder, *command.words)
            seconds[name] = time.monotonic() - began
        sizes = {
            name: max((folder / output).stat().st_size for output in command.outputs)
            for name, command in COMMANDS.items()
        }
        return Ground(folder, {name: content_of(folder / name) for name in OUTPUTS}, seconds, sizes)

    def round(
        self, number: int, ground: Ground, zygotes: list[Zygote], goes_on: Callable[[int], bool]
    ) -> None:
        folder = self.folder / f"round_{number}"
        shutil.copytree(self.folder / "inputs", folder)
        shutil.copytree(self.folder / "reference" / "given", folder / "given")
        shutil.copyfile(self.folder / "reference" / "m2.h5", folder / "m2.h5")
        here = replace(ground, folder=folder, _seen={})
        with small_file_system(folder / "disk", DISK_KIB) as here.has_disk:
            lanes = [
                Lane(zygote, here, random.Random(f"{self.seed} {number} {index}"), Counter(), index == 0)
                for index, zygote in enumerate(zygotes)
            ]
            try:
                with ThreadPoolExecutor() as pool:
                    for work in [pool.submit(lane.work, goes_on) for lane in lanes]:
                        work.result()
                wait_for_orphans(folder)
                here.check()
                for _ in range(3):
                    damage_and_mend(here, lanes[0], self.folder / "inputs")
                complete(here, zygotes[0])
                if number % 3 == 0:
                    two_batches(here, zygotes)
            finally:
                self.log += [
                    f"round {number}",
                    *(f"{i}: {line}" for i, lane in enumerate(lanes) for line in lane.log),
                ]
            for lane in lanes:
                self.tally.update(lane.tally)
        shutil.rmtree(folder)


def _shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


class _Resident:
    """The process that runs all its commands itself: it must not gather what they open."""

    def __init__(self, zygote: Zygote) -> None:
        self._place = Path(f"/proc/{zygote.process.pid}")
        self._first: tuple[int, int] | None = None
        self._rounds = 0

    def check(self) -> None:
        """After each round as many open files as after the second, and about as much memory."""
        files = [str(path.readlink()) for path in (self._place / "fd").iterdir()]
        kib = int(re.findall(r"VmRSS:\s+(\d+)", (self._place / "status").read_text())[0])
        self._rounds += 1
        if self._rounds == 2:
            self._first = len(files), kib
        if self._first:
            assert len(files) <= self._first[0], f"open: {files}"
            assert kib <= self._first[1] + 150_000, f"{kib} KiB"


def described(tally: Counter[str]) -> Iterator[str]:
    for name in sorted(tally):
        yield f"{name}: {tally[name]}"
