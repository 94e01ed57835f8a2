"""The command line: what it prints where, its exit codes, its one line for whatever is wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import ResNet, basic, trained
from runs import save_data, save_network, small_network
from safetensors.torch import save_file
from torch import nn

from nrc_probe import __version__, probe
from nrc_probe.cli import main

ROOT = Path(__file__).parent.parent
HOPPER = ROOT / "fixtures" / "hopper"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


class Run:
    """What one run left: exit code, standard output, standard error."""

    def __init__(self, code: object, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def fails(self, code: int, *words: str) -> None:
        """Nothing on standard output, one line on standard error, with these words in it."""
        lines = self.err.splitlines()
        assert (self.code, self.out, len(lines)) == (code, "", 1), self.err
        assert lines[0].startswith("nrc-probe: ")
        assert [word for word in words if word not in lines[0]] == [], lines[0]

    def misused(self, *words: str) -> None:
        """Exit code 2; one line with these words in it, and where the usage stands."""
        self.fails(2, *words, "(see 'nrc-probe", "--help')")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    def call(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["nrc-probe", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as stopped:
            main()
        return Run(stopped.value.code, *capsys.readouterr())

    return call


def process(*arguments: object, cwd: Path = ROOT, **options: object) -> Run:
    done = subprocess.run(
        [sys.executable, "-m", "nrc_probe", *map(str, arguments)],
        capture_output=True,
        cwd=cwd,
        env={**ENVIRONMENT, **options.pop("env", {})},
        timeout=60,
        check=False,
    )
    return Run(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a checkpoint `net.pth` and its data `data.npz`."""
    save_network(tmp_path / "net.pth")
    save_data(tmp_path / "data.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --------------------------------------------------------------------------------- what it prints


@pytest.mark.parametrize("name", ["wd_0", "wd_1e-3"])
def test_a_checkpoint_beside_its_configuration_needs_no_other_word(
    name: str, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    done = run("analyze", f"fixtures/hopper/{name}.safetensors")
    assert done.code == 0
    assert all(" rows" in line for line in done.err.splitlines()), "only progress, on a slow machine"
    assert f"checkpoint fixtures/hopper/{name}.safetensors\n" in done.out
    assert "data       fixtures/hopper/train.npz: 4,000 rows, 3 targets of rank 3" in done.out
    assert "held out   fixtures/hopper/test.npz: 1,000 rows" in done.out
    assert "collapsed from here on: NRC1 <= 0.2" in done.out


@pytest.mark.usefixtures("folder")
def test_the_data_path_stays_absolute_where_it_is_not_below_the_current_folder(
    run: Callable[..., Run],
) -> None:
    done = run("analyze", HOPPER / "wd_0.safetensors", "--limit", 50, "--json", "-")
    assert json.loads(done.out)["data"]["path"] == str(HOPPER / "train.npz")


def test_python_dash_m_is_the_command_and_prints_plain_complete_text_into_a_pipe() -> None:
    done = process("analyze", "fixtures/hopper/wd_1e-3.safetensors", "--limit", 500)
    assert done.code == 0
    assert "\x1b" not in done.out + done.err
    assert max(map(len, done.out.splitlines())) <= 80
    for name in range(0, 16, 2):
        assert f" layers.{name} " in done.out
    assert "warnings\n  - only the first 500 of 4000 rows were used (--limit)" in done.out


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_names_the_commands(word: str, run: Callable[..., Run]) -> None:
    done = run(word)
    assert (done.code, done.err) == (0, "")
    assert "analyze  Score every layer of CHECKPOINT." in done.out
    assert "layers   List what would be scored" in done.out


def test_without_a_word_the_help_is_shown(run: Callable[..., Run]) -> None:
    done = run()
    assert "analyze  Score every layer of CHECKPOINT." in done.out + done.err


def test_version_is_the_package_s(run: Callable[..., Run]) -> None:
    done = run("--version")
    assert (done.code, done.out) == (0, f"nrc-probe, version {__version__}\n")


def test_help_needs_neither_torch_nor_numpy_nor_rich() -> None:
    code = "import sys, nrc_probe.cli; print({'torch', 'numpy', 'rich'} & set(sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, check=True
    )
    assert shown.stdout == b"set()\n"


@pytest.mark.usefixtures("folder")
def test_layers_lists_shapes_and_ranks_without_data(run: Callable[..., Run]) -> None:
    done = run("layers", "net.pth", "--exclude", "*.4")
    assert (done.code, done.err) == (0, "")
    rows = [line.split() for line in done.out.splitlines() if line.startswith(" layers.")]
    assert [(*row[:5], row[6]) for row in rows] == [
        ("layers.0", "Linear", "5", "8", "5", "8x5"),
        ("layers.2", "Linear", "8", "8", "8", "8x8"),
    ]
    assert "not scored\n  - layers.4: excluded by '*.4'" in done.out


# --------------------------------------------------------------------------------------- outputs


def test_outputs_take_their_form_from_the_suffix(folder: Path, run: Callable[..., Run]) -> None:
    done = run("analyze", "net.pth", "--data", "data.npz", "-o", "r.json", "-o", "r.csv")
    assert (done.code, done.err) == (0, "")
    assert "layers.0" in done.out
    result = json.loads((folder / "r.json").read_text())
    rows = list(csv.DictReader((folder / "r.csv").read_text().splitlines()))
    names = ["layers.0", "layers.2", "layers.4"]
    assert [layer["name"] for layer in result["layers"]] == names
    assert [row["name"] for row in rows] == names
    assert float(rows[1]["nrc1"]) == result["layers"][1]["nrc1"]
    assert sorted(p.name for p in folder.iterdir()) == ["data.npz", "net.pth", "r.csv", "r.json"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_json_to_standard_output_comes_alone(quiet: list[str], run: Callable[..., Run]) -> None:
    done = run("analyze", "net.pth", "--data", "data.npz", "--json", "-", *quiet)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["schema"] == "nrc-probe/result/1"


@pytest.mark.usefixtures("folder")
def test_csv_to_standard_output_comes_alone(run: Callable[..., Run]) -> None:
    done = run("analyze", "net.pth", "--data", "data.npz", "--csv", "-")
    assert [row["index"] for row in csv.DictReader(io.StringIO(done.out))] == ["0", "1", "2"]


def test_quiet_prints_nothing(folder: Path, run: Callable[..., Run]) -> None:
    done = run("analyze", "net.pth", "--data", "data.npz", "-q", "--json", "r.json")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert (folder / "r.json").is_file()


def test_options_reach_the_result(folder: Path, run: Callable[..., Run]) -> None:
    save_data(folder / "test.npz", 20)
    words = (
        "--limit 40 --device cpu --batch-size 7 --threads 1 --layers layers.* --exclude layers.0 "
        "--threshold nrc1=0.1 --threshold nrc4_ratio=2 --heldout test.npz --rank 1 --rcond 0 "
        "--precision fast --activation tanh --standardize inputs --standardize targets"
    )
    done = run("analyze", "net.pth", "--data", "data.npz", "--json", "-", *words.split())
    result = json.loads(done.out)
    assert result["settings"] == {
        "rank": 1,
        "rcond": 0.0,
        "pooling": "mean",
        "precision": "fast",
        "thresholds": {"nrc1": 0.1, "nrc2": 0.6, "nrc3": 0.7, "nrc4_ratio": 2.0},
        "layers": ["layers.*"],
        "exclude": ["layers.0"],
        "max_width": 8192,
        "limit": 40,
    }
    assert [layer["name"] for layer in result["layers"]] == ["layers.2", "layers.4"]
    assert result["provenance"]["device"] == "cpu"
    assert "tanh" in result["model"]["summary"].lower()
    assert (result["data"]["n"], result["heldout"]["data"]["n"]) == (40, 20)
    assert result["data"]["standardized"] == ["inputs", "targets"]


def test_predictions_that_are_not_finite_are_said_not_scored(folder: Path, run: Callable[..., Run]) -> None:
    network = small_network()
    for parameter in network.parameters():
        parameter.data *= 1e15
    save_network(folder / "net.pth", network)
    done = run("analyze", "net.pth", "--data", "data.npz")
    assert "error      MSE -, R² -" in done.out
    assert "warnings\n  - the network's output is not finite (first at row" in done.out
    assert "do not vary" not in done.out


@pytest.mark.usefixtures("folder")
def test_roles_to_standardise_may_stand_in_one_word(run: Callable[..., Run]) -> None:
    words = ("--data", "data.npz", "--standardize", "inputs,targets", "--json", "-")
    result = json.loads(run("analyze", "net.pth", *words).out)
    assert result["data"]["standardized"] == ["inputs", "targets"]


@pytest.mark.usefixtures("folder")
def test_the_batch_size_does_not_change_the_scores(run: Callable[..., Run]) -> None:
    one, other = (
        json.loads(run("analyze", "net.pth", "--data", "data.npz", "--json", "-", *more).out)
        for more in ([], ["--batch-size", 7])
    )
    for a, b in zip(one["layers"], other["layers"], strict=True):
        assert a["nrc1"] == pytest.approx(b["nrc1"], abs=1e-6)


@pytest.mark.usefixtures("folder")
def test_progress_goes_to_standard_error_only(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nrc_probe.report.progress._SECONDS_BETWEEN_LINES", 0.0)
    done = run("analyze", "net.pth", "--data", "data.npz", "--batch-size", 30, "--json", "-")
    assert json.loads(done.out)["data"]["n"] == 60
    assert re.fullmatch(
        r"data: 30 of 60 rows, [\d,]+/s, about \d+ s left\ndata: 60 of 60 rows, [\d,]+/s\n", done.err
    )


# ------------------------------------------------------------- forms that training scripts leave


@pytest.mark.parametrize(
    ("between", "names"),
    [
        ([nn.ReLU], [0, 2, 4]),
        ([nn.LayerNorm, nn.ReLU], [0, 3, 6]),
        ([nn.BatchNorm1d, nn.ReLU], [0, 3, 6]),
    ],
)
def test_the_released_scripts_checkpoints_need_only_their_data(
    between: list[type], names: list[int], folder: Path, run: Callable[..., Run]
) -> None:
    steps: list[nn.Module] = []
    for inputs in (5, 8):
        steps += [
            nn.Linear(inputs, 8),
            *(kind(8) if kind is not nn.ReLU else kind() for kind in between),
        ]
    network = trained(nn.Sequential(*steps, nn.Linear(8, 2)))
    place = "batch128_lr0.10000_wd_0.00050_mom_0.90_epoch_1000/1000.pth"
    save_network(folder / place, network)
    done = run(
        *("analyze", place, "--data", "data.npz", "--json", "-"),
        *("--standardize", "inputs", "--standardize", "targets"),
    )
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert [layer["name"] for layer in result["layers"]] == [f"layers.{name}" for name in names]
    assert result["checkpoint"]["weight_decay"] == 0.0005
    assert result["checkpoint"]["learning_rate"] == 0.1
    assert result["checkpoint"]["epoch"] == 7  # the file's own word, not its folder's


def test_a_resnet_reads_byte_images_with_channels_last(folder: Path, run: Callable[..., Run]) -> None:
    network = trained(ResNet(basic([1, 1, 1, 1]), nn.Linear(32, 2), kernel=3))
    torch.save({"net": network.state_dict()}, folder / "resnet.pth")
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    save_data(folder / "images.npz", 20, x=images)
    done = run(
        *("analyze", "resnet.pth", "--data", "images.npz", "--json", "-"),
        *("--exclude", "conv1", "--exclude", "*downsample*"),
    )
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["data"]["input_shape"] == [3, 16, 16]
    assert [layer["name"] for layer in result["layers"]][::8] == ["layer1.0.conv1", "fc"]
    assert {item["reason"] for item in result["skipped"]} == {
        "excluded by 'conv1'",
        "excluded by '*downsample*'",
    }


# ---------------------------------------------------------------------------------- what is wrong


class Code:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch ran",)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def with_infinity(path: Path) -> None:
    network = small_network()
    network[2].weight.data[1, 3] = torch.inf
    save_network(path, network)


def with_wrong_names(path: Path) -> None:
    torch.save({"a": torch.ones(3, 3, 3), "b": torch.ones(2)}, path)


WRONG_CHECKPOINTS: dict[str, tuple[Callable[[Path], object], Sequence[str]]] = {
    "missing": (Path.unlink, ["there is no such file"]),
    "a folder": (lambda p: (p.unlink(), p.mkdir()), ["expected a checkpoint file, got a folder"]),
    "truncated": (truncated, ["the file is truncated", "save or copy it again"]),
    "empty": (lambda p: p.write_bytes(b""), ["the file is empty (0 bytes)"]),
    "text": (lambda p: p.write_text("hello"), ["expected a checkpoint", "'.pth'", "a text file"]),
    "code": (lambda p: torch.save(Code(), p), ["posix.system", "not run", "--unsafe-pickle"]),
    "pickle": (lambda p: p.write_bytes(pickle.dumps(Code())), ["torch.save did not write"]),
    "infinity": (with_infinity, ["'layers.2.weight' holds inf at [1, 3]", "finite"]),
    "names": (with_wrong_names, ["neither an MLP nor a ResNet", "--model"]),
}


@pytest.mark.parametrize("case", WRONG_CHECKPOINTS)
def test_a_wrong_checkpoint_is_refused_in_one_line(case: str, folder: Path, run: Callable[..., Run]) -> None:
    spoil, words = WRONG_CHECKPOINTS[case]
    spoil(folder / "net.pth")
    run("analyze", "net.pth", "--data", "data.npz", "-o", "r.json").fails(1, "net.pth: ", *words)
    run("layers", "net.pth").fails(1, "net.pth: ", *words)
    assert not (folder / "ran").exists()
    assert not list(folder.glob("*r.json*"))


X, Y = np.zeros((6, 5), np.float32), np.zeros((6, 2), np.float32)
WITH_NAN = np.where(np.arange(30).reshape(6, 5) == 17, np.nan, 1).astype(np.float32)

WRONG_DATA = {
    "other width": ({"x": X[:, :4], "y": Y}, ["(6, 4)", "--inputs"]),
    "other targets": ({"x": X, "y": X}, ["shape (6, 2)", "targets", "(6, 5)", "--targets"]),
    "no targets": ({"x": X, "z": Y}, ["which array holds the targets?", "z (6, 2)", "--targets"]),
    "nan": ({"x": WITH_NAN, "y": Y}, ["nan", "row 3, column 2", "finite"]),
    "no rows": ({"x": X[:0], "y": Y[:0]}, ["inputs 'x' have shape (0, 5): no rows"]),
    "other length": ({"x": X, "y": Y[:4]}, ["'x' have 6 rows", "'y' have 4", "expected as many"]),
    "text": ({"x": X.astype(str), "y": Y}, ["inputs 'x'", "real numbers"]),
}


@pytest.mark.parametrize("case", WRONG_DATA)
def test_wrong_data_are_refused_in_one_line(case: str, folder: Path, run: Callable[..., Run]) -> None:
    arrays, words = WRONG_DATA[case]
    np.savez(folder / "bad.npz", **arrays)
    place = [] if case in ("other width", "other targets") else ["bad.npz"]
    run("analyze", "net.pth", "--data", "bad.npz").fails(1, *place, *words)


WRONG_OPTIONS = {
    "data there": (["--data", "none.npz"], ["none.npz", "no such file"]),
    "inputs": (["--inputs", "state"], ["data.npz: has no array 'state'", "x (60, 5)"]),
    "layer": (["--layers", "fc3"], ["layer 'fc3' is not in the model", "layers.0", "layers'"]),
    "no layer left": (["--exclude", "*"], ["no layer is left to score"]),
    "device": (["--device", "gpu"], ["device 'gpu' is unknown", "auto, cuda, mps, cpu"]),
    "no such device": (["--device", "xpu"], ["device 'xpu' is not available"]),
    "rank": (["--rank", "0"], ["rank must be", "from 1 to 2147483647, got 0"]),
    "rank of many digits": (["--rank", "9" * 3000], ["rank must be", "from 1 to 2147483647, got 999", "..."]),
    "rank in words": (["--rank", "²"], ["rank must be 'target', 'auto' or an integer", "'²'"]),
    "rank beyond": (["--rank", "1.5"], ["rank must be 'target', 'auto' or an integer", "'1.5'"]),
    "rcond": (["--rcond", "1"], ["rcond must be a number from 0 to below 1, got 1.0"]),
    "rcond nan": (["--rcond", "nan"], ["rcond must be a number from 0 to below 1, got nan"]),
    "threshold": (["--threshold", "nrc5=1"], ["threshold 'nrc5' is unknown", "nrc4_ratio"]),
    "threshold nan": (["--threshold", "nrc1=nan"], ["threshold nrc1 must be a number, got nan"]),
    "limit": (["--limit", "0"], ["limit must be an integer from 1 to", "got 0"]),
    "batch": (["--batch-size", "-1"], ["batch_size must be an integer from 1 to", "got -1"]),
    "large batch": (["--batch-size", "9" * 30], ["batch_size must be an integer from 1", "9" * 30]),
    "threads": (["--threads", "100000"], ["threads must be an integer from 1 to 1024"]),
    "width": (["--max-width", "0"], ["max_width must be an integer from 1 to", "got 0"]),
    "model": (["--model", "mpl"], ["net.pth: unknown architecture 'mpl'", "'mlp'"]),
    "factory": (["--model", "nowhere:net"], ["'nowhere:net': importing nowhere failed"]),
    "model option": (["--model-option", "depth=3"], ["'mlp' takes no option 'depth'"]),
    "activation": (["--activation", "swishy"], ["unknown activation 'swishy'", "relu"]),
    "state key": (["--state-key", "ema"], ["net.pth", "'ema'", "model"]),
    "statistics": (["--standardize", "none.npz"], ["none.npz", "no such file"]),
    "config": (["--config", "none.toml"], ["none.toml: cannot be read (No such file"]),
    "heldout": (["--heldout", "none.npz"], ["none.npz", "no such file"]),
    "output folder": (["-o", "no/r.json"], ["cannot write 'no/r.json'", "no folder 'no'"]),
    "output folder twice": (["-o", "ok.json", "--csv", "no/r.csv"], ["cannot write 'no/r.csv'"]),
    "output is a device": (
        ["-o", "ok.json", "--csv", "/dev/full"],
        ["cannot write '/dev/full': it is a device"],
    ),
    "config device": (["--config", "/dev/zero"], ["/dev/zero: expected a file of TOML, got a device"]),
    "config folder": (["--config", "/"], ["/: expected a file of TOML, got a folder"]),
    "data device": (["--data", "/dev/zero"], ["/dev/zero: a device; expected one file"]),
    "output is one": (["--json", "."], ["cannot write '.'", "it is a folder"]),
    "long output": (["-o", f"{'a' * 300}.json"], ["cannot write 'aaa", "File name too long"]),
    "output is data": (["--csv", "data.npz"], ["cannot write 'data.npz'", "it exists and is no .csv file"]),
    "output is net": (["--csv", "./net.pth"], ["cannot write 'net.pth'", "it exists and is no .csv file"]),
    "data option": (["--data-option", "n=3"], ["options for the data (n)", "a factory", "got data.npz"]),
    "nobody's home": (["--data", "~no-such-user/x.npz"], ["~no-such-user/x.npz: there is no such file"]),
    "nobody's statistics": (
        ["--standardize", "~no-such-user/x.npz"],
        ["no-such-user/x.npz: there is no such"],
    ),
    "endless columns": (["--inputs", "0:" + "9" * 5000], ["has no array '0:9999"]),
    "model exits": (["--model", "sys:exit"], ["net.pth: sys:exit() failed: SystemExit"]),
    "activation list": (["--model-option", 'activation=["relu"]'], ["unknown activation '['relu']'"]),
}


@pytest.mark.parametrize("case", WRONG_OPTIONS)
def test_an_option_that_cannot_be_followed_is_refused_in_one_line(
    case: str, folder: Path, run: Callable[..., Run]
) -> None:
    options, words = WRONG_OPTIONS[case]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    data = [] if "--data" in options else ["--data", "data.npz"]
    run("analyze", "net.pth", *data, *options).fails(1, *words)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


MISUSES = {
    "unknown option": (["--bath-size", "3"], ["No such option", "--bath-size", "--batch-size"]),
    "not a number": (["--limit", "ten"], ["'--limit'", "'ten' is not a valid integer"]),
    "no such choice": (["--pooling", "avg"], ["'--pooling'", "'avg'", "mean", "last"]),
    "threshold": (["--threshold", "nrc1"], ["--threshold 'nrc1': expected NAME=NUMBER"]),
    "threshold's value": (["--threshold", "nrc1=low"], ["--threshold 'nrc1=low': expected"]),
    "model option": (["--model-option", "depth"], ["--model-option 'depth': expected NAME=X"]),
    "suffix": (["-o", "r.txt"], ["'r.txt': expected a name that ends in .json or .csv"]),
    "one place": (["--json", "-", "--csv", "-"], ["'-': named twice"]),
    "one place, two ways": (["--json", "r.json", "-o", "./r.json"], ["named twice"]),
    "one place with the dump": (["--dump", "r.json", "-o", "r.json"], ["'r.json': named twice"]),
    "one place with the moments": (
        ["--save-moments", "r.html", "--html", "r.html"],
        ["'r.html': named twice"],
    ),
    "statistics": (["--standardize", "a", "--standardize", "b"], ["--standardize a b: expected"]),
    "deep": (
        ["--model-option", "a=" + "[" * 100_000],
        ["--model-option 'a=[[[", "...': expected NAME=X, X less"],
    ),
    "twice": (["--inputs", "x", "--inputs", "y"], ["--inputs was given 2 times: it takes one value"]),
    "data twice": (["--data", "data.npz"], ["--data was given 2 times"]),
    "short twice": (["--json", "-", "--json=-", "-q", "-q"], ["--json was given 2 times"]),
    "escape": (["--\x1b[2Jx"], ["No such option", "--\\x1b[2Jx"]),
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("case", MISUSES)
def test_a_misused_option_is_one_line_that_says_where_the_usage_stands(
    case: str, run: Callable[..., Run]
) -> None:
    options, words = MISUSES[case]
    run("analyze", "net.pth", "--data", "data.npz", *options).misused(*words)


@pytest.mark.usefixtures("folder")
def test_a_flag_said_twice_and_a_repeatable_option_do_no_harm(run: Callable[..., Run]) -> None:
    done = run("layers", "net.pth", "--allow-code", "--allow-code", "--exclude", "*.0", "--exclude", "*.2")
    assert done.code == 0, done.err


@pytest.mark.parametrize("types", [(torch.float32, torch.float64), (torch.float16, torch.float32)])
def test_a_network_of_mixed_types_is_blamed_not_its_inputs(
    types: tuple[torch.dtype, torch.dtype], folder: Path, run: Callable[..., Run]
) -> None:
    network = small_network().to(types[0])
    network[2].to(types[1])
    save_network(folder / "net.pth", network)
    names = sorted(str(kind).removeprefix("torch.") for kind in types)
    words = (f"its own tensors mix {' and '.join(names)}", "model.float()")
    run("analyze", "net.pth", "--data", "data.npz").fails(1, "the network cannot run", *words)


def test_a_configuration_that_is_given_is_the_user_s_own_word(folder: Path, run: Callable[..., Run]) -> None:
    (folder / "made.py").write_text(
        "from runs import small_network\ndef net():\n    return small_network()\n", encoding="utf-8"
    )
    save_network(folder / "net.pth", prefix="")
    (folder / "here.toml").write_text("[model]\narchitecture = 'made:net'\n", encoding="utf-8")
    given = run("layers", "net.pth", "--config", "here.toml")
    assert (given.code, given.err) == (0, "")
    assert "made:net()" in given.out
    (folder / "here.toml").rename(folder / "nrc-probe.toml")
    run("layers", "net.pth").fails(1, "'made:net' would run code", "--allow-code")


@pytest.mark.usefixtures("folder")
def test_no_data_names_the_three_ways_to_supply_it(run: Callable[..., Run]) -> None:
    ways = ("--data FILE", "[data] in nrc-probe.toml", "nrc_probe.save_checkpoint(")
    run("analyze", "net.pth").fails(1, "no data set is named", *ways)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[data]\npaht = 'data.npz'", ["[data]: no key 'paht'; did you mean 'path'?"]),
        ("[dat]\npath = 'data.npz'", ["no table 'dat'; did you mean 'data'?"]),
        ("[data\npath = 'data.npz'", ["not valid TOML", "line 1"]),
        ("[data]\npath = 'data.npz'\nstandardize = \"a\\u0000b\"", ["a\\x00b: there is no such file"]),
        ('[data]\npath = "a\\u0000b"', ["a\\x00b: there is no such file"]),
        ("[score]\nrank = 0", ["[score] rank = 0: expected", "whole number above 0"]),
        ("[data]\npath = 'data.npz'\n[data.options]\nn = 3", ["options for the data (n)", "got data.npz"]),
        ("[data]\npath = 'data.npz'\n[heldout]\ninputs = 'x'", ["[heldout] names no data", "--heldout FILE"]),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_place(
    text: str, words: list[str], folder: Path, run: Callable[..., Run]
) -> None:
    (folder / "nrc-probe.toml").write_text(text)
    place = [] if "path" in text else ["nrc-probe.toml: "]
    run("analyze", "net.pth").fails(1, *place, *words)


def test_a_long_message_loses_its_middle_not_its_end(folder: Path, run: Callable[..., Run]) -> None:
    (folder / "nrc-probe.toml").write_text(f"[score]\npooling = '{'a' * 5000}'", encoding="utf-8")
    done = run("analyze", "net.pth")
    done.fails(1, 'nrc-probe.toml: [score] pooling = "aaa', " ... ", "first, last")
    assert len(done.err) < 1100


def test_a_threshold_of_an_option_wins_over_the_file_s_and_the_others_stay(
    folder: Path, run: Callable[..., Run]
) -> None:
    (folder / "nrc-probe.toml").write_text("[score.thresholds]\nnrc1 = 0.3\nnrc2 = 0.5\n", encoding="utf-8")
    done = run("analyze", "net.pth", "--data", "data.npz", "--threshold", "nrc1=0.1", "--json", "-")
    expected = {"nrc1": 0.1, "nrc2": 0.5, "nrc3": 0.7, "nrc4_ratio": 1.5}
    assert json.loads(done.out)["settings"]["thresholds"] == expected


@pytest.mark.usefixtures("folder")
def test_a_checkpoint_name_too_long_for_the_system_is_one_line(run: Callable[..., Run]) -> None:
    run("analyze", "a" * 300).fails(1, "the file cannot be read: File name too long")


@pytest.mark.usefixtures("folder")
def test_a_read_only_folder_is_refused_before_the_pass(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(probe, "analyze", lambda *_, **__: pytest.fail("it ran"))
    run("analyze", "net.pth", "-o", "r.json").fails(1, "cannot write 'r.json'", "not writable")


def test_a_double_precision_network_reads_double_precision_data_without_rounding(
    folder: Path, run: Callable[..., Run]
) -> None:
    network = small_network().double()
    with torch.no_grad():
        network[0].bias -= network[0].weight.sum(1) * 1e9
    save_network(folder / "net.pth", network)
    x = np.random.default_rng(0).normal(size=(60, 5)) + 1e9
    save_data(folder / "data.npz", x=x)
    done = run("analyze", "net.pth", "--data", "data.npz", "--json", "-")
    first = json.loads(done.out)["layers"][0]
    S = np.cov(x.T, bias=True)
    assert first["nrc1"] == pytest.approx(1 - np.linalg.eigvalsh(S)[-2:].sum() / np.trace(S), rel=1e-6)


def test_an_existing_output_stays_when_the_run_fails(folder: Path, run: Callable[..., Run]) -> None:
    (folder / "r.json").write_text("kept")
    run("analyze", "net.pth", "--data", "none.npz", "-o", "r.json").fails(1, "none.npz")
    assert (folder / "r.json").read_text() == "kept"


@pytest.mark.usefixtures("folder")
def test_a_network_that_predicts_nothing_is_warned_about(run: Callable[..., Run]) -> None:
    done = run("analyze", "net.pth", "--data", "data.npz")
    assert "warnings\n  - the network predicts no better than the mean (R² -" in done.out


# ---------------------------------------------------------------------------- as real processes


def test_errors_of_a_process_are_one_line_and_code_1(folder: Path) -> None:
    (folder / "net.pth").write_bytes(b"PK\x03\x04 cut")
    process("analyze", "net.pth", cwd=folder).fails(1, "net.pth", "truncated")


def test_misuse_of_a_process_is_code_2() -> None:
    process("analyze").misused("Missing argument 'CHECKPOINT'")


def test_a_reader_that_leaves_causes_no_traceback() -> None:
    command = f"{sys.executable} -m nrc_probe analyze fixtures/hopper/wd_0.safetensors | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, env=ENVIRONMENT, capture_output=True, check=False)
    assert done.stdout == b"checkpoint fixtures/hopper/wd_0.safetensors\n"
    assert b"Traceback" not in done.stderr
    assert b"Error" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("words", [[], ["--json", "-"]])
def test_a_full_disk_under_standard_output_is_one_line(words: list[str], folder: Path) -> None:
    arguments = [sys.executable, "-m", "nrc_probe", "analyze", "net.pth", "--data", "data.npz"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*arguments, *words], cwd=folder, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE
        )
    said = b"nrc-probe: cannot write to standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize(
    "name", ["net.pth", "data.npz", "statistics.npz", "here.toml", "r.json", "nrc-probe.toml"]
)
def test_nobody_waits_for_a_pipe(name: str, folder: Path, run: Callable[..., Run]) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    more = {"statistics.npz": "--standardize", "here.toml": "--config", "r.json": "--json"}
    words = [more[name], name] if name in more else []
    run("analyze", "net.pth", "--data", "data.npz", *words).fails(1, name, "a pipe")


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_a_configuration_that_is_no_file_is_not_passed_over(
    make: Callable[[Path], None], folder: Path, run: Callable[..., Run]
) -> None:
    make(folder / "nrc-probe.toml")
    run("analyze", "net.pth", "--data", "data.npz").fails(1, "nrc-probe.toml: ")


def test_a_link_that_leads_to_itself_is_one_line(folder: Path, run: Callable[..., Run]) -> None:
    for name in ("loop.json", "loop.pth", "loop.npz", "loop.toml"):
        (folder / name).symlink_to(name)
    usual = ("analyze", "net.pth", "--data", "data.npz")
    run(*usual, "-o", "loop.json").fails(1, "cannot write 'loop.json': Too many levels of symbolic links")
    run(*usual, "--config", "loop.toml").fails(1, "loop.toml: cannot be read (Too many levels")
    run("analyze", "loop.pth").fails(1, "loop.pth: the file cannot be read: Too many levels")
    run("analyze", "net.pth", "--data", "loop.npz").fails(1, "loop.npz: the file cannot be read: Too many")


def shell(words: str, folder: Path) -> Run:
    done = subprocess.run(
        f"{sys.executable} -m nrc_probe {words}",
        shell=True,
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def test_a_closed_standard_output_is_one_line_where_something_is_printed(folder: Path) -> None:
    usual = "analyze net.pth --data data.npz"
    closed = "cannot write to standard output: Bad file descriptor"
    shell(f"{usual} >&-", folder).fails(1, closed)
    quiet = shell(f"{usual} -q -o r.json >&-", folder)
    assert (quiet.code, quiet.err) == (0, "")
    assert json.loads((folder / "r.json").read_text())["data"]["n"] == 60


def test_a_closed_standard_error_changes_nothing_else(folder: Path) -> None:
    usual = shell("analyze net.pth --data data.npz 2>&-", folder)
    assert (usual.code, usual.err) == (0, "")
    assert "layers.0" in usual.out


INTERRUPTED = """
import runpy, sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == "click":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
runpy.run_module("nrc_probe", run_name="__main__")
"""


def test_interrupting_the_first_imports_ends_with_130_and_one_word() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "nrc-probe: interrupted\n")


DROPPED = """
import runpy, signal, sys, time, click
class Passing:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
def wait(*_, **__):
    Passing()  # what is raised at its end, Python drops
    time.sleep(5)
click.Group.main = wait
runpy.run_module("nrc_probe", run_name="__main__")
"""
ALL_BUT_OVER = """
import atexit, runpy, signal, sys
atexit.register(lambda: signal.raise_signal(signal.SIGINT))
sys.argv = ["nrc-probe", "--version"]
runpy.run_module("nrc_probe", run_name="__main__")
"""


def test_an_interruption_that_python_drops_comes_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DROPPED], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "nrc-probe: interrupted\n")


def test_an_interruption_of_what_is_all_but_over_is_no_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALL_BUT_OVER], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nrc-probe, version")


