"""A saved file -> Checkpoint: its tensors, and what training left beside them. The only caller of torch.load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class Training:
    """What training left beside the tensors; None where nothing says it."""

    epoch: int | None = None
    step: int | None = None
    weight_decay: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True, eq=False)  # eq=False: `==` on tensors has no single answer
class Checkpoint:
    """The tensors of one saved network, as training left them."""

    path: Path
    sha256: str
    """Of the file's bytes; for shards, of the index and then each shard in its order."""
    format: str
    """"safetensors", "safetensors-sharded" or "torch"."""
    tensors: Mapping[str, Tensor]
    """By name, `module.` and `_orig_mod.` stripped; in the file's own order where it has one."""
    training: Training = field(default_factory=Training)
    metadata: Mapping[str, str] = field(default_factory=dict)
    """A safetensors file's `__metadata__`; empty for other formats."""
    notes: tuple[str, ...] = ()
    """What was chosen or assumed while reading."""


def load_checkpoint(
    path: str | Path, *, state_key: str | None = None, unsafe_pickle: bool = False
) -> Checkpoint:
    """Read one checkpoint: safetensors, sharded safetensors, or what torch.save wrote."""
    raise NotImplementedError
