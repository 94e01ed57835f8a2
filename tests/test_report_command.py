"""`nrc-probe report`, and the figures and pages of `analyze`: real results of tiny networks."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from studies import real_results
from test_cli import Run, run

import nrc_probe

__all__ = ["run"]  # a fixture


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_results(tmp_path_factory.mktemp("study"))


@pytest.fixture
def results(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy in the current folder."""
    shutil.copytree(made, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


Command = Callable[..., Run]


def test_the_report_shows_checkpoints_courses_and_words(run: Command, results: Path) -> None:
    done = run("report", results)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("6 checkpoints in 2 runs\n")
    for words in ("weight decay 0.01", "11.pth", "conditions over training", "error not settled"):
        assert words in done.out
    assert "by weight decay" not in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_by_sets_runs_side_by_side(run: Command, results: Path) -> None:
    done = run("report", "--by", "weight_decay", results)
    assert "\nby weight decay\n" in done.out
    assert run("report", "--by", "dropout", results).fails(1, "field 'dropout' is not recorded") is None


def test_what_is_printed_is_in_the_numbers(run: Command, results: Path) -> None:
    rows = nrc_probe.read_results(results).runs[1].final.to_rows()
    done = run("report", "--by", "weight_decay", results)
    shown = done.out[done.out.index("by weight decay") :]
    for row in rows:
        assert f"{row['nrc1']:.3f}" in shown


def test_every_form_is_written_beside_the_report(run: Command, results: Path, tmp_path: Path) -> None:
    forms = ["--csv", "all.csv", "--json", "all.json", "--html", "all.html", "-o", "more.html"]
    done = run("report", results, *forms)
    assert done.code == 0
    assert "6 checkpoints" in done.out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "all.csv").read_text())))
    assert len(rows) == len(json.loads((tmp_path / "all.json").read_text())) == 6 * 3
    assert {row["run"] for row in rows} == {"weight decay 0", "weight decay 0.01"}
    assert (tmp_path / "all.html").read_bytes() == (tmp_path / "more.html").read_bytes()


