"""The paper's figures 2 to 5 of one's own results, as vector graphics or png."""

from nrc_probe.report.figures.drawing import draw

__all__ = ["draw"]
