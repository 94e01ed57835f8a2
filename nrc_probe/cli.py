"""The command line: parse, call one function of the library, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nrc_probe import __version__
from nrc_probe.errors import ProbeError

if TYPE_CHECKING:  # torch and rich are imported inside commands: --help must answer at once
    from nrc_probe.result import Result

Command = TypeVar("Command", bound=Callable[..., Any])

_CHECKPOINT = click.argument("checkpoint", type=click.Path(path_type=Path))
_FILE = click.Path(path_type=Path, dir_okay=True, allow_dash=True)


def _stack(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_network_options = _stack(
    click.option(
        "--model",
        metavar="NAME",
        help="mlp, resnet, torchvision:NAME or package.module:function. Default: inferred from the tensors.",
    ),
    click.option(
        "--activation",
        metavar="NAME",
        help="Activation of an inferred MLP: relu (assumed), gelu, silu, tanh, leaky_relu, elu, identity.",
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="An nrc-probe.toml. Default: the nearest one at or above the checkpoint.",
    ),
    click.option(
        "--state-key", metavar="KEY", help="Which state dict to take where a file holds several."
    ),
    click.option("--allow-code", is_flag=True, help="Let a factory named by a found file run."),
    click.option(
        "--unsafe-pickle",
        is_flag=True,
        help="Open a pickle that runs code. Only for files you trust.",
    ),
    click.option(
        "--layers", multiple=True, metavar="GLOB", help="Score only these layers; repeatable."
    ),
    click.option(
        "--exclude", multiple=True, metavar="GLOB", help="Leave these layers out; repeatable."
    ),
)

_data_options = _stack(
    click.option(
        "--data",
        metavar="FILE",
        help=".npz .npy .csv .h5 .safetensors .pt .parquet or package.module:function.",
    ),
    click.option(
        "--heldout", metavar="FILE", help="Rows that were not trained on; prepared like --data."
    ),
    click.option(
        "--inputs",
        metavar="NAME",
        help='Array or column names, or ranges such as "0:8". Default: guessed.',
    ),
    click.option("--targets", metavar="NAME", help="As --inputs."),
    click.option(
        "--standardize",
        multiple=True,
        metavar="WHAT",
        help="inputs, targets (by the data's own mean and deviation), or a file of statistics; repeatable.",
    ),
    click.option(
        "--images",
        type=click.Choice(["auto", "nhwc", "as-is"]),
        help="How byte images are read. Default: auto.",
    ),
    click.option("--limit", type=int, metavar="N", help="Use only the first N rows."),
)

_score_options = _stack(
    click.option(
        "--rank", metavar="R", help="Signal dimension: target (default), auto or an integer."
    ),
    click.option(
        "--rcond", type=float, metavar="X", help="Cutoff of NRC4's least squares. Default: 1e-3."
    ),
    click.option(
        "--pooling",
        type=click.Choice(["mean", "max", "flatten", "tokens", "first", "last"]),
        help="How maps and tokens become rows. Default: mean.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["exact", "fast"]),
        help="float64 (exact, default) or float32 products.",
    ),
    click.option(
        "--max-width", type=int, metavar="D", help="Widest layer that is scored. Default: 8192."
    ),
    click.option(
        "--threshold",
        "thresholds",
        multiple=True,
        metavar="NAME=X",
        help="nrc1=0.2, nrc2=0.6, nrc3=0.7, nrc4_ratio=1.5; repeatable.",
    ),
)

_running_options = _stack(
    click.option(
        "--batch-size", type=int, metavar="N", help="Rows per forward pass; no score depends on it."
    ),
    click.option(
        "--device",
        metavar="NAME",
        help="auto (default: cuda, then mps, then cpu), cuda, cuda:1, mps, cpu.",
    ),
    click.option("--threads", type=int, metavar="N", help="CPU threads."),
)

_output_options = _stack(
    click.option(
        "-o",
        "--output",
        "outputs",
        multiple=True,
        type=_FILE,
        metavar="FILE",
        help="Also write FILE: .json or .csv by its suffix; repeatable.",
    ),
    click.option(
        "--json",
        "json_path",
        type=_FILE,
        metavar="FILE",
        help="Write the result as JSON; - for standard output.",
    ),
    click.option(
        "--csv",
        "csv_path",
        type=_FILE,
        metavar="FILE",
        help="Write tidy rows as CSV; - for standard output.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="No report and no progress."),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", prog_name="nrc-probe")
def cli() -> None:
    """Which layers of a trained regression network have collapsed, and how far.

    Scores Deep Neural Regression Collapse, NRC1 to NRC4 (Rangamani & Unal 2026), of saved checkpoints:
    one forward pass over the data, no training.
    """


@cli.command()
@_CHECKPOINT
@_data_options
@_network_options
@_score_options
@_running_options
@_output_options
def analyze(
    checkpoint: Path,
    data: str | None,
    outputs: tuple[Path, ...],
    json_path: Path | None,
    csv_path: Path | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Score every layer of CHECKPOINT.

    The network and the data come from the options, else from the nearest nrc-probe.toml, else from the
    checkpoint's metadata; a plain MLP or ResNet is inferred from its tensors.
    """
    targets = _output_targets(outputs, json_path, csv_path)
    _set_threads(options["threads"])
    from nrc_probe import probe

    with _progress(quiet) as progress:
        result = probe.analyze(checkpoint, data, progress=progress, **_given(options))
    for path, render in targets.items():
        _write(path, render(result))
    if not quiet and Path("-") not in targets:
        from nrc_probe.report.terminal import print_result

        print_result(result, _console())


