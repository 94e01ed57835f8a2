"""Files of columns (.csv, .parquet), of which any columns can be taken as an Array."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from nrc_probe.dataset.rows import Array, Blocks, block_rows, numpy_array, to_tensor
from nrc_probe.errors import DataError


@dataclass(frozen=True, eq=False)  # eq=False: as Array
class Table:
    """Columns of numbers, with or without names."""

    names: tuple[str, ...]
    """Empty where the columns have none."""
    width: int
    select: Callable[[tuple[int, ...]], Array]
    """The columns at these places, in this order: (n, c)."""


def array_columns(array: Array) -> Table:
    """The columns of an array (n, c), none of them named."""

    def select(columns: tuple[int, ...]) -> Array:
        def blocks() -> Blocks:
            return (block[:, list(columns)] for block in array.blocks())

        return Array(array.name, (array.shape[0], len(columns)), array.dtype, blocks)

    return Table((), array.shape[1], select)


@contextmanager
def reading(place: str, kind: str) -> Iterator[None]:
    """Turn whatever a format's library says about a damaged file into one line."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # each library fails in its own ways, some of them undocumented
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{place}: not a readable {kind} file ({reason}): damaged, cut short, or another format"
        ) from error


@dataclass(frozen=True)
class _Layout:
    """How a .csv file is written, seen in its first lines."""

    delimiter: str
    names: tuple[str, ...]
    width: int
    skip: int
    """Lines before the first row of numbers."""


def read_csv(path: Path, place: str) -> Table:
    """The columns of a text file that separates them by comma, semicolon or tab.

    A first line that is not all numbers names the columns (so does numpy's "# a,b").
    """
    with reading(place, ".csv"):
        layout = _csv_layout(path)
        rows = _count_rows(path, place, layout)

    def select(columns: tuple[int, ...]) -> Array:
        if not rows:
            return numpy_array("columns", np.empty((0, len(columns))))
        with reading(place, ".csv"):
            return numpy_array("columns", _parse_csv(path, place, layout, columns))

    return Table(layout.names, layout.width, select)


def _csv_layout(path: Path) -> _Layout:
    comments: list[str] = []
    with _text(path) as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                return _layout(comments, line)
            comments.append(line)
    return _Layout(",", (), 0, len(comments))


def _layout(comments: list[str], first: str) -> _Layout:
    delimiter = next((mark for mark in "\t;," if mark in first), ",")
    fields = _fields(first, delimiter)
    if not all(map(_is_number, fields)):
        return _Layout(delimiter, tuple(fields), len(fields), len(comments) + 1)
    titles = _fields(comments[-1].lstrip("# "), delimiter) if comments else []
    names = tuple(titles) if len(titles) == len(fields) else ()
    return _Layout(delimiter, names, len(fields), len(comments))


def _count_rows(path: Path, place: str, layout: _Layout) -> int:
    """How many rows of numbers there are; DataError where one has more or fewer columns."""
    rows = 0
    for number, line in _rows(path, layout):
        width = line.count(layout.delimiter) + 1
        if width != layout.width and len(_fields(line, layout.delimiter)) != layout.width:
            raise DataError(f"{place}: line {number} has {width} columns, the lines before it {layout.width}")
        rows += 1
    return rows


def _parse_csv(path: Path, place: str, layout: _Layout, columns: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The chosen columns (n, c) as float64; other columns may hold text."""
    try:
        return np.loadtxt(
            path,
            delimiter=layout.delimiter,
            skiprows=layout.skip,
            usecols=columns,
            ndmin=2,
            comments=None,
            quotechar='"',
            encoding="utf-8-sig",
        )
    except ValueError:
        for number, line in _rows(path, layout):
            fields = _fields(line, layout.delimiter)
            wrong = next((fields[c] for c in columns if not _is_number(fields[c])), None)
            if wrong is not None:
                raise DataError(f"{place}: line {number}: expected a number, got '{wrong}'") from None
        raise


def _rows(path: Path, layout: _Layout) -> Iterator[tuple[int, str]]:
    """The lines that hold numbers, each with its place in the file, from 1."""
    with _text(path) as file:
        for number, line in enumerate(file, start=1):
            if number > layout.skip and line.strip():
                yield number, line


def _text(path: Path) -> IO[str]:
    return path.open(encoding="utf-8-sig", newline="")  # spreadsheets write a byte order mark


def _fields(line: str, delimiter: str) -> list[str]:
    return [field.strip() for field in next(csv.reader([line], delimiter=delimiter), [])]


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def read_parquet(path: Path, place: str) -> Table:
    """The columns of a .parquet file, streamed by record batches; pyarrow comes with an extra."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(
            f"{place}: reading .parquet needs pyarrow: pip install 'nrc-probe[parquet]'"
        ) from error
    with reading(place, ".parquet"), ParquetFile(path) as file:
        schema, n = file.schema_arrow, file.metadata.num_rows

    def select(columns: tuple[int, ...]) -> Array:
        names = [schema.names[column] for column in columns]
        dtypes = [_parquet_dtype(schema.field(column).type) for column in columns]
        rows = block_rows((n, len(names)), 8)

        def blocks() -> Blocks:
            with reading(place, ".parquet"), ParquetFile(path) as file:
                for batch in file.iter_batches(rows, columns=names):
                    arrays = [batch.column(name).to_numpy(zero_copy_only=False) for name in names]
                    yield to_tensor(np.stack(arrays, axis=1))

        return Array("columns", (n, len(names)), _common(dtypes), blocks)

    return Table(tuple(schema.names), len(schema.names), select)


def _parquet_dtype(kind: Any) -> str:
    try:
        return str(np.dtype(kind.to_pandas_dtype()).name)
    except (NotImplementedError, TypeError):
        return str(kind)


def _common(dtypes: list[str]) -> str:
    """One type for several columns; text stays visible as what it is."""
    try:
        return np.result_type(*dtypes).name
    except TypeError:
        return next(iter(dtypes))
