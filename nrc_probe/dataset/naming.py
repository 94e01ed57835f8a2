"""Which arrays or columns are the inputs and which the targets: as named, or guessed and noted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from nrc_probe.dataset.readers import Contents
from nrc_probe.dataset.rows import Array
from nrc_probe.dataset.tables import Table, array_columns
from nrc_probe.errors import DataError

INPUT_WORDS = ("x", "X", "inputs", "input", "observations", "obs", "states", "features", "images", "rgb")
TARGET_WORDS = ("y", "Y", "targets", "target", "actions", "labels", "outputs")
_WAY_OUT = "name them with --inputs and --targets, or in [data] of nrc-probe.toml"
_RUN_TIME = re.compile(r"Run\d+ \(ms\)")
"""The four targets of UCI's sgemm_product.csv."""
_CARLA_WIDTH = 28
_CARLA_TARGETS = "targets[0,10]"
"""Steering and speed, of the 28 measurements that CARLA's files give for each frame."""
_LISTED = 12


@dataclass(frozen=True, eq=False)  # eq=False: as Array
class Choice:
    """The two arrays of a regression, and what was guessed to find them."""

    inputs: Array
    targets: Array
    notes: tuple[str, ...] = ()
    reading: str | None = None
    """Which arrays or columns of a file they are, whichever the file; None where they were just given."""


def choose(contents: Contents, inputs: str | None, targets: str | None, place: str) -> Choice:
    """The inputs and targets in a file, by the names given or by the usual ones.

    Raises DataError where a name is not there or nothing fits; it lists what is.
    """
    if isinstance(contents, Table):
        return _choose_columns(contents, inputs, targets, place)
    sole = next(iter(contents.values())) if len(contents) == 1 else None
    if sole is not None and inputs not in contents and len(sole.shape) == 2:
        return _choose_columns(array_columns(sole), inputs, targets, place)
    return _choose_arrays(contents, inputs, targets, place)


def _choose_arrays(
    arrays: Mapping[str, Array], inputs: str | None, targets: str | None, place: str
) -> Choice:
    notes: tuple[str, ...] = ()
    if targets is None and _is_carla(arrays):
        targets, notes = _CARLA_TARGETS, (f"targets taken from '{_CARLA_TARGETS}': CARLA's steering, speed",)
    arrays = {**arrays, **_cut(arrays, (inputs, targets), place)}
    for name in (inputs, targets):
        if name is not None and name not in arrays:
            raise DataError(f"{place}: has no array '{name}'; it has {_listing(arrays)}")
    found_inputs = inputs or _guess_array(arrays, INPUT_WORDS, targets)
    found_targets = targets or _guess_array(arrays, TARGET_WORDS, inputs)
    if found_inputs is None or found_targets is None:
        missing = "inputs" if found_inputs is None else "targets"
        raise DataError(f"{place}: which array holds the {missing}? It has {_listing(arrays)}; {_WAY_OUT}")
    guesses = {"inputs": (inputs, found_inputs), "targets": (targets, found_targets)}
    return Choice(
        arrays[found_inputs],
        arrays[found_targets],
        notes
        + tuple(
            f"{role} taken from array '{found}'" for role, (given, found) in guesses.items() if given is None
        ),
        f"inputs '{found_inputs}', targets '{found_targets}'",
    )


def _is_carla(arrays: Mapping[str, Array]) -> bool:
    measured = arrays.get("targets")
    return "rgb" in arrays and measured is not None and measured.shape[1:] == (_CARLA_WIDTH,)


def _cut(arrays: Mapping[str, Array], names: Iterable[str | None], place: str) -> Mapping[str, Array]:
    """The columns that "name[columns]" takes of a two-dimensional array, under that name."""
    found: dict[str, Array] = {}
    for name in names:
        match = re.fullmatch(r"(.+)\[([^\[\]]*)\]", name or "")
        whole = arrays.get(match[1]) if match else None
        if match and whole is not None and len(whole.shape) == 2:
            table = array_columns(whole)
            columns = table.select(parse_columns(match[2], table, f"{place}: '{match[1]}'"))
            found[match[0]] = replace(columns, name=match[0])
    return found


def _guess_array(arrays: Mapping[str, Array], words: tuple[str, ...], other: str | None) -> str | None:
    return next((word for word in words if word in arrays and word != other), None)


def _listing(arrays: Mapping[str, Array]) -> str:
    texts = [str(array) for array in arrays.values()]
    more = f", and {len(texts) - _LISTED} more" if len(texts) > _LISTED else ""
    return (", ".join(texts[:_LISTED]) + more) or "no arrays"


