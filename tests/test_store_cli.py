"""dump, score, merge and info on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from books import arrays_in, study
from test_cli import Run
from test_cli import run as run  # a fixture

from nrc_probe import analyze, dump, info
from nrc_probe.store.writing import partial_of

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    study(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scores(text: str) -> object:
    document = json.loads(text)
    return [(layer["name"], layer["nrc1"], layer["nrc4"]) for layer in document["layers"]]


def test_a_dump_is_written_told_and_scored_as_analyze_would(run: Callable[..., Run], folder: Path) -> None:
    written = run("dump", "net.pth", "--data", "data.npz", "-o", "a.h5")
    assert written.code == 0
    assert written.err.splitlines()[0].startswith("a.h5: about 47.3 KiB to write, ")
    for words in ("a.h5: ", "activations as float32, compression none", "layers.2 (Linear)", "60"):
        assert words in written.out
    analysed = run("analyze", "net.pth", "--data", "data.npz", "--json", "-")
    scored = run("score", "a.h5", "--json", "-", "-o", "s.csv")
    assert scores(scored.out) == scores(analysed.out)
    assert (folder / "s.csv").read_text().count("\n") == 4
    report = run("score", "a.h5").out
    assert report == run("analyze", "net.pth", "--data", "data.npz").out


def test_info_says_what_is_inside(run: Callable[..., Run]) -> None:
    dump("net.pth", "data.npz", output="a.h5", dtype="bfloat16", compression="gzip", moments=True)
    said = run("info", "a.h5").out
    assert len(said.splitlines()) < 24
    for words in (
        "checkpoint net.pth",
        "data       data.npz: inputs 'x', targets 'y'",
        "rows       60, targets 2 wide",
        "activations as bfloat16, compression gzip, moments",
        " layers.4 (Linear)",
        "weight, moments",
    ):
        assert words in said, said


def test_info_says_what_is_standardised(run: Callable[..., Run]) -> None:
    for name, options, there in (("a.h5", (), False), ("s.h5", ("--standardize", "targets"), True)):
        assert run("dump", "net.pth", "--data", "data.npz", *options, "-o", name, "-q").code == 0
        assert (", standardised: targets" in " ".join(run("info", name).out.split())) == there


def test_a_partial_dump_that_is_not_there_is_said_not_to_be(run: Callable[..., Run], folder: Path) -> None:
    run("info", "a.h5.partial").fails(1, "a.h5.partial: there is no such file")
    (folder / "a.h5.partial").touch()
    run("score", "a.h5.partial").fails(1, "a.h5.partial: the dump is not complete; resume it")


def test_info_tells_the_rows_and_sizes_of_sums(run: Callable[..., Run], folder: Path) -> None:
    dump("net.pth", "data.npz", output="m.h5", moments_only=True)
    said = run("info", "m.h5").out
    size = (folder / "m.h5").stat().st_size / 1024
    assert f"m.h5: {size:.1f} KiB, " in said
    # n, mean_h, mean_y, scatter_hh, scatter_hy, scatter_yy of 8 features and 2 targets, in float64
    sums = 8 * (1 + 8 + 2 + 64 + 16 + 4)
    row = next(line for line in said.splitlines() if line.startswith(" layers.2 "))
    assert row.split() == ["layers.2", "(Linear)", "8", "8", "60", str(sums), "B", "weight,", "moments"]


def test_quiet_commands_say_nothing(run: Callable[..., Run]) -> None:
    for command in (
        ("dump", "net.pth", "--data", "data.npz", "-o", "a.h5", "--moments", "-q"),
        ("dump", "net.pth", "--data", "data.npz", "-o", "b.h5", "--moments-only", "--limit", 20, "-q"),
        ("score", "a.h5", "-q"),
    ):
        done = run(*command)
        assert (done.code, done.out, done.err) == (0, "", "")


def test_moments_are_merged(run: Callable[..., Run]) -> None:
    arrays = arrays_in("data.npz")
    for name, rows in (("one", slice(0, 20)), ("two", slice(20, 60))):
        np.savez(f"{name}.npz", x=arrays["x"][rows], y=arrays["y"][rows])
        dump("net.pth", f"{name}.npz", output=f"{name}.h5", moments_only=True)
    done = run("merge", "one.h5", "two.h5", "-o", "both.h5")
    assert done.code == 0
    assert "rows       60" in done.out
    run("merge", "one.h5", "one.h5", "-o", "no.h5").fails(1, "one.h5: its rows are in one.h5 too")
    run("merge", "one.h5", "-o", "no.h5").fails(1, "merge takes two files or more, got 1")


def test_analyze_keeps_activations_and_sums(run: Callable[..., Run], folder: Path) -> None:
    done = run("analyze", "net.pth", "--data", "data.npz", "--dump", "a.h5", "--save-moments", "m.h5")
    assert done.code == 0
    assert info(folder / "a.h5").dtype == "float32"
    assert info(folder / "m.h5").dtype is None
    assert scores(run("score", "m.h5", "--json", "-").out) == scores(
        run("analyze", "net.pth", "--data", "data.npz", "--json", "-").out
    )


def test_arrays_of_others_are_named(run: Callable[..., Run], folder: Path) -> None:
    arrays = arrays_in("data.npz")
    np.savez(folder / "h.npz", h1=arrays["x"], w1=np.eye(5), y=arrays["y"], p=arrays["y"] * 0.9)
    names = ("--features", "h*", "--targets", "y", "--predictions", "p", "--weights", "h1=w1")
    layers = json.loads(run("score", "h.npz", *names, "--json", "-").out)["layers"]
    assert [layer["name"] for layer in layers] == ["h1"]
    assert layers[0]["nrc3"] is not None
    bare = (
        "--features",
        "h*",
        "--targets",
        "y",
        "--html",
        "p.html",
        "-o",
        "f.svg",
        "-o",
        "r.json",
        "-o",
        "r.csv",
    )
    done = run("score", "h.npz", *bare)
    assert done.code == 0, done.err
    assert "layers of h.npz (activations)" in done.out
    assert all((folder / name).stat().st_size for name in ("p.html", "f.svg", "r.json", "r.csv"))
    assert run("report", "r.json", "--html", "s.html").code == 0
    run("score", "h.npz").fails(1, "h.npz: which array holds the targets? It has h1 (60, 5)", "--targets")
    run("score", "h.npz", "--weights", "h1").misused("--weights 'h1': expected NAME=X")


def test_errors_are_one_line_and_leave_nothing(run: Callable[..., Run], folder: Path) -> None:
    run("score", "none.h5").fails(1, "none.h5: there is no such file")
    run("info", "data.npz").fails(1, "data.npz: cut short, damaged or no file of schema")
    run("dump", "net.pth", "--data", "data.npz").misused("Missing option '-o'")
    run("dump", "net.pth", "--data", "data.npz", "-o", "data.npz").fails(
        1, "it exists and holds no activations"
    )
    run("dump", "net.pth", "--data", "data.npz", "-o", "a.h5", "--layers", "fc").fails(1, "layer 'fc' is not")
    assert sorted(path.name for path in folder.iterdir()) == ["data.npz", "net.pth"]


def test_an_unfinished_dump_is_told_and_resumed(
    run: Callable[..., Run], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_store import Stopped, stop_after

    with monkeypatch.context() as patch:
        patch.setattr("nrc_probe.store.writing._SECONDS_BETWEEN_COMMITS", 0.0)
        stop_after(4, patch)
        with pytest.raises(Stopped):
            dump("net.pth", "data.npz", output="a.h5", batch_size=10)
    run("score", "a.h5").fails(1, "'a.h5.partial', a dump that is not complete", "-o 'a.h5' --resume")
    assert "not complete (dump --resume goes on)" in " ".join(run("info", "a.h5").out.split())
    again = ("dump", "net.pth", "--data", "data.npz", "-o", "a.h5", "--batch-size", 10)
    assert run(*again).err.splitlines()[-1].startswith("nrc-probe: a.h5.partial: an unfinished dump is there")
    assert run(*again, "--resume").code == 0
    assert not partial_of(folder / "a.h5").exists()
    assert analyze("net.pth", "data.npz", batch_size=10).model_mse == pytest.approx(
        json.loads(run("score", "a.h5", "--json", "-").out)["model_mse"]
    )
