"""A saved data set, or a live one -> batches (inputs, targets), checked and prepared as asked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from nrc_probe.dataset.folders import read_folder
from nrc_probe.dataset.naming import Choice, choose, columns_read, parse_columns
from nrc_probe.dataset.preparing import Batch, Inputs, Preparation, as_columns, image_layout
from nrc_probe.dataset.readers import Contents, read_contents
from nrc_probe.dataset.rows import Array, block_rows
from nrc_probe.dataset.sources import Source, array_source, as_arrays, live_source
from nrc_probe.dataset.standardize import (
    ROLES,
    Statistics,
    check_fit,
    constant_notes,
    measure,
    read_statistics,
)
from nrc_probe.dataset.tables import array_columns
from nrc_probe.errors import DataError
from nrc_probe.factory import is_factory, load_factory
from nrc_probe.files import from_home
from nrc_probe.spec import DataSpec

__all__ = ["Batch", "Dataset", "Inputs", "Statistics", "open_dataset", "wrap_dataset"]

_BEYOND_FLOAT32 = frozenset({"float64", "int32", "int64", "uint32", "uint64"})
"""Stored types whose numbers float32 rounds: the network's own type may hold more."""
_IMAGES_READ = {None: "", "nhwc": ", images with channels last", "nchw": ", images with channels first"}
_LABEL_VALUES = 100
_PASS_ROWS = 1024
"""Rows a batch in the pass that measures statistics."""


