"""Activations -> chunked HDF5, written while the pass runs; what is committed survives its process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from nrc_probe.atomic import way_out
from nrc_probe.capture import GAPS
from nrc_probe.errors import OutputError, StoreError
from nrc_probe.files import FILE, kind_of
from nrc_probe.layers import Layer
from nrc_probe.scoring import reader_of
from nrc_probe.store.committed import CommittedFile, journal_of, new_journal_of
from nrc_probe.store.layout import (
    VERSIONS,
    hdf5_words,
    is_complete,
    label,
    layer_name,
    link_name,
    read_array,
    read_text,
    readable,
    stored_dtype,
    write_text,
)
from nrc_probe.store.shield import uninterrupted
from nrc_probe.store.story import Form, Story, difference
from nrc_probe.store.stream import Stream, checked_blocks, create_rows
from nrc_probe.store.sums import save_outcome
from nrc_probe.store.tell import begin_book, describe_layer, told

_SECONDS_BETWEEN_COMMITS = 2.0
_WIDE = "float64"
"""Of targets and outputs: they are narrow, and the network's own error keeps its digits."""
_HEAD_BYTES = 48
"""Of an HDF5 file's first table."""


@dataclass(frozen=True)
class Plan:
    """What is to be written, where, and how."""

    output: Path
    story: Story
    """Facts and settings; a file is resumed with the same only."""
    form: Form
    target_dim: int
    rows: int | None
    """How many are to come; None where unknown."""
    batch_size: int
    sums_too: bool
    """Whether the pass also sums: then it must see all rows once more when it is resumed."""
    moments: int
    """How many sets of moments `finish` will add, for the size."""
    on_size: Callable[[int | None], None]
    """Told how many bytes are to come (None: unknown), once the first batch has shown it."""


def partial_of(output: Path) -> Path:
    """Where a dump to `output` lies until it is whole."""
    return output.with_name(f"{output.name}.partial")


def is_unfinished(output: Path) -> bool:
    """Whether a dump to `output` was interrupted after something of it was made to survive.

    Raises OutputError where that cannot be found out, as of a name that is too long.
    """
    try:
        return partial_of(output).exists() and journal_of(partial_of(output)).exists()
    except OSError as error:
        raise OutputError(f"cannot write '{output}': {error.strerror} (name another file)") from error


def give_name(output: Path) -> bool:
    """Whether a partial file was whole, but for its name, and now has it."""
    import h5py

    partial = partial_of(output)
    if not is_unfinished(output):
        if output.exists() and not partial.exists():  # killed after the name was given
            journal_of(partial).unlink(missing_ok=True)
            new_journal_of(partial).unlink(missing_ok=True)
        return False
    with readable(partial), closing(CommittedFile(partial, create=False)) as file:
        status = file.status()
        with h5py.File(file, "r") as book:
            whole = is_complete(book)
    if whole:
        _rename_once(partial, output, status)
    return whole


def _check_ours(partial: Path) -> None:
    """Raise StoreError where another's file lies at `partial`: it would be lost."""
    if kind_of(partial) == FILE and not journal_of(partial).exists() and not _is_remnant(partial):
        raise StoreError(
            f"{partial}: is there, and is no unfinished dump: it would be written over "
            "(move it away, or name another output)"
        )


def _is_remnant(path: Path) -> bool:
    """Whether a dump that ended before its first commit left this: HDF5 writes the file's head last."""
    import h5py

    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.strip(b"\0"):
        return True
    try:
        with h5py.File(path, "r", locking=False) as book:
            return label(book, "schema").startswith("nrc-probe/activations/")
    except (OSError, RuntimeError, KeyError, ValueError):
        return False


def _rename_once(partial: Path, output: Path, status: os.stat_result) -> None:
    """Give a whole file its name, unless another process that found it whole has just done so.

    It is closed before: who reads an HDF5 file locks it.
    """
    try:
        _rename(partial, output)
    except FileNotFoundError:
        if not (output.exists() and os.path.samestat(output.stat(), status)):
            raise


def _rename(partial: Path, output: Path) -> None:
    partial.replace(output)
    journal_of(partial).unlink(missing_ok=True)  # in this order: without it, a partial file is nothing


def _check_kept(rows: Sequence[tuple[Any, str]], layers: Sequence[Any]) -> None:
    """Read once what a resumed dump keeps. Raises StoreError where it is not what was written."""
    try:
        for group, name in rows:
            for _ in checked_blocks(group, name):
                pass
        for group in layers:
            if "weight" in group:
                read_array(group, "weight")
    except StoreError as error:
        raise StoreError(f"{error} (remove the file and begin anew)") from error


