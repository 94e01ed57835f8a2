"""One process's work: a checkpoint of the folder -> its file; data and network are used again."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nrc_probe.architecture import Network, build_network, refill
from nrc_probe.assembly import Options, open_checkpoint, open_data_sets, subject_of
from nrc_probe.checkpoint import Checkpoint
from nrc_probe.config import Config
from nrc_probe.dataset import Dataset, bytes_in_memory, keep_rows
from nrc_probe.errors import OutputError
from nrc_probe.files import from_home
from nrc_probe.probe import analyze_subject
from nrc_probe.result import Result
from nrc_probe.settings import read_settings
from nrc_probe.spec import DataSpec, ModelSpec
from nrc_probe.sweep import claims, ledger
from nrc_probe.sweep.outcome import FAILED, SCORED, TAKEN, TO_DO, UNCHANGED, Outcome, glance_at

_KEPT_BYTES = 2**28
"""Rows of data sets that stay in memory, in all."""

DataSets = tuple[Dataset, Dataset | None]


@dataclass(frozen=True)
class Errand:
    """What holds for every checkpoint of the folder."""

    folder: Path
    output: Path
    data: str | None
    options: Options
    force: bool = False
    """Whether results that are there are made again."""
    dry_run: bool = False
    """Whether nothing is computed and nothing written."""


@dataclass(eq=False)
class Scorer:
    """Scores checkpoints one by one; what the next one can use again is kept in between."""

    errand: Errand
    _data: dict[str, _Opened] = field(default_factory=dict)
    _bytes_kept: int = 0
    _network: tuple[object, Network] | None = None

    def score(self, name: str) -> Outcome:
        """Score the checkpoint with this relative path, unless it is done or another's work.

        What is wrong with it becomes a failed outcome and its file, never an exception.
        """
        if self.errand.dry_run:
            return self._look(name)
        started = time.perf_counter()
        return self._holding(name, lambda claim: self._claimed(name, claim, started))

    def version(self, name: str) -> object:
        """What tells the result that is there from any that is written later; None for none."""
        return ledger.version_of(ledger.result_file(self.errand.output, name))

    def bury(self, name: str, reason: str, before: object) -> Outcome:
        """The outcome of a checkpoint whose process has died: its result, or the reason why not.

        before: the version of its result when the process began.
        """
        place = ledger.result_file(self.errand.output, name)

        def look(claim: claims.Claim) -> Outcome:
            # opening the checkpoint, which may be what killed the process, would be no good idea
            if self.version(name) in (before, None):
                return self._record(name, reason, claim.token)
            result = Result.from_json(place.read_text(encoding="utf-8"))
            return Outcome(name, SCORED, place, glance=glance_at(result))

        return self._holding(name, look)

    def _holding(self, name: str, work: Callable[[claims.Claim], Outcome]) -> Outcome:
        """What comes of work that is done while nobody else works on the checkpoint."""
        place = ledger.claim_file(self.errand.output, name)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            claim = claims.take(place)
        except OSError as error:
            problem = OutputError(f"cannot write '{place}': {error.strerror or error}")
            return self._failed(name, problem, None)
        if claim is None:
            return Outcome(name, TAKEN, ledger.result_file(self.errand.output, name))
        try:
            return work(claim)
        finally:
            claim.release()

    def clear(self, name: str) -> None:
        """Remove what a process that has ended left behind of its work on a checkpoint."""
        with suppress(OSError):
            claim = claims.take(ledger.claim_file(self.errand.output, name))
            if claim:
                claim.release()

    def _look(self, name: str) -> Outcome:
        """What would be done; a checkpoint or data that cannot be opened say so."""
        place = ledger.result_file(self.errand.output, name)
        try:
            question = self._question(name)
        except (Exception, SystemExit) as error:  # as in _claimed
            return Outcome(name, TO_DO, place, ledger.reason_of(error, self.errand.folder / name))
        found = self._answer(place, question)
        if found is None:
            return Outcome(name, TO_DO, place)
        return Outcome(name, UNCHANGED, place, glance=glance_at(found))

    def _claimed(self, name: str, claim: claims.Claim, started: float) -> Outcome:
        output = self.errand.output
        place = ledger.result_file(output, name)
        try:
            question = self._question(name)
            result = self._answer(place, question)
            state = UNCHANGED
            if result is None:
                result, state = self._analyze(question, started), SCORED
                ledger.write_result(place, result, question.asked, claim.token)
            failure = ledger.failure_file(output, name)
            if not failure.is_dir():  # which is no record of a failure, and makes no result bad
                failure.unlink(missing_ok=True)
        except (Exception, SystemExit) as error:  # anybody's file and network: the others want their turn
            self._network = None
            return self._record(name, error, claim.token, started)
        seconds = time.perf_counter() - started
        return Outcome(name, state, place, seconds=seconds, glance=glance_at(result))

    def _record(
        self, name: str, error: BaseException | str, mark: str, started: float | None = None
    ) -> Outcome:
        outcome = self._failed(name, error, started)
        try:
            ledger.write_failure(outcome.place, self.errand.folder / name, error, mark)
        except OutputError as second:
            return self._failed(name, f"{outcome.reason}; {second}", started)
        return outcome

    def _failed(self, name: str, error: BaseException | str, started: float | None) -> Outcome:
        place = ledger.failure_file(self.errand.output, name)
        seconds = time.perf_counter() - started if started else 0.0
        return Outcome(name, FAILED, place, ledger.reason_of(error, self.errand.folder / name), seconds)

    def _question(self, name: str) -> _Question:
        loaded, config = open_checkpoint(self.errand.folder / name, self.errand.options, self.errand.data)
        settings = read_settings(config)
        data_sets = self._data_sets(config)
        asked = ledger.fingerprint(loaded, config, settings, *data_sets)
        return _Question(loaded, config, data_sets, asked)

    def _answer(self, place: Path, question: _Question) -> Result | None:
        """The result that is there, where it answers the question and need not be made again."""
        return None if self.errand.force else ledger.read_result(place, question.asked)

    def _analyze(self, question: _Question, started: float) -> Result:
        loaded, config = question.loaded, question.config
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers go on unchanged
            subject = subject_of(loaded, self._built(loaded, config.model), config)
            return analyze_subject(subject, lambda: question.data_sets, None, started)

    def _data_sets(self, config: Config) -> DataSets:
        """The data, opened once for each way in which folders describe them, and when files change."""
        specs = (config.data, config.held_out())
        versions = [_versions(spec) for spec in specs if spec]  # before opening: no change is missed
        before = self._data.get(repr(specs))
        if before and before.versions == versions:
            return before.data_sets
        if before:
            del self._data[repr(specs)]
            self._bytes_kept -= before.bytes_kept
        others = self._bytes_kept
        first, second = open_data_sets(config, None, None)
        data_sets = (self._kept(first), second and self._kept(second))
        self._data[repr(specs)] = _Opened(data_sets, versions, self._bytes_kept - others)
        return data_sets

    def _kept(self, dataset: Dataset) -> Dataset:
        size = bytes_in_memory(dataset)
        if size is None or self._bytes_kept + size > _KEPT_BYTES:
            return dataset
        self._bytes_kept += size
        return keep_rows(dataset)

    def _built(self, loaded: Checkpoint, spec: ModelSpec) -> Network:
        """The network; that of the checkpoint before where it is the same but for its numbers."""
        looks = (
            repr(spec),
            loaded.format,
            *((name, t.shape, t.dtype, t.layout) for name, t in loaded.tensors.items()),
        )
        if self._network and self._network[0] == looks:
            return refill(self._network[1], loaded)
        network = build_network(loaded, spec)
        # a factory's network is anybody's code, which may remember what it has seen
        self._network = (looks, network) if network.source != "factory" else None
        return network


@dataclass(frozen=True, eq=False)
class _Opened:
    """Data sets, and what their files were when they were opened."""

    data_sets: DataSets
    versions: list[object]
    bytes_kept: int


def _versions(spec: DataSpec) -> object:
    """What changes with any file that a data set is read from; of a factory nothing is known."""
    beside = (spec.targets, spec.standardize)
    names = [spec.path, *(name for name in beside if isinstance(name, str))]  # targets: a file or no path
    paths = [(spec.folder or Path()) / from_home(name) for name in names if name]
    with suppress(OSError, ValueError):  # no folder: one file
        paths += sorted(paths[0].iterdir()) if paths else []
    return [(path, ledger.version_of(path)) for path in paths]


@dataclass(frozen=True, eq=False)
class _Question:
    """What is asked of one checkpoint, and its fingerprint."""

    loaded: Checkpoint
    config: Config
    data_sets: DataSets
    asked: str
