"""What torch.save wrote, read without running anything in it. The only caller of torch.load."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import BinaryIO, cast

import torch

from nrc_probe.checkpoint.inert import STAND_INS
from nrc_probe.checkpoint.unfolding import unfolds_without_end
from nrc_probe.errors import CheckpointError
from nrc_probe.plain import first_line

_LEGACY_PICKLES = 5


def load_torch(path: Path, content: str, *, way_out: str, unsafe_pickle: bool = False) -> object:
    """The object that torch.save wrote, mapped where the file allows; its code runs only if `unsafe_pickle`.

    content: one of `OF_TORCH`. way_out: what to do with a file that needs code.
    Raises CheckpointError, without the path; OSError where the file cannot be read.
    """
    if content == "torchscript" and not unsafe_pickle:
        raise CheckpointError(f"a TorchScript archive needs code; {way_out}")
    # by its name, torch.load takes a file called .safetensors for one, and fails on bytes that are
    # no text; without the name it cannot map the file
    named = path.suffix != ".safetensors" and str(path).encode(errors="ignore") == bytes(path)
    mapped = content == "torch-zip" and named
    try:
        with (
            path.open("rb") as file,
            warnings.catch_warnings(),
            torch.serialization.safe_globals(STAND_INS),
        ):
            warnings.simplefilter("ignore")  # they speak to whoever calls torch.load, not to users
            if not unsafe_pickle:
                _check_ends(file, content)
            with _told_from_its_end(file, content):
                return torch.load(
                    path if mapped else file,
                    map_location="cpu",
                    mmap=mapped,
                    weights_only=not unsafe_pickle,
                )
    except (OSError, CheckpointError):
        raise
    except Exception as error:  # a broken file may fail in any way: name it
        raise CheckpointError(_unpickling_problem(error, unsafe_pickle, way_out)) from error


def _check_ends(file: BinaryIO, content: str) -> None:
    """Raise CheckpointError for a pickle that would be read for ever; the file's place stays."""
    if content == "torch-zip":
        with zipfile.ZipFile(file) as archive:
            (name,) = [n for n in archive.namelist() if n.partition("/")[2] == "data.pkl"]
            with archive.open(name) as pickled:
                endless = unfolds_without_end(cast(BinaryIO, pickled))
    else:  # a magic number, a version, facts of the machine, the object, keys
        endless = any(unfolds_without_end(file) for _ in range(_LEGACY_PICKLES))
    file.seek(0)
    if endless:
        raise CheckpointError("the file is broken: its pickle holds tuples that unfold without end")


@contextmanager
def _told_from_its_end(file: BinaryIO, content: str) -> Iterator[None]:
    """Say that a bare pickle ended where its end is all that is wrong: half a name is no code."""
    try:
        yield
    except UnpicklingError as error:
        if content == "torch-legacy" and not file.read(1):
            raise CheckpointError(
                "the file is truncated or broken: it ends too early; save or copy it again"
            ) from error
        raise


_NAMED_CODE = re.compile(r"GLOBAL ([\w.]*\w)\s|unrecognized function (\S+)|but got <class '(\w+\.[\w.]+)'>")


def _unpickling_problem(error: Exception, unsafe_pickle: bool, way_out: str) -> str:
    if unsafe_pickle and isinstance(error, ImportError | AttributeError):
        return f"the file needs code that cannot be imported here: {first_line(error)}"
    code = _NAMED_CODE.search(str(error)) if isinstance(error, UnpicklingError) else None
    if code:
        name = next(group for group in code.groups() if group)
        return f"the file needs code to open ({name}), which was not run; {way_out}"
    return f"the file is truncated or broken: {_reason(error)}; save or copy it again"


def _reason(error: Exception) -> str:
    """torch.load's own reason, without the advice it puts before and after."""
    text = str(error).rpartition("WeightsUnpickler error:")[2].partition(" Please use")[0].strip()
    reason = first_line(type(error)(text)) if isinstance(error, UnpicklingError) else first_line(error)
    return reason.partition(". This is an internal ")[0]
