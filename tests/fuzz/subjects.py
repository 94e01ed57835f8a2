"""Small real files of every format that is read, and the commands that read them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np
import torch
from fuzz.mutations import CANARY
from networks import ResNet, basic, trained
from runs import save_data, save_network, small_network
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from torch import nn

import nrc_probe
from nrc_probe.store import layout, writing


@dataclass(frozen=True)
class Subject:
    """A folder in which one of the victims is damaged before one of the commands is run."""

    make: Callable[[Path], None]
    """Fills the folder."""
    victims: str
    """Glob of the files that may be damaged."""
    commands: tuple[str, ...]
    """Each writes nothing but what `outputs` names."""
    outputs: tuple[str, ...] = ("out.*",)
    """Globs of what a command may make or change; all else must stay as it is."""
    is_store: bool = False


LONG_AGO = 10**9
"""When claims were made: whoever finds a young one waits for its owner."""
Arrays = dict[str, np.ndarray]

TOML = """\
[model]
architecture = "mlp"
[model.options]
activation = "relu"
[data]
path = "data.npz"
inputs = "x"
targets = "y"
standardize = ["inputs", "targets"]
images = "auto"
[heldout]
path = "data.npz"
standardize = "statistics.npz"
[score]
rank = "auto"
rcond = 1e-3
pooling = "mean"
precision = "exact"
layers = ["*"]
exclude = ["nothing*"]
max_width = 100
limit = 50
batch_size = 7
device = "cpu"
threads = 1
thresholds = {nrc1 = 0.1, nrc4_ratio = 2}
"""
SIMPLE = '[data]\npath = "data.npz"\n'


def _beside(folder: Path, config: str = SIMPLE) -> None:
    """Data, their configuration, and code that no file may run."""
    save_data(folder / "data.npz")
    (folder / "nrc-probe.toml").write_text(config)
    (folder / f"{CANARY}_module.py").write_text(
        f"import os\nos.mkdir('{CANARY}')\ndef touch(*_, **__):\n    return None\n"
    )
    (folder / "hubconf.py").write_text(f"import os\nos.mkdir('{CANARY}')\n")


def _body() -> dict[str, object]:
    """What a training script saves."""
    model = small_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 7}


def _torch(folder: Path) -> None:
    _beside(folder)
    torch.save(_body(), folder / "net.pt")


def _legacy(folder: Path) -> None:
    _beside(folder)
    torch.save(_body(), folder / "net.pth", _use_new_zipfile_serialization=False)


def _lightning(folder: Path) -> None:
    _beside(folder)
    state = {f"net.{name}": tensor for name, tensor in small_network().state_dict().items()}
    settings = {"lr": np.float64(0.1), "weight_decay": 5e-4, "path": Path("runs")}
    beside = {"epoch": 3, "global_step": 90, "hyper_parameters": settings, "callbacks": {}, "loops": {}}
    torch.save({"state_dict": state, **beside}, folder / "net.ckpt")


def _safetensors(folder: Path) -> None:
    _beside(folder)
    said = {"data": {"path": "data.npz"}, "epoch": 4, "weight_decay": 0.001}
    save_file(small_network().state_dict(), folder / "net.safetensors", {"nrc_probe": json.dumps(said)})


def _shards(folder: Path) -> None:
    _beside(folder)
    state = small_network().state_dict()
    places = {name: f"net-0000{1 + (k > 2)}-of-00002.safetensors" for k, name in enumerate(state)}
    for place in set(places.values()):
        save_file({name: state[name] for name in places if places[name] == place}, folder / place)
    index = {"metadata": {"total_size": 10, "epoch": "3"}, "weight_map": places}
    (folder / "net.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _checkpoint(name: str) -> tuple[str, ...]:
    return (f"analyze {name} -q -o out.json", f"layers {name}", "batch . -q -o out.d", "init . --force")


def _with_data(write: Callable[[Path, Arrays], None]) -> Callable[[Path], None]:
    """A checkpoint, and its data in another format."""

    def make(folder: Path) -> None:
        _beside(folder)
        save_network(folder / "net.pth")
        with np.load(folder / "data.npz") as file:
            arrays = dict(file)
        for role, array in (("inputs", arrays["x"]), ("targets", arrays["y"])):
            arrays[f"{role}_mean"], arrays[f"{role}_std"] = array.mean(0), array.std(0)
        write(folder, arrays)

    return make


def _data(name: str, columns: str = "") -> tuple[str, ...]:
    begin = f"analyze net.pth -q --data {name} {columns}"
    own = f"{begin} -o out.csv --standardize targets --heldout {name}"
    return f"{begin} -o out.json", own, f"{begin} {'--limit 7' if columns else f'--standardize {name}'}"


def _npz(folder: Path, arrays: Arrays) -> None:
    np.savez_compressed(folder / "d.npz", **arrays, more=np.asfortranarray(arrays["x"]))


def _npy(folder: Path, arrays: Arrays) -> None:
    np.save(folder / "d.npy", _columns(arrays))


def _csv(folder: Path, arrays: Arrays) -> None:
    names = ",".join(_NAMES)
    np.savetxt(folder / "d.csv", _columns(arrays), delimiter=",", header=names, comments="", fmt="%.6g")


def _hdf5(folder: Path, arrays: Arrays) -> None:
    with h5py.File(folder / "d.h5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
        del file["x"]
        file.create_dataset("x", data=arrays["x"], chunks=(7, 5), compression="gzip")


def _data_safetensors(folder: Path, arrays: Arrays) -> None:
    save_arrays(arrays, folder / "d.safetensors")


def _data_torch(folder: Path, arrays: Arrays) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save(tensors, folder / "d.pt")
    torch.save(tensors, folder / "old.pth", _use_new_zipfile_serialization=False)


def _parquet(folder: Path, arrays: Arrays) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table(dict(zip(_NAMES, _columns(arrays).T, strict=True)))
    parquet.write_table(table, folder / "d.parquet")


_NAMES = (*(f"x{k}" for k in range(5)), "y0", "y1")


def _columns(arrays: Arrays) -> np.ndarray:
    return np.hstack([arrays["x"], arrays["y"]])


def _statistics(folder: Path, arrays: Arrays) -> None:
    np.savez(folder / "statistics.npz", **arrays)


def _images(folder: Path) -> None:
    from PIL import Image

    _beside(folder, '[data]\npath = "faces"\nstandardize = ["targets"]\n')
    torch.manual_seed(0)
    network = trained(ResNet(basic([1, 1], 4), nn.Linear(8, 1), width=4, kernel=3))
    save_file(network.state_dict(), folder / "net.safetensors")
    (folder / "faces").mkdir()
    rng = np.random.default_rng(0)
    for k in range(6):
        pixels = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
        pixels.save(folder / "faces" / f"{20 + k}_0_0_2017.{'png' if k % 2 else 'jpg'}")


def _toml(folder: Path) -> None:
    _with_data(_statistics)(folder)
    (folder / "nrc-probe.toml").write_text(TOML)


def _stored(folder: Path, **options: object) -> None:
    _beside(folder)
    save_network(folder / "net.pth")
    nrc_probe.dump(folder / "net.pth", output=folder / "a.h5", **options)


def _activations(folder: Path) -> None:
    _stored(folder, compression="gzip", heldout=str(folder / "data.npz"))


def _moments(folder: Path) -> None:
    _stored(folder, moments_only=True)
    save_data(folder / "more.npz", 30)
    nrc_probe.dump(folder / "net.pth", folder / "more.npz", output=folder / "m.h5", moments_only=True)


def _unfinished(folder: Path) -> None:
    def stop(_: str, rows: int, __: int | None) -> None:
        if rows >= 50:
            raise KeyboardInterrupt

    small = patch.object(layout, "_CHUNK_ROWS", 15), patch.object(writing, "_SECONDS_BETWEEN_COMMITS", 0)
    with small[0], small[1]:
        try:
            _stored(folder, batch_size=10, threads=1, progress=stop)
        except KeyboardInterrupt:
            assert (folder / "a.h5.partial.journal").exists()


def _plain_arrays(folder: Path) -> None:
    _beside(folder)
    with np.load(folder / "data.npz") as arrays:
        features = {"h1": arrays["x"], "h2": np.tanh(arrays["x"])}
        beside = {"y": arrays["y"], "p": arrays["y"] * 0.9, "w": np.eye(5, dtype=np.float32)[:3]}
    np.savez(folder / "plain.npz", **features, **beside)
    with h5py.File(folder / "plain.h5", "w") as file:
        for name, array in {**features, **beside}.items():
            file[name] = array


_NAMED = "--features h* --targets y --predictions p --weights h1=w -q"


def _results(folder: Path) -> None:
    """As a batch leaves them: results, a failure, and a claim of a process that has ended."""
    (folder / "runs").mkdir()
    _beside(folder / "runs")
    for epoch in (1, 2):
        body = {**_body(), "epoch": epoch}
        torch.save(body, folder / "runs" / f"{epoch}.pth")
    (folder / "runs" / "3.pth").write_bytes(b"")
    nrc_probe.batch(folder / "runs", folder / "results")
    for result in (folder / "results").glob("*.json"):
        same = re.sub(r'("seconds"): [\d.]+', r"\1: 0.5", result.read_text())  # of one length each time
        result.write_text(re.sub(r'("created"): "[^"]*"', r'\1: "2026-01-01T00:00:00+00:00"', same))
    owner = {"token": "0123456789ab", "place": "elsewhere", "pid": 1, "started": "1"}
    lock = folder / "results" / ".1.pth.lock"
    lock.write_text(json.dumps(owner))
    os.utime(lock, (LONG_AGO, LONG_AGO))


SUBJECTS: Mapping[str, Subject] = {
    "safetensors": Subject(_safetensors, "net.*", _checkpoint("net.safetensors"), ("out.*", "*.toml")),
    "shards": Subject(_shards, "net*", _checkpoint("net.safetensors.index.json"), ("out.*", "*.toml")),
    "torch": Subject(_torch, "net.*", _checkpoint("net.pt"), ("out.*", "*.toml")),
    "legacy": Subject(_legacy, "net.*", _checkpoint("net.pth"), ("out.*", "*.toml")),
    "lightning": Subject(_lightning, "net.*", _checkpoint("net.ckpt"), ("out.*", "*.toml")),
    "npz": Subject(_with_data(_npz), "d.npz", _data("d.npz")),
    "npy": Subject(_with_data(_npy), "d.npy", _data("d.npy", "--inputs 0:5 --targets 5:7")),
    "csv": Subject(_with_data(_csv), "d.csv", _data("d.csv", "--inputs 0:5 --targets y0,y1")),
    "hdf5": Subject(_with_data(_hdf5), "d.h5", _data("d.h5"), is_store=True),
    "data-safetensors": Subject(_with_data(_data_safetensors), "d.*", _data("d.safetensors")),
    "data-torch": Subject(_with_data(_data_torch), "d.pt", _data("d.pt")),
    "data-legacy": Subject(_with_data(_data_torch), "old.pth", _data("old.pth")),
    "parquet": Subject(_with_data(_parquet), "d.parquet", _data("d.parquet", "--targets y0,y1")),
    "images": Subject(_images, "faces/*", ("analyze net.safetensors -q -o out.json",)),
    "statistics": Subject(
        _with_data(_statistics),
        "statistics.npz",
        ("analyze net.pth --standardize statistics.npz -q -o out.json",),
    ),
    "toml": Subject(
        _toml,
        "nrc-probe.toml",
        (
            "analyze net.pth -q -o out.json",
            "layers net.pth",
            "batch . -q -o out.d",
            "dump net.pth -q -o out.h5",
        ),
    ),
    "activations": Subject(
        _activations, "a.h5", ("score a.h5 -q -o out.json", "score a.h5 --rank 1", "info a.h5"), is_store=True
    ),
    "moments": Subject(
        _moments,
        "a.h5",
        ("score a.h5 -q -o out.json", "info a.h5", "merge a.h5 m.h5 -o out.h5"),
        is_store=True,
    ),
    "unfinished": Subject(
        _unfinished,
        "a.h5.partial*",
        ("dump net.pth -q --resume -o a.h5 --batch-size 10 --threads 1", "info a.h5"),
        ("a.h5", "a.h5.partial", "a.h5.partial.journal"),
        is_store=True,
    ),
    "plain-npz": Subject(_plain_arrays, "plain.npz", (f"score plain.npz {_NAMED} -o out.json",)),
    "plain-hdf5": Subject(
        _plain_arrays, "plain.h5", (f"score plain.h5 {_NAMED} -o out.json",), is_store=True
    ),
    "result": Subject(
        _results,
        "results/*.json",
        (
            "report results -q -o out.html -o out.csv",
            "report results --by weight_decay",
            "report results/1.pth.json -q -o out.json",
            "report results --threshold nrc1=0.1 -o out.csv",
        ),
    ),
    "ledger": Subject(
        _results,
        "results/.*",
        ("batch runs -q -o results",),
        ("results/*", "results/.*"),
    ),
    "recorded": Subject(
        _results,
        "results/*.json",
        ("batch runs -q -o results", "batch runs -o results --dry-run"),
        ("results/*", "results/.*"),
    ),
}
"""By name of the format."""
