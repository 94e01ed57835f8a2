"""A file of activations or moments -> the pass that filled it; rows are streamed in the order of chunks."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nrc_probe.dataset.rows import Blocks, to_tensor
from nrc_probe.errors import StoreError
from nrc_probe.forward import Pass
from nrc_probe.moments import FAST, Moments
from nrc_probe.result import Settings
from nrc_probe.store.layout import (
    SCHEMA,
    check_own_values,
    is_complete,
    label,
    layer_name,
    load_filters,
    read_array,
    readable,
    refused_by_system,
)
from nrc_probe.store.story import Story
from nrc_probe.store.stream import checked_blocks
from nrc_probe.store.summing import Tick, error_moments, layer_moments
from nrc_probe.store.sums import load_outcome, load_pass
from nrc_probe.store.tell import told
from nrc_probe.store.writing import partial_of

_FOREIGN_ROWS = 2048

Advance = Callable[[int, int | None], None]
"""Called after every block: rows done, of all layers together, and how many there are."""


@dataclass(frozen=True, eq=False)  # eq=False: it holds an open file
class StoredLayer:
    """One layer in the file."""

    name: str
    type: str
    out: int | None
    is_linear: bool
    width: int | None
    """Feature width d; None where the file holds nothing but its weight."""
    rows: int
    group: Any
    """h5py's; open as long as the file is."""


@dataclass(frozen=True, eq=False)  # eq=False: it holds an open file
class Store:
    """An open, whole file."""

    path: Path
    book: Any
    """h5py's."""
    story: Story | None
    """None where others wrote the file, who told none."""
    layers: tuple[StoredLayer, ...]
    """In run order."""
    n: int
    target_dim: int

    @property
    def has_moments(self) -> bool:
        """Whether the sums are in it, so that no row needs to be read."""
        return "residuals" in self.book


def is_store(path: Path) -> bool:
    """Whether the file says that it follows the schema, whole or not.

    Raises StoreError where it cannot say, as the system does not let it be read.
    """
    import h5py

    try:
        with h5py.File(path, "r") as book:
            return label(book, "schema").startswith("nrc-probe/activations/")
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if refusal := refused_by_system(error):
            raise StoreError(f"{path}: {refusal}") from error
        return False


@contextmanager
def open_store(path: Path) -> Iterator[Store]:
    """The file at `path`, to read while the context lasts.

    Raises StoreError where it is missing, not whole, damaged or of another schema.
    """
    import h5py

    with readable(path):
        _check_place(path)
        book = h5py.File(path, "r", rdcc_nbytes=0)  # each chunk is read once: there is nothing to cache
    with book:
        with readable(path):
            store = read_book(path, book)
            if not is_complete(book):
                raise StoreError(f"the dump is not complete; {_way_to_resume(path)}")
            if int(book.attrs.get("n", store.n)) != store.n:
                raise StoreError(f"it says that it has {book.attrs['n']} rows, but it has {store.n}: damaged")
            if not store.n:
                raise StoreError("there are no rows in it")
        yield store


def read_weight(store: Store, layer: StoredLayer) -> Tensor | None:
    """(out, d); None where none is stored. Raises StoreError where it is damaged."""
    with readable(store.path):
        if "weight" not in layer.group:
            return None
        weight = to_tensor(read_array(layer.group, "weight"))
        if weight.ndim != 2 or not weight.numel() or not torch.isfinite(weight).all():
            raise StoreError(
                f"layer '{layer.name}': its weight has shape {tuple(weight.shape)}: expected finite (out, d)"
            )
        return weight if weight.is_floating_point() else weight.double()


def read_pass(
    store: Store, layers: Sequence[StoredLayer], settings: Settings, advance: Advance | None = None
) -> Pass:
    """What the pass left behind in these layers: its sums, if they are there, else those of its rows.

    Raises StoreError where it is damaged.
    """
    with readable(store.path):
        if store.has_moments:
            return _load_sums(store, layers, settings)
        tick = ticker(store.n + sum(layer.rows for layer in layers), advance)
        return _sum_rows(store, layers, settings, tick)