def test_interrupting_ends_with_130_and_one_word(folder: Path) -> None:
    (folder / "slow.py").write_text(
        "import time\ndef data():\n    open('begun', 'w').close()\n    time.sleep(30)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "nrc_probe", "analyze", "net.pth", "--data", "slow:data"],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not (folder / "begun").exists() and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err.strip()) == (130, b"", b"nrc-probe: interrupted")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_console_without_unicode_gets_stand_ins(encoding: str, folder: Path) -> None:
    done = process(
        *("analyze", "net.pth", "--data", "data.npz"),
        cwd=folder,
        env={"PYTHONIOENCODING": encoding},
    )
    assert done.code == 0, done.err
    assert done.out.isascii()
    assert "R2 " in done.out


# ------------------------------------------------------------------------------- hostile names


HOSTILE = "[red]x[/]\x1b[2J\n\x9b<b>\u202e"


def test_no_name_in_a_file_steers_the_terminal(folder: Path, run: Callable[..., Run]) -> None:
    state = small_network().state_dict()
    tensors = {f"{HOSTILE}.{name}": tensor for name, tensor in state.items()}
    save_file(tensors, "[red]x\x1b[2J.safetensors")
    np.savez(folder / "data.npz", **{f"x{HOSTILE}": X, "x": X + 1, "y": Y})
    for command in (
        ["layers"],
        ["analyze", "--data", "data.npz"],
        ["analyze", "--data", "data.npz", "--json", "-"],
        ["analyze", "--data", "data.npz", "--csv", "-"],
    ):
        done = run(command[0], "[red]x\x1b[2J.safetensors", *command[1:])
        assert done.code == 0, done.err
        shown = done.out.replace("\n", "")
        assert shown.isprintable()
        assert "[red]x[/]" in shown


def test_no_name_in_an_error_steers_the_terminal(folder: Path, run: Callable[..., Run]) -> None:
    np.savez(folder / "bad.npz", **{HOSTILE: X, "y": Y})
    done = run("analyze", "net.pth", "--data", "bad.npz")
    done.fails(1, "which array holds the inputs?", "[red]x[/]\\x1b[2J")
    assert done.err.rstrip("\n").isprintable()


def test_a_file_name_that_is_not_unicode_is_written_out(folder: Path, run: Callable[..., Run]) -> None:
    name = os.fsdecode(b"net\xff.pth")
    (folder / "net.pth").rename(name)
    done = run("analyze", name, "--data", "data.npz", "-o", "r.json")
    assert (done.code, done.err) == (0, "")
    assert "checkpoint net\\udcff.pth\n" in done.out
    assert json.loads((folder / "r.json").read_text())["checkpoint"]["path"] == name


@pytest.mark.parametrize("name", ["nrc-probe.toml", "statistics.npz", "shard.safetensors", "factory.py"])
def test_an_output_never_replaces_a_file_of_another_kind(
    name: str, folder: Path, run: Callable[..., Run]
) -> None:
    (folder / name).write_text("", encoding="utf-8")
    for option, form in (("--json", ".json"), ("--csv", ".csv")):
        done = run("analyze", "net.pth", "--data", "data.npz", option, name)
        done.fails(1, f"cannot write '{name}': it exists and is no {form} file")
    assert (folder / name).read_text(encoding="utf-8") == ""


def test_an_output_never_replaces_data_of_its_own_kind(folder: Path, run: Callable[..., Run]) -> None:
    with np.load(folder / "data.npz") as arrays:
        table = np.hstack([arrays["x"], arrays["y"]])
        columns = ["--inputs", f"0:{arrays['x'].shape[1]}", "--targets", f"{arrays['x'].shape[1]}:"]
    np.savetxt(folder / "rows.csv", table, delimiter=",")
    before = (folder / "rows.csv").read_bytes()
    done = run("analyze", "net.pth", "--data", "rows.csv", *columns, "--csv", "rows.csv")
    done.fails(1, "cannot write 'rows.csv': it was read")
    assert (folder / "rows.csv").read_bytes() == before


@pytest.mark.usefixtures("folder")
def test_data_code_that_exits_is_an_error(run: Callable[..., Run]) -> None:
    run("analyze", "net.pth", "--data", "sys:exit").fails(1, "sys:exit failed (SystemExit")


@pytest.mark.parametrize("nested", ["a = " + "[" * 100_000, "a = " + "9" * 5000])
def test_a_configuration_too_deep_or_long_to_read_is_an_error(
    nested: str, folder: Path, run: Callable[..., Run]
) -> None:
    (folder / "nrc-probe.toml").write_text(nested, encoding="utf-8")
    run("analyze", "net.pth").fails(1, "nrc-probe.toml: not valid TOML")


POOLS = """
import sys
from nrc_probe.cli import main
from nrc_probe.pools import blas_has_one_thread
sys.argv = ["nrc-probe", "layers", "net.pth"]
try:
    main()
except SystemExit as stopped:
    assert stopped.code == 0
assert "torch" in sys.modules
assert blas_has_one_thread()
"""


def test_the_command_line_keeps_blas_to_one_thread_before_it_is_loaded(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", POOLS],
        capture_output=True,
        text=True,
        cwd=folder,
        env={name: value for name, value in ENVIRONMENT.items() if name != "OPENBLAS_NUM_THREADS"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
