"""Files that want to harm whoever analyses them: no code runs, no command believes them, no name escapes."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import shlex
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from fuzz import worker
from runs import save_data, save_network, small_network
from safetensors.torch import save_file

from nrc_probe.cli import main

CANARY = Path("canary")
"""What code from a file makes, in the current folder."""
HARMLESS = "nrc-probe: "


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a checkpoint net.pth, its data.npz and code that makes the canary."""
    monkeypatch.chdir(tmp_path)
    save_network(tmp_path / "net.pth")
    save_data(tmp_path / "data.npz")
    (tmp_path / "trap.py").write_text(
        "import os\nos.mkdir('canary')\ndef spring(*_, **__):\n    return None\n"
    )
    monkeypatch.delitem(sys.modules, "trap", raising=False)
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    def call(command: str) -> str:
        """All that a command says; it may fail, in one line, and must not have run code."""
        monkeypatch.setattr(sys, "argv", ["nrc-probe", *shlex.split(command)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capfd.readouterr()
        assert stopped.value.code in (0, 1, 3), err
        assert not CANARY.exists(), command
        if stopped.value.code == 1:
            assert len(err.splitlines()) == 1
            assert err.startswith(HARMLESS)
        assert all(line.isprintable() for line in (out + err).splitlines())
        return out + err

    return call


# ------------------------------------------------------------------------------------------ pickles


class Bomb:
    """Unpickling it makes the canary."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(CANARY),)


def test_the_bomb_goes_off_where_pickles_are_opened(folder: Path) -> None:
    pickle.loads(pickle.dumps(Bomb()))
    assert (folder / CANARY).is_dir()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
def test_no_command_runs_the_pickle_in_a_checkpoint(
    suffix: str, zipped: bool, folder: Path, run: Callable[[str], str]
) -> None:
    name = f"bad{suffix}"
    saved = {"model": small_network().state_dict(), "epoch": Bomb()}
    torch.save(saved, folder / name, _use_new_zipfile_serialization=zipped)
    for command in (
        f"analyze {name} --data data.npz",
        f"layers {name}",
        f"dump {name} --data data.npz -o out.h5",
        f"score {name} --features x --targets y",
    ):
        said = run(command)
        assert "mkdir" in said or "unknown kind of file" in said or "cut short, damaged" in said
    (folder / "net.pth").unlink()
    assert "mkdir" in run("batch . -o results --data data.npz")
    run("init . --force")
    if suffix in (".pt", ".pth"):
        save_network(folder / "net.safetensors.pth")
        assert "mkdir" in run(f"analyze net.safetensors.pth --data {name}")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pkl", ".h5", ".pt"])
def test_no_command_runs_a_bare_pickle_or_an_array_of_objects(
    suffix: str, folder: Path, run: Callable[[str], str]
) -> None:
    objects = np.array([[Bomb()] * 7] * 60, dtype=object)
    for kind in ("array", "pickle"):
        name = f"{kind}{suffix}"
        if kind == "array" and suffix == ".npz":
            np.savez(folder / name, x=objects, y=objects, inputs_mean=objects, inputs_std=objects)
        elif kind == "array" and suffix == ".npy":
            np.save(folder / name, objects)
        else:
            (folder / name).write_bytes(pickle.dumps(Bomb()))
        run(f"analyze net.pth --data {name} --inputs 0:5 --targets 5:7")
        run(f"analyze net.pth --data {name}")
        run(f"analyze net.pth --data data.npz --heldout {name}")
        run(f"analyze net.pth --data data.npz --standardize {name}")
        run(f"analyze net.pth --data data.npz --targets {name}")
        run(f"analyze {name} --data data.npz")
        run(f"score {name} --features x --targets y")
        run(f"info {name}")
        run(f"merge {name} {name} -o out.h5")
        run(f"report {name}")
    run("init .")


# ----------------------------------------------------------------------------------------- factories


TRAPS = {
    "model": '[model]\narchitecture = "trap:spring"\n[data]\npath = "data.npz"\n',
    "data": '[data]\npath = "trap:spring"\n',
    "held out": '[data]\npath = "data.npz"\n[heldout]\npath = "trap:spring"\n',
}


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("where", ["beside", "above", "metadata"])
def test_no_command_runs_the_factory_of_a_found_file(
    trap: str, where: str, folder: Path, run: Callable[[str], str]
) -> None:
    place = folder / "runs"
    place.mkdir()
    (folder / "net.pth").unlink()
    said = {}
    if where == "metadata":
        kinds = {"model": {"architecture": "trap:spring"}, "data": {"path": "trap:spring"}}
        said = {trap: kinds[trap]} if trap in kinds else {"heldout": {"path": "trap:spring"}}
        said = {"nrc_probe": json.dumps({"data": {"path": "../data.npz"}} | said)}
    else:
        text = TRAPS[trap].replace("data.npz", "../data.npz" if where == "beside" else "data.npz")
        ((place if where == "beside" else folder) / "nrc-probe.toml").write_text(text)
    save_file(small_network().state_dict(), place / "net.safetensors", said)
    refused = "'trap:spring' would run code that a file asks for"
    for command in (
        "analyze runs/net.safetensors",
        "dump runs/net.safetensors -o a.h5",
        "batch runs -o results",
    ):
        assert refused in run(command)
    run("layers runs/net.safetensors")
    run("init runs --force")


def test_the_factory_runs_where_it_is_typed(folder: Path, run: Callable[[str], str]) -> None:
    with pytest.raises(AssertionError, match="analyze"):
        run("analyze net.pth --data trap:spring")
    assert (folder / CANARY).is_dir()


# ------------------------------------------------------------------------------------- other files


@pytest.mark.parametrize("key", ["path", "targets", "standardize", "heldout"])
@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/mem", "/proc/self/environ", "/", "~root/x"]
)
def test_a_configuration_that_points_at_the_system_reads_and_shows_nothing(
    path: str, key: str, folder: Path, run: Callable[[str], str]
) -> None:
    said = {"path": '"data.npz"'} | ({key: f'"{path}"'} if key != "heldout" else {})
    text = "[data]\n" + "".join(f"{name} = {value}\n" for name, value in said.items())
    (folder / "nrc-probe.toml").write_text(
        text + (f'[heldout]\npath = "{path}"\n' if key == "heldout" else "")
    )
    for command in ("analyze net.pth", "batch . -o results", "dump net.pth -o a.h5"):
        shown = run(command)
        assert path.removeprefix("~") in shown
        assert "root:" not in shown
        assert "PATH=" not in shown


@pytest.mark.parametrize("name", ["d.npz", "d.npy", "d.csv", "d.h5", "d.pt", "d.safetensors"])
@pytest.mark.parametrize("target", ["/dev/zero", "/proc/self/mem", "/dev/tty", "/", "nowhere"])
def test_a_link_to_what_is_no_file_is_no_file_either(
    name: str, target: str, folder: Path, run: Callable[[str], str]
) -> None:
    (folder / name).symlink_to(target)
    for command in (f"analyze net.pth --data {name}", f"analyze {name}", f"score {name}", f"info {name}"):
        assert run(command).startswith(HARMLESS)


def test_a_link_to_a_checkpoint_is_read_and_stays_a_link(folder: Path, run: Callable[[str], str]) -> None:
    before = (folder / "net.pth").read_bytes()
    (folder / "link.pth").symlink_to("net.pth")
    run("analyze link.pth --data data.npz -o out.json")
    assert (folder / "out.json").exists()
    assert (folder / "link.pth").is_symlink()
    assert (folder / "net.pth").read_bytes() == before


@pytest.mark.parametrize("form", ["json", "csv", "html", "h5"])
def test_no_output_replaces_what_a_link_of_its_name_leads_to(
    form: str, folder: Path, run: Callable[[str], str]
) -> None:
    (folder / "precious.txt").write_text("mine")
    (folder / f"out.{form}").symlink_to("precious.txt")
    option = "--dump" if form == "h5" else "-o"
    said = run(f"analyze net.pth --data data.npz {option} out.{form}")
    assert f"cannot write 'out.{form}': it is a link to " in said
    assert (folder / "precious.txt").read_text() == "mine"


# ----------------------------------------------------------------------------------------- archives


def zeros(path: Path, **shapes: tuple[int, ...]) -> None:
    """An archive of arrays of zeros, a thousandth of their size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, shape in shapes.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for start in range(0, math.prod(shape), 2**20):
                    file.write(bytes(4 * min(2**20, math.prod(shape) - start)))


def with_a_long_pickle(path: Path, times: int) -> None:
    """A zip of torch.save that says `times` times that a tuple begins."""
    torch.save(small_network().state_dict(), path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            begin = content[:2] + b"(" * times + content[2:] if name.endswith("data.pkl") else content
            archive.writestr(name, begin)


def test_what_unpacks_to_a_thousand_times_its_size_costs_no_memory(folder: Path) -> None:
    n = 60 * 10**6
    zeros(folder / "unused.npz", x=(60, 5), y=(60, 2), z=(n,))
    zeros(folder / "long.npz", x=(60, 5), y=(n,))
    zeros(folder / "wide.npz", x=(60, 5), y=(60, n // 60))
    with_a_long_pickle(folder / "pickle.pt", n)
    with h5py.File(folder / "filled.h5", "w") as file:
        file.create_dataset("x", (10**12, 5), "f4", chunks=(1000, 5))
        file.create_dataset("y", (10**12, 2), "f4", chunks=(1000, 2))
    commands = {
        "analyze net.pth -q --data unused.npz --standardize inputs,targets": "",
        "analyze net.pth -q --data long.npz": "inputs 'x' have 60 rows, targets 'y' have 60000000",
        "analyze net.pth -q --data wide.npz": "the covariance of targets 'y', 1000000 wide, needs ",
        "score wide.npz -q --features x --targets y": "the covariance of 5 features and 1000000 targets ",
        "analyze net.pth -q --data filled.h5": "was made but never written",
        "analyze pickle.pt -q --data data.npz": "is compressed, which torch.save never does",
        "analyze net.pth -q --data pickle.pt": "is compressed, which torch.save never does",
    }
    with worker.server() as server:
        for command, expected in commands.items():
            done = server.run(command.split(), folder)
            assert (done.code, expected in done.err) == (1 if expected else 0, True), done.err
            assert done.extra_kib < 50 * 1024, command
            assert done.seconds < 5, command


# -------------------------------------------------------------------------------------------- names


NAME = "[red]x[/]\x1b[2J\x9b\u202e<script>alert(1)</script>"
"""Of a file, a folder or a layer: Rich's markup, terminal sequences, an override of direction, HTML."""


def test_no_name_escapes_from_any_command_into_a_terminal_or_any_file_that_is_written(
    folder: Path, run: Callable[[str], str]
) -> None:
    pytest.importorskip("matplotlib")
    runs = folder / "runs" / (NAME.replace("/", "") + "\n")
    runs.mkdir(parents=True)
    state = {f"{NAME}\n.{name}": tensor for name, tensor in small_network().state_dict().items()}
    for epoch in (1, 2):
        torch.save({"model": state, "epoch": epoch}, runs / f"{epoch}\n[b].pth")
    (runs / "3\x1b.pth").write_bytes(b"no checkpoint\x1b[2J")
    net = shlex.quote(str(runs / "1\n[b].pth"))
    commands = (
        "init runs",
        f"layers {net}",
        f"dump {net} --data data.npz -o a.h5 --moments",
        f"dump {net} --data data.npz --limit 9 -o b.h5 --moments-only",
        "info a.h5",
        "score a.h5 -o a.html -o a.csv -o a.svg -o a.json",
        "batch runs -o results --data data.npz",
        "batch runs -o results --data data.npz",
        "report results -o r.html -o r.csv -o r.json --figure r.svg",
        "report results --by weight_decay",
    )
    for command in commands:
        assert "[red]x[/]" in run(command) or command.startswith("init"), command
    run("analyze " + net + " --data " + net)
    texts = {path: path.read_text() for form in ("html", "csv", "svg") for path in folder.glob(f"*.{form}")}
    assert len(texts) == 6
    for path, text in texts.items():
        assert all(line.isprintable() for line in re.split(r"[\n\t]", text)), path
        assert "alert(1)" in text, path
        assert path.suffix == ".csv" or "<script>alert" not in text, path
