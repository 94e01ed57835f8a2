"""Files appear whole or not at all."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from nrc_probe.atomic import check_writable, replacing, write_all, write_text
from nrc_probe.errors import OutputError


def test_text_is_written_as_utf8_with_nothing_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "r.json", "R²\n")
    assert (tmp_path / "r.json").read_bytes() == "R²\n".encode()
    assert list(tmp_path.iterdir()) == [tmp_path / "r.json"]


def test_the_file_is_as_readable_as_any_new_file(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write_text(tmp_path / "r.json", "x")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "r.json").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_while_writing_leaves_the_old_file_alone(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("old")
    with pytest.raises(error), replacing(tmp_path / "r.json") as temporary:  # noqa: PT012  # the body is the case
        temporary.write_text("half")
        raise error
    assert (tmp_path / "r.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "r.json"]


def test_the_temporary_bears_the_mark_it_is_given_even_beside_a_long_name(tmp_path: Path) -> None:
    for name in ("r.json", f"{'r' * 200}.json"):
        with replacing(tmp_path / name, "a1b2") as temporary:
            assert temporary in tmp_path.glob(f".{name[:32]}.a1b2.*.tmp")


def test_readers_see_the_old_file_until_the_end(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("old")
    with replacing(tmp_path / "r.json") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "r.json").read_text() == "old"
    assert (tmp_path / "r.json").read_text() == "new"


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    message = r"^cannot write '.*r\.json': No space left on device \(free some space, or name another file\)$"
    with pytest.raises(OutputError, match=message), replacing(tmp_path / "r.json"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".", "it is a folder"),
        ("no/r.json", "there is no folder '{folder}/no'"),
        ("a" * 300, "File name too long"),
        ("r.json/r.json", "there is no folder '{folder}/r.json'"),
    ],
)
def test_a_place_that_cannot_hold_a_file_is_named(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").touch()
    for attempt in (check_writable, lambda path: write_text(path, "x")):
        with pytest.raises(OutputError) as caught:
            attempt(tmp_path / name)
        said = f"cannot write '{tmp_path / name}': {reason.format(folder=tmp_path)}"
        assert str(caught.value) == f"{said} (name another file)"


def test_a_name_as_long_as_names_may_be_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 255)
    write_text(path, "x")
    assert path.read_text() == "x"


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "there" / "r.json")
    write_text(tmp_path / "link.json", "x")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "there" / "r.json").read_text() == "x"


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_only_a_file_is_written_to_and_nobody_waits_for_a_reader(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with socket.socket(socket.AF_UNIX) as listener:
        make = {"pipe": os.mkfifo, "device": lambda p: p.symlink_to("/dev/null"), "socket": listener.bind}
        make[kind](path if kind != "socket" else str(path))
        for attempt in (check_writable, lambda path: write_text(path, "x")):
            with pytest.raises(OutputError, match=rf"r\.json': it is a {kind} \(name another file\)$"):
                attempt(path)


def test_a_link_that_leads_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").symlink_to("r.json")
    for attempt in (check_writable, lambda path: write_text(path, "x")):
        with pytest.raises(OutputError, match="Too many levels of symbolic links"):
            attempt(tmp_path / "r.json")


def test_of_several_files_none_replaces_its_file_before_all_are_written(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(OutputError, match="there is no folder"):
        write_all({tmp_path / "a.json": b"new", tmp_path / "none" / "b.csv": b"new"})
    assert (tmp_path / "a.json").read_text() == "old"
    with pytest.raises(OutputError, match="it is a device"):
        write_all({tmp_path / "a.json": b"new", Path("/dev/full"): b"new"})
    assert (tmp_path / "a.json").read_text() == "old"
    write_all({tmp_path / "a.json": b"new", tmp_path / "b.csv": b"too"})
    assert [p.read_text() for p in sorted(tmp_path.iterdir())] == ["new", "too"]


def test_a_link_to_a_file_of_another_kind_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "rows.npz").write_text("rows")
    (tmp_path / "r.json").symlink_to("rows.npz")
    with pytest.raises(OutputError, match=r"r\.json': it is a link to '.*/rows\.npz', no \.json file"):
        write_text(tmp_path / "r.json", "new")
    assert (tmp_path / "rows.npz").read_text() == "rows"


def test_an_interruption_as_the_temporary_is_made_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "close", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "r.json", "x")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())
