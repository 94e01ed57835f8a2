"""The conductor: one checkpoint, one pass over the data -> Result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import nn

from nrc_probe.assembly import (
    Options,
    Running,
    Subject,
    open_data,
    open_subject,
    read_running,
    read_settings,
)
from nrc_probe.dataset import Dataset
from nrc_probe.forward import Pass, PassSettings, prepared, run_pass
from nrc_probe.last_layer_2024 import LastLayer2024, last_layer_2024
from nrc_probe.layers import Layer, Skipped, find_layers, unmatched, weight_matrix
from nrc_probe.metrics import (
    LayerScores,
    fit_linear_probe,
    score_layer,
    stable_rank,
    target_rank,
    targets_vary,
)
from nrc_probe.moments import Moments
from nrc_probe.result import (
    DataFacts,
    Heldout,
    HeldoutLayer,
    LayerFacts,
    LayerResult,
    Layers,
    ModelFacts,
    Provenance,
    Result,
    Settings,
    conditions_met,
)
from nrc_probe.spectra import feature_spectra, spectrum, weight_spectrum

Progress = Callable[[str, int, int | None], None]
"""Called after every batch: what is being read, rows done, rows in all (None where unknown)."""


def analyze(
    checkpoint: str | Path | nn.Module,
    data: object = None,
    *,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Result:
    """Score NRC1-NRC4 of every layer in one forward pass over the data.

    checkpoint: a saved file, or a live module (its mode, device and hooks are left as they were).
    data: a file, a factory "package.module:function", a Dataset, a DataLoader, any iterable of
    (x, y) batches, or a pair of arrays; None: what nrc-probe.toml or the checkpoint names.
    options: see `Options`; the command line has the same names.
    Raises ProbeError with one line that names place, expected, got and way out.
    """
    # A DataLoader draws a seed even where it does not shuffle: a training run goes on unchanged.
    with torch.random.fork_rng(devices=[]):
        return _analyze(checkpoint, data, options, progress)


def _analyze(
    checkpoint: str | Path | nn.Module,
    data: object,
    options: Options,
    progress: Progress | None,
) -> Result:
    started = time.perf_counter()
    subject = open_subject(checkpoint, options, data)
    settings, running = read_settings(subject.config), read_running(subject.config)
    model = subject.network.module
    layers, left_out = find_layers(model, settings.layers, settings.exclude)
    dataset, heldout_set = open_data(subject, data, options)
    watched, again = _passes(model, layers, dataset, heldout_set, settings, running, progress)
    scored = _score_layers(layers, watched, again, settings)
    return Result(
        checkpoint=subject.facts,
        model=_model_facts(subject),
        data=_data_facts(dataset, watched),
        settings=settings,
        model_mse=watched.model_mse,
        model_r2=watched.model_r2,
        layers=scored.layers,
        skipped=(*left_out, *_dropped(layers, watched)),
        heldout=_heldout(heldout_set, again, scored) if heldout_set and again else None,
        last_layer_2024=scored.last_layer,
        warnings=(
            *_warnings(settings, left_out, dataset, watched, scored),
            *_heldout_warnings(layers, again),
        ),
        provenance=_provenance(running, started),
    )


def list_layers(checkpoint: str | Path | nn.Module, **options: Unpack[Options]) -> Layers:
    """Names, types, shapes and weight ranks of the layers that `analyze` would score; no data."""
    subject = open_subject(checkpoint, options)
    settings = read_settings(subject.config)
    layers, skipped = find_layers(subject.network.module, settings.layers, settings.exclude)
    facts = tuple(_layer_facts(layer) for layer in layers)
    return Layers(_model_facts(subject), facts, tuple(skipped))


# -------------------------------------------------------------------------------------- the passes


def _passes(
    model: nn.Module,
    layers: Sequence[Layer],
    dataset: Dataset,
    heldout: Dataset | None,
    settings: Settings,
    running: Running,
    progress: Progress | None,
) -> tuple[Pass, Pass | None]:
    how = PassSettings(
        pooling=settings.pooling,
        precision=settings.precision,
        max_width=settings.max_width,
        limit=settings.limit,
        batch_size=running.batch_size,
        device=running.device,
    )
    with prepared(model, running.device, running.threads):
        first = run_pass(model, layers, dataset, how, progress and partial(progress, "data"))
        if heldout is None:
            return first, None
        scored = [layer for layer in layers if layer.name in first.moments]
        advance = progress and partial(progress, "held-out data")
        return first, run_pass(model, scored, heldout, how, advance)


# ------------------------------------------------------------------------------------- the scoring


@dataclass(frozen=True)
class _Scored:
    """All that is computed from the moments."""

    layers: tuple[LayerResult, ...]
    heldout: tuple[HeldoutLayer, ...]
    last_layer: LastLayer2024 | None


def _score_layers(layers: Sequence[Layer], watched: Pass, again: Pass | None, settings: Settings) -> _Scored:
    modules = {layer.name: layer for layer in layers}
    rank = _signal_rank(settings.rank, watched.residuals)
    last = _last_linear(modules, watched)
    results, heldout, last_layer = [], [], None
    for index, (name, moments) in enumerate(watched.moments.items()):
        weight = weight_matrix(modules[name])
        spectra = feature_spectra(moments.feature_covariance, moments.mean_h)
        features = spectra.centred
        fits = weight.shape[1] == moments.width
        scores = score_layer(moments, spectra, weight if fits else None, rank, settings.rcond)
        results.append(_layer_result(index, modules[name], moments, scores, watched, settings))
        if again and name in again.moments:
            probe = fit_linear_probe(moments, features, settings.rcond)
            heldout.append(HeldoutLayer(name, probe.error(again.moments[name])))
        if name == last and fits:
            last_layer = last_layer_2024(moments, features, weight)
    return _Scored(tuple(results), tuple(heldout), last_layer)


def _signal_rank(asked: int | str, residuals: Moments) -> int:
    if isinstance(asked, int):
        return asked
    t = residuals.target_dim
    return (asked == "auto" and _own_rank(residuals)) or t


def _own_rank(residuals: Moments) -> int | None:
    if not targets_vary(residuals):
        return None
    return target_rank(spectrum(residuals.target_covariance).values)


def _last_linear(modules: Mapping[str, Layer], watched: Pass) -> str | None:
    """The Linear that gives the predictions; None where it is not among the scored layers."""
    linear = [name for name in watched.moments if modules[name].is_linear]
    gives_targets = linear and modules[linear[-1]].out == watched.residuals.target_dim
    return linear[-1] if gives_targets else None


def _layer_result(
    index: int,
    layer: Layer,
    moments: Moments,
    scores: LayerScores,
    watched: Pass,
    settings: Settings,
) -> LayerResult:
    ratio = scores.nrc4 / watched.model_mse if watched.model_mse > 0 else math.nan
    values = {name: getattr(scores, name) for name in scores.__dataclass_fields__}
    return LayerResult(
        index=index,
        name=layer.name,
        type=layer.type,
        width=moments.width,
        out=layer.out,
        nrc4_ratio=ratio,
        conditions=conditions_met(scores.nrc1, scores.nrc2, scores.nrc3, ratio, settings.thresholds),
        **values,
    )


# --------------------------------------------------------------------------------------- the facts


def _layer_facts(layer: Layer) -> LayerFacts:
    weight = weight_matrix(layer)
    spectrum_of_weight = weight_spectrum(weight, min(weight.shape))
    return LayerFacts(
        name=layer.name,
        type=layer.type,
        width=layer.width,
        out=layer.out,
        weight_shape=tuple(layer.module.weight.shape),  # type: ignore[arg-type]
        weight_rank=spectrum_of_weight.rank,
        stable_rank_weight=spectrum_of_weight.stable_rank,
    )


def _model_facts(subject: Subject) -> ModelFacts:
    network = subject.network
    return ModelFacts(
        source=network.source,
        summary=network.summary,
        parameters=sum(p.numel() for p in network.module.parameters()),
        assumptions=(*subject.notes, *network.assumptions),
    )


def _data_facts(dataset: Dataset, watched: Pass) -> DataFacts:
    variances = spectrum(watched.residuals.target_covariance).values
    varies = targets_vary(watched.residuals)
    return DataFacts(
        path=dataset.path,
        sha256=dataset.sha256,
        n=watched.residuals.n,
        input_shape=dataset.input_shape,
        target_dim=dataset.target_dim,
        target_rank=target_rank(variances) if varies else None,
        target_stable_rank=stable_rank(variances.square()) if varies else math.nan,
        standardized=dataset.standardized,
        assumptions=dataset.notes,
    )


def _heldout(dataset: Dataset, again: Pass, scored: _Scored) -> Heldout:
    return Heldout(_data_facts(dataset, again), again.model_mse, again.model_r2, scored.heldout)


def _dropped(layers: Sequence[Layer], watched: Pass) -> Iterator[Skipped]:
    for layer in layers:
        if layer.name in watched.skipped:
            yield Skipped(layer.name, layer.type, watched.skipped[layer.name])


def _warnings(
    settings: Settings,
    left_out: Sequence[Skipped],
    dataset: Dataset,
    watched: Pass,
    scored: _Scored,
) -> Iterator[str]:
    if watched.model_r2 <= 0:
        yield (
            f"the network predicts no better than the mean (R² {watched.model_r2:.3g}): "
            "a wrong activation, architecture, standardisation or data set looks like this"
        )
    if watched.fault:
        yield f"the network's output is not finite ({watched.fault}): its error is undefined"
    if not targets_vary(watched.residuals):
        yield "targets do not vary: R², NRC2 and CKA are undefined"
    if not scored.layers:
        yield "no layer could be scored: see the reasons under 'skipped'"
    names = [item.name for item in left_out] + [layer.name for layer in scored.layers]
    for pattern in unmatched(settings.exclude, names):
        yield f"--exclude '{pattern}' matches no layer"
    n = watched.residuals.n
    if settings.limit and dataset.n and n < dataset.n:
        yield f"only the first {n} of {dataset.n} rows were used (--limit)"


def _heldout_warnings(layers: Sequence[Layer], again: Pass | None) -> Iterator[str]:
    if again is None:
        return
    if again.fault:
        yield f"held-out data: the network's output is not finite ({again.fault})"
    for layer in layers:
        if layer.name in again.skipped:
            yield f"held-out data: layer '{layer.name}': {again.skipped[layer.name]}"


def _provenance(running: Running, started: float) -> Provenance:
    return Provenance(
        nrc_probe=version("nrc-probe"),
        torch=str(torch.__version__),
        numpy=np.__version__,
        device=str(running.device),
        seconds=round(time.perf_counter() - started, 3),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
