"""What several results say together, in plain words. Collapse is described, never praised."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import dropwhile, takewhile
from statistics import median

from nrc_probe.report.comparison import Comparison, all_meet, compare, layers_named, numbers
from nrc_probe.report.fields import Value, text_of
from nrc_probe.report.onset import (
    NOT_SETTLED,
    SETTLED_WITHIN,
    can_settle,
    heldout_errors,
    holds_from,
    is_last_only,
    settled_from,
    training_errors,
)
from nrc_probe.report.reading import reading
from nrc_probe.report.study import Run, Study, layer_names
from nrc_probe.report.words import some
from nrc_probe.result import Result

_RUNS_DESCRIBED = 12
"""Of more runs than this the first few are described; the comparison is about all."""
_TITLES = {"nrc1": "NRC1", "nrc2": "NRC2", "nrc3": "NRC3", "nrc4": "NRC4"}


def findings(study: Study, within: float = SETTLED_WITHIN) -> list[str]:
    """A paragraph a run, and one on whether weight decay separates the runs; from the numbers alone.

    within: share of the final error within which an error counts as settled.
    """
    return [*run_findings(study, within), *comparison_findings(study)]


def run_findings(study: Study, within: float = SETTLED_WITHIN) -> list[str]:
    """A paragraph on each of the first runs."""
    said = [_about(run, within) for run in study.runs[:_RUNS_DESCRIBED]]
    if len(study.runs) > _RUNS_DESCRIBED:
        said.append(f"{len(study.runs) - _RUNS_DESCRIBED} more runs are not put in words.")
    return said


def comparison_findings(study: Study) -> list[str]:
    """A paragraph on weight decay, where there is more than one."""
    comparison = compare(study, "weight_decay")
    several = len([value for value in comparison.values if value is not None]) > 1
    return [" ".join(_separation(comparison))] if several else []


# ------------------------------------------------------------------------------------------- a run


def _about(run: Run, within: float) -> str:
    last = f" at {run.clock} {run.times[-1]}" if len(run.results) > 1 else ""
    sentences = [f"{_capital(run.name)}{last}{_learnt(run.final.model_r2)}: {reading(run.final)}"]
    if len(run.results) > 1:
        sentences += _course(run, within)
    return " ".join(sentences)


def _learnt(r2: float) -> str:
    """What was learnt at all: a collapse of features that predict nothing is another thing."""
    if not math.isfinite(r2):
        return ", R² undefined"
    worse = "" if r2 > 0 else ", no better than the targets' mean"
    return f", R² {r2:.3g}{worse}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:] if text.startswith(("weight decay", "rank", "data")) else text


def _course(run: Run, within: float) -> Iterator[str]:
    """When collapse set in, beside when the errors settled."""
    tail = _tail(run.final)
    known = [time for name in tail if (time := holds_from(run, name)) is not None]
    at_last = [name for name in tail if is_last_only(run, name)]
    if known or at_last:
        yield _onset(run, known, at_last)
    yield from _settling(run, within)
    settled = settled_from(run, training_errors(run), within)
    if known and not at_last and settled is not None:
        yield _sequence(max(known), settled)


def _settling(run: Run, within: float) -> Iterator[str]:
    """When the network's error settled, and that on held-out rows; nothing on one that cannot."""
    said: list[str] = []
    whole = f"stays within {100 * within:g}% of its final value "
    for what, errors in (("network's error", training_errors(run)), ("held-out error", heldout_errors(run))):
        if errors is None or not can_settle(errors):
            continue
        since = settled_from(run, errors, within)
        stays = f"{'' if said and whole in said[0] else whole}from {run.clock} {since} on"
        said.append(f"the {what} {f'has {NOT_SETTLED}' if since is None else stays}")
    if len(said) > 1 and all(words.endswith(NOT_SETTLED) for words in said):
        yield f"Neither the network's error nor the held-out error has {NOT_SETTLED.removeprefix('not ')}."
    elif said:
        yield f"{_upper(', '.join(said))}."


def _tail(result: Result) -> list[str]:
    """The collapsed layers at the end, from the first on in which NRC1 could fail."""
    met = list(takewhile(lambda layer: layer.conditions["nrc1"], reversed(result.layers)))
    return [layer.name for layer in dropwhile(lambda layer: layer.rank >= layer.width, reversed(met))]


