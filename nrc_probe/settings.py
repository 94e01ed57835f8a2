"""Settings as options and nrc-probe.toml give them -> checked, with defaults filled in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nrc_probe.config import Config
from nrc_probe.errors import ConfigError
from nrc_probe.layers import POOLINGS
from nrc_probe.moments import PRECISIONS
from nrc_probe.plain import shortened
from nrc_probe.result import Settings, Thresholds

_MOST = 2**31 - 1
"""Nothing that is counted here exceeds it."""
_MOST_THREADS = 1024


@dataclass(frozen=True)
class Running:
    """How to run; no score depends on it."""

    device: torch.device
    batch_size: int | None
    threads: int | None


def read_settings(config: Config) -> Settings:
    """The options that scores depend on, defaults filled in. Raises ConfigError."""
    said: dict[str, Any] = dict(config.score)
    return Settings(
        rank=_rank(said.get("rank", "target")),
        rcond=_rcond(said.get("rcond", 1e-3)),
        pooling=_choice("pooling", said.get("pooling", "mean"), POOLINGS),
        precision=_choice("precision", said.get("precision", "exact"), PRECISIONS),
        thresholds=_thresholds(said.get("thresholds", {})),
        layers=_globs(said.get("layers", ())),
        exclude=_globs(said.get("exclude", ())),
        max_width=_positive("max_width", said.get("max_width", 8192)),
        limit=_positive("limit", said["limit"]) if "limit" in said else None,
    )


def read_running(config: Config) -> Running:
    """How to run: device, batch size, threads. Raises ConfigError for what is not there."""
    said: dict[str, Any] = dict(config.score)
    return Running(
        device=_device(said.get("device", "auto")),
        batch_size=_positive("batch_size", said["batch_size"]) if "batch_size" in said else None,
        threads=_positive("threads", said["threads"], _MOST_THREADS) if "threads" in said else None,
    )


def _rank(value: Any) -> int | str:
    if value in ("target", "auto"):
        return str(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
        shown = shortened(repr(value))
        raise ConfigError(f"rank must be 'target', 'auto' or an integer from 1 to {_MOST}, got {shown}")
    return value


def _rcond(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise ConfigError(f"rcond must be a number from 0 to below 1, got {value!r}")
    return float(value)


def _thresholds(values: Mapping[str, Any]) -> Thresholds:
    known = ", ".join(Thresholds.__dataclass_fields__)
    for name, value in values.items():
        if name not in Thresholds.__dataclass_fields__:
            raise ConfigError(f"threshold '{name}' is unknown; there are: {known}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise ConfigError(f"threshold {name} must be a number, got {value!r}")
    return Thresholds(**{name: float(value) for name, value in values.items()})


def _choice(name: str, value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
    return str(value)


def _positive(name: str, value: Any, most: int = _MOST) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ConfigError(f"{name} must be an integer from 1 to {most}, got {shortened(repr(value))}")
    return value


def _globs(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _device(name: Any) -> torch.device:
    present = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if name == "auto":
        return torch.device(next(kind for kind, count in present.items() if count))
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device {name!r} is unknown; there are: auto, cuda, mps, cpu") from error
    if (device.index or 0) >= present.get(device.type, 0):
        here = ", ".join(f"{count} {kind}" for kind, count in present.items() if count)
        raise ConfigError(f"device '{name}' is not available; here there is: {here}")
    return device
