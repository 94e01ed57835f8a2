"""What options, nrc-probe.toml and checkpoint say -> the network, the data and the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TypedDict, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nrc_probe.architecture import Network, build_network
from nrc_probe.checking import check_known, check_types
from nrc_probe.checkpoint import Checkpoint, load_checkpoint
from nrc_probe.config import Config, find_config, overlay, read_config, read_metadata
from nrc_probe.dataset import Dataset, Statistics, open_dataset, wrap_dataset
from nrc_probe.errors import CheckpointError, ConfigError, DataError
from nrc_probe.factory import is_factory
from nrc_probe.files import from_home
from nrc_probe.result import CheckpointFacts
from nrc_probe.settings import read_running, read_settings
from nrc_probe.spec import DataSpec, ModelSpec, columns_text


class SharedOptions(TypedDict, total=False):
    """What `analyze` and `batch` can be told under the same names."""

    model: str | None
    """Architecture: "mlp", "resnet", "torchvision:NAME" or a factory "package.module:function"."""
    activation: str | None
    """Activation of an inferred MLP (default relu)."""
    model_options: Mapping[str, object] | None
    """Keyword arguments of the architecture."""
    data_options: Mapping[str, object] | None
    """Keyword arguments of a factory that makes the data."""
    heldout: object
    """Rows that were not trained on: a path or whatever `data` takes."""
    inputs: str | Sequence[str] | None
    """Array, data set or column names, or ranges such as "0:8"; several as "a,b" or in a list."""
    targets: str | Sequence[str] | None
    """As `inputs`."""
    heldout_inputs: str | Sequence[str] | None
    """As `inputs`, of the held-out data where they have other names."""
    heldout_targets: str | Sequence[str] | None
    """As `heldout_inputs`."""
    standardize: Sequence[str] | str | None
    """"inputs" and / or "targets", or a file that holds their means and deviations."""
    images: str | None
    """"auto", "nhwc" or "as-is"."""
    config: str | Path | None
    """An nrc-probe.toml to read instead of the nearest one."""
    state_key: str | None
    """Which of a checkpoint's state dicts to take."""
    allow_code: bool
    """Whether a factory named by a file may run."""
    unsafe_pickle: bool
    """Whether a pickle that needs code may run it."""
    rank: int | str | None
    """Signal dimension r: "target" (r = t, the default), "auto" (the targets' rank), an integer."""
    rcond: float | None
    """Cutoff of NRC4's least squares on singular values, relative to the largest (default 1e-3)."""
    pooling: str | None
    """How maps and tokens become one row: mean (default), max, flatten, tokens, first, last."""
    precision: str | None
    """"exact" (default) or "fast"."""
    layers: Sequence[str] | None
    """Globs on layer names; default all."""
    max_width: int | None
    """Widest layer that is scored (default 8192)."""
    limit: int | None
    """Use only the first rows."""
    thresholds: Mapping[str, float] | None
    """Where conditions count as met: nrc1 0.2, nrc2 0.6, nrc3 0.7, nrc4_ratio 1.5."""
    batch_size: int | None
    """Rows per forward pass; scores do not depend on it."""
    device: str | None
    """"auto" (default: cuda, then mps, then cpu) or a torch device."""
    threads: int | None
    """CPU threads of torch."""


class Options(SharedOptions, total=False):
    """Everything `analyze` can be told; what is None or left out is found elsewhere."""

    exclude: Sequence[str] | None
    """Globs on layer names to leave out."""


@dataclass(frozen=True, eq=False)
class Subject:
    """The network under study, where it came from, and what was said about the run."""

    facts: CheckpointFacts
    network: Network
    config: Config
    notes: tuple[str, ...] = ()


_SCORE_OPTIONS = (
    *("rank", "rcond", "pooling", "precision", "layers", "exclude", "max_width", "limit"),
    *("thresholds", "batch_size", "device", "threads", "state_key"),
)


