"""What a pass shows, kept: begin a dump, or go on with one; save sums. Spares files of other kinds."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from nrc_probe.atomic import check_writable, replacing
from nrc_probe.dataset import Statistics
from nrc_probe.errors import OutputError, StoreError
from nrc_probe.forward import Pass
from nrc_probe.scoring import Reader
from nrc_probe.store.committed import CommittedFile
from nrc_probe.store.layout import VERSIONS, check_dtype, compression_options, link_name
from nrc_probe.store.reading import is_store, open_store
from nrc_probe.store.shield import uninterrupted
from nrc_probe.store.story import Form, Story, difference
from nrc_probe.store.sums import save_pass
from nrc_probe.store.tell import begin_book, describe_layer
from nrc_probe.store.writing import give_name, is_unfinished, partial_of

Announce = Callable[[str], None]
"""Told in a sentence what is about to be written."""


def check_form(form: Form) -> None:
    """Raise ConfigError for a type or compression that is unknown, or not installed."""
    check_dtype(form.dtype)
    compression_options(form.compression)


def checked_output(output: str | Path) -> Path:
    """Where `output` is to be written; of a link, where it points.

    Raises OutputError where it cannot be, or is a file that nrc-probe did not write.
    """
    path = Path(output)
    check_writable(path)
    if path.exists() and (reason := _why_spared(path)):
        raise OutputError(f"cannot write '{path}': it exists and {reason} (name another file)")
    return path.resolve() if path.is_symlink() else path


def _why_spared(path: Path) -> str | None:
    """Why a file must not be written over; None where it is known to be nrc-probe's."""
    try:
        return None if is_store(path) else "holds no activations or moments"
    except StoreError as error:
        return str(error).removeprefix(f"{path}: ")


def is_done(output: Path, story: Story) -> bool:
    """Whether `output` is the whole dump already; a whole one that lacks but its name gets it.

    Raises StoreError where it is a dump of something else.
    """
    give_name(output)
    if is_unfinished(output) or not output.exists():
        return False
    with open_store(output) as store:
        changed = "it tells no facts" if store.story is None else difference(store.story, story)
    if changed:
        raise StoreError(f"{output}: a whole dump of something else: {changed} (name another, or remove it)")
    return True


def check_resumable(output: Path, story: Story, *, resume: bool, announce: Announce | None = None) -> None:
    """Raise StoreError where an unfinished dump is there and nobody said what to do, or it cannot be said.

    A dump is resumed only from files: nobody can tell whether live data are still the same. It is
    announced, since all that is kept will be read once.
    """
    if not is_unfinished(output):
        return
    if not resume:
        raise StoreError(
            f"{partial_of(output)}: an unfinished dump is there: --resume goes on with it, or remove it"
        )
    for name, fingerprint in story.fingerprints().items():
        if fingerprint is None:
            raise StoreError(
                f"{partial_of(output)}: cannot be resumed: the {name} is no file, so that nobody can tell "
                "whether it is still the same (remove the file and begin anew)"
            )
    if announce:
        kept = partial_of(output)
        announce(f"{kept}: going on with it, {in_bytes(kept.stat().st_size)} are read and checked first")


def size_check(output: Path, announce: Announce | None, *, yes: bool) -> Callable[[int | None], None]:
    """Compares what is to come with what is free; with `yes` only says so."""

    def check(needed: int | None) -> None:
        free = shutil.disk_usage(output.resolve().parent).free
        wanted = "an unknown number of rows" if needed is None else f"about {in_bytes(needed)}"
        if announce:
            announce(f"{output}: {wanted} to write, {in_bytes(free)} free")
        if needed is not None and needed > free and not yes:
            raise OutputError(
                f"cannot write '{output}': {wanted} to write, {in_bytes(free)} free (free some, choose "
                "fewer --layers or --dtype float16, or try with --yes)"
            )

    return check


def in_bytes(count: int) -> str:
    """A size for people: "12.3 MiB"."""
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def preparation_print(statistics: Statistics) -> str | None:
    """Fingerprint of means and deviations; None where nothing is standardised."""
    digest = hashlib.sha256()
    for role in statistics.roles:
        digest.update(role.encode())
        for values in getattr(statistics, role):
            digest.update(values.double().contiguous().numpy().tobytes())
    return digest.hexdigest() if statistics.roles else None


def fill_book(book: Any, watched: Pass | None, again: Pass | None) -> None:
    """Put the sums of the passes into an open file: over the rows, if wanted, and over held-out rows."""
    if watched is not None:
        save_pass(book, watched)
    if again is not None:
        save_pass(book.create_group("heldout"), again)


def save_sums(
    output: Path, story: Story, readers: Sequence[Reader], watched: Pass, again: Pass | None
) -> None:
    """Write a file of moments alone, whole or not at all. Raises OutputError."""
    import h5py

    with replacing(output) as temporary, closing(CommittedFile(temporary, create=True)) as file:
        with uninterrupted(), h5py.File(file, "w", libver=VERSIONS) as book:
            _fill_sums(book, story, readers, watched, again)
        if file.failure:
            raise file.failure


def _fill_sums(book: Any, story: Story, readers: Sequence[Reader], watched: Pass, again: Pass | None) -> None:
    by_name = {reader.name: reader for reader in readers}
    begin_book(book, story)
    for index, name in enumerate(watched.moments):
        group = book.create_group(f"layers/{link_name(name)}")
        describe_layer(group, by_name[name], index, story.settings.pooling)
    fill_book(book, watched, again)
    book.attrs["n"] = watched.residuals.n
    book.attrs["complete"] = True
