"""A committed file holds its last commit, wherever between two system calls its process ends."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from nrc_probe.errors import StoreError
from nrc_probe.store import committed
from nrc_probe.store.committed import CommittedFile, CommittedView, journal_of


class Dead(BaseException):
    """The process ends here."""


def content_of(path: Path) -> bytes:
    view = CommittedView(path)
    size = view.seek(0, os.SEEK_END)
    view.seek(0)
    content = bytearray(size)
    view.readinto(memoryview(content))
    view.close()
    return bytes(content)


def write_randomly(file: CommittedFile, rng: random.Random, model: bytearray) -> None:
    """One write or truncation, to the file and to `model`, which shows what should be in it."""
    if rng.random() < 0.1 and model:
        size = rng.randrange(len(model) + 1)
        file.truncate(size)
        del model[size:]
        return
    offset, content = rng.randrange(len(model) + 1), rng.randbytes(rng.randrange(1, 40))
    file.seek(offset)
    assert file.write(memoryview(content)) == len(content)
    model[offset : offset + len(content)] = content


def run(
    path: Path, seed: int, dies_at: int | None, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[bytes], int]:
    """Commits made, the last perhaps under way, until the system call number `dies_at`."""
    calls, commits = 0, [b""]

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def one(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls == dies_at:
                raise Dead
            return call(*arguments)

        return one

    rng, model = random.Random(seed), bytearray()
    file = CommittedFile(path, create=True)
    with monkeypatch.context() as patch:
        for name in ("pwrite", "ftruncate"):
            patch.setattr(committed.os, name, counted(getattr(os, name)))
        for name in ("write_bytes", "replace"):
            patch.setattr(committed.Path, name, counted(getattr(Path, name)))
        try:
            for _ in range(6):
                for _ in range(rng.randrange(1, 6)):
                    write_randomly(file, rng, model)
                commits.append(bytes(model))
                file.commit()
        except Dead:
            pass
    file.close()
    return commits, calls


@pytest.mark.parametrize("seed", range(8))
def test_after_a_death_at_any_system_call_the_content_is_a_commit(seed, tmp_path, monkeypatch):
    path = tmp_path / "f"
    whole, calls = run(path, seed, None, monkeypatch)
    assert len(whole) == 7
    assert content_of(path) == whole[-1]
    for dies_at in range(1, calls + 1):
        path.unlink()  # its journal stays, and is about no file
        commits, _ = run(path, seed, dies_at, monkeypatch)
        if not journal_of(path).exists():
            assert len(commits) <= 2  # the first commit was not made
            continue
        seen = content_of(path)
        assert seen in commits[-2:]
        reopened = CommittedFile(path, create=False)
        reopened.close()
        assert path.read_bytes() == seen


def test_hdf5_reads_back_what_was_committed_and_nothing_of_what_was_not(tmp_path):
    path, rows = tmp_path / "f", np.arange(12.0).reshape(4, 3)
    file = CommittedFile(path, create=True)
    book = h5py.File(file, "w")
    data = book.create_dataset("x", (0, 3), "f8", maxshape=(None, 3), chunks=(2, 3))
    for count in (2, 4):
        data.resize(count, 0)
        data[count - 2 :] = rows[count - 2 : count]
        book.flush()
        if count == 2:
            file.commit()
    file.give_up()
    book.close()
    file.close()
    with h5py.File(CommittedView(path), "r") as seen:
        np.testing.assert_array_equal(seen["x"], rows[:2])


def test_a_file_that_is_being_written_is_locked(tmp_path):
    file = CommittedFile(tmp_path / "f", create=True)
    file.commit()
    with pytest.raises(StoreError, match="f: another process is writing it"):
        CommittedFile(tmp_path / "f", create=False)
    file.close()
    CommittedFile(tmp_path / "f", create=False).close()


@pytest.mark.parametrize(
    "meanwhile", [lambda f: f.replace(f.with_name("whole")), lambda f: (f.unlink(), f.write_bytes(b"new"))]
)
def test_a_file_that_another_finishes_or_removes_before_it_is_locked_is_not_begun_anew(
    meanwhile, tmp_path, monkeypatch
):
    path = tmp_path / "f"
    path.write_bytes(b"whole")
    lock = committed._lock
    monkeypatch.setattr(committed, "_lock", lambda handle, path: (meanwhile(path), lock(handle, path)))
    with pytest.raises(StoreError, match=r"f: another process has just finished or removed it \(try again\)"):
        CommittedFile(path, create=True)
    assert [left.read_bytes() for left in tmp_path.iterdir()] in ([b"whole"], [b"new"])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda journal: journal.unlink(), "its journal 'f.journal' is missing"),
        (lambda journal: journal.write_bytes(b""), "its journal 'f.journal' is damaged"),
        (lambda journal: journal.write_bytes(journal.read_bytes()[:-1]), "damaged"),
        (lambda journal: journal.write_bytes(journal.read_bytes()[:-1] + b"!"), "damaged"),
    ],
)
def test_without_its_whole_journal_a_file_is_refused(spoil, words, tmp_path):
    file = CommittedFile(tmp_path / "f", create=True)
    for text in (b"one", b"two"):
        file.seek(0)
        file.write(memoryview(text))
        file.commit()
    file.close()
    spoil(journal_of(tmp_path / "f"))
    with pytest.raises(StoreError, match=words):
        CommittedFile(tmp_path / "f", create=False)


def test_a_journal_is_refused_whichever_of_its_bits_is_changed(tmp_path):
    file = CommittedFile(tmp_path / "f", create=True)
    for text in (b"one", b"two"):
        file.seek(0)
        file.write(memoryview(text))
        file.commit()
    file.close()
    whole = journal_of(tmp_path / "f").read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            journal_of(tmp_path / "f").write_bytes(changed)
            with pytest.raises(StoreError, match=r"f: its journal .*\(remove both, and begin anew\)"):
                CommittedView(tmp_path / "f")


def test_a_journal_of_another_version_is_named_as_one(tmp_path):
    CommittedFile(tmp_path / "f", create=True).close()
    journal_of(tmp_path / "f").write_bytes(b"nrcjrnl1" + bytes(20))
    with pytest.raises(StoreError, match=r"f: its journal 'f\.journal' is of another version of nrc-probe"):
        CommittedFile(tmp_path / "f", create=False)


def test_after_a_refusal_nothing_more_is_written(tmp_path, monkeypatch):
    file = CommittedFile(tmp_path / "f", create=True)
    file.write(memoryview(b"one"))
    file.commit()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(committed.os, "pwrite", full)
        assert file.write(memoryview(b"two")) == 3
    file.write(memoryview(b"three"))
    with pytest.raises(OSError, match="No space"):
        file.commit()
    file.close()
    assert content_of(tmp_path / "f") == b"one"


def test_a_view_reads_as_any_file_does(tmp_path):
    file = CommittedFile(tmp_path / "f", create=True)
    file.write(memoryview(b"0123456789"))
    file.commit()
    file.close()
    view = CommittedView(tmp_path / "f")
    assert (view.seek(4), view.read(3), view.tell()) == (4, b"456", 7)
    view.close()


def test_a_pipe_is_not_written_to(tmp_path):
    os.mkfifo(tmp_path / "f")
    with pytest.raises(StoreError, match=r"f: expected an ordinary file \(remove it"):
        CommittedFile(tmp_path / "f", create=True)


def test_what_others_have_committed_is_not_begun_anew(tmp_path):
    file = CommittedFile(tmp_path / "f", create=True)
    file.write(memoryview(b"x"))
    file.commit()
    file.close()
    with pytest.raises(StoreError, match=r"f: another process has just written it \(try again\)"):
        CommittedFile(tmp_path / "f", create=True)
    assert (tmp_path / "f").read_bytes() == content_of(tmp_path / "f") == b"x"


def test_where_there_are_no_locks_a_file_is_written_all_the_same(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    file = CommittedFile(tmp_path / "f", create=True)
    file.write(memoryview(b"x"))
    file.commit()
    file.close()
    assert (tmp_path / "f").read_bytes() == b"x"
