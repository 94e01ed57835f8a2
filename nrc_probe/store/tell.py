"""The story of a file, and of its layers, in the file."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nrc_probe.scoring import Reader
from nrc_probe.store.layout import SCHEMA, read_text, write_array, write_label, write_text
from nrc_probe.store.story import Story


def begin_book(book: Any, story: Story) -> None:
    """Write the story whole, and what a person looks for first as attributes; room for layers."""
    write_text(book, "facts", story.to_plain())
    attributes = {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "nrc_probe": version("nrc-probe"),
        "pooling": story.settings.pooling,
        "checkpoint_sha256": story.facts.checkpoint.sha256,
        "data_sha256": story.facts.data.sha256,
    }
    for name, value in attributes.items():
        write_label(book, name, value or "")
    book.create_group("layers")


def told(book: Any) -> Story:
    """The story that `begin_book` wrote. Raises StoreError where it is damaged."""
    return Story.from_plain(read_text(book, "facts"))


def describe_layer(group: Any, layer: Reader, index: int, pooling: str) -> None:
    """Which layer this is, and its weight, so that NRC3 needs no model."""
    weight = layer.weight()
    write_label(group, "name", layer.name.encode("ascii", "backslashreplace").decode())
    write_label(group, "type", layer.type)
    group.attrs["index"] = index
    if layer.out is not None:
        group.attrs["out"] = layer.out
    group.attrs["is_linear"] = layer.is_linear
    write_label(group, "pooling", pooling)
    if weight is not None:
        write_array(group, "weight", _storable(weight))


def _storable(weight: Tensor) -> np.ndarray[Any, Any]:
    """A weight as numpy has it; bfloat16, which it has not, as float32."""
    exact = weight.float() if weight.dtype == torch.bfloat16 else weight
    array: np.ndarray[Any, Any] = exact.contiguous().numpy()
    return array
