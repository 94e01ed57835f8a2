"""What a pass left behind, and the weights -> Result. Runs no network, reads no data set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nrc_probe.doubts import refit_doubts, with_onset_note
from nrc_probe.forward import Pass, torch_threads
from nrc_probe.last_layer_2024 import LastLayer2024, last_layer_2024
from nrc_probe.layer_scores import LayerScores, score_layer
from nrc_probe.layers import Layer, Skipped, unmatched, weight_matrix
from nrc_probe.metrics import (
    fit_linear_probe,
    resolution_of,
    stable_rank_of_squares,
    target_rank,
    targets_vary,
)
from nrc_probe.moments import Moments
from nrc_probe.pools import blas_has_one_thread, side_by_side
from nrc_probe.result import (
    CheckpointFacts,
    DataFacts,
    Heldout,
    HeldoutLayer,
    LayerResult,
    ModelFacts,
    Provenance,
    Result,
    Settings,
    conditions_met,
)
from nrc_probe.spectra import Spectrum, feature_spectra, spectrum

_WORKSPACE = 2**31
"""Bytes that decompositions side by side may take together."""
_MATRICES = 6
"""Matrices of the size of S that the decomposition of one layer holds at its worst."""


@dataclass(frozen=True, eq=False)  # eq=False: it holds a function
class Reader:
    """A layer as scoring sees it: what reads the features."""

    name: str
    type: str
    out: int | None
    """Output width; None where nothing is known to read the features."""
    is_linear: bool
    weight: Callable[[], Tensor | None]
    """Gives (out, d), when its turn comes; None where there is none."""


def reader_of(layer: Layer) -> Reader:
    """A layer of a network, as scoring sees it."""
    return Reader(layer.name, layer.type, layer.out, layer.is_linear, partial(weight_matrix, layer))


@dataclass(frozen=True)
class DataSource:
    """What is known of a data set without a pass over it."""

    path: str | None
    sha256: str | None
    rows: int | None
    """All there are, used or not; None where unknown."""
    input_shape: tuple[int, ...] | None
    target_dim: int
    standardized: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reading: str | None = None
    """Which arrays or columns of its files the rows are; None where unknown."""


@dataclass(frozen=True)
class Facts:
    """What is known of a study besides its numbers."""

    checkpoint: CheckpointFacts
    model: ModelFacts
    data: DataSource
    heldout: DataSource | None
    left_out: tuple[Skipped, ...]
    """Layers that were not to be scored."""
    order: tuple[str, ...] = ()
    """Names of all modules as they are registered; empty where unknown."""
    cautions: tuple[str, ...] = ()
    """Warnings about rows of several files that were put together."""


def score_passes(
    facts: Facts,
    readers: Sequence[Reader],
    watched: Pass,
    again: Pass | None,
    settings: Settings,
    provenance: Callable[[], Provenance],
    threads: int | None = None,
) -> Result:
    """Every score of every layer of which there are moments.

    readers: of all these layers, and of those that the pass skipped. again: the pass over held-out
    rows, if there was one. provenance: asked at the end. threads: CPU threads; None: as many as torch
    has. Raises RankError.
    """
    scored = _score_layers(readers, watched, again, settings, threads or torch.get_num_threads())
    skipped = (*facts.left_out, *_dropped(readers, watched))
    return Result(
        checkpoint=facts.checkpoint,
        model=facts.model,
        data=_data_facts(facts.data, watched),
        settings=settings,
        model_mse=watched.model_mse,
        model_r2=watched.model_r2,
        layers=with_onset_note(scored.layers, skipped, facts.order),
        skipped=skipped,
        heldout=_heldout(facts.heldout, again, scored) if facts.heldout and again else None,
        last_layer_2024=scored.last_layer,
        warnings=(
            *_warnings(settings, facts, watched, scored),
            *_heldout_warnings(readers, again),
            *_same_rows_warning(facts),
        ),
        provenance=provenance(),
    )


def provenance_since(started: float, device: object, config: Path | None = None) -> Provenance:
    """What computes here, and how long it took since `started`, by time.perf_counter()."""
    return Provenance(
        nrc_probe=version("nrc-probe"),
        torch=str(torch.__version__),
        numpy=np.__version__,
        device=str(device),
        seconds=round(time.perf_counter() - started, 3),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=str(config) if config else None,
    )


# ------------------------------------------------------------------------------------- the scoring


@dataclass(frozen=True)
class _Scored:
    """All that is computed from the moments."""

    layers: tuple[LayerResult, ...]
    heldout: tuple[HeldoutLayer, ...]
    last_layer: LastLayer2024 | None


def _score_layers(
    readers: Sequence[Reader], watched: Pass, again: Pass | None, settings: Settings, threads: int
) -> _Scored:
    by_name = {reader.name: reader for reader in readers}
    rank = _signal_rank(settings.rank, watched.residuals)
    last = _last_linear(by_name, watched)

    def score(turn: tuple[int, str, Tensor | None]) -> _ScoredLayer:
        index, name, weight = turn
        moments = watched.moments[name]
        spectra = feature_spectra(moments.feature_covariance, moments.mean_h)
        fitting = weight if weight is not None and weight.shape[1] == moments.width else None
        scores = score_layer(moments, spectra, fitting, rank, settings.rcond)
        return _ScoredLayer(
            _layer_result(index, by_name[name], moments, scores, watched, settings),
            _on_heldout(name, moments, spectra.centred, again, settings.rcond, resolution_of(fitting)),
            last_layer_2024(moments, spectra.centred, fitting)
            if name == last and fitting is not None
            else None,
        )

    turns = ((index, name, by_name[name].weight()) for index, name in enumerate(watched.moments))
    together = _layers_together(watched.moments.values(), threads)
    with torch_threads(1 if together > 1 else None):
        layers = list(side_by_side(score, turns, together))
    return _Scored(
        tuple(layer.result for layer in layers),
        tuple(layer.heldout for layer in layers if layer.heldout),
        next((layer.last_layer for layer in layers if layer.last_layer), None),
    )


@dataclass(frozen=True)
class _ScoredLayer:
    result: LayerResult
    heldout: HeldoutLayer | None
    last_layer: LastLayer2024 | None


def _layers_together(layers: Iterable[Moments], threads: int) -> int:
    """How many layers to decompose at a time: one thread each, while memory allows."""
    widest = max((moments.width for moments in layers), default=1)
    fitting = _WORKSPACE // (_MATRICES * widest**2 * torch.float64.itemsize)
    return max(1, min(threads, fitting)) if blas_has_one_thread() else 1


def _on_heldout(
    name: str, moments: Moments, features: Spectrum, again: Pass | None, rcond: float, resolution: float
) -> HeldoutLayer | None:
    if again is None or name not in again.moments:
        return None
    probe = fit_linear_probe(moments, features, rcond, resolution)
    return HeldoutLayer(name, probe.error(again.moments[name]))


def _signal_rank(asked: int | str, residuals: Moments) -> int:
    if isinstance(asked, int):
        return asked
    t = residuals.target_dim
    return (asked == "auto" and _own_rank(residuals)) or t


def _own_rank(residuals: Moments) -> int | None:
    if not targets_vary(residuals):
        return None
    return target_rank(spectrum(residuals.target_covariance).values)


def _last_linear(readers: Mapping[str, Reader], watched: Pass) -> str | None:
    """The Linear that gives the predictions; None where it is not among the scored layers."""
    linear = [name for name in watched.moments if readers[name].is_linear]
    gives_targets = linear and readers[linear[-1]].out == watched.residuals.target_dim
    return linear[-1] if gives_targets else None


def _layer_result(
    index: int,
    reader: Reader,
    moments: Moments,
    scores: LayerScores,
    watched: Pass,
    settings: Settings,
) -> LayerResult:
    ratio = scores.nrc4 / watched.model_mse if watched.model_mse > 0 else math.nan
    values = {name: getattr(scores, name) for name in scores.__dataclass_fields__}
    return LayerResult(
        index=index,
        name=reader.name,
        type=reader.type,
        width=moments.width,
        out=reader.out,
        nrc4_ratio=ratio,
        conditions=conditions_met(
            *(scores.nrc1, scores.nrc2, scores.nrc3, ratio), settings.thresholds, scores.undecided
        ),
        **values,
    )


# --------------------------------------------------------------------------------------- the facts


def _data_facts(source: DataSource, watched: Pass) -> DataFacts:
    variances = spectrum(watched.residuals.target_covariance).values
    varies = targets_vary(watched.residuals)
    return DataFacts(
        path=source.path,
        sha256=source.sha256,
        n=watched.residuals.n,
        input_shape=source.input_shape,
        target_dim=source.target_dim,
        target_rank=target_rank(variances) if varies else None,
        target_stable_rank=stable_rank_of_squares(variances) if varies else math.nan,
        standardized=source.standardized,
        assumptions=source.notes,
    )


def _heldout(source: DataSource, again: Pass, scored: _Scored) -> Heldout:
    return Heldout(_data_facts(source, again), again.model_mse, again.model_r2, scored.heldout)


def _dropped(readers: Sequence[Reader], watched: Pass) -> Iterator[Skipped]:
    for reader in readers:
        if reader.name in watched.skipped:
            yield Skipped(reader.name, reader.type, watched.skipped[reader.name])


def _warnings(settings: Settings, facts: Facts, watched: Pass, scored: _Scored) -> Iterator[str]:
    if watched.model_r2 <= 0:
        yield (
            f"the network predicts no better than the mean (R² {watched.model_r2:.3g}): "
            "a wrong activation, architecture, standardisation or data set looks like this"
        )
    yield from refit_doubts(scored.layers, watched.residuals.n, watched.model_r2)
    if watched.fault:
        yield f"the network's output is not finite ({watched.fault}): its error is undefined"
    elif not watched.knows_outputs:
        yield "the network's outputs are not known: its error and NRC4 / model are undefined"
    elif math.isnan(watched.model_mse):
        yield "the network's errors are too large to be squared: its error is undefined"
    if not targets_vary(watched.residuals):
        yield "targets do not vary: R², NRC2 and CKA are undefined"
    if not scored.layers:
        yield "no layer could be scored: see the reasons under 'skipped'"
    names = [item.name for item in facts.left_out] + [layer.name for layer in scored.layers]
    for pattern in unmatched(settings.exclude, names):
        yield f"--exclude '{pattern}' matches no layer"
    yield from facts.cautions
    if limited := limit_warning(settings, facts.data, watched):
        yield limited


def limit_warning(settings: Settings, source: DataSource, watched: Pass) -> str | None:
    """That a limit left rows out, or None; of files that were merged, `cautions` say it of each."""
    n = watched.residuals.n
    if not settings.limit or not source.rows or n >= source.rows or n > settings.limit:
        return None
    return f"only the first {n} of {source.rows} rows were used (--limit)"


def _same_rows_warning(facts: Facts) -> Iterator[str]:
    def rows(source: DataSource | None) -> tuple[object, ...] | None:
        return (source.sha256, source.reading, source.rows) if source and source.sha256 else None

    if rows(facts.data) and rows(facts.data) == rows(facts.heldout):
        yield "the held-out rows are the rows of the data: what is said of held-out rows says nothing new"


def _heldout_warnings(readers: Sequence[Reader], again: Pass | None) -> Iterator[str]:
    if again is None:
        return
    if again.fault:
        yield f"held-out data: the network's output is not finite ({again.fault})"
    elif math.isnan(again.model_mse):
        yield "held-out data: the network's errors are too large to be squared"
    for reader in readers:
        if reader.name in again.skipped:
            yield f"held-out data: layer '{reader.name}': {again.skipped[reader.name]}"
