"""What became of each checkpoint of a folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nrc_probe.result import CONDITIONS, Result

SCORED, UNCHANGED, FAILED, TO_DO, TAKEN = "scored", "unchanged", "failed", "to do", "taken"


@dataclass(frozen=True)
class Glance:
    """A result in one row of a table; nan where undefined."""

    epoch: int | None
    weight_decay: float | None
    model_r2: float
    heldout_r2: float | None
    """None where there are no held-out rows."""
    first_collapsed_layer: str | None
    all_met: int
    """Layers that meet all four conditions."""
    layers: int


@dataclass(frozen=True)
class Outcome:
    """What became of one checkpoint."""

    checkpoint: str
    """Path below the folder, with /."""
    state: str
    """"scored" now, "unchanged" since an earlier run or done by another process, "failed", "to do"
    (nothing was done: --dry-run); on the way also "taken", by another process, and waited for."""
    place: Path
    """The file of the result; where it failed, the file that records why."""
    reason: str | None = None
    """Why it failed, or would fail."""
    seconds: float = 0.0
    glance: Glance | None = None


@dataclass(frozen=True)
class Sweep:
    """What became of a folder: an outcome a checkpoint, in natural order."""

    folder: Path
    output: Path
    outcomes: tuple[Outcome, ...]
    warnings: tuple[str, ...] = ()

    def count(self, state: str) -> int:
        """How many checkpoints are "scored", "unchanged", "failed" or "to do"."""
        return sum(outcome.state == state for outcome in self.outcomes)

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The checkpoints without a result, each with its reason."""
        return tuple(outcome for outcome in self.outcomes if outcome.state == FAILED)

    def results(self) -> Iterator[Result]:
        """The results, each read from its file when it is asked for."""
        for outcome in self.outcomes:
            if outcome.state in (SCORED, UNCHANGED):
                yield Result.from_json(outcome.place.read_text(encoding="utf-8"))


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a batch between two checkpoints; what was finished is in its files."""

    def __init__(self, done: int, total: int) -> None:
        super().__init__(
            f"interrupted after {done} of {total} checkpoints (the same command goes on from there)"
        )


def glance_at(result: Result) -> Glance:
    """The row of a result."""
    return Glance(
        epoch=result.checkpoint.epoch,
        weight_decay=result.checkpoint.weight_decay,
        model_r2=result.model_r2,
        heldout_r2=result.heldout.model_r2 if result.heldout else None,
        first_collapsed_layer=result.first_collapsed_layer,
        all_met=sum(all(layer.conditions[name] for name in CONDITIONS) for layer in result.layers),
        layers=len(result.layers),
    )
