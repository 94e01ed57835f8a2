"""A saved file -> Checkpoint: its tensors, and what training left beside them.

A file is anybody's: its content decides what it is, nothing in it is
executed unless asked for, and whatever is wrong with it becomes one sentence.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from safetensors import safe_open
from torch import Tensor

from nrc_probe.checkpoint.content import OF_SAFETENSORS, OF_TORCH, content_of
from nrc_probe.checkpoint.statedict import find_state_dict, named_tensors
from nrc_probe.checkpoint.torchfile import load_torch
from nrc_probe.checkpoint.training import SUFFIXES, Training, read_training
from nrc_probe.errors import CheckpointError
from nrc_probe.files import FILE, kind_of
from nrc_probe.plain import first_line

__all__ = ["Checkpoint", "Training", "load_checkpoint"]


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
    """Read one checkpoint: safetensors, sharded safetensors, or what torch.save wrote.

    state_key: dotted path to the state dict, where a file of torch.save holds several.
    unsafe_pickle: let the file run code, which a saved nn.Module needs.
    The tensors lie in the file's own pages where the format allows; the file never changes.
    Raises CheckpointError.
    """
    path = Path(path)
    try:
        return _load(path, state_key, unsafe_pickle)
    except CheckpointError as error:
        one_line = " ".join(str(error).split())  # names in a file may hold anything
        raise CheckpointError(f"{path}: {one_line}") from error.__cause__
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise CheckpointError(f"{path}: the file cannot be read: {reason}") from error


_WAY_OUT = "save model.state_dict() instead, or add --unsafe-pickle if you trust the file"


def _load(path: Path, state_key: str | None, unsafe_pickle: bool) -> Checkpoint:
    _require_file(path)
    content = content_of(path)
    if content not in OF_TORCH + OF_SAFETENSORS:
        raise CheckpointError(_wrong_format(path, content))
    if content in OF_TORCH:
        saved = load_torch(path, content, way_out=_WAY_OUT, unsafe_pickle=unsafe_pickle)
        found, choice = find_state_dict(saved, state_key)
        state, files, kind = found.state, [path], "torch"
        outermost = saved if isinstance(saved, Mapping) and "." in found.key else {}
        beside = [found.beside, outermost]
        metadata: Mapping[str, str] = {}
    else:
        _refuse_state_key(state_key)
        kind, choice, beside = content, [], []
        state, metadata, files = _read_shards(path) if content == "safetensors-sharded" else _read_whole(path)
    tensors, naming = named_tensors(state)
    training, reading = read_training(beside, metadata, path)
    notes = (*_misnamed(path, kind), *choice, *naming, *reading)
    return Checkpoint(path, _sha256(files), kind, tensors, training, metadata, notes)


def _refuse_state_key(state_key: str | None) -> None:
    if state_key is not None:
        raise CheckpointError(
            f"no state dict under '{state_key}': safetensors holds one flat set of tensors, "
            "leave --state-key out"
        )


def _sha256(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


# ---- what a file should be


def _require_file(path: Path) -> None:
    kind = kind_of(path)
    if kind is None:
        raise CheckpointError("there is no such file")
    if kind == "a folder" and not os.access(path, os.R_OK | os.X_OK):
        raise CheckpointError("expected a checkpoint file, got a folder that may not be listed")
    if kind != FILE:
        raise CheckpointError(f"expected a checkpoint file, got {kind}; name a file")


def _wrong_format(path: Path, what: str) -> str:
    promised = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)
    expected = "a checkpoint (safetensors, its shard index, or of torch.save)"
    return f"expected {expected}, {f'as {promised!r} says, ' if promised else ''}got {what}"


def _misnamed(path: Path, kind: str) -> list[str]:
    """A note where the name says another format than the content."""
    says_torch = path.suffix in (".pt", ".pth", ".bin", ".ckpt")
    says_safetensors = path.suffix == ".safetensors"
    if (says_torch and kind != "torch") or (says_safetensors and kind == "torch"):
        return [f"the file is named '{path.suffix}', but its content is {kind}"]
    return []


# ---- safetensors


def _read_whole(path: Path) -> tuple[dict[str, Tensor], dict[str, str], list[Path]]:
    """Tensors, metadata and files of one safetensors file that is not one of several shards."""
    shard = re.search(r"-([0-9]{5})-of-([0-9]{5})\.safetensors$", path.name)
    if shard and int(shard[2]) > 1:
        raise CheckpointError(
            f"expected a whole network, got shard {int(shard[1])} of {int(shard[2])}; "
            "give the file that ends in .safetensors.index.json"
        )
    tensors, metadata = _read_safetensors(path)
    return tensors, metadata, [path]


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of one file. Nothing is allocated: the tensors lie in its pages."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            return tensors, dict(file.metadata() or {})
    except OSError:
        raise
    except Exception as error:  # a broken file may fail in any way: name it
        raise CheckpointError(_truncation(path) or _unreadable_safetensors(error)) from error


def _unreadable_safetensors(error: Exception) -> str:
    return f"the safetensors file is broken: {first_line(error)}; save or copy it again"


def _truncation(path: Path) -> str | None:
    """What to say of a safetensors file that is shorter than its header says, or None."""
    again = "save or copy it again"
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or size < 8 + length:
            needed = 8 if size < 8 else 8 + length
            return f"the file is truncated: its header needs {needed} bytes, it has {size}; {again}"
        promised = 8 + length + _end_of_data(file.read(length))
    if promised > size:
        return f"the file is truncated: its header promises {promised} bytes, it has {size}; {again}"
    return None


def _end_of_data(header: bytes) -> int:
    """Where the last tensor ends, by a safetensors header; 0 where it is not one."""
    try:
        entries = json.loads(header)
        return max(int(entry["data_offsets"][1]) for entry in entries.values() if "dtype" in entry)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError):
        return 0


def _read_shards(path: Path) -> tuple[dict[str, Tensor], dict[str, str], list[Path]]:
    """Tensors, metadata and files of a network in several files, in the order of its index."""
    index = _read_index(path)
    places = _weight_map(index)
    shards = list(dict.fromkeys(places.values()))
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for shard in shards:
        wanted = [name for name, place in places.items() if place == shard]
        held, said = _read_shard(path.parent / shard, wanted, places)
        tensors |= held
        metadata |= said
    own = index.get("metadata")
    if isinstance(own, dict):
        metadata |= {key: str(value) for key, value in own.items()}
    return (
        {name: tensors[name] for name in places},
        metadata,
        [path, *(path.parent / s for s in shards)],
    )


def _read_index(path: Path) -> dict[str, object]:
    try:
        index = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the shard index is not JSON: {first_line(error)}") from error
    return index if isinstance(index, dict) else {}


def _weight_map(index: Mapping[str, object]) -> dict[str, str]:
    """File by tensor name. Raises CheckpointError for a path that leaves the index's folder."""
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(
            "expected a shard index with a 'weight_map' of tensor names to files, got JSON without"
        )
    for name, place in places.items():
        if not isinstance(place, str) or not place:
            raise CheckpointError(f"the shard index gives no file name for '{name}'")
        pure = PureWindowsPath(place)  # it knows both separators, and drives
        if pure.anchor or ".." in pure.parts:
            raise CheckpointError(f"the shard index names '{place}', outside its own folder; refused")
    return places


def _read_shard(
    path: Path, wanted: Iterable[str], placed: Container[str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The `wanted` tensors and the metadata of one shard, all of whose tensors must be `placed`."""
    try:
        if not path.is_file():
            raise CheckpointError("is missing; copy it beside the index")
        if content_of(path) != "safetensors":
            raise CheckpointError("is not a safetensors file")
        tensors, metadata = _read_safetensors(path)
        absent = next((name for name in wanted if name not in tensors), None)
        if absent is not None:
            raise CheckpointError(f"lacks tensor '{absent}', which the index places there")
        forgotten = next((name for name in tensors if name not in placed), None)
        if forgotten is not None:
            raise CheckpointError(f"holds tensor '{forgotten}', which the index places nowhere")
    except CheckpointError as error:
        raise CheckpointError(f"shard '{path.name}': {error}") from error.__cause__
    return {name: tensors[name] for name in wanted}, metadata