def test_figures_of_each_kind_come_from_the_command(run: Command, results: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for kind in ("layers", "rank", "weight-decay", "epochs"):
        assert run("report", results, "--figure", f"{kind}.svg", "--kind", kind, "-q").code == 0
    drawn = {path.read_bytes() for path in tmp_path.glob("*.svg")}
    assert len(drawn) == 4


def test_parquet_comes_from_the_command(run: Command, results: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run("report", results, "--parquet", "all.parquet", "-q").out == ""
    assert parquet.read_table(tmp_path / "all.parquet").num_rows == 18


def test_a_form_on_standard_output_takes_the_report_s_place(run: Command, results: Path) -> None:
    done = run("report", results, "--json", "-")
    assert len(json.loads(done.out)) == 18


def test_thresholds_judge_anew(run: Command, results: Path) -> None:
    strict = run("report", results, "--threshold", "nrc1=-1")
    assert "No collapse up to the last layer" in strict.out
    assert "NRC1 █ <= -1" in strict.out
    run("report", results, "--threshold", "nrc9=1").fails(1, "threshold 'nrc9' is unknown")


def test_analyze_writes_the_page_and_the_figure_of_one_checkpoint(
    run: Command, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    checkpoint = made.parent / "runs" / "wd_0.01000" / "11.pth"
    data = ("--data", made.parent / "train.npz", "-q")
    done = run("analyze", checkpoint, *data, "--html", "a.html", "--figure", "a.pdf", "-o", "a.svg")
    assert (done.code, done.out) == (0, "")
    assert "1 checkpoint" not in done.out
    assert "11.pth" in (tmp_path / "a.html").read_text(encoding="utf-8")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    rank = run("analyze", checkpoint, *data, "--figure", "b.svg", "--kind", "rank")
    assert rank.code == 0
    assert (tmp_path / "a.svg").read_bytes() != (tmp_path / "b.svg").read_bytes()


def test_a_kind_of_figure_without_a_figure_is_an_error(run: Command, results: Path) -> None:
    for outputs in ((), ("-q",), ("--csv", "a.csv")):
        refused = run("report", results, "--kind", "epochs", *outputs)
        assert refused.code == 2
        assert "'--kind': it says what a figure shows: name one with --figure" in refused.err
    pytest.importorskip("matplotlib")
    assert run("report", results, "--kind", "epochs", "-o", "a.svg", "-q").code == 0


def test_a_figure_by_a_field_that_does_not_vary_is_drawn_and_said_to_be_so(
    run: Command, results: Path
) -> None:
    pytest.importorskip("matplotlib")
    figure = ("--figure", "a.svg", "--kind", "weight-decay", "-q")
    done = run("report", results, *figure, "--by", "rank")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("rank is target in each of the results")
    assert run("report", results, *figure).err == ""
    assert "weight decay is 0 in each" in run("report", results / "wd_0.00000", *figure).err


# ----------------------------------------------------------------------------------------- refusals


def test_a_missing_extra_is_said_before_the_pass(
    run: Command, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("nrc_probe.probe.analyze", lambda *_, **__: pytest.fail("the pass was run"))
    checkpoint = made.parent / "runs" / "wd_0.01000" / "11.pth"
    run("analyze", checkpoint, "--figure", "a.svg").fails(1, "writing .svg needs matplotlib", "[figures]")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], ["nowhere: no such file or folder"]),
        (["empty"], ["empty: expected results of schema", "found no JSON file"]),
        (["results", "--threshold", "nrc1=a"], ["NAME=NUMBER"]),
        (["wide", "--csv", "x.csv", "--figure", "x.svg", "--kind", "epochs"], ["at least 2 checkpoints"]),
        (["results", "--figure", "x.jpg"], ["'x.jpg': expected a name that ends in .pdf or .svg or .png"]),
        (["results", "--csv", "no/x.csv"], ["cannot write 'no/x.csv': there is no folder 'no'"]),
        (["results", "-o", "x.csv", "--csv", "x.csv"], ["'x.csv': named twice"]),
        (["results", "--html", "empty"], ["cannot write 'empty': it is a folder"]),
        (["results", "--settled-within", "0"], ["settled-within"]),
        (["results", "--settled-within", "nan"], ["settled_within must be a number above 0, got nan"]),
        (["results", "--settled-within", "inf", "--html", "x.html"], ["a number above 0, got inf"]),
        (["results", "--threshold", "nrc1=inf"], ["threshold nrc1 must be a number, got inf"]),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_no_file(
    arguments: list[str], words: list[str], run: Command, results: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "wide").mkdir()
    shutil.copy(results / "wd_0.00000" / "1.pth.json", tmp_path / "wide")
    before = sorted(tmp_path.rglob("*"))
    done = run("report", *arguments)
    assert done.code in (1, 2)
    assert done.out == ""
    assert all(word in done.err for word in words), done.err
    assert "Traceback" not in done.err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_never_takes_the_place_of_a_result(run: Command, results: Path) -> None:
    path = results / "wd_0.00000" / "1.pth.json"
    before = path.read_bytes()
    run("report", results, "--json", path).fails(1, "it was read")
    assert path.read_bytes() == before


def test_broken_files_are_named_and_do_not_stop_the_report(run: Command, results: Path) -> None:
    (results / "3.pth.json").write_text("{")
    (results / "4.pth.failed.json").write_text('{"checkpoint": "runs/4.pth", "reason": "truncated"}')
    done = run("report", results)
    assert done.code == 0
    assert "1 failed, 1 unreadable" in done.out
    assert "runs/4.pth: truncated" in done.out
    assert done.err == ""


def test_what_could_not_be_read_is_said_on_standard_error_where_no_report_is(
    run: Command, results: Path
) -> None:
    (results / "3.pth.json").write_text("{")
    for form in (("--json", "-"), ("--csv", "all.csv", "--quiet")):
        done = run("report", results, *form)
        assert done.code == 0
        (line,) = done.err.splitlines()
        assert "could not be read:" in line
        assert "3.pth.json: not JSON" in line
