"""Results and failures of a folder's checkpoints as files; a result's file says what was asked.

A result stands at the checkpoint's relative path, `run/7.pth` in `run/7.pth.json`, a failure in
`run/7.pth.failed.json`. A result answers a question again if its fingerprint is the question's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from nrc_probe.atomic import write_text
from nrc_probe.checkpoint import Checkpoint
from nrc_probe.config import Config
from nrc_probe.dataset import Dataset
from nrc_probe.errors import ProbeError
from nrc_probe.files import FILE, kind_of
from nrc_probe.plain import printable
from nrc_probe.result import Result, Settings
from nrc_probe.spec import DataSpec

FAILURE_SCHEMA = "nrc-probe/failure/1"
_ENTRY = "ledger"


def result_file(output: Path, checkpoint: str) -> Path:
    """Where the result of a checkpoint stands; its relative path is with /."""
    return output / f"{checkpoint}.json"


def failure_file(output: Path, checkpoint: str) -> Path:
    """Where it stands why a checkpoint has no result."""
    return output / f"{checkpoint}.failed.json"


def claim_file(output: Path, checkpoint: str) -> Path:
    """Where a process says that it works on a checkpoint."""
    place = output / checkpoint
    return place.with_name(f".{place.name}.lock")


def fingerprint(
    loaded: Checkpoint,
    config: Config,
    settings: Settings,
    dataset: Dataset,
    heldout: Dataset | None,
) -> str:
    """SHA-256 of all that a result depends on: content of the files, and what was said of them.

    Where files lie does not count, nor does how the computation runs. Of a factory only its name
    and arguments are seen, not its code.
    """
    spec = config.held_out()
    asked = {
        "checkpoint": loaded.sha256,
        "training": asdict(loaded.training),  # part of it may stem from the path
        "state_key": config.score.get("state_key"),
        "model": [config.model.architecture, config.model.options],
        "data": _data(config.data, dataset),
        "heldout": _data(spec, heldout) if spec and heldout else None,
        "settings": asdict(settings),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=repr).encode()).hexdigest()


def _data(spec: DataSpec, dataset: Dataset) -> dict[str, object]:
    in_file = isinstance(spec.standardize, str)
    scales = (dataset.statistics.inputs, dataset.statistics.targets) if in_file else ()
    second = (spec.targets or "").endswith(".npy")
    return {
        "content": dataset.sha256 or [spec.path, spec.options],
        "inputs": spec.inputs,
        "targets": None if second else spec.targets,  # such a file's content counts above
        "standardize": [[part.tolist() for part in pair] for pair in scales if pair]
        if in_file
        else spec.standardize,
        "images": spec.images,
    }


def read_result(path: Path, asked: str) -> Result | None:
    """The result at `path` if it answers what is asked, by its fingerprint; else None."""
    try:
        if kind_of(path) != FILE:
            return None
        text = path.read_text(encoding="utf-8")
        entry = json.loads(text)[_ENTRY]
        return Result.from_json(text) if entry["fingerprint"] == asked else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ProbeError):
        return None  # whatever else stands there, it is no answer


def version_of(path: Path) -> tuple[int, int, int] | None:
    """What differs between a file and any that takes its place later; None where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a null in it
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def write_result(path: Path, result: Result, asked: str, mark: str) -> None:
    """Write a result with its fingerprint; mark: as in `atomic.replacing`. Raises OutputError."""
    text = result.to_json(beside={_ENTRY: {"fingerprint": asked}})
    write_text(path, f"{text}\n", mark)


def write_failure(path: Path, checkpoint: Path, error: BaseException | str, mark: str) -> None:
    """Write why a checkpoint has no result. Raises OutputError."""
    body: Mapping[str, object] = {
        "schema": FAILURE_SCHEMA,
        "checkpoint": printable(str(checkpoint)),
        "error": type(error).__name__ if isinstance(error, BaseException) else None,
        "reason": reason_of(error, checkpoint),
        "provenance": {
            "nrc_probe": version("nrc-probe"),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }
    write_text(path, json.dumps(body, indent=2) + "\n", mark)


def reason_of(error: BaseException | str, checkpoint: Path) -> str:
    """The error's own words on one line, without the checkpoint's path, which stands beside them.

    With its type where it is not meant for users.
    """
    text = " ".join(str(error).split())
    if isinstance(error, ProbeError | str):
        return printable(text.removeprefix(f"{checkpoint}: "))
    return printable(f"{type(error).__name__}: {text}" if text else type(error).__name__)