def open_subject(checkpoint: str | Path | nn.Module, options: Options, data: object = None) -> Subject:
    """The network to study, from a checkpoint file or a live module.

    Raises ProbeError's children for everything that is missing, broken or unknown.
    """
    if isinstance(checkpoint, nn.Module):
        check_names(options)
        _check_fits_live(options)
        summary = f"{type(checkpoint).__name__}, a live module"
        _check_finite(checkpoint, summary)
        network = Network(checkpoint, "module", summary, ())
        config = overlay(_as_config(options, data), _given_config(options))
        return Subject(CheckpointFacts(None), network, config)
    loaded, config = open_checkpoint(_as_path(checkpoint), options, data)
    return subject_of(loaded, build_network(loaded, config.model), config)


def _check_fits_live(options: Options) -> None:
    for name in ("model", "model_options", "activation", "state_key", "unsafe_pickle"):
        if options.get(name):
            raise ConfigError(
                f"'{name}' is about checkpoint files, but a live module was given (leave it out)"
            )


def open_checkpoint(path: Path, options: Options, data: object = None) -> tuple[Checkpoint, Config]:
    """A checkpoint file, and all that options, nrc-probe.toml and its own metadata say of it."""
    config = read_request(path, options, data)
    key = config.score.get("state_key")
    loaded = load_checkpoint(
        path,
        state_key=None if key is None else str(key),
        unsafe_pickle=options.get("unsafe_pickle", False),
    )
    return loaded, overlay(config, read_metadata(loaded, trusted=options.get("allow_code", False)))


def read_request(path: Path, options: Options, data: object = None) -> Config:
    """What the options say of the checkpoint at `path`, over its nrc-probe.toml; it is not opened."""
    check_names(options)
    file = _given_config(options) if options.get("config") else _found_config(path, options)
    return overlay(_as_config(options, data), file)


def check_request(options: Options) -> None:
    """Raise ConfigError where the options alone are wrong, whatever the checkpoint."""
    check_names(options)
    config = overlay(_as_config(options, None), _given_config(options))
    read_settings(config)
    read_running(config)


def data_files(config: Config) -> list[Path]:
    """The paths that `config` names as data or as their statistics, whether they are there or not."""
    return [
        (spec.folder or Path()) / from_home(named)
        for spec in (config.data, config.heldout)
        for named in (spec.path, spec.standardize)
        if named and isinstance(named, str)
    ]


def subject_of(loaded: Checkpoint, network: Network, config: Config) -> Subject:
    """The subject around a network that holds the tensors of `loaded`, which must be finite."""
    _check_finite(network.module, str(loaded.path))
    return Subject(_facts(loaded), network, config, loaded.notes)


def open_data(subject: Subject, data: object, options: Options) -> tuple[Dataset, Dataset | None]:
    """The data set to run through the network and, where one is named, the held-out one.

    Held-out rows are standardised by the first data set's mean and deviation.
    """
    return open_data_sets(subject.config, data, options.get("heldout"))


def open_data_sets(config: Config, data: object, heldout: object) -> tuple[Dataset, Dataset | None]:
    """As `open_data`; data, heldout: paths, which `config` has too, or live data."""
    training = _open(config.data, data, None)
    if heldout is not None and not _is_path(heldout):
        config = replace(config, heldout=replace(config.heldout, path="held-out data"))
    spec = config.held_out()
    if heldout is None and spec is None and _says_anything(config.heldout):
        raise ConfigError("[heldout] names no data: give it a path, or --heldout FILE, or leave it out")
    return training, _open(spec, heldout, training.statistics) if spec else None


# ---------------------------------------------------------------------------------- who said what


def _as_path(checkpoint: object) -> Path:
    if not isinstance(checkpoint, str | PathLike):
        kind = type(checkpoint).__name__
        raise ConfigError(f"expected a checkpoint's path or a torch.nn.Module to analyze, got a {kind}")
    return Path(checkpoint)


def check_names(options: Options) -> None:
    """Raise ConfigError at the first option that `analyze` does not have, or of a wrong type."""
    check_known(options, Options.__annotations__, "analyze")
    check_types(options)