def _onset(run: Run, since: Sequence[int], at_last: Sequence[str]) -> str:
    """From when NRC1 holds in the collapsed layers; at_last: those of which nothing shows that it stays."""
    if not since:
        return "NRC1 is met in these at the last checkpoint only: nothing shows whether it stays."
    first, last = min(since), max(since)
    if at_last:
        return (
            f"NRC1 holds in one or more of these from {run.clock} {first} on; "
            f"in {some(at_last)} it is met at the last checkpoint only, and nothing shows whether it stays."
        )
    if first == last:
        seen = ", the first checkpoint" if first == run.times[0] else ""
        return f"NRC1 holds in all of these from {run.clock} {first} on{seen}."
    return f"NRC1 holds in one or more of these from {run.clock} {first} on, in all of them from {last} on."


def _sequence(onset: int, settled: int) -> str:
    if onset == settled:
        return "The last of these and the network's error came to stay at the same checkpoint."
    order = "after" if onset > settled else "before"
    return f"Collapse reached its final extent {order} the error had settled."


# ------------------------------------------------------------------------------------ weight decays


def _separation(comparison: Comparison) -> Iterator[str]:
    """Whether the values of a field come with different conditions, and where they differ most."""
    groups = [(v, g) for v, g in zip(comparison.values, comparison.groups, strict=True) if v is not None]
    names = layer_names(result for _, group in groups for result in group)
    parted = {
        title: [name for name in names if _parts(groups, name, condition)]
        for condition, title in _TITLES.items()
    }
    subject = f"{comparison.title.capitalize()} ({', '.join(text_of(value) for value, _ in groups)})"
    if any(parted.values()):
        where = "; ".join(f"{title} in {some(layers)}" for title, layers in parted.items() if layers)
        yield f"{subject} separates the runs, by conditions met at some values only: {where}."
    else:
        yield (
            f"{subject} does not separate the runs: no layer meets a condition in all runs of one value "
            "and in none of another."
        )
    yield from _widest(groups, names)
    yield from _errors(groups)


def _parts(groups: Sequence[tuple[Value, Sequence[Result]]], name: str, condition: str) -> bool:
    """Whether all results of one value meet a condition in a layer and all of another do not.

    A value with no result that scored the layer counts as neither.
    """
    met = [[layer.conditions[condition] for layer in layers_named(group, name)] for _, group in groups]
    return any(all_meet(group, name, condition) for _, group in groups) and any(not any(m) for m in met if m)


def _widest(groups: Sequence[tuple[Value, Sequence[Result]]], names: Sequence[str]) -> Iterator[str]:
    """Where the numbers differ most, whatever the thresholds say."""
    for title, field in (
        ("NRC1", "nrc1"),
        ("NRC3", "nrc3"),
        ("the weight's stable rank", "stable_rank_weight"),
    ):
        spans = []
        for name in names:
            medians = [(v, median(n)) for v, g in groups if (n := numbers(g, name, field))]
            if len(medians) > 1:
                low, high = min(medians, key=lambda m: m[1]), max(medians, key=lambda m: m[1])
                spans.append((high[1] - low[1], name, low, high))
        widest = max(spans, key=lambda span: span[0], default=None)
        if widest is not None and widest[0] > 0:
            _, name, low, high = widest
            yield (
                f"{_upper(title)} differs most in {name}: {low[1]:.3g} at {text_of(low[0])}, "
                f"{high[1]:.3g} at {text_of(high[0])}."
            )


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _errors(groups: Sequence[tuple[Value, Sequence[Result]]]) -> Iterator[str]:
    trained = [(value, _median(r.model_mse for r in group)) for value, group in groups]
    held = [
        (value, _median(r.heldout.model_mse for r in group if r.heldout is not None))
        for value, group in groups
    ]
    for what, pairs in (("error", trained), ("held-out error", held)):
        known = [(value, error) for value, error in pairs if math.isfinite(error)]
        if len(known) > 1:
            listed = ", ".join(f"{error:.3g} at {text_of(value)}" for value, error in known)
            yield f"The network's {what}: {listed}."


def _median(errors: Iterator[float]) -> float:
    finite = [error for error in errors if math.isfinite(error)]
    return median(finite) if finite else math.nan
