"""Text that is safe to show: it steers no terminal, breaks no line and can be encoded."""

from __future__ import annotations

_STAND_INS = str.maketrans({"²": "2", "─": "-", "✓": "+", "·": "."})
"""Of the same width: columns stay where they are."""


def printable(text: str) -> str:
    """`text` on one line, with characters that do not print written out, as in a Python string."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def encodable(text: str, encoding: str) -> str:
    """`text` in characters that `encoding` has; others have a stand-in, or are written out."""
    if encoding.lower().startswith("utf"):
        return text
    return text.translate(_STAND_INS).encode(encoding, "backslashreplace").decode(encoding)
