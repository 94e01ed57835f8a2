"""Names of layers as sentences say them."""

from __future__ import annotations

from collections.abc import Sequence


def spoken(name: str) -> str:
    """A layer's name; one of bare numbers, as of `nn.Sequential`, would read as a number."""
    return name if any(character.isalpha() for character in name) else f"layer {name}"


def some(names: Sequence[str], shown: int = 4) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(spoken, names[:shown])) + more
