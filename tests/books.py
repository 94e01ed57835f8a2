"""Files of activations, read by h5py alone, to be compared."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import torch
from runs import save_data, save_network

from nrc_probe.result import Result


def everything_in(path: Path) -> dict[str, object]:
    """Every data set and attribute, bit for bit, but for the time when it was made."""
    found: dict[str, object] = {}

    def collect(name: str, item: object) -> None:
        attributes = {key: str(value) for key, value in item.attrs.items() if key != "created"}
        found[name] = attributes
        if isinstance(item, h5py.Dataset):
            found[name] = (item.dtype.str, item.shape, item.chunks, item[()].tobytes(), attributes)

    with h5py.File(path, "r") as book:
        collect("/", book)
        book.visititems(collect)
    return found


def numbers_of(result: Result) -> dict[str, float]:
    """Every float in a result, by its place."""
    found: dict[str, float] = {}

    def collect(place: str, value: object) -> None:
        if isinstance(value, float):
            found[place] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                collect(f"{place}/{key}", item)
        elif isinstance(value, list):
            for key, item in enumerate(value):
                collect(f"{place}/{key}", item)

    collect("", {**result.to_dict(), "provenance": None})
    return found


def differences(one: Result, other: Result) -> dict[str, float]:
    """How far apart the numbers are, in units of the larger of 1 and the first; all else is equal."""
    mine, its = numbers_of(one), numbers_of(other)
    assert mine.keys() == its.keys()
    return {place: abs(x - its[place]) / max(1, abs(x)) for place, x in mine.items()}


def assert_same(one: Result, other: Result, near: float = 1e-9) -> None:
    """Every number within `near`; names, ranks, notes, warnings and facts equal."""
    assert max(differences(one, other).values()) <= near
    assert words_of(one) == words_of(other)


def words_of(result: Result) -> object:
    """All but the floats and the provenance."""

    def without(value: object) -> object:
        if isinstance(value, dict):
            return {key: without(item) for key, item in value.items() if key != "provenance"}
        if isinstance(value, list):
            return [without(item) for item in value]
        return None if isinstance(value, float) else value

    return without(result.to_dict())


def study(folder: Path, n: int = 60, **arrays: np.ndarray) -> tuple[Path, Path]:
    """A checkpoint of a small MLP, 5 -> 2, and its data."""
    torch.manual_seed(0)
    return save_network(folder / "net.pth"), save_data(folder / "data.npz", n, **arrays)


def arrays_in(path: Path | str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, which is closed again."""
    with np.load(path) as archive:
        return dict(archive)
