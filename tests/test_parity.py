"""What one door takes, the others take: Python, the command line, nrc-probe.toml."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import nrc_probe
from nrc_probe import batch, init, probe, rescoring
from nrc_probe.assembly import Options, SharedOptions, open_subject
from nrc_probe.cli import cli
from nrc_probe.config import read_config
from nrc_probe.result import Settings
from nrc_probe.settings import read_running, read_settings

OPTIONS = set(Options.__annotations__)
SCRIPT_ONLY = {"outputs", "json_path", "csv_path", "html_path", "figure_paths", "kind", "quiet"}
"""Where the command prints: Python has the result itself."""
KEPT = {"dump", "save_moments"}
"""Files that an analysis leaves besides its result: each run names its own."""
NEVER_IN_A_FILE = {
    "allow_code": "a file may not allow itself to run code",
    "unsafe_pickle": "nor its checkpoint",
    "config": "it is the file",
}

TOML = {
    "model": '[model]\narchitecture = "mlp"',
    "activation": '[model.options]\nactivation = "tanh"',
    "model_options": "[model.options]\nwidth = 3",
    "data_options": "[data.options]\nn = 3",
    "heldout": '[heldout]\npath = "test.npz"',
    "inputs": '[data]\ninputs = "x"',
    "targets": '[data]\ntargets = "y"',
    "heldout_inputs": '[heldout]\ninputs = "x"',
    "heldout_targets": '[heldout]\ntargets = "y"',
    "standardize": '[data]\nstandardize = ["inputs"]',
    "images": '[data]\nimages = "nhwc"',
    "state_key": '[score]\nstate_key = "model"',
    "rank": '[score]\nrank = "target"',
    "rcond": "[score]\nrcond = 0",
    "pooling": '[score]\npooling = "max"',
    "precision": '[score]\nprecision = "fast"',
    "layers": '[score]\nlayers = ["a*"]',
    "exclude": '[score]\nexclude = ["a*"]',
    "max_width": "[score]\nmax-width = 9",
    "limit": "[score]\nlimit = 9",
    "thresholds": "[score]\nthresholds = {nrc1 = 0.1}",
    "batch_size": "[score]\nbatch-size = 9",
    "device": '[score]\ndevice = "cpu"',
    "threads": "[score]\nthreads = 1",
}


def parameters(command: str) -> dict[str, click.Option]:
    found = cli.commands[command].params
    return {p.name: p for p in found if isinstance(p, click.Option)}


def said(text: str, path: Path) -> Iterator[object]:
    """What a configuration says beyond an empty one."""
    path.write_text(text)
    config = read_config(path, trusted=True)
    yield from config.model.options.items()
    yield from config.score.items()
    for spec in (config.data, config.heldout):
        yield from spec.options.items()
        yield from filter(None, (spec.path, spec.inputs, spec.targets, spec.standardize))
        yield from filter(None, (spec.images,))
    if config.model.architecture:
        yield config.model.architecture


def test_analyze_takes_every_option_on_the_command_line_and_no_other() -> None:
    assert set(parameters("analyze")) - SCRIPT_ONLY - KEPT - {"data"} == OPTIONS


def keywords(function: object) -> set[str]:
    """What a function takes by name, but for what the command line has otherwise."""
    found = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.KEYWORD_ONLY,)
    return {p.name for p in found if p.kind in kinds} - {"progress", "announce"}


def test_analyze_dump_score_and_merge_take_in_python_what_they_take_on_the_command_line() -> None:
    names = ("analyze", "dump", "score", "merge")
    of_commands = {name: set(parameters(name)) - SCRIPT_ONLY for name in names}
    assert of_commands["analyze"] == keywords(probe.analyze) | OPTIONS | {"data"}
    assert of_commands["dump"] == keywords(probe.dump) | OPTIONS | {"data"}
    rescoring_options = set(rescoring.RescoreOptions.__annotations__)
    assert of_commands["score"] == keywords(rescoring.score) | rescoring_options
    assert of_commands["merge"] == keywords(rescoring.merge)
    assert not parameters("info")


@pytest.mark.parametrize("name", sorted(rescoring.RescoreOptions.__annotations__))
def test_score_takes_an_option_of_analyze_under_the_same_words(name: str) -> None:
    assert parameters("score")[name].opts == parameters("analyze")[name].opts
    assert parameters("score")[name].help == parameters("analyze")[name].help


def test_layers_takes_what_concerns_the_network_under_the_same_names() -> None:
    of_analyze = parameters("analyze")
    for name, option in parameters("layers").items():
        assert (option.opts, option.help) == (of_analyze[name].opts, of_analyze[name].help)


def test_batch_takes_what_analyze_takes_and_in_python_the_same_names_as_on_the_command_line() -> None:
    of_analyze, of_batch = parameters("analyze"), parameters("batch")
    shared = set(SharedOptions.__annotations__)
    own = {"output", "include", "exclude", "exclude_layers", "workers", "force", "dry_run"}
    assert set(of_batch) - {"quiet"} == shared | own | {"data"}
    assert shared | {"exclude"} == OPTIONS
    for name in shared | {"data"}:
        assert (of_batch[name].opts, of_batch[name].help) == (of_analyze[name].opts, of_analyze[name].help)
    signature = inspect.signature(batch).parameters
    assert set(signature) == {"folder", "data", "progress", "options"} | own
    assert list(signature)[:3] == ["folder", "output", "data"]


def test_init_is_the_same_in_both() -> None:
    assert list(inspect.signature(init).parameters) == ["folder", "force"]
    assert set(parameters("init")) == {"force"}


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_an_option_has_its_python_name_on_the_command_line(name: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    repeated = {"--thresholds", "--model-options", "--data-options"}
    assert (flag.removesuffix("s") if flag in repeated else flag) in parameters("analyze")[name].opts


@pytest.mark.parametrize(
    "command", ["analyze", "layers", "batch", "init", "report", "dump", "score", "merge", "info"]
)
def test_help_mentions_every_option_and_says_what_it_is(command: str) -> None:
    context = click.Context(cli.commands[command], info_name=command)
    text = cli.commands[command].get_help(context)
    for option in parameters(command).values():
        assert all(word in text for word in option.opts)
        assert option.help
        assert option.help.endswith(".")


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_a_file_can_say_every_option_it_may(name: str, tmp_path: Path) -> None:
    if name in NEVER_IN_A_FILE:
        for table in ("score", "model", "data"):
            with pytest.raises(Exception, match=f"no key '{name}'"):
                list(said(f"[{table}]\n{name} = true", tmp_path / "c.toml"))
    else:
        assert len(list(said(TOML[name], tmp_path / "c.toml"))) == 1


def test_every_key_a_file_may_say_is_an_option() -> None:
    from nrc_probe.config import _TABLES

    keys = {(table, key) for table, rules in _TABLES.items() for key in rules}
    elsewhere = {
        ("model", "architecture"): "model",
        ("model", "options"): "model_options",
        ("data", "options"): "data_options",
        ("data", "path"): "data",
        ("heldout", "path"): "heldout",
    }
    for table, key in keys - set(elsewhere):
        if table != "heldout":  # [heldout] says only how it differs from [data]
            assert key in OPTIONS, f"[{table}] {key}"
    assert set(elsewhere.values()) - {"data"} <= OPTIONS


def test_every_setting_of_a_result_is_an_option() -> None:
    assert set(Settings.__dataclass_fields__) <= OPTIONS


@pytest.mark.parametrize("command", ["analyze", "layers"])
def test_python_prints_what_the_command_prints(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from runs import save_data, save_network

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "90")
    save_network(tmp_path / "net.pth")
    save_data(tmp_path / "train.npz")
    (tmp_path / "nrc-probe.toml").write_text('[data]\npath = "train.npz"')
    done = CliRunner().invoke(cli, [command, "net.pth"], catch_exceptions=False)
    if command == "analyze":
        nrc_probe.print_result(nrc_probe.analyze("net.pth"))
    else:
        nrc_probe.print_layers(nrc_probe.list_layers("net.pth"))
    assert capsys.readouterr().out == done.stdout
    assert len(done.stdout.splitlines()) > 5


def test_what_annotations_need_is_public() -> None:
    assert nrc_probe.Options is Options
    assert all(getattr(nrc_probe, name) for name in nrc_probe.__all__)


def test_python_takes_the_checkpoint_and_the_data_first_and_the_options_by_name() -> None:
    signature = inspect.signature(probe.analyze)
    assert list(signature.parameters) == ["checkpoint", "data", "dump", "save_moments", "progress", "options"]
    listing = inspect.signature(probe.list_layers)
    assert list(listing.parameters) == ["checkpoint", "options"]


@pytest.mark.parametrize("name", ["rank", "rcond", "pooling", "precision", "limit", "max_width"])
def test_a_file_s_setting_arrives_like_an_option_s(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runs import save_network

    monkeypatch.chdir(tmp_path)
    save_network(tmp_path / "net.pth")
    value = {"rank": 2, "rcond": 0, "limit": 9, "max_width": 9}.get(name)
    value = {"pooling": "max", "precision": "fast"}.get(name, value)
    by_option = read_settings(open_subject("net.pth", {name: value}).config)
    (tmp_path / "nrc-probe.toml").write_text(f"[score]\n{name} = {value!r}")
    assert read_settings(open_subject("net.pth", {}).config) == by_option
    assert getattr(by_option, name) == value


def test_a_file_s_way_of_running_arrives_like_an_option_s(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[score]\nbatch-size = 9\nthreads = 1\ndevice = "cpu"')
    running = read_running(read_config(path, trusted=False))
    assert (running.batch_size, running.threads, str(running.device)) == (9, 1, "cpu")


# ------------------------------------------------------------------------------------------ report


def test_report_takes_what_python_takes_under_the_same_names() -> None:
    from nrc_probe.report.files import read_results
    from nrc_probe.report.outputs import write_report
    from nrc_probe.report.overview import print_study

    python = {
        name
        for function in (read_results, write_report, print_study)
        for name in inspect.signature(function).parameters
    }
    value_only = {"results", "study", "console", "path"}
    command = set(parameters("report")) - SCRIPT_ONLY - {"parquet_path"}
    assert command | {"kind", "paths"} == python - value_only


def test_report_and_analyze_mean_the_same_by_an_output_option() -> None:
    of_analyze = parameters("analyze")
    for name in SCRIPT_ONLY - {"kind"}:
        assert parameters("report")[name].help == of_analyze[name].help


def test_every_kind_and_form_that_the_command_offers_exists() -> None:
    pytest.importorskip("matplotlib")
    from runs import a_layer, a_result

    from nrc_probe.report.extras import FIGURES
    from nrc_probe.report.outputs import View, render
    from nrc_probe.report.study import study_of

    once = a_result(a_layer("fc1"))
    for command, results in (("analyze", [once]), ("report", [once, once])):
        kind = parameters(command)["kind"].type
        assert isinstance(kind, click.Choice)
        for name in kind.choices:
            assert render(study_of(results), FIGURES[1], View(name))
