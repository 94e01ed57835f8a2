"""nrc-probe: which layers of a trained regression network have collapsed, and how far.

The public names load on first use: importing the package, and `nrc-probe --help`, stay fast.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as typing's, which takes its time to load
if TYPE_CHECKING:
    from typing import Any

    from nrc_probe.assembly import Options
    from nrc_probe.drafting import Draft, init
    from nrc_probe.errors import ProbeError
    from nrc_probe.probe import analyze, dump, list_layers
    from nrc_probe.report.files import read_results
    from nrc_probe.report.outputs import write_report
    from nrc_probe.report.overview import print_study
    from nrc_probe.report.study import Study
    from nrc_probe.report.terminal import print_layers, print_result
    from nrc_probe.rescoring import merge, score
    from nrc_probe.result import LayerResult, Result, Thresholds
    from nrc_probe.saving import save_checkpoint
    from nrc_probe.store.contents import info
    from nrc_probe.sweep.outcome import Outcome, Sweep
    from nrc_probe.sweep.sweep import batch

    __version__: str

__all__ = [
    "Draft",
    "LayerResult",
    "Options",
    "Outcome",
    "ProbeError",
    "Result",
    "Study",
    "Sweep",
    "Thresholds",
    "analyze",
    "batch",
    "dump",
    "info",
    "init",
    "list_layers",
    "merge",
    "print_layers",
    "print_result",
    "print_study",
    "read_results",
    "save_checkpoint",
    "score",
    "write_report",
]

_HOMES = {
    "Draft": "drafting",
    "LayerResult": "result",
    "Options": "assembly",
    "Outcome": "sweep.outcome",
    "ProbeError": "errors",
    "Result": "result",
    "Study": "report.study",
    "Sweep": "sweep.outcome",
    "Thresholds": "result",
    "analyze": "probe",
    "batch": "sweep.sweep",
    "dump": "probe",
    "info": "store.contents",
    "init": "drafting",
    "list_layers": "probe",
    "merge": "rescoring",
    "print_layers": "report.terminal",
    "print_result": "report.terminal",
    "print_study": "report.overview",
    "read_results": "report.files",
    "save_checkpoint": "saving",
    "score": "rescoring",
    "write_report": "report.outputs",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("nrc-probe")
    if name not in _HOMES:
        raise AttributeError(f"module 'nrc_probe' has no attribute '{name}'")
    return getattr(import_module(f"nrc_probe.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
