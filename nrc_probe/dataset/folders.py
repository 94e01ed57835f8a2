"""A folder as one data set: HDF5 files one after the other, or images whose names hold the target."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nrc_probe.dataset.naming import Choice, choose
from nrc_probe.dataset.readers import read_contents
from nrc_probe.dataset.rows import Array, Blocks, block_rows, numpy_array, spans, to_tensor
from nrc_probe.dataset.tables import reading
from nrc_probe.errors import DataError
from nrc_probe.files import kind_of

_HDF5 = (".h5", ".hdf5")
_IMAGES = (".jpg", ".jpeg", ".png")
_FACE_FORM = "[age]_[gender]_[race]_[date].jpg"
_FACE = re.compile(r"(\d{1,3})_[01]_[0-4]_\d+(\.jpg\.chip)?\.(jpe?g|png)", re.IGNORECASE)
_EIGHT_BITS = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
"""Pillow's names of pixels whose conversion to RGB bytes clips nothing."""
_LISTED = 3


def read_folder(
    folder: Path, inputs: str | None, targets: str | None, place: str
) -> tuple[Choice, tuple[Path, ...]]:
    """The inputs and targets that lie in a folder, and the files they are read from, in name order.

    HDF5 files (CARLA's) hold the same arrays and are read one after the other. Images named as in
    UTKFace ([age]_[gender]_[race]_[date].jpg) are inputs (n, height, width, 3), their ages the targets.
    Raises DataError where the folder holds neither, or both, or where inputs and targets of one file
    differ in rows; hidden files do not count.
    """
    files = _listed(folder, place)
    tables = tuple(path for path in files if path.suffix.lower() in _HDF5)
    images = tuple(path for path in files if path.suffix.lower() in _IMAGES)
    if bool(tables) == bool(images):
        held = "both HDF5 files and images" if tables else "no data"
        raise DataError(
            f"{place}: a folder that holds {held}; expected one file, or a folder of HDF5 files, "
            f"or of images named {_FACE_FORM}"
        )
    if tables:
        contents = [(path, _arrays(path, f"{place}/{path.name}")) for path in tables]
        choice = choose(_chained(contents, place), inputs, targets, place)
        _check_rows(contents, choice, place)
        return choice, tables
    if named := inputs or targets:
        raise DataError(f"{place}: a folder of images has no array '{named}'; its targets are the ages")
    return _faces(files, place)


