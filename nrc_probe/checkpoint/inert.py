"""Stand-ins for what training scripts pickle beside the tensors: torch.load may use them safely.

Settings and losses are often an argparse.Namespace or numpy numbers, and torch.load refuses the
whole file for one of them. Nothing here runs anything that a file says.
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Callable


class _Unread:
    """Stands for a numpy array: it takes what the file hands over, and does nothing with it."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class _ScalarType(_Unread):
    """Stands for a numpy dtype: its code, such as "f8", or None where the bytes are swapped."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and ">" in state:
            self.code = None


_STRUCT_CODES = {
    "f8": "d", "f4": "f", "f2": "e", "b1": "?",
    "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u8": "Q", "u4": "I", "u2": "H", "u1": "B",
}  # fmt: skip


def _scalar(dtype: object, raw: object = b"") -> object:
    """The Python number that a numpy scalar holds, or None."""
    code = _STRUCT_CODES.get(str(getattr(dtype, "code", None)))
    if code is None or not isinstance(raw, bytes) or len(raw) != struct.calcsize(f"<{code}"):
        return None
    return struct.unpack(f"<{code}", raw)[0]


def _path_text(*parts: object) -> str:
    return "/".join(part for part in parts if isinstance(part, str))


# Training scripts leave these beside the tensors. numpy's own would let a file forge a dtype, and
# so read memory that is not its own; stand-ins cannot.
STAND_INS: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    argparse.Namespace,
    (_ScalarType, "numpy.dtype"),
    (_Unread, "numpy.ndarray"),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_Unread, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_path_text, f"pathlib.{name}") for name in ("PosixPath", "WindowsPath", "PurePosixPath")),
    *((_path_text, f"pathlib._local.{name}") for name in ("PosixPath", "WindowsPath")),
]
