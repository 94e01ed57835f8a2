"""The conductor: one checkpoint, one pass over the data -> Result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Unpack

import torch
from torch import nn
from torch.nn.parameter import is_lazy

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
from nrc_probe.layers import Layer, Skipped, find_layers, weight_matrix
from nrc_probe.result import LayerFacts, Layers, ModelFacts, Result, Settings
from nrc_probe.scoring import DataSource, Facts, Reader, provenance_since, score_passes
from nrc_probe.spectra import weight_spectrum

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
    started = time.perf_counter()
    # A DataLoader draws a seed even where it does not shuffle: a training run goes on unchanged.
    with torch.random.fork_rng(devices=[]):
        subject = open_subject(checkpoint, options, data)
        return analyze_subject(subject, lambda: open_data(subject, data, options), progress, started)


def analyze_subject(
    subject: Subject,
    data_sets: Callable[[], tuple[Dataset, Dataset | None]],
    progress: Progress | None,
    started: float,
) -> Result:
    """As `analyze`, of a network that is built; the data are opened once its layers are known.

    data_sets: opens the rows to analyse and the held-out ones. started: by time.perf_counter.
    """
    settings, running = read_settings(subject.config), read_running(subject.config)
    model = subject.network.module
    layers, left_out = find_layers(model, settings.layers, settings.exclude)
    dataset, heldout_set = data_sets()
    watched, again = _passes(model, layers, dataset, heldout_set, settings, running, progress)
    return score_passes(
        _facts(subject, dataset, heldout_set, left_out),
        [_reader(layer) for layer in layers],
        watched,
        again,
        settings,
        partial(provenance_since, started, running.device, subject.config.path),
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


# --------------------------------------------------------------------------------------- the facts


def _facts(subject: Subject, dataset: Dataset, heldout: Dataset | None, left_out: Sequence[Skipped]) -> Facts:
    return Facts(
        checkpoint=subject.facts,
        model=_model_facts(subject),
        data=_data_source(dataset),
        heldout=_data_source(heldout) if heldout else None,
        left_out=tuple(left_out),
        order=tuple(name for name, _ in subject.network.module.named_modules()),
    )


def _data_source(dataset: Dataset) -> DataSource:
    return DataSource(
        path=dataset.path,
        sha256=dataset.sha256,
        rows=dataset.n,
        input_shape=dataset.input_shape,
        target_dim=dataset.target_dim,
        standardized=dataset.standardized,
        notes=dataset.notes,
    )


def _reader(layer: Layer) -> Reader:
    return Reader(layer.name, layer.type, layer.out, layer.is_linear, partial(weight_matrix, layer))


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
        parameters=sum(p.numel() for p in network.module.parameters() if not is_lazy(p)),
        assumptions=(*subject.notes, *network.assumptions),
    )
