"""Text that is safe to show: it steers no terminal, breaks no line and can be encoded."""

from __future__ import annotations

import re

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 160
_STAND_INS = str.maketrans({"²": "2", "─": "-", "✓": "+", "·": ".", "█": "#", "▒": "o", "░": ":"})
"""Of the same width: columns stay where they are."""


def printable(text: str) -> str:
    """`text` on one line, with characters that do not print written out, as in a Python string."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def encodable(text: str, encoding: str) -> str:
    """`text` in characters that `encoding` has; others have a stand-in, or are written out."""
    if encoding.lower().startswith("utf"):
        return text
    return text.translate(_STAND_INS).encode(encoding, "backslashreplace").decode(encoding)


def first_line(error: BaseException) -> str:
    """The first line of an error's own words, cut where it is long; its type where it has none."""
    words = _COLOUR.sub("", str(error)).strip()
    return shortened(words.splitlines()[0] if words else type(error).__name__)


def readable(message: str, longest: int = 1000) -> str:
    """A message without its middle where it is too long to be read: the way out stands at its end."""
    if len(message) <= longest:
        return message
    return f"{message[: longest * 2 // 3]} ... {message[-longest // 4 :]}"


def shortened(text: str, longest: int = _LONGEST) -> str:
    """`text`, cut with an ellipsis where it is longer than `longest`."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