@dataclass(frozen=True, eq=False)  # eq=False: statistics are tensors
class Dataset:
    """Inputs and targets, read anew by each call of `batches`."""

    path: str | None
    """The file or folder, or package.module:function; None for live data."""
    sha256: str | None
    """Of the file's bytes, or of several files' names and bytes; None for code and live data."""
    n: int | None
    """Rows; None where an iterable does not say."""
    input_shape: tuple[int, ...] | None
    """Of one prepared sample; None where the inputs are not one tensor."""
    target_dim: int
    statistics: Statistics
    notes: tuple[str, ...]
    """What was assumed, and what looks odd."""
    reading: str | None
    """Which arrays or columns the rows are, and how images lie; None where no file names them."""
    _stream: Callable[[int, int | None], Iterator[Batch]] = field(repr=False)

    @property
    def standardized(self) -> tuple[str, ...]:
        """Which of "inputs" and "targets" are standardised."""
        return self.statistics.roles

    def batches(self, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """Batches (inputs, targets) in row order, the last one as small as it comes.

        Of arrays and files: inputs (n, ...) float32, or float64 where float32 does not hold what is
        stored, or they are standardised. Of live data: as they come, and in the sizes they come, if
        these are batches already. Targets always float64 (n, t).
        limit: rows after which nothing more is read.
        """
        for name, value in (("batch size", batch_size), ("limit", limit)):
            if value is not None and value < 1:
                raise DataError(f"{name} {value}: expected 1 or more")
        return self._stream(batch_size, limit)


def open_dataset(spec: DataSpec, *, statistics: Statistics | None = None) -> Dataset:
    """The data set that `spec` names.

    statistics: the training data's, for held-out data whose spec standardises by name.
    Raises DataError, one line, for whatever is missing, damaged or not a table of numbers.
    """
    if spec.path is None:
        raise DataError(
            "no data set: give --data, or [data] path in nrc-probe.toml, "
            "or save it in the checkpoint's metadata"
        )
    if is_factory(spec.path):
        made = wrap_dataset(_call_factory(spec), spec, statistics=statistics)
        return replace(made, path=spec.path)
    path = _located(spec.path, spec)
    files: tuple[Path, ...] = (path,)
    if _is_folder(path):
        choice, files = read_folder(path, spec.inputs, spec.targets, str(path))
    elif path.suffix == ".npy" and (spec.targets or "").endswith(".npy"):
        choice, files = _two_files(path, spec)
    else:
        choice = _named(read_contents(path, str(path)), spec, str(path))
    source = array_source(choice, str(path))
    return _dataset(source, spec, statistics, path=str(path), sha256=_fingerprint(files))


def wrap_dataset(
    source: object, spec: DataSpec | None = None, *, statistics: Statistics | None = None
) -> Dataset:
    """The data set around a live object.

    source: a torch Dataset or DataLoader, another iterable of batches (x, y), a pair of arrays
    (x, y), or a mapping of arrays.
    spec: which arrays of a mapping, and what is standardised. statistics: as `open_dataset`.
    """
    spec = spec or DataSpec()
    place = spec.path or "data"
    arrays = as_arrays(source)
    if arrays is None:
        return _dataset(live_source(source, place), spec, statistics)
    pair = isinstance(source, tuple)
    choice = Choice(arrays["x"], arrays["y"]) if pair else _named(arrays, spec, place)
    return _dataset(array_source(choice, place), spec, statistics)


def _named(contents: Contents, spec: DataSpec, place: str) -> Choice:
    """The inputs and targets; an error says which file named them, if it was not the user."""
    try:
        return choose(contents, spec.inputs, spec.targets, place)
    except DataError as error:
        if spec.names_from is None:
            raise
        raise DataError(
            f"{error} (what --inputs and --targets do not say, {spec.names_from} does)"
        ) from error


def _dataset(
    source: Source,
    spec: DataSpec,
    statistics: Statistics | None,
    *,
    path: str | None = None,
    sha256: str | None = None,
) -> Dataset:
    place = path or spec.path or "data"
    preparation, notes = _preparation(source, spec, place)
    shape = _sample_shape(source, preparation)
    target_dim = as_columns(source.sample, place).shape[1]
    found, more = _statistics(source, spec, preparation, statistics)
    check_fit(found.inputs, shape, "inputs", place)
    check_fit(found.targets, (target_dim,), "targets", place)
    standardized = torch.float64 if found.inputs and not source.is_live else preparation.dtype
    ready = replace(preparation, statistics=found, dtype=standardized)
    return Dataset(
        path=path,
        sha256=sha256,
        n=source.n,
        input_shape=shape,
        target_dim=target_dim,
        statistics=found,
        notes=(*source.notes, *notes, *more, *constant_notes(found), *_label_notes(source.sample)),
        reading=source.reading and f"{source.reading}{_IMAGES_READ[preparation.images]}",
        _stream=lambda size, limit: ready.batches(source.pairs(size, limit)),
    )


def _preparation(source: Source, spec: DataSpec, place: str) -> tuple[Preparation, tuple[str, ...]]:
    """How batches are prepared, before statistics: live inputs are left alone unless asked."""
    asked = spec.images or ("as-is" if source.is_live else "auto")
    images, notes = image_layout(source.shape or (), source.dtype, asked, place)
    stored = torch.float64 if source.dtype in _BEYOND_FLOAT32 else torch.float32
    return Preparation(place, images, dtype=None if source.is_live else stored), notes


def _sample_shape(source: Source, preparation: Preparation) -> tuple[int, ...] | None:
    if source.shape is None:
        return None
    sample = source.shape[1:]
    return (sample[2], *sample[:2]) if preparation.images == "nhwc" else sample


def _statistics(
    source: Source, spec: DataSpec, preparation: Preparation, given: Statistics | None
) -> tuple[Statistics, tuple[str, ...]]:
    """What `spec.standardize` asks for: a file's statistics, those given, or the data's own."""
    asked, place = spec.standardize, preparation.place
    if not asked:
        return Statistics(), ()
    if isinstance(asked, str):
        return read_statistics(_located(asked, spec), asked)
    if unknown := set(asked) - set(ROLES):
        raise DataError(f"{place}: standardize '{min(unknown)}': expected inputs or targets")
    if given is not None:
        return _chosen(given, asked, place), ()
    if source.is_once:
        raise DataError(
            f"{place}: standardising needs a second pass, and this iterator gives its batches "
            "once; pass a list, a DataLoader, or a file of statistics"
        )
    rows = min(_PASS_ROWS, block_rows(source.shape or (1,), 8))
    return measure(preparation.unscaled().batches(source.pairs(rows, None)), asked, place), ()


def _chosen(given: Statistics, roles: tuple[str, ...], place: str) -> Statistics:
    """The training data's statistics of these roles; DataError where it has none."""
    if missing := set(roles) - set(given.roles):
        raise DataError(
            f"{place}: {min(missing)} are to be standardised as in training, "
            "but the training data's are not: ask for both or neither"
        )
    return Statistics(**{role: getattr(given, role) for role in roles})


def _label_notes(targets: Tensor) -> tuple[str, ...]:
    """A note where the first targets look like class labels: whole numbers, one column, few."""
    if targets.is_floating_point() or targets.numel() != len(targets):
        return ()
    distinct = len(set(targets.flatten().tolist()))
    if distinct > _LABEL_VALUES:
        return ()
    return (
        f"targets are whole numbers of {distinct} distinct values, as class labels are: "
        "these scores are about regression",
    )


def _two_files(path: Path, spec: DataSpec) -> tuple[Choice, tuple[Path, ...]]:
    """Inputs in one .npy file, all of it or columns; targets in another, all of it."""
    second = _located(str(spec.targets), spec)
    inputs, read = _npy(path), "all"
    if spec.inputs is not None and len(inputs.shape) == 2:
        table = array_columns(inputs)
        columns = parse_columns(spec.inputs, table, str(path))
        inputs, read = table.select(columns), columns_read(table, columns)
    elif spec.inputs is not None:
        raise DataError(f"{path}: inputs '{spec.inputs}': expected (n, d), got {inputs.shape}")
    notes = (f"targets read from {second}",)
    return Choice(inputs, _npy(second), notes, f"inputs {read}, targets another file"), (path, second)


def _npy(path: Path) -> Array:
    contents = read_contents(path, str(path))
    assert isinstance(contents, Mapping)
    return replace(contents["array"], name=path.name)


def _call_factory(spec: DataSpec) -> object:
    function = load_factory(str(spec.path), trusted=spec.trusted, folder=spec.folder)
    try:
        return function(**spec.options)
    except (Exception, SystemExit) as error:  # the user's function may fail in any way
        raise DataError(f"{spec.path} failed ({type(error).__name__}: {error})") from error


def _located(path: str, spec: DataSpec) -> Path:
    """A path as the spec means it: relative to its folder, if it has one."""
    return (spec.folder or Path()) / from_home(path)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that leads nowhere: whoever opens it says why
        return False


def _fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 of a file's bytes; of several files, of each one's name and bytes: names may hold targets."""
    digest = hashlib.sha256()
    for path in files:
        if len(files) > 1:
            digest.update(os.fsencode(path.name))
        try:
            with path.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        except OSError as error:
            raise DataError(f"{path}: the file cannot be read: {error.strerror}") from error
    return digest.hexdigest()