@cli.command()
@_CHECKPOINT
@_network_options
def layers(checkpoint: Path, **options: Any) -> None:
    """List what would be scored in CHECKPOINT: names, types, shapes, weight ranks. Needs no data."""
    from nrc_probe import probe
    from nrc_probe.report.terminal import print_layers

    print_layers(probe.list_layers(checkpoint, **_given(options)), _console())


def main() -> None:
    """Run the command line; the one place where an error becomes a message and an exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except ProbeError as error:
        _fail(str(error), 1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except BrokenPipeError:
        # the reader, such as `head`, has gone: nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
    click.echo(f"nrc-probe: {line}", err=True)
    sys.exit(code)


# ------------------------------------------------------------------------------- between the worlds


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were said, in the library's types."""
    said = {name: value for name, value in options.items() if value not in (None, (), False)}
    if "thresholds" in said:
        said["thresholds"] = dict(_threshold(text) for text in said["thresholds"])
    if isinstance(said.get("rank"), str) and said["rank"].lstrip("-").isdigit():
        said["rank"] = int(said["rank"])
    if "standardize" in said and not set(said["standardize"]) <= {"inputs", "targets"}:
        said["standardize"] = _statistics_file(said["standardize"])
    return said


def _threshold(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise click.BadParameter(f"'{text}': expected NAME=NUMBER, such as nrc1=0.2") from None


def _statistics_file(words: tuple[str, ...]) -> str:
    if len(words) > 1:
        raise click.BadParameter(
            f"--standardize {' '.join(words)}: expected inputs and targets, or one file"
        )
    return words[0]


def _set_threads(threads: int | None) -> None:
    """Bound the BLAS pools too: they read these once, when numpy is first imported."""
    if threads is not None and threads > 0:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, str(threads))


def _output_targets(
    outputs: tuple[Path, ...], json_path: Path | None, csv_path: Path | None
) -> dict[Path, Callable[[Result], str]]:
    """Where each form goes, checked before any work is done."""
    from nrc_probe.atomic import check_writable
    from nrc_probe.report.table import to_csv

    forms: dict[str, Callable[[Result], str]] = {
        ".json": lambda result: result.to_json() + "\n",
        ".csv": lambda result: to_csv([result]),
    }
    asked = [(path, path.suffix) for path in outputs]
    asked += [(path, form) for path, form in ((json_path, ".json"), (csv_path, ".csv")) if path]
    for path, form in asked:
        if form not in forms:
            raise click.BadParameter(f"'{path}': expected a name that ends in {' or '.join(forms)}")
    targets = {path: forms[form] for path, form in asked}
    for path in targets:
        if path != Path("-"):
            check_writable(path)
    return targets


def _write(path: Path, text: str) -> None:
    from nrc_probe.atomic import write_text

    if path == Path("-"):
        click.echo(text, nl=False)
    else:
        write_text(path, text)


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False, emoji=False, markup=False)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int | None], None] | None]:
    """A bar with the time left on a terminal's standard error; a line every few seconds elsewhere."""
    if quiet:
        yield None
        return
    from nrc_probe.report.progress import progress_on

    with progress_on(sys.stderr) as advance:
        yield advance
