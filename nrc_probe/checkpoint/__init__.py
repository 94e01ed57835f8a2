"""A saved file -> Checkpoint: tensors, and what training left beside them."""

from nrc_probe.checkpoint.checkpoint import Checkpoint, load_checkpoint
from nrc_probe.checkpoint.training import SUFFIXES, Training

__all__ = ["SUFFIXES", "Checkpoint", "Training", "load_checkpoint"]
