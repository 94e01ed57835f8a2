"""Pickles whose tuples unfold without end are told from those that end, without reading them."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from runs import save_data, save_network, small_network

from nrc_probe.checkpoint.unfolding import unfolds_without_end


def doublings(count: int) -> bytes:
    """Steps that leave a list, and in slot `count` + 1 a tuple of two of the one before, and so on."""
    steps = [b"]q\x00)q\x01a"]
    steps += [b"h%bh%b\x86q%ba" % (bytes([k]), bytes([k]), bytes([k + 1])) for k in range(1, count + 1)]
    return b"".join(steps)


KEY = b"\x80\x02" + doublings(40) + b"}h\x29K\x01sa."
CALLEE = b"\x80\x02" + doublings(40) + b"h\x00)R."  # a list that holds them all, called
INNOCENT = b"\x80\x02" + doublings(3) + b"}h\x04K\x01sa."


def ends(content: bytes) -> bool:
    return not unfolds_without_end(io.BytesIO(content))


def test_doubled_tuples_as_keys_and_in_what_is_called_never_end() -> None:
    assert not ends(KEY)
    assert not ends(CALLEE)
    assert ends(INNOCENT)
    assert len(pickle.loads(INNOCENT)) == 5


@pytest.mark.parametrize(
    "content",
    [
        small_network().state_dict(),
        {"losses": tuple(range(100_000)), "betas": [(0.9, 0.999)] * 1000},
        [[(1, (2, (3, [4, {5: (6,)}])))]] * 50,
        torch.float32,
        {"net": small_network(), "optimizer": torch.optim.Adam(small_network().parameters()).state_dict()},
    ],
)
def test_what_scripts_save_ends(content: object, tmp_path: Path) -> None:
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pt"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        if zipped:
            with zipfile.ZipFile(path) as archive:
                pickled = archive.read("True/data.pkl")
        else:
            pickled = path.read_bytes()
        stream = io.BytesIO(pickled)
        assert not any(unfolds_without_end(stream) for _ in range(1 if zipped else 5))


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02", KEY[:20], b"\x80\x02h\x07.", b"\x80\x02s.", b"no pickle"]
)
def test_broken_pickles_are_left_to_who_reads_them(content: bytes) -> None:
    assert ends(content)


@pytest.mark.parametrize("pickled", [KEY, CALLEE])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_unfolds_without_end_is_refused_at_once(
    pickled: bytes, zipped: bool, tmp_path: Path
) -> None:
    whole, bomb = save_network(tmp_path / "net.pth"), tmp_path / "bomb.pth"
    data = save_data(tmp_path / "data.npz")
    if zipped:
        with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(bomb, "w") as out:
            for name in archive.namelist():
                out.writestr(name, pickled if name.endswith("data.pkl") else archive.read(name))
    else:
        legacy = io.BytesIO()
        torch.save(1, legacy, _use_new_zipfile_serialization=False)
        legacy.seek(0)
        for _ in range(3):  # the magic number, the version and the facts of the machine stand before it
            pickle.load(legacy)
        bomb.write_bytes(legacy.getvalue()[: legacy.tell()] + pickled)
    command = [sys.executable, "-m", "nrc_probe", "analyze", str(bomb), "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("the file is broken: its pickle holds tuples that unfold without end")
