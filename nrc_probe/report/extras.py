"""Which forms of a report need a library of their own, and what brings it."""

from __future__ import annotations

from importlib.util import find_spec

from nrc_probe.errors import OutputError

FIGURES = (".pdf", ".svg", ".png")
_NEEDED = {".parquet": ("pyarrow", "parquet"), **dict.fromkeys(FIGURES, ("matplotlib", "figures"))}


def check_extra(form: str) -> None:
    """Raise OutputError where a form's library is not installed: worth knowing before a long pass."""
    library, extra = _NEEDED.get(form, (None, None))
    if library is not None and find_spec(library) is None:
        raise OutputError(f"writing {form} needs {library}: pip install 'nrc-probe[{extra}]'")
