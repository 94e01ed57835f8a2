"""What was asked for: which network, which data. Plain frozen values, no effects.

They are filled from options, from nrc-probe.toml, or from a checkpoint's metadata (see config.py).
A field that is None was not said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ModelSpec:
    """The network to build around a checkpoint's tensors."""

    architecture: str | None = None
    """"mlp", "resnet", "torchvision:NAME", "package.module:function"; None: infer it."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Keyword arguments, such as `activation`."""
    trusted: bool = False
    """Whether the user said it: only then may a factory run."""
    folder: Path | None = None
    """Where a factory's module is looked for, besides the current folder and the Python path."""


@dataclass(frozen=True)
class DataSpec:
    """A data set: where it lies, which parts are inputs and targets, and how they are prepared."""

    path: str | None = None
    """A file, a folder, or "package.module:function" (a factory)."""
    inputs: str | None = None
    """Array, data set or column names, column ranges such as "0:8", or both: "y[0,2]"; None: guess."""
    targets: str | None = None
    """As `inputs`."""
    standardize: tuple[str, ...] | str | None = None
    """("inputs", "targets") or one of them: by this data's own mean and deviation. Or a file."""
    images: str | None = None
    """"auto", "nhwc" (bytes, channels last: to NCHW floats in [0, 1]) or "as-is"."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Keyword arguments of a factory."""
    trusted: bool = False
    """Whether the user said it: only then may a factory run."""
    folder: Path | None = None
    """The folder that relative paths, and a factory's module, are looked for in."""
    names_from: str | None = field(default=None, compare=False)
    """The file that names inputs or targets; None: the user does, or nobody."""


def columns_text(said: str | Iterable[str] | None) -> str | None:
    """Names or ranges as one text, "a,b", also where they were listed."""
    return said if said is None or isinstance(said, str) else ",".join(said)
