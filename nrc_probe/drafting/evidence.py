"""What a folder shows: the network of a checkpoint, the data near it, how these two fit together."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from nrc_probe.architecture import ACTIVATIONS, Network, build_network
from nrc_probe.checkpoint import Checkpoint, load_checkpoint
from nrc_probe.config import Config, read_metadata
from nrc_probe.dataset import Dataset, open_dataset
from nrc_probe.dataset.naming import INPUT_WORDS, TARGET_WORDS
from nrc_probe.dataset.readers import READERS, Contents, read_contents
from nrc_probe.dataset.tables import Table, array_columns
from nrc_probe.discovery import find_checkpoints
from nrc_probe.errors import CheckpointError, ProbeError
from nrc_probe.forward import PassSettings, prepared, run_pass
from nrc_probe.layers import find_layers
from nrc_probe.spec import DataSpec
from nrc_probe.store.reading import is_store

_CHECKPOINTS_TRIED = 5
_FILES_TRIED = 100
_DEPTH = 3
_LARGEST = 2**30
"""Bytes of a data file that is still opened to look whether it fits."""
_ROWS = 2000
"""Rows on which readings are compared."""
_WAYS: tuple[tuple[str, ...], ...] = ((), ("inputs", "targets"), ("inputs",), ("targets",))
_WAYS_OF_IMAGES: tuple[tuple[str, ...], ...] = ((), ("targets",))
_CLEARLY = 0.01
"""A reading that explains this much more of the targets than a simpler one is preferred to it."""
_SIDE = 32
_WORD = r"(?:^|[^a-z])({})(?:$|[^a-z])"
HELD_OUT = re.compile(_WORD.format("test|val|valid|validation|heldout|held_out|held-out|eval|dev"), re.I)
TRAINING = re.compile(_WORD.format("train|training|trainset"), re.I)
_NOT_LETTERS = re.compile("([^A-Za-z]+)")
_DATA = re.compile(_WORD.format("data|dataset"), re.I)


@dataclass(frozen=True, eq=False)
class Subject:
    """A checkpoint of the folder, and its network if that could be built."""

    name: str
    """Path below the folder."""
    loaded: Checkpoint
    said: Config
    """What its own metadata say."""
    network: Network | None
    input_shape: tuple[int, ...] | None
    """(d,), or (channels, h, w), where any h and w will do."""
    target_dim: int | None
    problem: str | None = None
    """Why there is no network."""


@dataclass(frozen=True)
class Fit:
    """A data file that the network could have been trained on."""

    path: Path
    inputs: str | None
    """Name or columns; None: the usual names are found."""
    targets: str | None
    n: int | None
    is_sure: bool
    """Whether names or shapes left no other choice."""
    second: Path | None = None
    """The targets' own file, beside the inputs' `path`."""

    def spec(self, standardize: tuple[str, ...] = ()) -> DataSpec:
        """The data as they are opened."""
        targets = str(self.second) if self.second else self.targets
        return DataSpec(str(self.path), self.inputs, targets, standardize)


@dataclass(frozen=True)
class Misfit:
    """A file that was looked at and is not taken for the data."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Reading:
    """A way to read network and data, and what share of the targets' variance it explains."""

    activation: str | None
    """None where it is not a question."""
    standardize: tuple[str, ...]
    r2: float
    summary: str
    """Of the network, with this activation."""


# ------------------------------------------------------------------------------------ the network


def find_subject(folder: Path) -> Subject | None:
    """The last checkpoint, in natural order, whose network can be built; else one that opens."""
    opened: Subject | None = None
    for path in itertools.islice(reversed(find_checkpoints(folder)), _CHECKPOINTS_TRIED):
        try:
            loaded = load_checkpoint(folder / path)
            subject = _subject(str(path), loaded)
        except ProbeError:
            continue
        if subject.network:
            return subject
        opened = opened or subject
    return opened


def _subject(name: str, loaded: Checkpoint) -> Subject:
    said = read_metadata(loaded, trusted=False)
    try:
        network = build_network(loaded, said.model)
    except ProbeError as error:
        return Subject(name, loaded, said, None, None, None, str(error).removeprefix(f"{loaded.path}: "))
    if not all(tensor.isfinite().all() for tensor in loaded.tensors.values() if isinstance(tensor, Tensor)):
        raise CheckpointError(f"{name}: not finite")
    shape, target_dim = _ends(network.module)
    return Subject(name, loaded, said, network, shape, target_dim)


