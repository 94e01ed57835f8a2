"""The other conductor: a file of activations or moments -> Result; no network, no data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

from nrc_probe.checking import check_known
from nrc_probe.config import Config
from nrc_probe.dataset.readers import READERS
from nrc_probe.errors import ConfigError, DataError, StoreError
from nrc_probe.forward import Progress
from nrc_probe.layers import Skipped, choose_layers
from nrc_probe.recording import checked_output, save_sums
from nrc_probe.result import CheckpointFacts, ModelFacts, Result, Settings
from nrc_probe.scoring import DataSource, Facts, Reader, provenance_since, score_passes
from nrc_probe.settings import read_settings
from nrc_probe.store.contents import Contents, info
from nrc_probe.store.layout import readable
from nrc_probe.store.merging import merge_stores
from nrc_probe.store.plain import ArrayNames, Plain, open_plain, read_plain
from nrc_probe.store.reading import (
    Store,
    StoredLayer,
    open_store,
    read_heldout,
    read_pass,
    read_weight,
    ticker,
)

_WHAT = "activations"
"""What progress says is being read."""


class RescoreOptions(TypedDict, total=False):
    """What `score` can be told about scoring; what is left out is as when the file was written."""

    rank: int | str | None
    """As of `analyze`."""
    rcond: float | None
    """As of `analyze`."""
    layers: Sequence[str] | None
    """Globs on layer names; default all."""
    exclude: Sequence[str] | None
    """Globs on layer names to leave out."""
    max_width: int | None
    """Widest layer that is scored (default 8192)."""
    thresholds: Mapping[str, float] | None
    """As of `analyze`."""


def score(
    path: str | Path,
    *,
    features: Sequence[str] = (),
    targets: str | None = None,
    predictions: str | None = None,
    weights: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    **options: Unpack[RescoreOptions],
) -> Result:
    """The Result that `analyze` would give, from a file alone: no network, no data set.

    Moments are used where the file holds some; activations are streamed, each chunk read once.
    features, targets, predictions, weights: arrays of a file that nrc-probe did not write: names or globs of
    features (n, d), of targets and predictions (n, t), and layer -> weight (out, d).
    options: see `RescoreOptions`. Raises ProbeError.
    """
    started = time.perf_counter()
    check_known(options, RescoreOptions.__annotations__, "score")
    path = Path(path)
    names = ArrayNames(tuple(features), targets, predictions, dict(weights or {}))
    if names != ArrayNames() or _is_foreign(path):
        provenance = partial(provenance_since, started, "cpu")
        return _score_plain(path, open_plain(path, names), options, progress, provenance)
    with open_store(path) as store:
        config = Path(store.story.config) if store.story and store.story.config else None
        return _score_store(store, options, progress, partial(provenance_since, started, "cpu", config))


def _is_foreign(path: Path) -> bool:
    suffix = path.suffix.lower()
    with readable(path):
        return path.is_file() and suffix in READERS and suffix not in (".h5", ".hdf5")


def merge(paths: Sequence[str | Path], *, output: str | Path) -> Contents:
    """Add the moments in several files, of disjoint rows of one study, to `output`, exactly.

    Raises StoreError where a file has none, where two differ in checkpoint, layers, pooling, precision,
    standardisation or columns, or hold the same rows; OutputError.
    """
    if len(paths) < 2:
        raise ConfigError(f"merge takes two files or more, got {len(paths)}")
    place = checked_output(output)
    with ExitStack() as opened:
        stores = [opened.enter_context(open_store(Path(path))) for path in paths]
        merged = merge_stores(stores)
        kinds = [Skipped(layer.name, layer.type, "") for layer in stores[0].layers]
        readers = [
            _reader(stores[0], kind, layer) for kind, layer in zip(kinds, stores[0].layers, strict=True)
        ]
        save_sums(place, merged.story, readers, merged.watched, merged.again)
    return info(place)


# ------------------------------------------------------------------------------------ our own files


def _score_store(
    store: Store, options: RescoreOptions, progress: Progress | None, provenance: Callable[[], Any]
) -> Result:
    settings = _settings(store.story.settings if store.story else None, options)
    known = store.story.types if store.story else {layer.name: layer.type for layer in store.layers}
    listed = [Skipped(name, kind, "") for name, kind in known.items()]
    chosen, left_out = choose_layers(listed, settings.layers, settings.exclude, str(store.path))
    names = {item.name for item in chosen}
    layers = [layer for layer in store.layers if layer.name in names]
    stored = {layer.name: layer for layer in layers}
    facts = _facts(store)
    return score_passes(
        replace(facts, left_out=(*facts.left_out, *left_out)),
        [_reader(store, item, stored.get(item.name)) for item in chosen],
        read_pass(store, layers, settings, progress and partial(progress, _WHAT)),
        read_heldout(store, layers),
        settings,
        provenance,
    )


def _settings(saved: Settings | None, options: RescoreOptions) -> Settings:
    """The options over what the file's pass was told."""
    said = {name: value for name, value in asdict(saved).items() if value is not None} if saved else {}
    return read_settings(Config(score=said | {n: v for n, v in options.items() if v is not None}))


def _facts(store: Store) -> Facts:
    """The file's own, or what can be said of one that others wrote."""
    return store.story.facts if store.story else _facts_of_others(store.path, store.n, store.target_dim)


def _facts_of_others(path: Path, n: int, target_dim: int) -> Facts:
    """Of activations whose network and data are unknown."""
    return Facts(
        checkpoint=CheckpointFacts(None),
        model=ModelFacts("activations", f"layers of {path.name}", None),
        data=DataSource(str(path), None, n, None, target_dim),
        heldout=None,
        left_out=(),
    )


def _reader(store: Store, item: Skipped, layer: StoredLayer | None) -> Reader:
    if layer is None:  # the pass skipped it: nothing is stored but the reason
        return Reader(item.name, item.type, None, False, lambda: None)
    weight = partial(read_weight, store, layer)
    return Reader(layer.name, layer.type, layer.out, layer.is_linear, weight)


# ---------------------------------------------------------------------------------- others' files


def _score_plain(
    path: Path,
    plain: Plain,
    options: RescoreOptions,
    progress: Progress | None,
    provenance: Callable[[], Any],
) -> Result:
    settings = _settings(None, options)
    listed = [Skipped(name, "features", "") for name in plain.features]
    chosen, left_out = choose_layers(listed, settings.layers, settings.exclude, str(path))
    names = {item.name for item in chosen}
    features = {name: array for name, array in plain.features.items() if name in names}
    n = plain.targets.shape[0]
    tick = ticker(n * (len(features) + 1), progress and partial(progress, _WHAT))
    facts = replace(_facts_of_others(path, n, plain.target_dim), left_out=tuple(left_out))
    readers = [_plain_reader(plain, name) for name in features]
    with _at(path):
        watched = read_plain(replace(plain, features=features), settings.max_width, tick)
    return score_passes(facts, readers, watched, None, settings, provenance)


@contextmanager
def _at(path: Path) -> Iterator[None]:
    """Put the file's name before what is said of its values, and of sums that are too large."""
    try:
        yield
    except (StoreError, DataError) as error:
        place = str(path)
        raise error if str(error).startswith(place) else type(error)(f"{place}: {error}") from error


def _plain_reader(plain: Plain, name: str) -> Reader:
    weight = plain.weights.get(name)
    return Reader(name, "features", None if weight is None else len(weight), False, lambda: weight)
