"""The conductor: one checkpoint, one pass over the data -> Result."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Unpack

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from nrc_probe.assembly import (
    Options,
    Subject,
    open_data,
    open_subject,
)
from nrc_probe.dataset import Dataset
from nrc_probe.errors import OutputError
from nrc_probe.forward import (
    Pass,
    PassSettings,
    Progress,
    Watcher,
    default_batch_size,
    expected_rows,
    prepared,
    run_pass,
    stream_rows,
)
from nrc_probe.layers import Layer, Skipped, find_layers, module_forms, weight_matrix
from nrc_probe.recording import (
    Announce,
    check_form,
    check_resumable,
    checked_output,
    fill_book,
    is_done,
    preparation_print,
    save_sums,
    size_check,
)
from nrc_probe.result import LayerFacts, Layers, ModelFacts, Result, Settings
from nrc_probe.scoring import DataSource, Facts, Reader, provenance_since, reader_of, score_passes
from nrc_probe.settings import Running, read_running, read_settings
from nrc_probe.spectra import weight_spectrum
from nrc_probe.store.contents import Contents, info
from nrc_probe.store.story import Form, Run, Story
from nrc_probe.store.writing import ActivationWriter, Plan


def analyze(
    checkpoint: str | Path | nn.Module,
    data: object = None,
    *,
    dump: str | Path | None = None,
    save_moments: str | Path | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Result:
    """Score NRC1-NRC4 of every layer in one forward pass over the data.

    checkpoint: a saved file, or a live module (its mode, device and hooks are left as they were).
    data: a file, a factory "package.module:function", a Dataset, a DataLoader, any iterable of
    (x, y) batches, or a pair of arrays; None: what nrc-probe.toml or the checkpoint names.
    dump, save_moments: files that get the activations, or the sums of them, of the same pass.
    options: see `Options`; the command line has the same names.
    Raises ProbeError with one line that names place, expected, got and way out.
    """
    started = time.perf_counter()
    keep = Keep(
        dump=None if dump is None else checked_output(dump),
        moments=None if save_moments is None else checked_output(save_moments),
    )
    # A DataLoader draws a seed even where it does not shuffle: a training run goes on unchanged.
    with torch.random.fork_rng(devices=[]):
        subject = open_subject(checkpoint, options, data)
        return analyze_subject(subject, lambda: open_data(subject, data, options), progress, started, keep)


@dataclass(frozen=True)
class Keep:
    """Files that an analysis leaves besides its result."""

    dump: Path | None = None
    """Gets the activations."""
    moments: Path | None = None
    """Gets the sums."""


def analyze_subject(
    subject: Subject,
    data_sets: Callable[[], tuple[Dataset, Dataset | None]],
    progress: Progress | None,
    started: float,
    keep: Keep | None = None,
) -> Result:
    """As `analyze`, of a network that is built; the data are opened once its layers are known.

    data_sets: opens the rows to analyse and the held-out ones. started: by time.perf_counter.
    """
    keep = keep or Keep()
    if keep.dump is not None and keep.dump == keep.moments:
        raise OutputError(f"'{keep.dump}': named twice, activations and sums need files of their own")
    study = _open_study(subject, data_sets)
    watched, again = _passes(study, progress) if keep.dump is None else _dumped(study, keep.dump, progress)
    if keep.moments is not None:
        save_sums(keep.moments, study.story(None), study.readers, watched, again)
    return score_passes(
        study.facts,
        study.readers,
        watched,
        again,
        study.settings,
        partial(provenance_since, started, study.running.device, subject.config.path),
        study.running.threads,
    )


def dump(
    checkpoint: str | Path | nn.Module,
    data: object = None,
    *,
    output: str | Path,
    dtype: str = "float32",
    compression: str = "none",
    moments: bool = False,
    moments_only: bool = False,
    resume: bool = False,
    yes: bool = False,
    progress: Progress | None = None,
    announce: Announce | None = None,
    **options: Unpack[Options],
) -> Contents:
    """Write every layer's activations to `output`, for `score`, in one forward pass.

    checkpoint, data, options: as of `analyze`. dtype: float32 (float64 where features are, as averages
    over positions), float16 or bfloat16. compression: none, lzf, gzip or blosc (extra `compression`).
    moments: also the sums, so that `score` need not read the activations; moments_only: these alone, of
    a size that rows do not change.
    resume: go on with a dump that was interrupted. yes: begin also where the disk seems too small.
    announce: told what is gone on with, and how much is to be written. Memory is a chunk a layer;
    held-out rows leave their sums. Returns what is inside. Raises ProbeError.
    """
    form = Form(dtype, compression)
    check_form(form)
    place = checked_output(output)
    with torch.random.fork_rng(devices=[]):
        subject = open_subject(checkpoint, options, data)
        study = _open_study(subject, lambda: open_data(subject, data, options))
        if moments_only:
            save_sums(place, study.story(None), study.readers, *_passes(study, progress))
        elif not (resume and is_done(place, study.story(form, sums_too=moments))):
            check_resumable(place, study.story(form, sums_too=moments), resume=resume, announce=announce)
            plan = _plan(
                study, form, place, size_check(place, announce, yes=yes), sums_too=moments, saves_sums=moments
            )
            _dump(study, plan, resume, progress)
    return info(place)


def list_layers(checkpoint: str | Path | nn.Module, **options: Unpack[Options]) -> Layers:
    """Names, types, shapes and weight ranks of the layers that `analyze` would score; no data."""
    subject = open_subject(checkpoint, options)
    settings = read_settings(subject.config)
    layers, skipped = find_layers(subject.network.module, settings.layers, settings.exclude)
    facts = tuple(_layer_facts(layer) for layer in layers)
    return Layers(_model_facts(subject), facts, tuple(skipped))


# ---------------------------------------------------------------------------------------- the study


@dataclass(frozen=True, eq=False)  # eq=False: it holds a module
class _Study:
    """A network, its data, and how they are to be looked at."""

    subject: Subject
    settings: Settings
    running: Running
    layers: list[Layer]
    left_out: list[Skipped]
    dataset: Dataset
    heldout: Dataset | None

    @property
    def model(self) -> nn.Module:
        return self.subject.network.module

    @property
    def readers(self) -> list[Reader]:
        return [reader_of(layer) for layer in self.layers]

    @property
    def facts(self) -> Facts:
        return Facts(
            checkpoint=self.subject.facts,
            model=_model_facts(self.subject),
            data=_data_source(self.dataset),
            heldout=_data_source(self.heldout) if self.heldout else None,
            left_out=tuple(self.left_out),
            order=tuple(name for name, _ in self.model.named_modules()),
        )

    def story(self, form: Form | None, *, sums_too: bool = True) -> Story:
        """What a file of this study tells; `sums_too`: whether the pass sums."""
        return Story(
            facts=self.facts,
            settings=self.settings,
            types={layer.name: layer.type for layer in self.layers},
            config=str(self.subject.config.path) if self.subject.config.path else None,
            form=form,
            run=Run(
                device=str(self.running.device),
                batch_size=self.running.batch_size or default_batch_size(self.dataset.input_shape),
                threads=self.running.threads or torch.get_num_threads(),
                torch=str(torch.__version__),
                moments=sums_too,
            ),
            preparation=preparation_print(self.dataset.statistics),
            shards=(self.dataset.sha256,) if self.dataset.sha256 else (),
            modules=module_forms(self.model),
        )


def _open_study(subject: Subject, data_sets: Callable[[], tuple[Dataset, Dataset | None]]) -> _Study:
    settings, running = read_settings(subject.config), read_running(subject.config)
    layers, left_out = find_layers(subject.network.module, settings.layers, settings.exclude)
    return _Study(subject, settings, running, layers, left_out, *data_sets())


def _plan(
    study: _Study,
    form: Form,
    output: Path,
    on_size: Callable[[int | None], None],
    *,
    sums_too: bool,
    saves_sums: bool,
) -> Plan:
    story = study.story(form, sums_too=sums_too)
    assert story.run is not None
    return Plan(
        output=output,
        story=story,
        form=form,
        target_dim=study.dataset.target_dim,
        rows=expected_rows(study.dataset.n, study.settings.limit),
        batch_size=story.run.batch_size,
        sums_too=sums_too,
        moments=saves_sums + (study.heldout is not None),
        on_size=on_size,
    )


# -------------------------------------------------------------------------------------- the passes


def _passes(
    study: _Study, progress: Progress | None, also: Sequence[Watcher] = ()
) -> tuple[Pass, Pass | None]:
    how = _how(study)
    with prepared(study.model, study.running.device, study.running.threads):
        advance = progress and partial(progress, "data")
        first = run_pass(study.model, study.layers, study.dataset, how, advance, also)
        return first, _held_out_pass(study, first.moments.keys(), progress)


def _shown(
    study: _Study, writer: ActivationWriter, progress: Progress | None
) -> tuple[Mapping[str, str], Pass | None]:
    """Show the rows to the writer alone: why layers were skipped, and the sums of held-out rows."""
    with prepared(study.model, study.running.device, study.running.threads):
        capture = stream_rows(
            *(study.model, study.layers, study.dataset, _how(study), (writer,)),
            advance=progress and partial(progress, "data"),
            start=writer.start,
        )
        skipped = {**capture.skipped, **writer.skipped}
        stored = {layer.name for layer in study.layers} - skipped.keys()
        return skipped, _held_out_pass(study, stored, progress)


def _dumped(study: _Study, output: Path, progress: Progress | None) -> tuple[Pass, Pass | None]:
    """The passes of an analysis, whose activations are written to `output`."""
    check_resumable(output, study.story(Form(), sums_too=True), resume=False)
    on_size = size_check(output, None, yes=False)
    plan = _plan(study, Form(), output, on_size, sums_too=True, saves_sums=False)
    with ActivationWriter(plan) as writer:
        watched, again = _passes(study, progress, (writer,))
        writer.finish(watched.skipped, partial(fill_book, watched=None, again=again))
    return watched, again


def _dump(study: _Study, plan: Plan, resume: bool, progress: Progress | None) -> None:
    with ActivationWriter(plan, resume=resume) as writer:
        if plan.sums_too:
            watched, again = _passes(study, progress, (writer,))
            told = replace(watched, skipped={**watched.skipped, **writer.skipped})
            writer.finish(watched.skipped, partial(fill_book, watched=told, again=again))
        else:
            skipped, again = _shown(study, writer, progress)
            writer.finish(skipped, partial(fill_book, watched=None, again=again))


def _held_out_pass(study: _Study, names: Collection[str], progress: Progress | None) -> Pass | None:
    if study.heldout is None:
        return None
    layers = [layer for layer in study.layers if layer.name in names]
    advance = progress and partial(progress, "held-out data")
    return run_pass(study.model, layers, study.heldout, _how(study), advance)


def _how(study: _Study) -> PassSettings:
    return PassSettings(
        pooling=study.settings.pooling,
        precision=study.settings.precision,
        max_width=study.settings.max_width,
        limit=study.settings.limit,
        batch_size=study.running.batch_size,
        device=study.running.device,
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
        reading=dataset.reading,
    )


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