def _listed(folder: Path, place: str) -> list[Path]:
    """The files in a folder by name, but the hidden ones.

    Raises DataError where something else is named like data: rows left out in silence are missed by nobody.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        files = [path for path in paths if path.is_file()]
    except OSError as error:
        raise DataError(f"{place}: the folder cannot be read ({error.strerror})") from error
    for path in sorted(set(paths) - set(files)):
        if path.suffix.lower() in (*_HDF5, *_IMAGES):
            raise DataError(f"{place}/{path.name}: {_what_else(path)}; expected a file, as its name says")
    return files


def _what_else(path: Path) -> str:
    try:
        return kind_of(path) or "a link to nothing"
    except OSError as error:
        return f"it cannot be opened ({error.strerror})"


_Contents = Sequence[tuple[Path, Mapping[str, Array]]]


def _chained(contents: _Contents, place: str) -> Mapping[str, Array]:
    """The arrays of the first file, each with the rows of all files one after the other."""
    first, expected = contents[0]
    for path, arrays in contents:
        for name, array in expected.items():
            found = arrays.get(name)
            if found is None or _kind(found) != _kind(array):
                got = "nothing" if found is None else f"{found} {found.dtype}"
                raise DataError(
                    f"{place}/{path.name}: expected '{name}' as in {first.name}, "
                    f"{array} {array.dtype}, whatever the rows; got {got}"
                )
    return {name: _chain([arrays[name] for _, arrays in contents]) for name in expected}


def _check_rows(contents: _Contents, choice: Choice, place: str) -> None:
    """Raise DataError for the first file whose inputs and targets differ in rows, equal totals or not."""
    for path, arrays in contents:
        inputs, targets = (_stored(arrays, part.name) for part in (choice.inputs, choice.targets))
        if inputs is None or targets is None or not (inputs.shape and targets.shape):
            continue  # no data, and said so where they are checked
        if inputs.shape[0] != targets.shape[0]:
            raise DataError(
                f"{place}/{path.name}: inputs '{inputs.name}' have {inputs.shape[0]} rows, "
                f"targets '{targets.name}' have {targets.shape[0]}; expected as many"
            )


def _stored(arrays: Mapping[str, Array], name: str) -> Array | None:
    """The array of this name, or the one that "name[columns]" is cut from."""
    return arrays.get(name) or arrays.get(name.rpartition("[")[0])


def _arrays(path: Path, place: str) -> Mapping[str, Array]:
    contents = read_contents(path, place)
    assert isinstance(contents, Mapping)
    return contents


def _kind(array: Array) -> tuple[str, tuple[int, ...], int]:
    """What must agree between files: all but the number of rows."""
    return array.dtype, array.shape[1:], len(array.shape)


def _chain(arrays: list[Array]) -> Array:
    first = arrays[0]
    if not first.shape:
        return first  # a scalar has no rows; it is no data, and said so where it is asked for

    def blocks() -> Blocks:
        for array in arrays:
            yield from array.blocks()

    rows = sum(array.shape[0] for array in arrays)
    return Array(first.name, (rows, *first.shape[1:]), first.dtype, blocks)


def _faces(files: Iterable[Path], place: str) -> tuple[Choice, tuple[Path, ...]]:
    """Images and ages of the files whose names say an age; the others are left out, and noted."""
    ages = {path: int(match[1]) for path in files if (match := _FACE.fullmatch(path.name))}
    other = [path.name for path in files if path not in ages]
    if not ages:
        raise DataError(f"{place}: no image is named {_FACE_FORM}; the first is {other[0]}")
    used = tuple(ages)
    notes: tuple[str, ...] = ("targets: age in years, taken from the file names",)
    if other:
        more = f", and {len(other) - _LISTED} more" if len(other) > _LISTED else ""
        listed = ", ".join(other[:_LISTED]) + more
        notes += (f"{len(other)} files left out, not named {_FACE_FORM}: {listed}",)
    # as float: whole numbers would be taken for class labels
    targets = numpy_array("age", np.array([*ages.values()], dtype=np.float64))
    return Choice(_images(used, place), targets, notes, "inputs images, targets ages"), used


def _images(files: tuple[Path, ...], place: str) -> Array:
    """Images of one size as bytes (n, height, width, 3), decoded a block at a time."""
    height, width, _ = _decoded(files[0], place, None).shape
    shape = (len(files), height, width, 3)

    def blocks() -> Blocks:
        for rows in spans(len(files), block_rows(shape, 1)):
            decoded = [_decoded(path, place, (height, width)) for path in files[rows]]
            yield to_tensor(np.stack(decoded))

    return Array("images", shape, "uint8", blocks)


@contextmanager
def _no_bombs(warning: type[Warning]) -> Iterator[None]:
    """A picture of more pixels than pillow's limit is refused, where pillow only warns and goes on."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", warning)
        yield


def _decoded(path: Path, folder: str, expected: tuple[int, int] | None) -> np.ndarray[Any, Any]:
    """One image as RGB bytes (height, width, 3).

    Raises DataError where its size is not the expected one, or its pixels hold more than bytes.
    """
    place = f"{folder}/{path.name}"
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{place}: reading images needs pillow: pip install pillow") from error
    with _no_bombs(Image.DecompressionBombWarning), reading(place, "image"), Image.open(path) as image:
        if expected not in (None, (image.height, image.width)):
            assert expected is not None
            raise DataError(
                f"{place}: {image.width} x {image.height} pixels, "
                f"the images before it {expected[1]} x {expected[0]}; expected one size"
            )
        if image.mode not in _EIGHT_BITS:
            raise DataError(f"{place}: pixels of mode {image.mode}; expected 8 bits a channel (convert it)")
        return np.asarray(image.convert("RGB"))