def _as_config(options: Options, data: object) -> Config:
    """The options as if a file had said them."""
    extra = dict(options.get("model_options") or {})
    if options.get("activation") is not None:
        extra["activation"] = options["activation"]
    heldout = options.get("heldout")
    return Config(
        model=ModelSpec(options.get("model"), extra, trusted=True),
        data=DataSpec(
            path=str(data) if _is_path(data) else None,
            inputs=columns_text(options.get("inputs")),
            targets=_file_here(columns_text(options.get("targets")), ".npy"),
            standardize=_standardize(options.get("standardize")),
            images=options.get("images"),
            options=dict(options.get("data_options") or {}),
            trusted=True,
        ),
        heldout=DataSpec(
            path=str(heldout) if _is_path(heldout) else None,
            inputs=columns_text(options.get("heldout_inputs")),
            targets=_file_here(columns_text(options.get("heldout_targets")), ".npy"),
            trusted=True,
        ),
        score={
            name: value for name, value in options.items() if name in _SCORE_OPTIONS and value is not None
        },
    )


def _standardize(said: Sequence[str] | str | None) -> tuple[str, ...] | str | None:
    if said is None:
        return None
    if isinstance(said, str):
        return (said,) if said in ("inputs", "targets") else _file_here(said)
    return tuple(said)


def _file_here(said: str | None, suffix: str = "") -> str | None:
    """A file that an option names, from the current folder; a config's folder is another place."""
    if said is None or not said.endswith(suffix):
        return said
    return str(from_home(said).absolute())


def _says_anything(spec: DataSpec) -> bool:
    return replace(spec, trusted=False, folder=None) != DataSpec()


def _is_path(source: object) -> bool:
    return isinstance(source, str | Path)


def _given_config(options: Options) -> Config:
    path = options.get("config")
    return read_config(Path(path), trusted=True) if path else Config()


def _found_config(checkpoint: Path, options: Options) -> Config:
    try:
        path = find_config(checkpoint)
    except OSError:  # no such place: opening the checkpoint says it better
        return Config()
    if path is None:
        return Config()
    return read_config(_from_here(path), trusted=options.get("allow_code", False))


def _from_here(path: Path) -> Path:
    """`path` as it is written from the current folder, if it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _open(spec: DataSpec, source: object, statistics: Statistics | None) -> Dataset:
    live = source is not None and not _is_path(source)
    if spec.options and (live or not is_factory(spec.path or "")):
        raise ConfigError(
            f"options for the data ({', '.join(spec.options)}) need data that take them, a factory "
            f"package.module:function; got {'live data' if live else spec.path or 'none'}: leave them out"
        )
    if source is not None and not _is_path(source):
        return wrap_dataset(source, replace(spec, path=None), statistics=statistics)
    if spec.path is None:
        raise DataError(
            "no data set is named: give --data FILE, or [data] in nrc-probe.toml, "
            "or save the checkpoint with nrc_probe.save_checkpoint(..., data=FILE)"
        )
    return open_dataset(spec, statistics=statistics)


def _facts(checkpoint: Checkpoint) -> CheckpointFacts:
    training = checkpoint.training
    return CheckpointFacts(
        path=str(checkpoint.path),
        sha256=checkpoint.sha256,
        format=checkpoint.format,
        epoch=training.epoch,
        step=training.step,
        weight_decay=training.weight_decay,
        learning_rate=training.learning_rate,
    )


def _check_finite(module: nn.Module, where: str) -> None:
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, Tensor) and tensor.is_meta and not is_lazy(tensor):
            raise CheckpointError(f"{where}: tensor '{name}' has no values: it lies on the meta device")
        if _is_plain(tensor) and not torch.isfinite(tensor).all():
            place = torch.nonzero(~torch.isfinite(tensor))[0].tolist()
            raise CheckpointError(
                f"{where}: tensor '{name}' holds {tensor[tuple(place)].item()} at {place}; "
                "expected finite values (training diverged: an earlier checkpoint may be sound)"
            )


def _is_plain(value: object) -> TypeGuard[Tensor]:
    """Whether torch can look at the numbers: not those of lazy, sparse, nested or 8-bit float tensors."""
    if not isinstance(value, Tensor) or is_lazy(value) or value.is_nested:
        return False
    return value.layout == torch.strided and (value.itemsize > 1 or not value.is_floating_point())
