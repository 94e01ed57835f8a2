"""One self-contained page about many results, which works offline and from file://."""

from nrc_probe.report.page.page import to_html

__all__ = ["to_html"]
