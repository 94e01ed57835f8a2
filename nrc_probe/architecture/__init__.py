"""Checkpoint (+ spec) -> nn.Module, and what was assumed."""

from nrc_probe.architecture.mlp import ACTIVATIONS
from nrc_probe.architecture.network import Network, build_network, describe, refill

__all__ = ["ACTIVATIONS", "Network", "build_network", "describe", "refill"]