def _ends(module: nn.Module) -> tuple[tuple[int, ...] | None, int | None]:
    """Shape of a sample and number of targets, found by trying; None where nothing runs."""
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    for layer in find_layers(module)[0]:
        shape = (layer.width,) if layer.is_linear else (layer.width, _SIDE, _SIDE)
        try:
            with torch.no_grad():
                output = module.eval()(torch.zeros(2, *shape, dtype=dtype))
        except Exception:  # not the first layer, or anybody's network
            continue
        if isinstance(output, Tensor) and output.ndim == 2:
            return shape, output.shape[1]
    return None, None


# --------------------------------------------------------------------------------------- the data


def find_data(folder: Path, subject: Subject | None) -> tuple[list[Fit], list[Misfit]]:
    """Data files that fit the network: those below the folder, else beside it, else in ../data.

    With them the files of nearer places, none of which fits.
    """
    misfits: list[Misfit] = []
    checkpoints = {folder / path for path in find_checkpoints(folder)}
    above = folder.absolute().parent
    for place, depth in ((folder, _DEPTH), (above, 0), (above / "data", 1)):
        files = sorted(_files(place, depth), key=lambda path: (len(path.parts), path.name))
        candidates = [path for path in files if path not in checkpoints or _is_named_as_data(path)]
        seen = list(_looked_at(candidates[:_FILES_TRIED], subject))
        if fits := [each for each in seen if isinstance(each, Fit)]:
            return fits, misfits
        misfits += [each for each in seen if isinstance(each, Misfit)]
    return [], misfits


def _looked_at(paths: Sequence[Path], subject: Subject | None) -> Iterator[Fit | Misfit]:
    """What each file is; inputs and targets in two files are one."""
    seconds = {path: second for path in paths if (second := _targets_of(path, paths))}
    for path in paths:
        if path in seconds:
            yield _pair(path, seconds[path], subject)
        elif path not in seconds.values():
            yield _fit(path, subject)


def _targets_of(path: Path, paths: Sequence[Path]) -> Path | None:
    """Of x.npy or train_inputs.npy the y.npy or train_targets.npy beside it, by the usual names."""
    pieces = _NOT_LETTERS.split(path.stem)
    for place in (place for place, piece in enumerate(pieces) if piece in INPUT_WORDS):
        for word in TARGET_WORDS:
            stem = "".join([*pieces[:place], word, *pieces[place + 1 :]])
            other = path.with_name(f"{stem}.npy")
            if path.suffix == ".npy" and other in paths:
                return other
    return None


def _pair(path: Path, second: Path, subject: Subject | None) -> Fit | Misfit:
    fit = Fit(path, None, None, None, True, second)
    try:
        dataset = open_dataset(fit.spec())
    except ProbeError as error:
        return Misfit(path, str(error).removeprefix(f"{path}: "))
    if not _suits(dataset, subject):
        return Misfit(path, f"with {second.name}, {_sizes(dataset)}")
    return replace(fit, n=dataset.n)


def _is_named_as_data(path: Path) -> bool:
    return any(word.search(path.name) for word in (TRAINING, HELD_OUT, _DATA))


