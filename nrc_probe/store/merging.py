"""Moments of disjoint rows -> those of all of them, exactly; refused where they are not of one study."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations

import torch
from torch import Tensor

from nrc_probe.capture import with_rows_before
from nrc_probe.errors import StoreError
from nrc_probe.forward import Pass
from nrc_probe.scoring import DataSource, limit_warning
from nrc_probe.store.reading import Store, read_heldout, read_pass, read_weight
from nrc_probe.store.story import Story, in_short

_LIVE = (
    "the files merged are of live modules: their modules' types and the weights of the layers scored are "
    "the same, but nothing tells whether all rows went through one network (dump a saved checkpoint)"
)


@dataclass(frozen=True, eq=False)  # eq=False: moments have no cheap equality
class Merged:
    """What all files together say."""

    story: Story
    watched: Pass
    again: Pass | None
    """Over held-out rows, where all files are about the same ones."""


def merge_stores(stores: Sequence[Store]) -> Merged:
    """The moments of all rows (Chan, Golub & LeVeque 1983).

    Raises StoreError where one file has none, where checkpoint, layers, pooling, precision,
    standardisation or columns differ, or where rows are in two files.
    """
    first, *others = stores
    for store in stores:
        _check_has_moments(store)
    for other in others:
        _check_same_study(first, other)
    _check_same_reading(stores)
    _check_disjoint(stores)
    passes = [read_pass(store, store.layers, _story(store).settings) for store in stores]
    _check_no_copies(stores, passes)
    same_heldout = len({_heldout_print(store) for store in stores}) == 1
    return Merged(
        story=_joint_story(stores, same_heldout, _cautions(stores, passes)),
        watched=reduce(_merge_passes, passes),
        again=read_heldout(first, first.layers) if same_heldout else None,
    )


def _merge_passes(one: Pass, other: Pass) -> Pass:
    moments = {name: sums.merge(other.moments[name]) for name, sums in one.moments.items()}
    residuals = one.residuals.merge(other.residuals)
    fault = other.fault and with_rows_before(other.fault, one.residuals.n)
    return Pass(moments, one.skipped, residuals, one.fault or fault)


# ---------------------------------------------------------------------------------------- the checks


def _story(store: Store) -> Story:
    assert store.story is not None
    return store.story


def _check_has_moments(store: Store) -> None:
    if not store.has_moments:
        raise StoreError(f"{store.path}: holds activations but no moments (dump it with --moments)")
    if store.story is None:
        raise StoreError(f"{store.path}: tells no facts, so that nobody knows what its moments are of")


def _check_same_study(one: Store, other: Store) -> None:
    for (what, first), (_, second) in zip(_identity(one), _identity(other), strict=True):
        if first != second:
            before, now = in_short(first), in_short(second)
            raise StoreError(f"{other.path}: {what} {now}, but in {one.path} {before}: cannot be merged")
    _check_same_modules(one, other)
    for mine, its in zip(one.layers, other.layers, strict=True):
        first, second = read_weight(one, mine), read_weight(other, its)
        if (first is None) != (second is None) or (
            first is not None and second is not None and not torch.equal(first, second)
        ):
            raise StoreError(f"{other.path}: layer '{its.name}' has another weight than in {one.path}")


def _check_same_modules(one: Store, other: Store) -> None:
    """Raise StoreError where a module, such as an activation, is in one network only, or differs."""
    mine, its = _story(one).modules, _story(other).modules
    if not mine or not its:
        return
    for name in {**mine, **its}:
        before, now = mine.get(name, "not there"), its.get(name, "not there")
        if before and now and before != now:
            raise StoreError(
                f"{other.path}: module '{name}' is {in_short(now)}, but in {one.path} {in_short(before)}: "
                "cannot be merged"
            )


def _identity(store: Store) -> Iterator[tuple[str, object]]:
    """What must be the same in files that are merged."""
    story = _story(store)
    yield "the checkpoint's SHA-256 is", story.facts.checkpoint.sha256
    yield "the pooling is", story.settings.pooling
    yield "the layers are", ", ".join(f"{layer.name} ({layer.width})" for layer in store.layers)
    yield "the number of targets is", store.target_dim
    yield "the precision is", story.settings.precision
    yield "the model is", f"{story.facts.model.summary}, {'; '.join(story.facts.model.assumptions)}"
    yield "the standardisation (name a file of statistics: --standardize FILE) is", story.preparation


def _check_same_reading(stores: Sequence[Store]) -> None:
    """Raise StoreError where other columns are the inputs or targets; of live data nobody knows."""
    known = [store for store in stores if _data(store).reading is not None]
    for other in known[1:]:
        first, second = _data(known[0]).reading, _data(other).reading
        if first != second:
            raise StoreError(
                f"{other.path}: its rows are read as {second}, but in {known[0].path} as {first}: "
                "cannot be merged (name the same --inputs and --targets)"
            )


def _data(store: Store) -> DataSource:
    return _story(store).facts.data


def _check_disjoint(stores: Sequence[Store]) -> None:
    owner: dict[str, Store] = {}
    for store in stores:
        for shard in _story(store).shards:
            if shard in owner:
                raise StoreError(
                    f"{store.path}: its rows are in {owner[shard].path} too (data set {shard[:12]}...): "
                    "expected files of disjoint rows"
                )
            owner[shard] = store


def _check_no_copies(stores: Sequence[Store], passes: Sequence[Pass]) -> None:
    """Raise StoreError where data that have no fingerprint, as a factory's, have the very same sums twice."""
    for (store, watched), (other, again) in combinations(zip(stores, passes, strict=True), 2):
        if not (_story(store).shards and _story(other).shards) and _are_copies(watched, again):
            raise StoreError(
                f"{other.path}: has the same number of rows and the same sums as {store.path}: expected "
                "files of disjoint rows (leave one out)"
            )


