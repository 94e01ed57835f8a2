"""`nrc-probe batch` and `nrc-probe init`: what they print where, and their exit codes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import save_data, save_network

from nrc_probe.cli import main
from nrc_probe.sweep import sweep

HOPPER = Path(__file__).parents[1] / "fixtures" / "hopper"

Run = Callable[..., tuple[object, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["nrc-probe", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return stopped.value.code, out, err

    return call


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: runs/1.pth to runs/3.pth, and data.npz."""
    monkeypatch.chdir(tmp_path)
    for epoch in (1, 2, 3):
        save_network(tmp_path / "runs" / f"{epoch}.pth")
    save_data(tmp_path / "data.npz")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_lines_go_to_standard_error_and_the_table_to_standard_output(run: Run) -> None:
    code, out, err = run("batch", "runs", "-o", "out", "--data", "data.npz")
    assert code == 0
    assert [line.split(":")[0] for line in err.splitlines()] == [f"{n} of 3  {n}.pth" for n in (1, 2, 3)]
    assert [line.split()[:2] for line in out.splitlines() if ".pth" in line] == [
        [f"{n}.pth", "scored"] for n in (1, 2, 3)
    ]
    assert out.splitlines()[-1] == "3 scored; results in out"
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.usefixtures("folder")
def test_nothing_left_to_do_is_success(run: Run) -> None:
    run("batch", "runs", "-o", "out", "--data", "data.npz")
    code, out, err = run("batch", "runs", "-o", "out", "--data", "data.npz")
    assert (code, out.splitlines()[-1]) == (0, "3 done already; results in out")
    assert "2 of 3  2.pth: done already" in err


def test_failures_give_exit_code_3_and_their_reasons_after_the_table(folder: Path, run: Run) -> None:
    (folder / "runs" / "2.pth").write_bytes(b"")
    code, out, err = run("batch", "runs", "-o", "out", "--data", "data.npz")
    assert code == 3
    assert "2 of 3  2.pth: failed: the file is empty (0 bytes)" in err
    assert "\nfailed\n  - 2.pth: the file is empty (0 bytes)" in out
    assert out.endswith("2 scored, 1 failed; results in out\n")


@pytest.mark.usefixtures("folder")
def test_quiet_says_nothing_and_a_dry_run_does_nothing(run: Run) -> None:
    words = ("batch", "runs", "-o", "out", "--data", "data.npz")
    code, out, _ = run(*words, "--dry-run")
    assert (code, out.splitlines()[-1]) == (0, "3 to do; results would go to out")
    assert out.splitlines()[0].split() == ["checkpoint", "state"]
    assert [line.split() for line in out.splitlines()[1:4]] == [[f"{n}.pth", "to", "do"] for n in (1, 2, 3)]
    assert not Path("out").exists()
    assert run(*words, "--quiet") == (0, "", "")
    assert len(list(Path("out").iterdir())) == 3


@pytest.mark.usefixtures("folder")
def test_options_of_both_kinds_arrive(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    seen: dict[str, object] = {}

    def batch(*arguments: object, **options: object) -> object:
        seen.update(options, arguments=arguments)
        return sweep.Sweep(Path("runs"), Path("out"), ())

    monkeypatch.setattr(sweep, "batch", batch)
    words = (
        "--include 1* --include 2* --exclude 3* --exclude-layers a* --workers 2 --force --dry-run "
        "--limit 5 --threshold nrc1=0.1 --standardize inputs --rank auto"
    )
    assert run("batch", "runs", "-o", "out", "--data", "d.npz", "-q", *words.split())[0] == 0
    assert seen == {
        "arguments": (Path("runs"), Path("out"), "d.npz"),
        "progress": None,
        "include": ("1*", "2*"),
        "exclude": ("3*",),
        "exclude_layers": ("a*",),
        "workers": 2,
        "force": True,
        "dry_run": True,
        "limit": 5,
        "thresholds": {"nrc1": 0.1},
        "standardize": ("inputs",),
        "rank": "auto",
    }


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("none", "-o", "out"), 1, "nrc-probe: none: expected a folder of checkpoints, got nothing there"),
        (("runs/1.pth", "-o", "out"), 1, "got a file (use 'nrc-probe analyze')"),
        (("runs", "-o", "data.npz"), 1, "nrc-probe: cannot write below 'data.npz': it is no folder"),
        (("runs", "-o", "out", "--workers", "0"), 1, "workers must be an integer from 1 to 256, got 0"),
        (("runs",), 2, "nrc-probe: Missing option '-o' / '--output'."),
    ],
)
def test_what_is_wrong_at_once_is_one_line(words: tuple[str, ...], code: int, line: str, run: Run) -> None:
    ended, out, err = run("batch", *words)
    assert (ended, out) == (code, "")
    assert line in err.splitlines()[-1]
    assert not Path("out").exists()


def test_init_writes_a_file_with_which_batch_needs_no_other_word(tmp_path: Path, run: Run) -> None:
    for path in HOPPER.iterdir():
        if path.is_file() and path.suffix != ".toml":
            shutil.copy(path, tmp_path)
    code, out, err = run("init", tmp_path)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"wrote {tmp_path}/nrc-probe.toml"
    assert "  - standardised: inputs and targets; the network's R² is then 0.973" in out
    assert out.splitlines()[-1] == "nothing is left to fill in: try 'nrc-probe batch'"
    assert run("batch", tmp_path, "-o", tmp_path / "out", "--limit", "200", "-q")[0] == 0
    code, _, err = run("init", tmp_path)
    assert code == 1
    assert "it is there already (add --force to replace it)" in err


@pytest.mark.usefixtures("folder")
def test_init_says_what_is_left_to_fill_in(run: Run) -> None:
    Path("data.npz").unlink()
    code, out, _ = run("init", "runs")
    assert code == 0
    assert "left to fill in\n  - [data] path: no data file near fits the network's 5 inputs and 2" in out