def read_heldout(store: Store, layers: Sequence[StoredLayer]) -> Pass | None:
    """The pass over held-out rows, if there was one. Raises StoreError where it is damaged."""
    with readable(store.path):
        if "heldout" not in store.book:
            return None
        return _load_pass(store, store.book["heldout"], layers)


# ------------------------------------------------------------------------------------ what is there


def _check_place(path: Path) -> None:
    if path.name.endswith(".partial") and path.exists():
        raise StoreError(f"{path}: the dump is not complete; {_way_to_resume(path.with_suffix(''))}")
    if not path.exists() and partial_of(path).exists():
        raise StoreError(
            f"{path}: there is no such file but '{partial_of(path).name}', a dump that is not complete; "
            + _way_to_resume(path)
        )
    if not path.is_file():
        what = "expected a file" if path.exists() else "there is no such file"
        raise StoreError(f"{path}: {what} (nrc-probe dump CHECKPOINT -o FILE writes one)")


def _way_to_resume(path: Path) -> str:
    return f"resume it: nrc-probe dump CHECKPOINT -o '{path}' --resume"


def read_book(path: Path, book: Any) -> Store:
    """What an open file holds, whole or not. Raises StoreError where it does not follow the schema."""
    schema = label(book, "schema", "none")
    if schema != SCHEMA:
        raise StoreError(f"expected schema {SCHEMA}, got {schema} (name its arrays: --features, --targets)")
    for group in (book, book["layers"]):
        _check_links(group)
    for owner in (book, book.get("heldout", {})):
        if "moments" in owner:
            _check_links(owner)
            _check_links(owner["moments"])
            for link in owner["moments"]:  # h5py's values() has None for what is damaged
                _check_links(owner["moments"][link])
    story = told(book) if "facts" in book else None
    if "residuals" in book:
        n, target_dim = operator.index(book["residuals/n"][()]), int(book["residuals/mean_y"].shape[0])
    else:
        n, target_dim = _shape(book, "targets")
    layers = [_layer(book, link, n, target_dim) for link in book["layers"]]
    places = {layer.name: int(layer.group.attrs.get("index", 0)) for layer in layers}
    layers.sort(key=lambda layer: places[layer.name])
    return Store(path, book, story, tuple(layers), n, target_dim)


def _check_links(group: Any) -> None:
    """Raise StoreError where a name in `group` leads out of the file."""
    import h5py

    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            raise StoreError(f"'{group.name}/{name}' lies in another file; expected it in this one")


def _layer(book: Any, link: str, n: int, target_dim: int) -> StoredLayer:
    group = book["layers"][link]
    _check_links(group)
    kind = label(group, "type", "unknown")
    weight = group["weight"].shape if "weight" in group else None
    rows, width = _rows_and_width(book, group, link, n, target_dim)
    return StoredLayer(
        name=layer_name(link),
        type=kind,
        out=int(group.attrs["out"]) if "out" in group.attrs else weight[0] if weight else None,
        is_linear=bool(group.attrs.get("is_linear", kind == "Linear")),
        width=width,
        rows=rows,
        group=group,
    )


def _rows_and_width(book: Any, group: Any, link: str, n: int, target_dim: int) -> tuple[int, int | None]:
    if "features" in group:
        rows, width = _shape(group, "features")
        targets = _shape(group, "targets") if "targets" in group else (n, target_dim)
        if targets != (rows, target_dim):
            raise StoreError(f"layer '{link}': features have {rows} rows, its targets {targets}")
        return rows, width
    sums = book.get(f"moments/{link}")
    return 0, int(sums["mean_h"].shape[0]) if sums is not None else None


