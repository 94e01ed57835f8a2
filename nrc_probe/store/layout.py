"""How activations and moments lie in an HDF5 file: names, types, chunks, texts, check sums."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import torch

from nrc_probe.dataset.readers import never_written
from nrc_probe.errors import ConfigError, DataError, StoreError

SCHEMA = "nrc-probe/activations/1"
VERSIONS = ("v110", "v110")
"""Of the HDF5 format: its tables carry check sums, and h5ls since 1.10 (2016) reads it."""
COMPRESSIONS = ("none", "lzf", "gzip", "blosc")

_TYPES: Mapping[str, tuple[torch.dtype, str]] = {
    "float32": (torch.float32, "<f4"),
    "float16": (torch.float16, "<f2"),
    "bfloat16": (torch.bfloat16, "<u2"),
    "float64": (torch.float64, "<f8"),
}
DTYPES = ("float32", "float16", "bfloat16")
"""What can be asked for; see `stored_dtype`."""
_CHUNK_BYTES = 2**20
_CHUNK_ROWS = 4096
"""The most rows in a chunk: a dump is resumed from whole chunks, and narrow layers fill theirs late."""
_WORD = 8
_NOT_ITS_CONTENT = (errno.EACCES, errno.EPERM, errno.EAGAIN, errno.EIO, errno.ENAMETOOLONG, errno.ELOOP)
"""What the system says of files that may be sound; the rest comes of what damaged files lead HDF5 to ask."""
_LARGEST_RATIO = 4096
"""Of values to stored bytes: gzip makes a thousandth of zeros."""


# ------------------------------------------------------------------------------------------- names


def link_name(layer: str) -> str:
    """A layer's dotted name as the name of a group: '/', '%' and what does not print as %XX."""
    if not layer.strip("."):  # HDF5 takes '.' for the group itself, and '' for nothing
        return layer.replace(".", "%2E") or "%"
    return "".join(c if c.isprintable() and c not in "/%" else _escaped(c) for c in layer)


def layer_name(link: str) -> str:
    """What `link_name` was made of."""
    return "" if link == "%" else unquote(link, errors="surrogatepass")


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogatepass"))


# ------------------------------------------------------------------------------------------- types


def check_dtype(asked: str) -> None:
    """Raise ConfigError for a type that cannot be asked for."""
    _check_known("dtype", asked, DTYPES)


def stored_dtype(asked: str, computed: torch.dtype) -> str:
    """How features are stored: as asked, but what was computed in float64 keeps its digits in `float32`.

    Averages over positions are: one number a channel, of which float32 would lose what NRC4 can see.
    """
    return "float64" if asked == "float32" and computed == torch.float64 else asked


def torch_type(dtype: str) -> torch.dtype:
    """The type in memory of what is stored as `dtype`."""
    return _TYPES[dtype][0]


def file_type(dtype: str) -> str:
    """The type in the file, as numpy writes it: bfloat16 has none of its own, and is stored in bits."""
    return _TYPES[dtype][1]


def row_bytes(width: int, dtype: str) -> int:
    """Bytes of one row of `width` values."""
    return width * torch.empty(0, dtype=_TYPES[dtype][0]).element_size()


def chunk_rows(width: int, dtype: str, n: int | None) -> int:
    """Rows of a chunk of about 1 MiB, no more than there are."""
    rows = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // max(1, row_bytes(width, dtype))))
    return rows if n is None else max(1, min(rows, n))


def load_filters(dataset: Any) -> None:
    """Have HDF5 know the filters that a data set went through. Raises StoreError where one is not here."""
    import h5py

    plist = dataset.id.get_create_plist()
    for code in (plist.get_filter(k)[0] for k in range(plist.get_nfilters())):
        if not h5py.h5z.filter_avail(code):
            with suppress(ImportError):
                import hdf5plugin  # noqa: F401  # importing it makes its filters known
        if not h5py.h5z.filter_avail(code):
            raise StoreError(
                f"'{dataset.name}' is compressed in a way that is not known here (HDF5 filter {code}): "
                "pip install 'nrc-probe[compression]'"
            )


def compression_options(compression: str) -> dict[str, Any]:
    """What h5py's create_dataset takes. Raises ConfigError, also where the extra is missing."""
    _check_known("compression", compression, COMPRESSIONS)
    if compression == "blosc":
        try:
            from hdf5plugin import Blosc
        except ImportError as error:
            raise ConfigError(
                "compression 'blosc' needs the package hdf5plugin: pip install 'nrc-probe[compression]'"
            ) from error
        return dict(Blosc())
    return {} if compression == "none" else {"compression": compression, "shuffle": True}


def _check_known(what: str, word: str, words: tuple[str, ...]) -> None:
    if word not in words:
        raise ConfigError(f"{what} must be one of {', '.join(words)}; got {word!r}")


