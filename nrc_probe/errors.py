"""The errors a user can meet.

    ProbeError                 every message is one line: place, expected, got, way out
    |- CheckpointError         the saved file: missing, truncated, of another format, in need of code
    |- ArchitectureError       the network: not inferable, or its tensors do not fit
    |- DataError               the data set: missing arrays, shapes, values that are not finite
    |- ConfigError             nrc-probe.toml or an option: unknown key, wrong type, two that disagree
    |- LayerError              a layer pattern that matches nothing, a layer that cannot be scored
    |- RankError               a signal dimension outside 1 <= rank <= width
    |- StoreError              saved activations or moments: incomplete, damaged, of another kind
    |- CodeRefusedError        running code was asked for by a file, not by the user
    `- OutputError             a result that cannot be written

An undefined number is not an error: it is nan, with a reason beside it. A broken contract is.
"""

from __future__ import annotations


class ProbeError(Exception):
    """Base of every error meant for the user; its text is one line."""


class CheckpointError(ProbeError):
    """A saved file that cannot be read as a checkpoint."""


class ArchitectureError(ProbeError):
    """A network that cannot be built, or that the tensors do not fit."""


class DataError(ProbeError):
    """A data set that cannot be read, or that does not fit the network."""


class ConfigError(ProbeError):
    """A configuration file or an option that cannot be followed."""


class LayerError(ProbeError):
    """A layer that was asked for and is not there, or cannot be scored."""


class RankError(ProbeError):
    """A signal dimension that no subspace of the layer can have."""


class StoreError(ProbeError):
    """Saved activations or moments that cannot be read, resumed or merged."""


class CodeRefusedError(ProbeError):
    """A file, not the user, asked to run code."""


class OutputError(ProbeError):
    """A result that cannot be written where it was asked for."""