def _choose_columns(table: Table, inputs: str | None, targets: str | None, place: str) -> Choice:
    places: dict[str, tuple[int, ...]] = {}
    notes: list[str] = []
    run_times = _run_time_columns(table)
    rest = inputs is None and targets is not None and not (run_times or _usual_columns(table, INPUT_WORDS))
    for role, text, words in (
        ("inputs", inputs, INPUT_WORDS),
        ("targets", targets, TARGET_WORDS),
    ):
        if text is not None:
            places[role] = parse_columns(text, table, place)
        elif not rest:
            places[role] = run_times.get(role) or _guess_columns(table, words, role, place)
            notes.append(f"{role} taken from {_column_text(table, places[role])}")
    if rest:
        places["inputs"] = _all_but(places["targets"], table, place)
        notes.append(f"inputs taken from all but the targets: {_column_text(table, places['inputs'])}")
    if shared := set(places["inputs"]) & set(places["targets"]):
        notes.append(f"{_column_text(table, tuple(sorted(shared)))} in both inputs and targets")
    return Choice(
        table.select(places["inputs"]),
        table.select(places["targets"]),
        tuple(notes),
        f"inputs {columns_read(table, places['inputs'])}, targets {columns_read(table, places['targets'])}",
    )


def _all_but(targets: tuple[int, ...], table: Table, place: str) -> tuple[int, ...]:
    rest = tuple(column for column in range(table.width) if column not in targets)
    if not rest:
        raise DataError(f"{place}: all {table.width} columns are targets, none is left for the inputs")
    return rest


def _run_time_columns(table: Table) -> dict[str, tuple[int, ...]]:
    """Targets "Run1 (ms)", "Run2 (ms)", ... and all other columns as inputs; empty where there are none."""
    targets = tuple(i for i, name in enumerate(table.names) if _RUN_TIME.fullmatch(name))
    others = tuple(i for i in range(table.width) if i not in targets)
    return {"inputs": others, "targets": targets} if targets else {}


def _guess_columns(table: Table, words: tuple[str, ...], role: str, place: str) -> tuple[int, ...]:
    """The usual columns of a role. Raises DataError where there are none."""
    if found := _usual_columns(table, words):
        return found
    raise DataError(f"{place}: which columns hold the {role}? It has {_columns_there(table)}; {_WAY_OUT}")


def _usual_columns(table: Table, words: tuple[str, ...]) -> tuple[int, ...]:
    """The columns called by the first word that fits: y, or y0, y1, ... or y_0, y[1], ...; or none."""
    for word in words:
        pattern = re.compile(re.escape(word) + r"([_.\-\[ ]?\d+\]?)?")
        found = tuple(i for i, name in enumerate(table.names) if pattern.fullmatch(name))
        if found:
            return found
    return ()


def parse_columns(text: str, table: Table, place: str) -> tuple[int, ...]:
    """The places of the columns that `text` names: "a,b", "0:8", "0,2,5:7", "-2:"."""
    if text in table.names:
        return (_place_of(text, table, place),)
    parts = [part.strip() for part in text.split(",")]
    return tuple(column for part in parts for column in _one_part(part, table, place))


def _one_part(part: str, table: Table, place: str) -> tuple[int, ...]:
    if part in table.names:
        return (_place_of(part, table, place),)
    span = re.fullmatch(r"(-?\d{1,9})|(-?\d{1,9})?(:)(-?\d{1,9})?", part)
    if span is None or not part:
        raise DataError(f"{place}: has no column '{part}'; it has {_columns_there(table)}")
    columns = range(table.width)
    bounds = [int(bound) for bound in (span[1], span[2], span[4]) if bound is not None]
    if any(not -table.width <= bound <= table.width for bound in bounds):
        raise DataError(f"{place}: columns '{part}' are not there; it has {_columns_there(table)}")
    if span[3]:
        found = columns[slice(*(int(bound) if bound else None for bound in (span[2], span[4])))]
    else:
        found = columns[int(part) :][:1] if int(part) < table.width else range(0)
    if not found:
        raise DataError(f"{place}: columns '{part}' are none; it has {_columns_there(table)}")
    return tuple(found)


def _place_of(name: str, table: Table, place: str) -> int:
    places = [column for column, other in enumerate(table.names) if other == name]
    if len(places) > 1:
        listed = ",".join(map(str, places))
        raise DataError(f"{place}: {len(places)} columns are called '{name}'; name them by place: {listed}")
    return places[0]


def _columns_there(table: Table) -> str:
    if not table.names:
        return f"{table.width} columns without names (0:{table.width})"
    return f"{table.width} columns: {_names(table.names)}"


def _column_text(table: Table, columns: tuple[int, ...]) -> str:
    names = [table.names[column] if table.names else str(column) for column in columns]
    return f"column{'s' if len(names) > 1 else ''} {_names(names)}"


def columns_read(table: Table, columns: tuple[int, ...]) -> str:
    """All of them, by name or place: "a,b", "0:8", "0,2"."""
    if table.names:
        return ",".join(table.names[column] for column in columns)
    first, last = columns[0], columns[-1]
    whole = len(columns) > 1 and columns == tuple(range(first, last + 1))
    return f"{first}:{last + 1}" if whole else ",".join(map(str, columns))


def _names(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(names[:_LISTED])
    return f"{shown}, ... {names[-1]}" if len(names) > _LISTED else shown