# --------------------------------------------------------------------------------- texts and checks


def write_text(group: Any, name: str, value: object) -> None:
    """Plain values as JSON, in place of what stood there; in ASCII, so that any name can be held."""
    if name in group:
        del group[name]
    write_array(group, name, np.bytes_(json.dumps(value).encode("ascii")))


def read_text(group: Any, name: str) -> Any:
    """What `write_text` wrote. Raises StoreError where it is damaged."""
    try:
        return json.loads(bytes(read_array(group, name)))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"'{name}' is damaged: no JSON") from error


def write_label(item: Any, name: str, text: str) -> None:
    """A text as an attribute, of fixed length: it then lies in the item's own table, under its check sum.

    What has a variable length lies in a heap that has none: one changed byte there is a changed text, or
    a length of 0, over which HDF5 never gets on.
    """
    import h5py

    content = text.encode(errors="backslashreplace")
    item.attrs.create(name, content, dtype=h5py.string_dtype("utf-8", max(1, len(content))))


def label(item: Any, name: str, otherwise: str = "") -> str:
    """The text in an attribute, whatever its length."""
    found = item.attrs.get(name, otherwise)
    return found.decode(errors="replace") if isinstance(found, bytes) else str(found)


def texts(value: Any, name: str) -> dict[str, str]:
    """A mapping of texts. Raises TypeError where `value` is none."""
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise TypeError(f"{name} must map names to texts")
    return value


def is_complete(book: Any) -> bool:
    """Whether a file says that it is whole: by a true boolean, not by a text such as "False"."""
    said = book.attrs.get("complete", False)
    return isinstance(said, bool | np.bool_) and bool(said)


def write_array(group: Any, name: str, value: Any) -> None:
    """A small array, as one piece, with its check sum."""
    array = np.asarray(value)
    group.create_dataset(name, data=array).attrs["checksum"] = word_sum(array)


def read_array(group: Any, name: str) -> np.ndarray[Any, Any]:
    """An array; held against its check sum, where it has one. Raises StoreError where they differ."""
    dataset = group[name]
    check_own_values(dataset)
    _check_size(dataset)
    array = np.asarray(dataset[()])
    if "checksum" in dataset.attrs and dataset.attrs["checksum"] != word_sum(array):
        raise StoreError(f"'{dataset.name}' is damaged: its check sum differs")
    return array


def check_own_values(dataset: Any) -> None:
    """Raise StoreError where values lie in other files, or were never written."""
    if dataset.is_virtual or dataset.external:
        raise StoreError(f"'{dataset.name}': its numbers lie in other files; expected them in this one")
    if lack := never_written(dataset):
        raise StoreError(f"'{dataset.name}' {lack}")


def _check_size(dataset: Any) -> None:
    """Raise StoreError where so few bytes cannot be so many values: no memory is taken for them."""
    stored = dataset.id.get_storage_size()
    if dataset.size and dataset.size * dataset.dtype.itemsize > _LARGEST_RATIO * stored:
        raise StoreError(
            f"'{dataset.name}': has shape {dataset.shape}, but {stored} bytes are stored: expected its values"
        )


def word_sum(array: np.ndarray[Any, Any]) -> np.uint64:
    """Sum of the bytes, as little-endian words of 64 bits, modulo 2^64; zeros complete the last one.

    It finds any one changed byte, and runs at the speed of memory.
    """
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    whole = len(content) // _WORD * _WORD
    rest = int.from_bytes(content[whole:].tobytes(), "little")
    total = int(content[:whole].view("<u8").sum(dtype=np.uint64)) + rest
    return np.uint64(total % 2**64)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever HDF5 says about a damaged file, or the system about a closed one, into one line."""
    try:
        yield
    except (StoreError, DataError) as error:
        place = str(path)
        raise error if str(error).startswith(place) else type(error)(f"{place}: {error}") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        if refusal := refused_by_system(error):
            raise StoreError(f"{path}: {refusal}") from error
        raise StoreError(
            f"{path}: cut short, damaged or no file of schema {SCHEMA} ({hdf5_words(error)}); "
            "dump or copy it again"
        ) from error


def refused_by_system(error: Exception) -> str | None:
    """Why the system does not let a file be read, which may be sound; None where its content is at fault."""
    if isinstance(error, OSError) and error.errno in _NOT_ITS_CONTENT:
        return f"cannot be read: {os.strerror(error.errno)}"
    return None


def hdf5_words(error: Exception) -> str:
    """What is wrong, as HDF5 says it, without what h5py was about to do; of other errors, all they say."""
    words = " ".join(str(error.args[0] if error.args else "").split()) or type(error).__name__
    inner = re.fullmatch(r"(?:Unable to|Can't|Couldn't) [^(]*\((.*)\)", words)
    return f"HDF5: {inner[1]}" if inner else words