def _files(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for path in entries:
        if path.name.startswith(".") or not _is_text(path.name):
            continue
        if path.is_dir() and not path.is_symlink() and depth:
            yield from _files(path, depth - 1)
        elif path.suffix.lower() in READERS and path.is_file():
            yield path


def _is_text(name: str) -> bool:
    """Whether a TOML file, which is UTF-8, can hold the name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fit(path: Path, subject: Subject | None) -> Fit | Misfit:
    if path.stat().st_size > _LARGEST:
        return Misfit(path, f"larger than {_LARGEST / 2**30:g} GiB, not opened")
    try:
        if is_store(path):  # a dump's targets are no data set's
            return Misfit(path, "activations or their sums, no data set")
        contents = read_contents(path, str(path))
        names = list(_names(contents, subject))
    except ProbeError as error:
        return Misfit(path, str(error).removeprefix(f"{path}: "))
    reason = _too_wide(contents, subject)
    for (inputs, targets), is_sure in names:
        try:
            dataset = open_dataset(DataSpec(str(path), inputs, targets))
        except ProbeError as error:
            reason = reason or str(error).removeprefix(f"{path}: ")
            continue
        if _suits(dataset, subject):
            return Fit(path, inputs, targets, dataset.n, is_sure)
        reason = _sizes(dataset)
    return Misfit(path, reason or "nothing in it fits")


def _sizes(dataset: Dataset) -> str:
    inputs = "x".join(map(str, dataset.input_shape or ())) or "unknown"
    return f"its inputs are {inputs} wide, its targets {dataset.target_dim}"


def _too_wide(contents: Contents, subject: Subject | None) -> str | None:
    """What is wrong with a table of as many columns, where the network reads columns."""
    table = _sole_table(contents)
    if table is None or subject is None or subject.target_dim is None or len(subject.input_shape or ()) != 1:
        return None
    (wide,), narrow = subject.input_shape or (0,), subject.target_dim
    more = table.width - wide - narrow
    there = f"{table.width} columns, {wide} inputs and {narrow} targets are {wide + narrow}"
    if more == 1:
        first, last = f'"1:{wide + 1}"', f'"{wide + 1}:{table.width}"'
        return f"{there} (is the first an id? Then inputs = {first}, targets = {last})"
    return there if more else None


def _names(
    contents: Contents, subject: Subject | None
) -> Iterator[tuple[tuple[str | None, str | None], bool]]:
    """Names of inputs and targets to try, and whether they leave no other choice."""
    yield (None, None), True
    if subject is None or subject.input_shape is None or subject.target_dim is None:
        return
    wide, narrow = subject.input_shape, subject.target_dim
    if isinstance(contents, Mapping) and len(contents) != 1:
        inputs = [name for name, array in contents.items() if array.shape[1:] == wide]
        targets = [
            name
            for name, array in contents.items()
            if array.shape[1:] in ((narrow,), () if narrow == 1 else (narrow,)) and array.shape
        ]
        pairs = [
            (x, y) for x in inputs for y in targets if x != y and contents[x].shape[0] == contents[y].shape[0]
        ]
        yield from ((pair, len(pairs) == 1) for pair in pairs)
        return
    table = _sole_table(contents)
    if table and len(wide) == 1 and table.width == wide[0] + narrow:
        yield (f"0:{wide[0]}", f"{wide[0]}:{table.width}"), False


def _sole_table(contents: Contents) -> Table | None:
    """A table, or the columns of the only array; None where there are several, or it has others."""
    if isinstance(contents, Table):
        return contents
    arrays = list(contents.values())
    return array_columns(arrays[0]) if len(arrays) == 1 and len(arrays[0].shape) == 2 else None


def _suits(dataset: Dataset, subject: Subject | None) -> bool:
    """Whether the network reads such inputs and predicts so many targets; True where unknown."""
    if subject is None or subject.input_shape is None:
        return True
    shape, wanted = dataset.input_shape, subject.input_shape
    if shape is None or dataset.target_dim != subject.target_dim:
        return False
    return shape == wanted if len(wanted) == 1 else shape[:1] == wanted[:1]


# -------------------------------------------------------------------------------- both together


def best_reading(subject: Subject, fit: Fit) -> Reading | None:
    """The activation and standardisation with which the network predicts best.

    A simpler one is preferred where it is about as good. None where nothing can be run.
    """
    inferred = subject.network is not None and subject.network.source == "inferred"
    is_mlp = inferred and len(subject.input_shape or ()) == 1
    told = "activation" in subject.said.model.options
    activations: list[str | None] = list(ACTIVATIONS) if is_mlp and not told else [None]
    ways = _WAYS if is_mlp else _WAYS_OF_IMAGES
    readings = [
        reading
        for way in ways
        for activation in activations
        if (reading := _reading(subject, fit, activation, way))
    ]
    best = max((reading.r2 for reading in readings), default=math.nan)
    return next((reading for reading in readings if reading.r2 > best - _CLEARLY), None)


def _reading(
    subject: Subject, fit: Fit, activation: str | None, standardize: tuple[str, ...]
) -> Reading | None:
    spec = subject.said.model
    if activation:
        spec = replace(spec, options={**spec.options, "activation": activation})
    try:
        network = build_network(subject.loaded, spec)
        dataset = open_dataset(fit.spec(standardize))
        device = torch.device("cpu")
        how = PassSettings("mean", "exact", 1, _ROWS, None, device)
        with prepared(network.module, device, None):
            r2 = run_pass(network.module, [], dataset, how).model_r2
    except ProbeError:
        return None
    return Reading(activation, standardize, r2, network.summary) if math.isfinite(r2) else None