class ActivationWriter:
    """Watches a pass and writes what it sees; `finish` makes it a file.

    Memory is one chunk a layer. A context manager: where it is left before that, a partial file keeps
    what was committed.
    """

    def __init__(self, plan: Plan, *, resume: bool = False) -> None:
        """Begin a partial file or, with `resume`, go on with one where it is.

        Raises StoreError where it is another dump's, or another process writes it; OutputError.
        """
        import h5py

        self.skipped: dict[str, str] = {}
        """Layer -> why its features are not stored."""
        self.start = 0
        """Rows that the pass may leave out: they are there."""
        self._plan = plan
        self._by_token = plan.story.settings.pooling == "tokens"
        self._errors: dict[str, Stream] = {}
        self._layers: dict[str, list[Stream]] = {}
        self._took: set[str] = set()
        self._saved_skipped: dict[str, str] = {}
        partial = partial_of(plan.output)
        self._resumed = resume and is_unfinished(plan.output)
        self._takes_layers = not self._resumed
        self._finished = False
        self._book: Any = None
        try:
            if not self._resumed:
                _check_ours(partial)
            self._file = CommittedFile(partial, create=not self._resumed)
        except OSError as error:
            raise self._refusal(error) from error
        try:
            with self._refusing():
                mode = "r+" if self._resumed else "w"
                self._book = h5py.File(self._file, mode, libver=VERSIONS, rdcc_nbytes=0)
                if self._resumed:
                    with readable(partial):
                        self._reopen()
                else:
                    self._begin()
        except BaseException:
            self._leave()
            raise
        self._committed_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._finished:
            self._leave()

    def take(self, layer: Layer, features: Tensor, targets: Tensor) -> None:
        """Write one layer's features of one batch."""
        name = layer.name
        if name not in self._layers and not self._takes_layers:
            self.skipped.setdefault(name, GAPS)
        if name in self.skipped:
            return
        with self._refusing():
            if name not in self._layers:
                self._layers[name] = self._add_layer(layer, features)
            self._took.add(name)
            fit = [
                stream.add(rows)
                for stream, rows in zip(self._layers[name], (features, targets), strict=False)
            ]
            if not all(fit):
                self.skipped[name] = f"its activations are too large for {self._plan.form.dtype}"

    def end_batch(self, targets: Tensor, predictions: Tensor, skipped: Mapping[str, str]) -> None:
        """Write targets and outputs of one batch; now and then make what is written survive."""
        for name, reason in skipped.items():
            self.skipped.setdefault(name, reason)
        for name in self._layers.keys() - self._took:
            self.skipped.setdefault(name, GAPS)
        self._took.clear()
        with self._refusing():
            self._errors["targets"].add(targets)
            self._errors["outputs"].add(predictions)
            if self._takes_layers:
                self._takes_layers = False
                self._plan.on_size(self._size(len(targets)))
            if time.monotonic() - self._committed_at >= _SECONDS_BETWEEN_COMMITS:
                self._commit()

    def finish(self, skipped: Mapping[str, str], fill: Callable[[Any], None]) -> None:
        """Write what is left, and the file takes its place.

        skipped: layer -> why the pass left it out. fill: puts what else belongs there into the open file.
        """
        with self._refusing():
            for stream in self._streams():
                stream.finish()
            for name in self._layers.keys() & {**skipped, **self.skipped}.keys():
                del self._book["layers"][link_name(name)]
            fill(self._book)
            if "outcome" not in self._book:
                save_outcome(self._book, {**skipped, **self.skipped}, None)
            del self._book["unfinished"]
            self._book.attrs["n"] = self._errors["targets"].written
            self._book.attrs["complete"] = True
            self._book.close()
            self._file.commit()
            status = self._file.status()
            self._file.close()
            self._finished = True
            _rename_once(partial_of(self._plan.output), self._plan.output, status)

    # how it begins

    def _begin(self) -> None:
        begin_book(self._book, self._plan.story)
        write_text(self._book, "unfinished", {"skipped": {}})
        for name in ("targets", "outputs"):
            self._errors[name] = self._create(self._book, name, self._plan.target_dim, _WIDE)

    def _add_layer(self, layer: Layer, features: Tensor) -> list[Stream]:
        group = self._book["layers"].create_group(link_name(layer.name))
        describe_layer(group, reader_of(layer), len(self._layers), self._plan.story.settings.pooling)
        dtype = stored_dtype(self._plan.form.dtype, features.dtype)
        streams = [self._create(group, "features", features.shape[1], dtype)]
        if self._by_token:
            streams.append(self._create(group, "targets", self._plan.target_dim, _WIDE))
        return streams

    def _create(self, group: Any, name: str, width: int, dtype: str) -> Stream:
        rows = None if self._by_token else self._plan.rows
        return create_rows(group, name, width, dtype, self._plan.form.compression, rows)

    def _reopen(self) -> None:
        changed = difference(told(self._book), self._plan.story)
        if changed:
            raise StoreError(
                f"{partial_of(self._plan.output)}: cannot be resumed: {changed} "
                "(resume with the same, or remove it and begin anew)"
            )
        self.skipped = read_text(self._book, "unfinished")["skipped"]
        self._saved_skipped = dict(self.skipped)
        layers = [(link, self._book["layers"][link]) for link in self._book["layers"]]
        groups = sorted(layers, key=lambda item: int(item[1].attrs["index"]))
        names = ("features", "targets") if self._by_token else ("features",)
        places = [(self._book, "targets"), (self._book, "outputs")]
        live = [(group, n) for link, group in groups for n in names if layer_name(link) not in self.skipped]
        self.start = self._first_row([int(group[name].shape[0]) for group, name in places + live])
        for group, name in places:
            self._errors[name] = Stream(group, name, self.start)
        for link, group in groups:
            self._layers[layer_name(link)] = [Stream(group, name, self.start) for name in names]
        _check_kept(places + live, [group for _, group in groups])
        self._plan.on_size(self._size(0))

    def _first_row(self, written: list[int]) -> int:
        """Where the pass goes on: the batches must be those of a pass that was not interrupted."""
        if self._plan.sums_too or self._by_token:
            return 0
        rows = min(written)
        if self._plan.rows is not None:
            rows = min(rows, self._plan.rows - 1)  # one batch must run: it shows which layers there are
        return max(0, rows // self._plan.batch_size * self._plan.batch_size)

    # the rest

    def _streams(self) -> Iterator[Stream]:
        yield from self._errors.values()
        for name, streams in self._layers.items():
            if name not in self.skipped:
                yield from streams

    def _size(self, seen: int) -> int | None:
        """Bytes that are to come, before compression, and the weights; None where nobody knows."""
        if self._plan.rows is None:
            return None
        rows = sum(stream.bytes_to_come(seen, self._plan.rows) for stream in self._streams())
        squares = sum((streams[0].width + self._plan.target_dim) ** 2 for streams in self._layers.values())
        return rows + 8 * squares * self._plan.moments + (0 if self._resumed else self._weight_bytes())

    def _weight_bytes(self) -> int:
        groups = (self._book["layers"][link] for link in self._book["layers"])
        return sum(int(group["weight"].id.get_storage_size()) for group in groups if "weight" in group)

    def _commit(self) -> None:
        for stream in self._streams():
            stream.save_sums()
        if self.skipped != self._saved_skipped:
            write_text(self._book, "unfinished", {"skipped": self.skipped})
            self._saved_skipped = dict(self.skipped)
        self._book.flush()
        self._file.commit()
        self._committed_at = time.monotonic()

    def _leave(self) -> None:
        """Close all, and keep what was committed, if anything was."""
        self._file.give_up()
        with uninterrupted():
            if self._book is not None:
                self._book.close()
            if not is_unfinished(self._plan.output):  # before others can begin in the file
                partial_of(self._plan.output).unlink(missing_ok=True)
            self._file.close()

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Turn what the system says against writing into an OutputError."""
        try:
            with uninterrupted():
                yield
            if self._file.failure:
                raise self._file.failure
        except (OSError, RuntimeError) as error:
            cause = self._file.failure or error
            if self._resumed and getattr(cause, "errno", None) is None:  # the system says nothing: HDF5 does
                raise StoreError(
                    f"{partial_of(self._plan.output)}: damaged, it cannot be resumed ({hdf5_words(error)}); "
                    "remove it and begin anew"
                ) from error
            raise self._refusal(cause) from error

    def _refusal(self, error: Exception) -> OutputError:
        reason = getattr(error, "strerror", None) or str(error)
        kept = is_unfinished(self._plan.output)
        way = "--resume goes on from what was written" if kept else way_out(error)
        return OutputError(f"cannot write '{self._plan.output}': {reason} ({way})")
