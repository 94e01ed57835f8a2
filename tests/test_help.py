"""README and --help say the same: commands, options, choices, defaults; no README block is left unread."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path

import click
import pytest

import nrc_probe
from nrc_probe.cli import cli
from nrc_probe.config import Config
from nrc_probe.settings import read_settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.split("\n## Every command and option\n")[1].split("\n## ")[0]
OPTIONS = [
    (name, option)
    for name, command in cli.commands.items()
    for option in command.params
    if isinstance(option, click.Option)
]


def value_of(option: click.Option) -> str:
    """What an option takes, as the table says it: its choices, or the word that stands for it."""
    return ", ".join(option.type.choices) if isinstance(option.type, click.Choice) else option.metavar or ""


def rows_of_help() -> list[str]:
    """A row for every option; of commands that mean the same by it, one."""
    commands: dict[tuple[str, str, str], list[str]] = {}
    for name, option in OPTIONS:
        flags = ", ".join(f"`{flag}`" for flag in option.opts)
        commands.setdefault((flags, value_of(option), option.help or ""), []).append(name)
    return [
        f"| {flags} {value} | {', '.join(names)} | {text} |".replace("  ", " ")
        for (flags, value, text), names in commands.items()
    ]


def rows_of_commands() -> list[str]:
    return [
        f"| `nrc-probe {name} {command.collect_usage_pieces(click.Context(command))[-1]}` "
        f"| {command.get_short_help_str(200)} |"
        for name, command in cli.commands.items()
    ]


def rows_of_readme() -> list[str]:
    return [row for row in SECTION.splitlines() if row.startswith("| `")]


def test_the_readme_lists_every_command_and_option_as_help_says_them_and_no_other() -> None:
    expected = rows_of_commands() + rows_of_help()
    assert rows_of_readme() == expected, "the README should say:\n" + "\n".join(expected)


@pytest.mark.parametrize(("flag", "value"), re.findall(r"(?<![\w-])(--[a-z][a-z-]+) ([a-z0-9-]+)", README))
def test_a_choice_that_the_readme_names_is_one(flag: str, value: str) -> None:
    takers = [o for _, o in OPTIONS if flag in o.opts and isinstance(o.type, click.Choice)]
    elsewhere = {"--dtype": {"or"}, "--compression": {"or"}}  # a word of the sentence
    assert not takers or value in {c for o in takers for c in o.type.choices} | elsewhere.get(flag, set())


@pytest.mark.parametrize("command", re.findall(r"`nrc-probe ([^`]+)`", README))
def test_an_option_that_the_readme_names_with_a_command_is_one_of_that_command(command: str) -> None:
    name, *words = shlex.split(command)
    assert name in cli.commands
    known = {flag for of, option in OPTIONS if of == name for flag in option.opts} | {"--help", "-h"}
    assert {word for word in words if word.startswith("-")} <= known


DEFAULTS = {
    "rank": lambda: read_settings(Config()).rank,
    "rcond": lambda: f"{read_settings(Config()).rcond:g}".replace("0.001", "1e-3"),
    "max_width": lambda: read_settings(Config()).max_width,
    "pooling": lambda: read_settings(Config()).pooling,
    "precision": lambda: read_settings(Config()).precision,
    "dtype": lambda: inspect.signature(nrc_probe.dump).parameters["dtype"].default,
    "compression": lambda: inspect.signature(nrc_probe.dump).parameters["compression"].default,
    "workers": lambda: inspect.signature(nrc_probe.batch).parameters["workers"].default,
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_default_that_help_says_is_that_of_the_library(name: str) -> None:
    texts = {option.help or "" for _, option in OPTIONS if option.name == name}
    default = str(DEFAULTS[name]())
    assert texts
    for text in texts:
        said = re.search(r"Default: ([\w.-]*\w)|(\w+),? \(?default\b", text)
        assert said, text
        assert (said[1] or said[2]) == default


def test_the_thresholds_that_help_says_are_those_of_the_library() -> None:
    thresholds = read_settings(Config()).thresholds
    (text,) = {option.help for name, option in OPTIONS if option.name == "thresholds" and name != "report"}
    said = dict(word.split("=") for word in re.findall(r"\w+=[\d.]+", text))
    assert {name: float(value) for name, value in said.items()} == vars(thresholds)


def test_an_option_with_a_default_of_its_own_says_it() -> None:
    for name, option in OPTIONS:
        default = option.get_default(click.Context(cli.commands[name]))
        if isinstance(default, str | float) and not isinstance(default, bool):
            assert f"Default: {default}." in (option.help or ""), (name, option.name)


def test_every_block_of_the_readme_is_of_a_kind_that_the_tests_read() -> None:
    fences = re.findall(r"^```(.*)$", README, re.MULTILINE)
    begins, ends = fences[::2], fences[1::2]
    assert set(ends) == {""}
    assert len(begins) == len(ends)
    assert set(begins) == {"sh", "console", "text", "python", "toml"}
    # of these tests/test_docs.py reads the first alone
    assert begins.count("text") == begins.count("toml") == 1


def test_every_line_of_a_shell_block_is_run_or_is_how_the_package_is_installed() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for language, block in re.findall(r"```(sh|console)\n(.*?)```", README, re.DOTALL):
        for line in filter(None, (line.split("  #")[0].strip() for line in block.splitlines())):
            if line.startswith("make "):
                assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE), line
            else:
                begin = "$ nrc-probe " if language == "console" else "nrc-probe "
                assert line.startswith(begin) or line == "pip install -e ."
