"""What a folder shows -> the text of its nrc-probe.toml; what it does not show is left to fill in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nrc_probe.atomic import check_writable, write_text
from nrc_probe.config import FILE_NAME
from nrc_probe.drafting.evidence import (
    HELD_OUT,
    TRAINING,
    Fit,
    Misfit,
    Reading,
    Subject,
    best_reading,
    find_data,
    find_subject,
)
from nrc_probe.errors import OutputError
from nrc_probe.plain import printable

_FILL = "FILL IN"
_SHOWN = 5


@dataclass(frozen=True)
class Draft:
    """A configuration that was written, and what its lines rest on."""

    path: Path
    text: str
    found: tuple[str, ...]
    """What was detected, one sentence each."""
    missing: tuple[str, ...]
    """What is left to fill in; empty where `analyze` needs no other word."""
    left_out: tuple[str, ...] = ()
    """Files that lie nearer than the data, or than nothing that fits, each with what is wrong with it."""


@dataclass
class _Lines:
    """The file in the making."""

    text: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, key: str, value: object, comment: str = "", *, said: bool = True) -> None:
        """A line `key = value`, commented out where it is only an example."""
        line = f"{'' if said else '# '}{key} = {_toml(value)}"
        self.text.append(f"{line:<38} # {printable(comment)}" if comment else line)


def init(folder: str | Path, *, force: bool = False) -> Draft:
    """Write `folder`/nrc-probe.toml with the network, data and standardisation that can be detected.

    The network is that of the last checkpoint; data files lie in the folder, below or beside it and
    fit the network; activation and standardisation are those with which it predicts best.
    force: replace a file that is there.
    Raises CheckpointError where there is no such folder; OutputError where the file is there, or is
    a link to a file of another kind.
    """
    path = Path(folder) / FILE_NAME
    subject = find_subject(Path(folder))
    if path.exists() and not force:
        raise OutputError(f"cannot write '{path}': it is there already (add --force to replace it)")
    check_writable(path)
    lines = _Lines()
    fits, misfits = find_data(Path(folder), subject)
    data, heldout, others = _chosen(fits)
    reading = best_reading(subject, data) if subject and data else None
    lines.text += _head(subject)
    _model(lines, subject, reading)
    _data(lines, path.parent, subject, data, others, reading)
    _left_out(lines, path.parent, misfits)
    _heldout(lines, path.parent, data, heldout)
    lines.text += _tail()
    text = "\n".join(lines.text) + "\n"
    write_text(path, text)
    return Draft(path, text, tuple(lines.found), tuple(lines.missing), tuple(lines.left_out))


# -------------------------------------------------------------------------------------- the tables


def _head(subject: Subject | None) -> list[str]:
    source = f" from {printable(subject.name)}" if subject else ""
    return [
        f"# Drafted by 'nrc-probe init'{source}; it holds for this folder and those below it.",
        "# What was detected stands without #: check it. Options of a command win over this file.",
    ]


def _model(lines: _Lines, subject: Subject | None, reading: Reading | None) -> None:
    lines.text += ["", "[model]"]
    network = subject.network if subject else None
    if subject is None:
        lines.add("architecture", "mlp", f"{_FILL}, or leave out: no checkpoint was found", said=False)
        lines.missing.append("no checkpoint opens here: save one, or run init again when there is one")
        return
    if network is None:
        lines.add("architecture", "package.module:function", f"{_FILL}: {subject.problem}", said=False)
        lines.missing.append(f"[model] architecture: {subject.problem}")
        return
    known = reading is not None and _explains(reading)
    summary = reading.summary if reading and known else network.summary
    lines.found.append(f"network: {summary} ({subject.name})")
    if network.source != "inferred" or subject.said.model.architecture:
        lines.text.append(f"# {printable(summary)}, as the checkpoints say themselves")
        return
    family = "mlp" if len(subject.input_shape or ()) == 1 else "resnet"
    lines.add("architecture", family, f"read off the tensors: {summary}")
    if reading and reading.activation:
        _activation(lines, reading)


def _activation(lines: _Lines, reading: Reading) -> None:
    lines.text += ["", "[model.options]"]
    if _explains(reading):
        lines.add("activation", reading.activation, "no file shows it; with it the network predicts best")
        lines.found.append(f"activation: {reading.activation}, with which the network predicts best")
    else:
        lines.add("activation", "relu", f"{_FILL}: no file shows it; relu is assumed", said=False)


def _data(
    lines: _Lines,
    folder: Path,
    subject: Subject | None,
    data: Fit | None,
    others: Sequence[Fit],
    reading: Reading | None,
) -> None:
    lines.text += ["", "[data]"]
    if data is None and subject and subject.said.data.path:
        lines.text.append(f"# {printable(subject.said.data.path)}, as the checkpoints say themselves")
        lines.found.append(f"data: {subject.said.data.path}, as the checkpoints say themselves")
        return
    if data is None:
        lines.add("path", "train.npz", f"{_FILL}: no data file near fits {_needs(subject)}", said=False)
        lines.add("inputs", "x", said=False)
        lines.add("targets", "y", said=False)
        lines.add("standardize", ["inputs", "targets"], "if training did so", said=False)
        lines.missing.append(f"[data] path: no data file near fits {_needs(subject)}")
        return
    _fit(lines, folder, data, _rows(data))
    lines.found.append(f"data: {_files(data, folder)}, {_rows(data)}")
    if others:
        names = ", ".join(_relative(fit.path, folder) for fit in others[:_SHOWN])
        names += ", ..." if len(others) > _SHOWN else ""
        lines.text.append(f"# these fit the network as well: {printable(names)}")
    if not data.is_sure:
        lines.missing.append("[data] inputs, targets: a guess by shapes alone, check it")
    _standardize(lines, reading)


def _left_out(lines: _Lines, folder: Path, misfits: Sequence[Misfit]) -> None:
    """What was looked at, and why it is not the data."""
    lines.left_out += [f"{_relative(each.path, folder)}: {each.reason}" for each in misfits[:_SHOWN]]
    if len(misfits) > _SHOWN:
        lines.left_out.append(f"and {len(misfits) - _SHOWN} more")
    lines.text += [f"# looked at: {printable(each)}" for each in lines.left_out]


def _standardize(lines: _Lines, reading: Reading | None) -> None:
    if reading is None or not _explains(reading):
        r2 = f"R² is {reading.r2:.2g} at best" if reading else "its R² could not be measured"
        lines.add("standardize", ["inputs", "targets"], f"{_FILL} if training did so: {r2}", said=False)
        lines.missing.append(
            f"[data] standardize, [model.options] activation: no choice lets the network predict ({r2})"
        )
    elif reading.standardize:
        lines.add("standardize", list(reading.standardize), f"with it the network's R² is {reading.r2:.3f}")
        lines.found.append(
            f"standardised: {' and '.join(reading.standardize)}; the network's R² is then {reading.r2:.3f}"
        )
    else:
        lines.text.append(f"# not standardised: the network's R² is {reading.r2:.3f} as it is")
        lines.found.append(f"not standardised: the network's R² is {reading.r2:.3f} as it is")


def _heldout(lines: _Lines, folder: Path, data: Fit | None, heldout: Fit | None) -> None:
    lines.text += ["", "[heldout]" if heldout else "# [heldout]"]
    if heldout is None:
        lines.add("path", "test.npz", "rows that were not trained on, if there are any", said=False)
        return
    names = (heldout.inputs, heldout.targets, heldout.second)
    same = data is not None and names == (data.inputs, data.targets, None)
    comment = f"{_rows(heldout)}; by its name"
    if same:
        lines.add("path", _relative(heldout.path, folder), comment)
    else:
        _fit(lines, folder, heldout, comment)
    lines.found.append(f"held out, by its name: {_files(heldout, folder)}, {_rows(heldout)}")


def _tail() -> list[str]:
    return [
        "",
        "# [score]                              # every option of analyze by its long name",
        '# rank = "auto"                        # or an integer; left out: the target dimension',
        '# exclude = ["conv1", "*downsample*"]  # layers to leave out',
    ]


# ------------------------------------------------------------------------------------ single facts


def _chosen(fits: Sequence[Fit]) -> tuple[Fit | None, Fit | None, list[Fit]]:
    """The data, the held-out rows, and what else fits."""
    training = [fit for fit in fits if TRAINING.search(fit.path.name)]
    held_out = [fit for fit in fits if HELD_OUT.search(fit.path.name) and fit not in training]
    neither = [fit for fit in fits if fit not in training and fit not in held_out]
    data = next(iter([*training, *neither, *held_out]), None)
    heldout = next((fit for fit in held_out if fit is not data), None)
    return data, heldout, [fit for fit in fits if fit is not data and fit is not heldout]


def _fit(lines: _Lines, folder: Path, fit: Fit, comment: str) -> None:
    lines.add("path", _relative(fit.path, folder), comment)
    targets = _relative(fit.second, folder) if fit.second else fit.targets
    for key, value in (("inputs", fit.inputs), ("targets", targets)):
        if value is not None:
            lines.add(key, value, "" if fit.is_sure else "a guess by shapes alone: check it")


def _explains(reading: Reading) -> bool:
    return reading.r2 > 0.1


def _rows(fit: Fit) -> str:
    return f"{fit.n:,} rows" if fit.n is not None else "rows not counted"


def _needs(subject: Subject | None) -> str:
    if subject is None or subject.input_shape is None:
        return "(the network's input is unknown)"
    shape = "x".join(
        map(str, subject.input_shape[:1] if len(subject.input_shape) > 1 else subject.input_shape)
    )
    kind = "channels" if len(subject.input_shape) > 1 else "inputs"
    return f"the network's {shape} {kind} and {subject.target_dim} targets"


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _files(fit: Fit, folder: Path) -> str:
    return " and ".join(_relative(path, folder) for path in (fit.path, fit.second) if path)


def _toml(value: object) -> str:
    """A text or a list of texts as TOML, whose basic strings are JSON's but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def summary_lines(draft: Draft) -> Iterator[str]:
    """What was written and found, and what is left, for the terminal."""
    yield f"wrote {draft.path}"
    for title, items in (
        ("found", draft.found),
        ("left to fill in", draft.missing),
        ("looked at, and not taken for the data", draft.left_out),
    ):
        if items:
            yield title
            yield from (f"  - {item}" for item in items)
    if not draft.missing:
        yield "nothing is left to fill in: try 'nrc-probe batch'"
