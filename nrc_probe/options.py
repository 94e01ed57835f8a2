"""The options of the commands, and how their words become the library's types."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from nrc_probe.plain import shortened

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, readable=False)
"""A path that is opened later, where what is wrong with it can be said in our words."""


def _stack(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


layers_option = click.option(
    "--layers", multiple=True, metavar="GLOB", help="Score only these layers; repeatable."
)

choice_options = _stack(
    layers_option,
    click.option("--exclude", multiple=True, metavar="GLOB", help="Leave these layers out; repeatable."),
)

network_options = _stack(
    click.option(
        "--model",
        metavar="NAME",
        help="mlp, resnet, torchvision:NAME or package.module:function. Default: inferred from the tensors.",
    ),
    click.option(
        "--model-option",
        "model_options",
        multiple=True,
        metavar="NAME=X",
        help="Keyword argument of the architecture; X as in JSON, or a text; repeatable.",
    ),
    click.option(
        "--activation",
        metavar="NAME",
        help="Activation of an inferred MLP: relu (assumed), gelu, silu, tanh, leaky_relu, elu, identity.",
    ),
    click.option(
        "--config",
        type=_FILE,
        help="An nrc-probe.toml, whose factories run as if typed. Default: the nearest one at or above "
        "the checkpoint, whose factories need --allow-code.",
    ),
    click.option("--state-key", metavar="KEY", help="Which state dict to take where a file holds several."),
    click.option("--allow-code", is_flag=True, help="Let a factory named by a found file run."),
    click.option(
        "--unsafe-pickle",
        is_flag=True,
        help="Open a pickle that runs code. Only for files you trust.",
    ),
)

data_options = _stack(
    click.option(
        "--data",
        metavar="FILE",
        help=".npz .npy .csv .h5 .safetensors .pt .parquet or package.module:function.",
    ),
    click.option("--heldout", metavar="FILE", help="Rows that were not trained on; prepared like --data."),
    click.option(
        "--inputs",
        metavar="NAME",
        help='Array name, or columns: "a,b", "0:8", "0,2,5:7". Default: guessed.',
    ),
    click.option(
        "--targets", metavar="NAME", help="As --inputs; alone, a table's other columns are the inputs."
    ),
    click.option("--heldout-inputs", metavar="NAME", help="As --inputs, where held-out names differ."),
    click.option("--heldout-targets", metavar="NAME", help="As --targets, where held-out names differ."),
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
    click.option(
        "--data-option",
        "data_options",
        multiple=True,
        metavar="NAME=X",
        help="Keyword argument of a factory that makes the data; repeatable.",
    ),
    click.option("--limit", type=int, metavar="N", help="Use only the first N rows."),
)

rescore_options = _stack(
    click.option("--rank", metavar="R", help="Signal dimension: target (default), auto or an integer."),
    click.option(
        "--rcond",
        type=float,
        metavar="X",
        help="Cutoff of NRC4's least squares, on the features' singular values. Default: 1e-3.",
    ),
    click.option("--max-width", type=int, metavar="D", help="Widest layer that is scored. Default: 8192."),
    click.option(
        "--threshold",
        "thresholds",
        multiple=True,
        metavar="NAME=X",
        help="nrc1=0.2, nrc2=0.6, nrc3=0.7, nrc4_ratio=1.5; repeatable.",
    ),
)

score_options = _stack(
    rescore_options,
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
)


keep_options = _stack(
    click.option("--dump", type=_FILE, metavar="FILE", help="Keep the activations of the pass in FILE."),
    click.option("--save-moments", type=_FILE, metavar="FILE", help="Keep the sums of the pass in FILE."),
)

file_option = click.option(
    "-o", "--output", type=_FILE, required=True, metavar="FILE", help="The HDF5 file to write."
)

dump_options = _stack(
    file_option,
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float16", "bfloat16"]),
        help="Of the activations. Default: float32; what is computed in float64 stays so.",
    ),
    click.option(
        "--compression",
        type=click.Choice(["none", "lzf", "gzip", "blosc"]),
        help="Default: none; blosc needs the extra 'compression'.",
    ),
    click.option("--moments", is_flag=True, help="Also the sums: scoring then reads no activations."),
    click.option("--moments-only", is_flag=True, help="Only the sums: a few MB whatever the rows are."),
    click.option("--resume", is_flag=True, help="Go on with a dump that was interrupted, if there is one."),
    click.option("--yes", is_flag=True, help="Begin also where the disk seems too small."),
)

array_options = _stack(
    click.option(
        "--features",
        multiple=True,
        metavar="GLOB",
        help="Arrays (n, d) of a file that nrc-probe did not write, in run order; repeatable.",
    ),
    click.option("--targets", metavar="NAME", help="Its array of targets, (n, t)."),
    click.option("--predictions", metavar="NAME", help="Its array of the network's predictions, (n, t)."),
    click.option(
        "--weights",
        multiple=True,
        metavar="LAYER=NAME",
        help="Its array (out, d) that reads the features LAYER; repeatable.",
    ),
)

quiet_option = click.option("-q", "--quiet", is_flag=True, help="No report and no progress.")

running_options = _stack(
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

batch_options = _stack(
    click.option(
        "-o",
        "--output",
        required=True,
        type=_FILE,
        metavar="FOLDER",
        help="Where the results go, each at its checkpoint's relative path, with .json added.",
    ),
    click.option(
        "--include",
        multiple=True,
        metavar="GLOB",
        help="Score only these checkpoints: relative paths, names or folders; repeatable.",
    ),
    click.option("--exclude", multiple=True, metavar="GLOB", help="Leave these out; repeatable."),
    click.option(
        "--exclude-layers",
        multiple=True,
        metavar="GLOB",
        help="Leave these layers out, as analyze --exclude does; repeatable.",
    ),
    click.option("--workers", type=int, metavar="N", help="Processes, which share the threads. Default: 1."),
    click.option("--force", is_flag=True, help="Make results again that are there."),
    click.option("--dry-run", is_flag=True, help="Only say what would be done, and what is done already."),
    layers_option,
    click.option("-q", "--quiet", is_flag=True, help="No table and no progress."),
)

output_options = _stack(
    click.option(
        "-o",
        "--output",
        "outputs",
        multiple=True,
        type=_FILE,
        metavar="FILE",
        help="Also write FILE: .json, .csv, .html, .pdf, .svg or .png by its suffix; repeatable.",
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
    click.option(
        "--html",
        "html_path",
        type=_FILE,
        metavar="FILE",
        help="Write a page that works offline; - for standard output.",
    ),
    click.option(
        "--figure",
        "figure_paths",
        multiple=True,
        type=_FILE,
        metavar="FILE",
        help="Draw FILE: .pdf, .svg or .png (needs matplotlib, extra 'figures'); repeatable.",
    ),
    quiet_option,
)


def figure_kinds(*kinds: str) -> Callable[[Command], Command]:
    """--kind, of these."""
    numbers = {"layers": 2, "rank": 3, "weight-decay": 4, "epochs": 5}
    which = ", ".join(f"{kind} ({numbers[kind]})" for kind in kinds)
    return click.option(
        "--kind",
        type=click.Choice(kinds),
        default=kinds[0],
        help=f"Which of the paper's figures --figure draws: {which}. Default: {kinds[0]}.",
    )


study_options = _stack(
    click.option(
        "--by",
        metavar="FIELD",
        help="Set the same layer side by side across a recorded field: weight_decay, data.n, ...",
    ),
    click.option(
        "--settled-within",
        type=click.FloatRange(min=0, min_open=True),
        default=0.1,
        metavar="X",
        help="Share of its final value within which an error counts as settled. Default: 0.1.",
    ),
    click.option(
        "--threshold",
        "thresholds",
        multiple=True,
        metavar="NAME=X",
        help="Judge by these instead of what was recorded: nrc1=0.2, nrc4_ratio=1.5; repeatable.",
    ),
    click.option(
        "--parquet",
        "parquet_path",
        type=_FILE,
        metavar="FILE",
        help="Write all rows as parquet (needs pyarrow, extra 'parquet').",
    ),
)


# --------------------------------------------------------------------------- words -> the library's


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were said, in the library's types. Raises click.BadParameter."""
    # by identity: 0 was said, and equals False
    unsaid = (None, (), False)
    said = {name: x for name, x in options.items() if not any(x is nothing for nothing in unsaid)}
    for name, read in (
        ("thresholds", _number),
        ("model_options", _value),
        ("data_options", _value),
        ("weights", str),
    ):
        if name in said:
            said[name] = _named(name, said[name], read)
    if "rank" in said:
        said["rank"] = _rank(said["rank"])
    if "standardize" in said:
        said["standardize"] = _standardize(said["standardize"])
    return said


def _named(option: str, texts: Iterable[str], read: Callable[[str], Any]) -> dict[str, Any]:
    """NAME=X, ... as a mapping."""
    named = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            if not equals or not name:
                raise ValueError
            named[name] = read(value)
        except (ValueError, RecursionError) as error:
            kind = "NAME=NUMBER, such as nrc1=0.2" if read is _number else "NAME=X"
            kind += ", X less deep" if isinstance(error, RecursionError) else ""
            flag = f"--{option.removesuffix('s').replace('_', '-') if option != 'weights' else option}"
            raise click.BadParameter(f"{flag} '{shortened(text)}': expected {kind}") from None
    return named


def _number(text: str) -> float:
    return float(text)


def _value(text: str) -> Any:
    """A number, true, false, null or a list as in JSON; else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _rank(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


def _standardize(words: tuple[str, ...]) -> tuple[str, ...] | str:
    """Roles, each by itself or with a comma between them; or one file."""
    roles = tuple(role for word in words for role in word.split(","))
    if set(roles) <= {"inputs", "targets"}:
        return roles
    if len(words) > 1:
        raise click.BadParameter(f"--standardize {' '.join(words)}: expected inputs and targets, or one file")
    return words[0]
