"""The files that a command was asked to write: checked before the work, written after it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from nrc_probe.atomic import check_writable, write_all
from nrc_probe.errors import OutputError
from nrc_probe.report.extras import FIGURES, check_extra

if TYPE_CHECKING:  # it brings torch, and a wrong name must be told at once
    from nrc_probe.result import Result


def output_targets(
    outputs: tuple[Path, ...],
    named: Mapping[str, Path | None],
    figures: tuple[Path, ...],
    tables: tuple[str, ...] = (),
    kept: Iterable[Path | None] = (),
) -> dict[Path, str]:
    """The form in which each file is written, checked before any work is done.

    outputs: forms by their names' endings. named: form -> path. figures: in the form of their names.
    tables: further forms that this command can write. kept: files that the work itself leaves.
    Raises click.BadParameter, OutputError and, where a form needs an extra that is not installed,
    ProbeError.
    """
    asked = [(path, form) for form, path in named.items() if path]
    asked += [(path, _form(path, FIGURES)) for path in figures]
    asked += [(path, _form(path, (".json", ".csv", *tables, ".html", *FIGURES))) for path in outputs]
    targets: dict[Path, str] = {}
    taken = {_spelled_out(path) for path in kept if path}
    for path, form in asked:
        if _spelled_out(path) in taken:
            raise click.BadParameter(f"'{path}': named twice, each output needs its own file")
        taken.add(_spelled_out(path))
        check_extra(form)
        targets[path] = form
        if path != Path("-"):
            check_writable(path)
            _spare_other_files(path, form)
    _check_kind_draws(targets.values())
    return targets


def _check_kind_draws(forms: Iterable[str]) -> None:
    source = click.get_current_context().get_parameter_source("kind")
    if source is ParameterSource.COMMANDLINE and not any(form in FIGURES for form in forms):
        raise click.BadParameter("it says what a figure shows: name one with --figure", param_hint="'--kind'")


def _spelled_out(path: Path) -> str:
    """One text for all ways to write a path: x, ./x, sub/../x."""
    return "-" if path == Path("-") else os.path.realpath(path)


def _form(path: Path, forms: tuple[str, ...]) -> str:
    if path.suffix not in forms:
        raise click.BadParameter(f"'{path}': expected a name that ends in {' or '.join(forms)}")
    return path.suffix


def _spare_other_files(path: Path, form: str) -> None:
    """Raise OutputError where an output would replace a file of another kind, an input perhaps."""
    if path.is_file() and path.suffix != form:
        raise OutputError(
            f"cannot write '{path}': it exists and is no {form} file (name another, or remove it)"
        )


def paths_read(result: Result) -> list[str | None]:
    """The checkpoint and its data: no output may take their place."""
    return [
        result.checkpoint.path,
        result.data.path,
        result.heldout.data.path if result.heldout else None,
    ]


def spare_what_was_read(targets: Iterable[Path], read: Iterable[str | Path | None]) -> None:
    """Raise OutputError where an output would take the place of what was read."""
    there = [path for path in targets if path.exists()]
    for source in [Path(name) for name in read if name]:
        for path in there:
            if source.exists() and path.samefile(source):
                raise OutputError(f"cannot write '{path}': it was read (name another file)")


def write_targets(contents: Mapping[Path, bytes]) -> None:
    """Write each content to its path, all or none, and to standard output what "-" stands for."""
    printed = contents.get(Path("-"))
    write_all({path: content for path, content in contents.items() if path != Path("-")})
    if printed is not None:
        click.echo(printed, nl=False)  # bytes: UTF-8 and \n whatever the console's own
