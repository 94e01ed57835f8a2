"""The page: markup, style, script and numbers in one file that asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib.resources import files

from nrc_probe.plain import printable
from nrc_probe.report.findings import comparison_findings, run_findings
from nrc_probe.report.page.payload import payload
from nrc_probe.report.repeats import repeats
from nrc_probe.report.study import Study

_SCRIPTS = ("state.js", "charts.js", "heat.js", "tables.js", "main.js")
"""In the order in which they build on each other."""
_TITLE = "Regression collapse, layer by layer"


def to_html(study: Study, settled_within: float) -> str:
    """The whole page. Its policy lets only its own script and style run: names in files can start nothing.

    settled_within: share of the final error within which an error counts as settled.
    """
    style = _asset("page.css")
    script = "\n".join(map(_asset, _SCRIPTS))
    pieces = {
        "POLICY": f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'",
        "TITLE": _TITLE,
        "STYLE": style,
        "SCRIPT": script,
        "FINDINGS": _findings(study, settled_within),
        "STUDY": _inert(json.dumps(payload(study, settled_within), separators=(",", ":"), allow_nan=False)),
    }
    parts = _asset("page.html").split("%%")
    return "".join(pieces[part] if odd else part for part, odd in _alternating(parts))


def _findings(study: Study, within: float) -> str:
    """Paragraphs; those on single runs folded in where one sets the runs side by side."""
    runs, together = _paragraphs(run_findings(study, within)), _paragraphs(comparison_findings(study))
    cautions = _paragraphs(list(repeats(study)))
    if not together:
        return f"{cautions}{runs}"
    return f"{cautions}{together}<details><summary>run by run</summary>{runs}</details>"


def _paragraphs(texts: list[str]) -> str:
    return "".join(f"<p>{html.escape(printable(text))}</p>" for text in texts)


def _alternating(parts: list[str]) -> list[tuple[str, bool]]:
    """Text and the names of what goes between, in turn."""
    return [(part, bool(place % 2)) for place, part in enumerate(parts)]


def _asset(name: str) -> str:
    return (files("nrc_probe.report.page") / name).read_text(encoding="utf-8")


def _inert(text: str) -> str:
    """JSON that cannot end the element it stands in."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
