"""Which tensors of a file hold what they claim: checked before anything is allocated for them."""

from __future__ import annotations

import torch
from torch import Tensor

_SPARED = 2**20
"""Bytes below which one saved number may stand for many: a constant row costs nothing to write out."""


def unsound(tensor: Tensor) -> str | None:
    """What a tensor from a file holds instead of its values; None where it holds them.

    A few bytes may claim to be terabytes: with a stride of 0 one number repeats for ever.
    """
    if tensor.device.type == "meta":
        return "no values (it was saved from the meta device)"
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout != torch.strided:
        return None  # whoever asks for its numbers tells it apart
    claimed, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    return f"{held} bytes that claim to be {claimed}" if claimed > max(held, _SPARED) else None
