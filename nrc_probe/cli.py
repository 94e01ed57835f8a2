"""The command line: parse, call one function of the library, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nrc_probe import __version__
from nrc_probe.errors import ProbeError
from nrc_probe.options import (
    array_options,
    batch_options,
    choice_options,
    data_options,
    dump_options,
    figure_kinds,
    file_option,
    given,
    keep_options,
    network_options,
    output_options,
    quiet_option,
    rescore_options,
    running_options,
    score_options,
    study_options,
)
from nrc_probe.plain import printable, readable
from nrc_probe.pools import keep_blas_to_one_thread
from nrc_probe.targets import output_targets, paths_read, spare_what_was_read, write_targets

if TYPE_CHECKING:  # torch and rich are imported inside commands: --help must answer at once
    from nrc_probe.result import Result
    from nrc_probe.store.contents import Contents

_FILE = click.argument("file", type=click.Path(path_type=Path, readable=False))
_HELP = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""What click raises in place of help, since its version 8.2."""
_CHECKPOINT = click.argument("checkpoint", type=click.Path(path_type=Path, readable=False))


class _Command(click.Command):
    """A command that refuses an option said twice, where it takes one value: click keeps the last."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's; raises UsageError. click's parser lists every option as often as it was said."""
        _, _, said = self.make_parser(ctx).parse_args(list(args))
        for option in said:
            single = isinstance(option, click.Option) and not (option.multiple or option.is_flag)
            if single and said.count(option) > 1:
                raise click.UsageError(
                    f"{option.opts[-1]} was given {said.count(option)} times: it takes one value", ctx
                )
        return super().parse_args(ctx, args)


class _Group(click.Group):
    command_class = _Command


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", prog_name="nrc-probe")
def cli() -> None:
    """Which layers of a trained regression network have collapsed, and how far.

    Scores Deep Neural Regression Collapse, NRC1 to NRC4 (Rangamani & Unal 2026), of saved
    checkpoints: one forward pass over the data, no training.
    """


@cli.command()
@_CHECKPOINT
@data_options
@network_options
@choice_options
@score_options
@running_options
@figure_kinds("layers", "rank")
@keep_options
@output_options
def analyze(
    checkpoint: Path,
    data: str | None,
    outputs: tuple[Path, ...],
    json_path: Path | None,
    csv_path: Path | None,
    html_path: Path | None,
    figure_paths: tuple[Path, ...],
    kind: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Score every layer of CHECKPOINT.

    The network and the data come from the options, else from the nearest nrc-probe.toml, else from
    the checkpoint's metadata; a plain MLP or ResNet is inferred from its tensors.
    """
    named = {".json": json_path, ".csv": csv_path, ".html": html_path}
    kept = (options["dump"], options["save_moments"])
    targets = output_targets(outputs, named, figure_paths, kept=kept)
    _set_threads(options["threads"])
    from nrc_probe import probe

    with _progress(quiet) as progress:
        result = probe.analyze(checkpoint, data, progress=progress, **given(options))
    _deliver(result, targets, quiet, kind)


@cli.command(short_help="List what would be scored in CHECKPOINT; needs no data.")
@_CHECKPOINT
@network_options
@choice_options
def layers(checkpoint: Path, **options: Any) -> None:
    """List what would be scored in CHECKPOINT: names, types, shapes, weight ranks."""
    from nrc_probe import probe
    from nrc_probe.report.terminal import print_layers

    print_layers(probe.list_layers(checkpoint, **given(options)), _console())


@cli.command()
@_CHECKPOINT
@dump_options
@data_options
@network_options
@choice_options
@score_options
@running_options
@quiet_option
def dump(checkpoint: Path, data: str | None, output: Path, quiet: bool, **options: Any) -> None:
    """Write the activations of every layer of CHECKPOINT to an HDF5 file, for `score`.

    Network and data are found as by `analyze`. The file needs neither afterwards. A dump that was
    interrupted is gone on with by --resume.
    """
    _set_threads(options["threads"])
    from nrc_probe import probe

    announce = None if quiet else _say
    with _progress(quiet) as progress:
        contents = probe.dump(
            checkpoint, data, output=output, progress=progress, announce=announce, **given(options)
        )
    _show(contents, quiet)


@cli.command()
@_FILE
@rescore_options
@choice_options
@array_options
@figure_kinds("layers", "rank")
@output_options
def score(
    file: Path,
    outputs: tuple[Path, ...],
    json_path: Path | None,
    csv_path: Path | None,
    html_path: Path | None,
    figure_paths: tuple[Path, ...],
    kind: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Score every layer in FILE, which `dump` wrote: no network, no data set.

    FILE may also hold arrays that others wrote (.h5, .npz, .safetensors, ...): name them.
    """
    named = {".json": json_path, ".csv": csv_path, ".html": html_path}
    targets = output_targets(outputs, named, figure_paths)
    from nrc_probe import rescoring

    with _progress(quiet) as progress:
        result = rescoring.score(file, progress=progress, **given(options))
    _deliver(result, targets, quiet, kind)


@cli.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, readable=False))
@file_option
@quiet_option
def merge(files: tuple[Path, ...], output: Path, quiet: bool) -> None:
    """Add the moments in FILES, of disjoint rows of one study, exactly."""
    from nrc_probe import rescoring

    _show(rescoring.merge(files, output=output), quiet)


