"""A folder of checkpoints -> a draft of its nrc-probe.toml, and what is left to fill in."""

from nrc_probe.drafting.drafting import Draft, init, summary_lines

__all__ = ["Draft", "init", "summary_lines"]