def _are_copies(one: Pass, other: Pass) -> bool:
    pairs = [(one.residuals, other.residuals)]
    pairs += [(sums, other.moments[name]) for name, sums in one.moments.items() if name in other.moments]
    return all(mine.n == its.n and _is_near(mine.mean_h, its.mean_h) for mine, its in pairs) and _is_near(
        one.residuals.scatter_yy, other.residuals.scatter_yy
    )


def _is_near(one: Tensor, other: Tensor) -> bool:
    """Equal but for the last digits, which the sizes of batches change."""
    return torch.allclose(one, other, rtol=1e-6, atol=1e-9 * float(one.abs().max()))


def _heldout_print(store: Store) -> object:
    """Equal where two stores' sums are of the same held-out rows, read in the same way."""
    heldout, limit = _story(store).facts.heldout, _story(store).settings.limit
    return heldout and (heldout.sha256 or id(store), heldout.reading, heldout.standardized, limit)


# ------------------------------------------------------------------------------------------ the facts


def _cautions(stores: Sequence[Store], passes: Sequence[Pass]) -> Iterator[str]:
    """What the files warn of, each by the name of its data."""
    for store, watched in zip(stores, passes, strict=True):
        yield from _story(store).facts.cautions
        if limited := limit_warning(_story(store).settings, _data(store), watched):
            yield f"{_data(store).path or store.path}: {limited}"
    if _story(stores[0]).facts.checkpoint.sha256 is None:
        yield _LIVE


def _joint_story(stores: Sequence[Store], keep_heldout: bool, cautions: Iterable[str]) -> Story:
    stories = [_story(store) for store in stores]
    first = stories[0]
    data = _joint_data([story.facts.data for story in stories], first.facts.heldout and not keep_heldout)
    limits = {story.settings.limit for story in stories}
    return replace(
        first,
        facts=replace(
            first.facts,
            data=data,
            heldout=first.facts.heldout if keep_heldout else None,
            cautions=tuple(dict.fromkeys(cautions)),
        ),
        settings=replace(first.settings, limit=first.settings.limit if len(limits) == 1 else None),
        form=None,
        shards=tuple(shard for story in stories for shard in story.shards),
    )


def _joint_data(sources: Sequence[DataSource], lost_heldout: object) -> DataSource:
    notes = [note for source in sources for note in source.notes]
    notes.append(f"moments of {len(sources)} files merged")
    if lost_heldout:
        notes.append("held-out rows differ between the files merged, and were left out")
    prints = [source.sha256 for source in sources]
    rows = [source.rows for source in sources]
    return replace(
        sources[0],
        path=" + ".join(source.path or "given in memory" for source in sources),
        sha256=hashlib.sha256("".join(map(str, prints)).encode()).hexdigest() if all(prints) else None,
        rows=None if None in rows else sum(row for row in rows if row is not None),
        notes=tuple(dict.fromkeys(notes)),
        reading=next((source.reading for source in sources if source.reading is not None), None),
    )