@cli.command()
@_FILE
def info(file: Path) -> None:
    """Say what is in FILE, a dump (finished or not) or moments."""
    from nrc_probe.store import contents

    _show(contents.info(file), quiet=False)


@cli.command(short_help="Score every checkpoint below FOLDER; goes on where it stopped.")
@click.argument("folder", type=click.Path(path_type=Path, readable=False))
@batch_options
@data_options
@network_options
@score_options
@running_options
def batch(folder: Path, output: Path, data: str | None, quiet: bool, **options: Any) -> int:
    """Score every checkpoint below FOLDER: one JSON file each, one table at the end.

    What was scored before, of the same content, data and settings, is left as it is. What fails is
    recorded (*.failed.json), listed, and tried again next time; the exit code is then 3. For each
    checkpoint the nearest nrc-probe.toml counts. Several processes can share one output folder.
    """
    _set_threads(options["threads"])
    from nrc_probe.sweep import sweep

    with _batch_progress(quiet) as progress:
        done = sweep.batch(folder, output, data, progress=progress, **given(options))
    if not quiet:
        from nrc_probe.sweep.terminal import print_sweep

        print_sweep(done, _console())
    return 3 if done.failed else 0


@cli.command(short_help="Write an nrc-probe.toml for FOLDER, filled with what can be detected.")
@click.argument("folder", type=click.Path(path_type=Path, readable=False))
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init(folder: Path, force: bool) -> None:
    """Write FOLDER/nrc-probe.toml, filled with what can be detected, and say what is left to fill.

    Looks at the last checkpoint and at data files in FOLDER, below and beside it.
    """
    from nrc_probe import drafting

    for line in drafting.summary_lines(drafting.init(folder, force=force)):
        click.echo(printable(line))


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, readable=False))
@study_options
@figure_kinds("layers", "rank", "weight-decay", "epochs")
@output_options
def report(
    paths: tuple[Path, ...],
    by: str | None,
    settled_within: float,
    thresholds: tuple[str, ...],
    outputs: tuple[Path, ...],
    json_path: Path | None,
    csv_path: Path | None,
    parquet_path: Path | None,
    html_path: Path | None,
    figure_paths: tuple[Path, ...],
    kind: str,
    quiet: bool,
) -> None:
    """Show many results together: PATHS are result files (JSON) and folders of them.

    One row a checkpoint; over training, which conditions hold in which layer since when; runs side
    by side with --by.
    """
    named = {".json": json_path, ".csv": csv_path, ".parquet": parquet_path, ".html": html_path}
    targets = output_targets(outputs, named, figure_paths, tables=(".parquet",))
    from nrc_probe.report.files import read_results
    from nrc_probe.report.outputs import View, render

    study = read_results(*paths, **given({"thresholds": thresholds}))
    spare_what_was_read(targets, study.sources)
    view = View(kind, by or "weight_decay", settled_within)
    write_targets({path: render(study, form, view) for path, form in targets.items()})
    from nrc_probe.report.overview import print_study, unsaid

    if not quiet and Path("-") not in targets:
        print_study(study, _console(), by=by, settled_within=settled_within)
        return
    for sentence in unsaid(study, view.by if by or kind == "weight-decay" else None):
        _say(sentence)


