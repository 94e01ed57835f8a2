"""A saved file -> Checkpoint: tensors, and what training left beside them."""

from nrc_probe.checkpoint.checkpoint import Checkpoint, load_checkpoint
from nrc_probe.checkpoint.content import OF_TORCH, content_of
from nrc_probe.checkpoint.sound import unsound
from nrc_probe.checkpoint.torchfile import load_torch
from nrc_probe.checkpoint.training import SUFFIXES, Training

__all__ = [
    "OF_TORCH",
    "SUFFIXES",
    "Checkpoint",
    "Training",
    "content_of",
    "load_checkpoint",
    "load_torch",
    "unsound",
]