def _shape(group: Any, name: str) -> tuple[int, int]:
    dataset = group[name]
    if len(dataset.shape) != 2 or not dataset.shape[1] or dataset.dtype.kind not in "fiu":
        raise StoreError(f"'{dataset.name}': expected numbers (n, d), got {dataset.dtype} {dataset.shape}")
    check_own_values(dataset)
    load_filters(dataset)
    return int(dataset.shape[0]), int(dataset.shape[1])


# ------------------------------------------------------------------------------------------ the rows


def _load_sums(store: Store, layers: Sequence[StoredLayer], settings: Settings) -> Pass:
    wide = {layer.name: reason for layer in layers if (reason := _too_wide(layer, settings))}
    watched = _load_pass(store, store.book, [layer for layer in layers if layer.name not in wide])
    return replace(watched, skipped={**watched.skipped, **wide})


def _load_pass(store: Store, group: Any, layers: Sequence[StoredLayer]) -> Pass:
    settings = store.story.settings if store.story else None
    pooling = settings.pooling if settings else label(store.book, "pooling")
    precision = settings.precision if settings else FAST
    names = [layer.name for layer in layers]
    return load_pass(group, names, same_rows=pooling != "tokens", precision=precision)


def _too_wide(layer: StoredLayer, settings: Settings) -> str | None:
    if layer.width is None or layer.width <= settings.max_width:
        return None
    return f"wider than --max-width ({layer.width} > {settings.max_width})"


def _sum_rows(store: Store, layers: Sequence[StoredLayer], settings: Settings, tick: Tick) -> Pass:
    skipped, _ = load_outcome(store.book)
    moments: dict[str, Moments] = {}
    for layer in layers:
        found = _layer_moments(store, layer, settings, tick)
        if isinstance(found, str):
            skipped[layer.name] = found
        else:
            moments[layer.name] = found
    if "outputs" in store.book:
        _check_outputs(store)
    outputs = _blocks(store.book, "outputs") if "outputs" in store.book else None
    targets, rows = _blocks(store.book, "targets"), _batch_rows(store, store.n)
    residuals, fault = error_moments(targets, outputs, store.target_dim, rows, tick)
    return Pass(moments, skipped, residuals, fault, knows_outputs=outputs is not None)


def _check_outputs(store: Store) -> None:
    outputs = _shape(store.book, "outputs")
    if outputs != (store.n, store.target_dim):
        raise StoreError(
            f"'/outputs': expected the shape of the targets, {(store.n, store.target_dim)}, got {outputs}"
        )


def _layer_moments(store: Store, layer: StoredLayer, settings: Settings, tick: Tick) -> Moments | str:
    if layer.width is None:
        return "the file holds no features of it"
    if reason := _too_wide(layer, settings):
        return reason
    owner = layer.group if "targets" in layer.group else store.book
    features, targets = _blocks(layer.group, "features"), _blocks(owner, "targets")
    rows = _batch_rows(store, layer.rows)
    width, t = layer.width, store.target_dim
    return layer_moments(features, targets, width, t, rows, settings.precision, tick)


def _batch_rows(store: Store, rows: int) -> int:
    """How many of a layer's rows are summed at once: those of a batch of the dump.

    The sums are then those of the pass, to the last digit.
    """
    run = store.story.run if store.story else None
    return max(1, round(run.batch_size * rows / store.n)) if run else _FOREIGN_ROWS


def _blocks(group: Any, name: str) -> Blocks:
    """The rows of a data set in whole chunks, each chunk read once and held against its check sum."""
    dtype = label(group[name], "dtype")
    return (_as_floats(values, dtype) for values in checked_blocks(group, name))


def _as_floats(values: np.ndarray[Any, Any], dtype: str) -> Tensor:
    if dtype == "bfloat16":
        return torch.from_numpy(values).view(torch.bfloat16)
    tensor = to_tensor(values)
    return tensor if tensor.is_floating_point() else tensor.double()


def ticker(total: int, advance: Advance | None) -> Tick:
    """Tells `advance` of `total` rows, block by block."""
    done = 0

    def tick(rows: int) -> None:
        nonlocal done
        done += rows
        if advance:
            advance(done, total)

    return tick
