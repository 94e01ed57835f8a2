"""What a file of activations or moments holds, whole or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nrc_probe.store.committed import CommittedView
from nrc_probe.store.layout import is_complete, label, link_name, read_text, readable, texts
from nrc_probe.store.reading import Store, StoredLayer, open_store, read_book
from nrc_probe.store.story import Story
from nrc_probe.store.writing import partial_of


@dataclass(frozen=True)
class LayerContents:
    """What is stored of one layer."""

    name: str
    type: str
    width: int | None
    """Feature width d."""
    out: int | None
    rows: int
    """Of its features; where there are but sums, those that were summed."""
    has_moments: bool
    has_weight: bool
    stored_bytes: int
    """Of its features, after compression, and its sums."""


@dataclass(frozen=True)
class Contents:
    """What a file holds."""

    path: str
    complete: bool
    created: str
    story: Story | None
    """Facts and settings; None where others wrote the file, who told none."""
    n: int
    """Rows; of an unfinished dump, those that are written."""
    target_dim: int
    dtype: str | None
    """Of the activations; None where there are none."""
    file_bytes: int
    layers: tuple[LayerContents, ...]
    skipped: dict[str, str]
    has_heldout: bool


def info(path: str | Path) -> Contents:
    """What is in a dump, finished or not, or in a file of moments. Raises StoreError."""
    path = Path(path)
    with _opened(path) as store, readable(path):
        return _contents(store)


@contextmanager
def _opened(path: Path) -> Iterator[Store]:
    unfinished = path if path.name.endswith(".partial") else partial_of(path)
    with readable(path):
        is_whole = (path.exists() and path != unfinished) or not unfinished.exists()
    if is_whole:
        with open_store(path) as store:
            yield store
        return
    import h5py

    with readable(unfinished):
        view = CommittedView(unfinished)
    with closing(view):
        with readable(unfinished):
            book = h5py.File(view, "r")
        with book:
            with readable(unfinished):
                store = read_book(unfinished, book)
            yield store


def _contents(store: Store) -> Contents:
    book, story = store.book, store.story
    return Contents(
        path=str(store.path),
        complete=is_complete(book),
        created=label(book, "created"),
        story=story,
        n=store.n,
        target_dim=store.target_dim,
        dtype=_dtype(store),
        file_bytes=store.path.stat().st_size,
        layers=tuple(_layer(store, layer) for layer in store.layers),
        skipped=_skipped(book),
        has_heldout="heldout" in book,
    )


def _dtype(store: Store) -> str | None:
    for layer in store.layers:
        if "features" in layer.group:
            features = layer.group["features"]
            return label(features, "dtype", features.dtype.name)
    return None


def _layer(store: Store, layer: StoredLayer) -> LayerContents:
    sums = store.book.get(f"moments/{link_name(layer.name)}")
    arrays = [] if sums is None else [sums[name] for name in sums]
    if "features" in layer.group:
        arrays.append(layer.group["features"])
    return LayerContents(
        name=layer.name,
        type=layer.type,
        width=layer.width,
        out=layer.out,
        rows=layer.rows if layer.rows or sums is None else int(sums["n"][()]),
        has_moments=sums is not None,
        has_weight="weight" in layer.group,
        stored_bytes=sum(int(array.id.get_storage_size()) for array in arrays),
    )


def _skipped(book: Any) -> dict[str, str]:
    name = next((name for name in ("outcome", "unfinished") if name in book), None)
    return texts(read_text(book, name)["skipped"], "skipped") if name else {}
