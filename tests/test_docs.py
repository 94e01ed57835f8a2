"""The README tells the truth: its commands run, its sample is real output, its options exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import nrc_probe
from nrc_probe.cli import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def blocks(language):
    found = [text for name, text in BLOCKS if name == language]
    assert found
    return found


def commands_of(block):
    lines = [line.split("  #")[0].strip() for line in block.splitlines()]
    return [line for line in lines if line.startswith("nrc-probe ")]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder that looks like the root of a fresh clone, so that outputs land elsewhere.

    What is left there at the end must be among what git is told to ignore.
    """
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    assert {path.name for path in tmp_path.iterdir()} - ignored - {"fixtures", "run"} == set()


@pytest.mark.parametrize(
    "commands", [*filter(None, map(commands_of, blocks("sh")))], ids=lambda c: c[-1][10:40]
)
def test_the_commands_of_every_block_in_the_readme_run_in_their_order(commands, clone):
    for command in commands:
        if "--figure" in command:
            pytest.importorskip("matplotlib")
        done = CliRunner().invoke(cli, shlex.split(command)[1:], catch_exceptions=False)
        assert done.exit_code == 0
        for name in re.findall(r"(?:-o|--json|--csv|--html|--figure) (\w\S+)", command):
            made = clone / name
            assert "--dry-run" in command or made.is_dir() or made.stat().st_size > 100


def test_every_console_session_in_the_readme_runs_from_its_first_line_to_its_last(clone):
    for session in blocks("console"):
        for line in session.splitlines():
            command = line.split("  #")[0].strip().removeprefix("$ ")
            done = CliRunner().invoke(cli, shlex.split(command)[1:], catch_exceptions=False)
            assert done.exit_code == 0, command
            for name in re.findall(r"(?:-o|--dump|--save-moments) (\S+)", command):
                assert (clone / name).stat().st_size > 100


@pytest.mark.usefixtures("clone")
def test_the_sample_is_what_the_command_prints(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    done = CliRunner().invoke(cli, ["analyze", "fixtures/hopper/wd_1e-3.safetensors"])
    printed = [line.rstrip() for line in done.stdout.splitlines()]
    sample = blocks("text")[0].splitlines()

    # the last digit may differ between processors; the words and every line may not
    def words(lines):
        return [re.sub(r"[\d.]+", "#", line) for line in lines]

    assert words(sample) == words(printed)


def test_every_python_block_runs(clone):
    for name in ("wd_0", "wd_1e-3"):
        result = nrc_probe.analyze(f"fixtures/hopper/{name}.safetensors", limit=300)
        (clone / f"{name}.json").write_text(result.to_json(), encoding="utf-8")
    names: dict[str, object] = {}
    for text in blocks("python"):
        exec(compile(text, "README.md", "exec"), names)
    assert names["result"].layers
    assert (clone / "ckpt.safetensors").exists()
    assert len(names["study"].runs) == 2


def test_the_configuration_in_the_readme_is_read(clone):
    text = blocks("toml")[0]
    tomllib.loads(text)
    folder = clone / "run"
    folder.mkdir()
    for name in ("train.npz", "test.npz", "wd_0.safetensors"):
        (folder / name).write_bytes((ROOT / "fixtures/hopper" / name).read_bytes())
    (folder / "nrc-probe.toml").write_text(text, encoding="utf-8")
    result = nrc_probe.analyze(folder / "wd_0.safetensors")
    assert result.settings.rank == "auto"
    assert result.settings.exclude == ("conv1", "*downsample*")
    assert result.heldout is not None


def test_every_option_that_the_readme_names_exists():
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))
    known = {flag for command in cli.commands.values() for p in command.params for flag in p.opts}
    assert named - known - {"--help", "--version"} == set()


def test_the_makefile_has_the_two_commands_of_the_readme():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert f"make {target}" in README
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_fixtures_stay_small():
    size = sum(path.stat().st_size for path in (ROOT / "fixtures").rglob("*") if path.is_file())
    assert size < 25 * 2**20


def test_the_keys_of_the_json_result_are_those_in_the_readme():
    result = nrc_probe.analyze(ROOT / "fixtures/hopper/wd_0.safetensors", limit=300).to_dict()
    rows = re.findall(r"^\| (`\w+`[^|]*) \|(.*)\|$", README.split("## The JSON result")[1], re.MULTILINE)
    listed = {
        key: set(re.findall(r"`(\w+)`", text)) for cell, text in rows for key in re.findall(r"`(\w+)`", cell)
    }
    assert list(listed) == list(result)
    for key, value in result.items():
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict):
            assert set(inner) - {"layers"} <= listed[key], key
    every = {*listed, *(name for names in listed.values() for name in names)}
    known = {*result, *(key for value in result.values() for key in keys_of(value))}
    assert every - known == {"reason", "type"} - known


def keys_of(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys_of(inner)
    elif isinstance(value, list):
        for item in value:
            yield from keys_of(item)


def test_the_guessed_names_are_those_in_the_readme():
    from nrc_probe.dataset import naming

    for role, words in (("inputs", naming.INPUT_WORDS), ("targets", naming.TARGET_WORDS)):
        assert " ".join(f"`{word}`" for word in words) in " ".join(README.split()), role


def test_every_pooling_is_explained():
    from nrc_probe.layers import POOLINGS

    section = README.split("### Pooling")[1].split("## The JSON")[0]
    assert [name for name in POOLINGS if f"`{name}`" not in section] == []
