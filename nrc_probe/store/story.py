"""What a file of activations tells besides its numbers: facts, settings, form; as JSON and back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nrc_probe.layers import Skipped
from nrc_probe.result import CheckpointFacts, ModelFacts, Settings, Thresholds
from nrc_probe.scoring import DataSource, Facts
from nrc_probe.store.layout import texts
from nrc_probe.typed import build, restore

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Form:
    """How activations are stored; None where they are not, but their moments."""

    dtype: str = "float32"
    compression: str = "none"


@dataclass(frozen=True)
class Run:
    """What the last digits of activations may depend on."""

    device: str
    batch_size: int
    threads: int
    torch: str
    moments: bool
    """Whether the pass also sums, in threads that the network then lacks."""


@dataclass(frozen=True)
class Story:
    """All that is known before a pass."""

    facts: Facts
    settings: Settings
    types: Mapping[str, str]
    """Layer -> its class, of all layers that were to be scored, as the network lists them."""
    form: Form | None
    config: str | None = None
    """The nrc-probe.toml that was followed."""
    run: Run | None = None
    preparation: str | None = None
    """Fingerprint of the means and deviations that standardise inputs and targets; None where none do."""
    shards: tuple[str, ...] = ()
    """SHA-256 of the data sets whose rows are in it, as far as known."""
    modules: Mapping[str, str] = field(default_factory=dict)
    """Module -> its form, of the whole network; empty where unknown. See `layers.module_forms`."""

    def to_plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, d: Mapping[str, Any]) -> Story:
        """What `to_plain` made. Raises KeyError, TypeError where it is another thing."""
        facts, settings = d["facts"], d["settings"]
        return cls(
            facts=Facts(
                checkpoint=build(CheckpointFacts, facts["checkpoint"]),
                model=build(ModelFacts, facts["model"]),
                data=build(DataSource, facts["data"]),
                heldout=build(DataSource, facts["heldout"]) if facts["heldout"] else None,
                left_out=tuple(build(Skipped, item) for item in facts["left_out"]),
                order=restore(facts["order"], "tuple[str, ...]", "order"),
                cautions=restore(facts.get("cautions", []), "tuple[str, ...]", "cautions"),
            ),
            settings=build(Settings, {**settings, "thresholds": build(Thresholds, settings["thresholds"])}),
            types=texts(d["types"], "types"),
            form=build(Form, d["form"]) if d["form"] else None,
            config=restore(d["config"], "str | None", "config"),
            run=build(Run, d["run"]) if d["run"] else None,
            preparation=restore(d["preparation"], "str | None", "preparation"),
            shards=restore(d["shards"], "tuple[str, ...]", "shards"),
            modules=texts(d.get("modules", {}), "modules"),
        )

    def fingerprints(self) -> dict[str, str | None]:
        """SHA-256 of what went in: where one is None, nobody can tell whether it is still the same."""
        heldout = self.facts.heldout
        known = {"checkpoint": self.facts.checkpoint.sha256, "data": self.facts.data.sha256}
        return known | ({"held-out data": heldout.sha256} if heldout else {})


def difference(old: Story, new: Story) -> str | None:
    """The first thing in which two stories differ, in words; None where they are of the same.

    Where files lie does not matter.
    """
    before, now = dict(_told(old)), dict(_told(new))
    for name in before | now:
        if before.get(name) != now.get(name):
            return f"{name} was {in_short(before.get(name))}, now it is {in_short(now.get(name))}"
    return None


def _told(story: Story) -> Iterator[tuple[str, object]]:
    for name, print_ in story.fingerprints().items():
        yield f"the {name}'s SHA-256", print_
    plain = story.to_plain()
    for part in ("form", "run", "settings"):
        yield from ((name, value) for name, value in (plain[part] or {}).items())
    yield "the standardisation", story.preparation
    yield "the choice of the data's columns", story.facts.data.reading
    for part in ("model", "data", "heldout", "left_out"):
        facts = plain["facts"][part]
        yield f"{part} facts", facts if not isinstance(facts, dict) else {**facts, "path": None}


def in_short(value: object) -> str:
    """A value in a message; of a SHA-256 the first digits, which tell two apart."""
    text = str(value)
    if _SHA256.fullmatch(text):
        return f"{text[:12]}..."
    return text if len(text) <= 80 else f"{text[:77]}..."