def main() -> None:
    """Run the command line; the one place where an error becomes a message and an exit code."""
    keep_blas_to_one_thread()
    _stand_in_for_closed_streams()
    try:
        code = cli.main(prog_name="nrc-probe", standalone_mode=False)
        sys.stdout.flush()
    except ProbeError as error:
        _fail(str(error), 1)
    except click.ClickException as error:
        if isinstance(error, _HELP):
            error.show()
            sys.exit(error.exit_code)
        _fail(_usage_message(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        # click turns the second into the first, and keeps its words as the cause
        _fail(str(error.__cause__ or error) or "interrupted", 130)
    except BrokenPipeError:
        # the reader, such as `head`, has gone: nothing is left to say
        _close_standard_output()
        sys.exit(1)
    except OSError as error:
        _close_standard_output()
        _fail(f"cannot write to standard output: {error.strerror or error}", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _usage_message(error: click.ClickException) -> str:
    """What click says, on one line, and where the usage stands."""
    words = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    return f"{words} (see '{context.command_path} --help')" if context else words


def _stand_in_for_closed_streams() -> None:
    """A stream that the shell closed is None in Python: writing then fails as on any broken output.

    What goes to a closed standard error is lost, as the shell asked.
    """
    standard = {"stdout": os.O_RDONLY, "stderr": os.O_WRONLY}
    for name, mode in standard.items():
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, mode), "w", encoding="utf-8"))


def _close_standard_output() -> None:
    """Let what is still buffered go nowhere, so that the interpreter does not try once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> None:
    click.echo(f"nrc-probe: {readable(printable(message))}", err=True)
    sys.exit(code)


# ------------------------------------------------------------------------------- between the worlds


def _say(sentence: str) -> None:
    click.echo(printable(sentence), err=True)


def _set_threads(threads: int | None) -> None:
    """Bound the BLAS pools too: they read these once, when numpy is first imported."""
    if threads is not None and threads > 0:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, str(threads))


def _deliver(result: Result, targets: Mapping[Path, str], quiet: bool, kind: str) -> None:
    """Write the forms that were asked for, and print the report."""
    spare_what_was_read(targets, paths_read(result))
    from nrc_probe.report.outputs import View, render_result

    write_targets({path: render_result(result, form, View(kind)) for path, form in targets.items()})
    if not quiet and Path("-") not in targets:
        from nrc_probe.report.terminal import print_result

        print_result(result, _console())


def _show(contents: Contents, quiet: bool) -> None:
    if not quiet:
        from nrc_probe.report.contents import print_contents

        print_contents(contents, _console())


def _console() -> Any:
    from nrc_probe.report.terminal import standard_output

    return standard_output()


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int | None], None] | None]:
    """A bar with the time left on a terminal's standard error; now and then a line elsewhere."""
    if quiet:
        yield None
        return
    from nrc_probe.report.progress import progress_on

    with progress_on(sys.stderr) as advance:
        yield advance


@contextmanager
def _batch_progress(quiet: bool) -> Iterator[Any]:
    """The same for checkpoints: a bar, or a line for each that is finished."""
    if quiet:
        yield None
        return
    from nrc_probe.sweep.terminal import batch_progress_on

    with batch_progress_on(sys.stderr) as advance:
        yield advance
