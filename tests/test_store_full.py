"""A disk that is full while a dump is written: one clear error, nothing that looks finished."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from books import everything_in, study
from processes import environment, small_file_system

from nrc_probe import dump
from nrc_probe.store.writing import partial_of

DUMP = """
import resource, sys
from nrc_probe.cli import main
from nrc_probe.store import writing
writing._SECONDS_BETWEEN_COMMITS = 0.0
limit = int(sys.argv.pop(1))
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
main()
"""


def run(checkpoint: Path, data: Path, output: Path, *options: object, limit: int = 0) -> tuple[int, str]:
    command = [sys.executable, "-c", DUMP, limit, "dump", checkpoint, "--data", data, "-o", output, *options]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment(), check=False
    )
    return done.returncode, done.stderr


def assert_refused(code: int, text: str, output: Path, reason: str) -> None:
    assert code == 1
    line = text.splitlines()[-1]
    assert line.startswith(f"nrc-probe: cannot write '{output}': {reason}"), text
    assert "Traceback" not in text
    assert "Exception ignored" not in text
    assert not output.exists()


@pytest.mark.parametrize("kib", [3, 500])
def test_a_limit_on_the_size_of_files_is_one_error_and_the_dump_is_resumed_without_it(kib, tmp_path):
    checkpoint, data = study(tmp_path, 12_000)
    output = tmp_path / "a.h5"
    code, text = run(checkpoint, data, output, "--batch-size", 500, limit=kib * 1024)
    assert_refused(code, text, output, "File too large")
    if kib < 100:
        assert not list(tmp_path.glob("a.h5*"))  # nothing was committed
    else:
        assert partial_of(output).exists()
        assert "--resume goes on" in text
    dump(checkpoint, data, output=output, batch_size=500, resume=True, threads=1)
    dump(checkpoint, data, output=tmp_path / "b.h5", batch_size=500, threads=1)
    assert everything_in(output) == everything_in(tmp_path / "b.h5")


def test_moments_that_find_no_room_are_one_error_and_leave_nothing(tmp_path):
    checkpoint, data = study(tmp_path)
    code, text = run(checkpoint, data, tmp_path / "m.h5", "--moments-only", limit=10 * 1024)
    assert_refused(code, text, tmp_path / "m.h5", "File too large")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "net.pth"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 KiB."""
    with small_file_system(tmp_path / "disk", 600) as there:
        if not there:
            pytest.skip("a small file system can be mounted by root only")
        yield tmp_path / "disk"


def test_a_full_disk_is_one_error_and_leaves_nothing_that_looks_finished(small_disk, tmp_path):
    checkpoint, data = study(tmp_path, 12_000)
    output = small_disk / "a.h5"
    code, text = run(checkpoint, data, output)
    assert_refused(code, text, output, "about 1.4 MiB to write, 5")
    assert not list(small_disk.iterdir())
    code, text = run(checkpoint, data, output, "--yes", "--batch-size", 500)
    assert_refused(code, text, output, "No space left on device")
    assert {path.name for path in small_disk.iterdir()} <= {
        "a.h5.partial",
        "a.h5.partial.journal",
        "a.h5.partial.journal.new",
    }
