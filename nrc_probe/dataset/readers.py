"""A saved data set -> its arrays or its table; one function a format, streaming where it can."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from torch import Tensor

from nrc_probe.checkpoint import OF_TORCH, content_of, load_torch, unsound
from nrc_probe.dataset.rows import (
    Array,
    Blocks,
    block_rows,
    numpy_array,
    numpy_dtype,
    spans,
    tensor_array,
    to_tensor,
    widen,
)
from nrc_probe.dataset.tables import Table, read_csv, read_parquet, reading
from nrc_probe.errors import CheckpointError, DataError
from nrc_probe.files import FILE, kind_of
from nrc_probe.memory import check_memory

Contents = Mapping[str, Array] | Table


def read_contents(path: Path, place: str) -> Contents:
    """What `path` holds, told by its suffix; numbers are read later, by whoever asks for rows.

    place: how errors name the file.
    Raises DataError where it is missing, empty, damaged or of an unknown kind.
    """
    known = ", ".join(READERS)
    try:
        kind, size = kind_of(path), path.stat().st_size if path.exists() else 0
    except OSError as error:
        raise DataError(f"{place}: the file cannot be read: {error.strerror}") from error
    if kind is None:
        raise DataError(f"{place}: there is no such file; expected {known}, or package.module:function")
    if kind != FILE:
        raise DataError(f"{place}: {kind}; expected one file: {known}")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{place}: unknown kind of file '{path.suffix}'; expected {known}")
    if size == 0:
        raise DataError(f"{place}: the file is empty (0 bytes)")
    return reader(path, place)


def _read_npz(path: Path, place: str) -> Mapping[str, Array]:
    with reading(place, ".npz"), zipfile.ZipFile(path) as archive:
        members = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
        arrays = [_npz_array(path, place, archive, entry) for entry in members]
    return {array.name: array for array in arrays}


def _npz_array(path: Path, place: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    """One member, streamed out of the archive: a lying header then allocates nothing."""
    name = entry.filename.removesuffix(".npy")
    with archive.open(entry) as file:
        shape, fortran, dtype = _npy_header(file, f"{place}: array '{name}'", entry.file_size)
    rows = block_rows(shape, dtype.itemsize)
    if fortran:
        rows = _whole(shape, dtype, f"{place}: array '{name}'")

    def blocks() -> Blocks:
        with reading(place, ".npz"), zipfile.ZipFile(path) as archive, archive.open(entry) as file:
            _npy_header(file, place, entry.file_size)
            for span in spans((shape or (1,))[0], rows):
                block = (span.stop - span.start, *shape[1:])
                values = _read_exactly(file, math.prod(block), dtype)
                yield to_tensor(values.reshape(block, order="F" if fortran else "C"))

    return Array(name, shape, numpy_dtype(dtype), blocks)


def _read_exactly(file: IO[bytes], count: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    content = file.read(count * dtype.itemsize)
    if len(content) != count * dtype.itemsize:
        raise EOFError(f"{count * dtype.itemsize} bytes expected, {len(content)} found")
    return np.frombuffer(content, dtype)


def _whole(shape: tuple[int, ...], dtype: np.dtype[Any], place: str) -> int:
    """All rows, for columns stored one after the other, where memory can hold them."""
    what = f"{place}: save it in C order, or as HDF5: in Fortran order it is read at once, which"
    check_memory(math.prod(shape) * dtype.itemsize, what)
    return max(1, shape[0])


def _npy_header(file: IO[bytes], place: str, size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and type that a .npy header claims, held against the bytes there are."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a damaged header, Python criticises the spelling
        shape, fortran, dtype = read(file)
    needed = file.tell() + math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and (needed != size or min(shape, default=0) < 0):
        raise DataError(
            f"{place}: its header claims {shape} {dtype.name}, {needed} bytes in all, "
            f"but there are {size}: damaged or cut short"
        )
    return shape, fortran and len(shape) > 1, dtype


def _read_npy(path: Path, place: str) -> Mapping[str, Array]:
    with reading(place, ".npy"):
        with path.open("rb") as file:
            shape, _, dtype = _npy_header(file, place, path.stat().st_size)
        if dtype.hasobject or 0 in shape:  # neither can be mapped
            return {"array": Array("array", shape, numpy_dtype(dtype), _no_blocks)}
        return {"array": numpy_array("array", np.load(path, mmap_mode="r", allow_pickle=False))}


def _no_blocks() -> Blocks:
    yield from ()


def _read_hdf5(path: Path, place: str) -> Mapping[str, Array]:
    import h5py

    arrays: dict[str, Array] = {}

    def collect(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = _hdf5_array(path, place, name, item)

    with reading(place, "HDF5"), h5py.File(path, "r") as file:
        file.visititems(collect)  # it follows no link
        for name in file:
            link = file.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                arrays[name] = Array(name, (), f"a link into '{link.filename}'", _no_blocks)
    return arrays


def _hdf5_array(path: Path, place: str, name: str, dataset: Any) -> Array:
    """One data set, read in blocks of whole chunks: no chunk is decompressed twice."""
    import h5py

    shape = dataset.shape or ()
    rows = block_rows(shape, dataset.dtype.itemsize, dataset.chunks[0] if dataset.chunks else 1)

    def blocks() -> Blocks:
        with reading(place, "HDF5"), h5py.File(path, "r") as file:
            _check_own_values(file[name], f"{place}: data set '{name}'")
            if not shape:
                yield to_tensor(np.atleast_1d(file[name][()]))
            for span in spans(shape[0] if shape else 0, rows):
                yield to_tensor(file[name][span])

    return Array(name, shape, numpy_dtype(dataset.dtype), blocks)


def _check_own_values(dataset: Any, place: str) -> None:
    """Raise DataError where the values lie in other files, which no fingerprint covers, or nowhere."""
    if dataset.is_virtual:
        files = sorted({source.file_name for source in dataset.virtual_sources()})
        raise DataError(
            f"{place} is put together from other data sets, in {', '.join(files[:3])}: "
            "copy its values into one file"
        )
    if dataset.external:
        raise DataError(
            f"{place} lies outside its file, in {dataset.external[0][0]}: copy its values into one file"
        )
    if lack := never_written(dataset):
        raise DataError(f"{place} {lack}")


def never_written(dataset: Any) -> str | None:
    """Of an HDF5 data set, in words, what was never written: HDF5 reads it as zeros. None where all was."""
    if not dataset.size:
        return None
    if not dataset.id.get_storage_size():
        return f"was made but never written: it has shape {dataset.shape} and no values"
    if dataset.chunks:
        grid = zip(dataset.shape, dataset.chunks, strict=True)
        expected = math.prod(-(-length // chunk) for length, chunk in grid)
        found = dataset.id.get_num_chunks()
        if found < expected:
            return f"was never wholly written: {found:,} of its {expected:,} chunks are there"
    return None


_SAFETENSORS = {
    "BOOL": "bool",
    "BF16": "bfloat16",
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
}


def _read_safetensors(path: Path, place: str) -> Mapping[str, Array]:
    from safetensors import safe_open

    with reading(place, ".safetensors"), safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no iterator
        return {
            name: _safetensors_array(path, place, name, tuple(part.get_shape()), str(part.get_dtype()))
            for name, part in slices.items()
        }


def _safetensors_array(path: Path, place: str, name: str, shape: tuple[int, ...], code: str) -> Array:
    from safetensors import safe_open

    def blocks() -> Blocks:
        with reading(place, ".safetensors"), safe_open(path, framework="pt") as file:
            if not shape:
                yield widen(file.get_tensor(name).reshape(1))
            for span in spans(shape[0] if shape else 0, block_rows(shape, 8)):
                yield widen(file.get_slice(name)[span])

    return Array(name, shape, _SAFETENSORS.get(code, code), blocks)


def _read_torch(path: Path, place: str) -> Mapping[str, Array]:
    saved = _load_tensors(path, place)
    if isinstance(saved, Tensor):
        return {"array": _saved_array("array", saved)}
    if isinstance(saved, tuple | list) and len(saved) == 2:
        saved = dict(zip("xy", saved, strict=True))
    if not isinstance(saved, Mapping):
        raise DataError(
            f"{place}: holds a {type(saved).__name__}; expected a dict of tensors or a pair (x, y)"
        )
    named = {str(name): value for name, value in saved.items() if isinstance(value, Tensor)}
    return {name: _saved_array(name, value) for name, value in named.items()}


def _saved_array(name: str, tensor: Tensor) -> Array:
    wrong = unsound(tensor)
    return Array(name, (), wrong, _no_blocks) if wrong else tensor_array(name, tensor)


def _load_tensors(path: Path, place: str) -> object:
    """What torch.save wrote, mapped rather than read where the file allows; never runs code."""
    way_out = "save a dict of tensors, or give package.module:function"
    try:
        content = content_of(path)
        if content not in OF_TORCH:
            raise DataError(f"{place}: expected a file of torch.save, as '{path.suffix}' says, got {content}")
        return load_torch(path, content, way_out=way_out)
    except CheckpointError as error:
        raise DataError(f"{place}: {error}") from error


READERS: dict[str, Callable[[Path, str], Contents]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".csv": read_csv,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    ".safetensors": _read_safetensors,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".parquet": read_parquet,
}
