"""What a dump holds scores as the network did, whoever reads it, and is refused where it is not whole."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from fcntl import LOCK_EX, flock
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from books import arrays_in, assert_same, differences, everything_in, study, words_of
from hypothesis import example, given
from hypothesis import strategies as st
from networks import Named, ResNet, basic, trained
from rich.console import Console
from runs import save_network, small_network
from torch import nn

import nrc_probe
from nrc_probe import analyze, dump, info, merge, score
from nrc_probe.errors import ConfigError, LayerError, OutputError, ProbeError, StoreError
from nrc_probe.report.contents import print_contents
from nrc_probe.report.terminal import print_result
from nrc_probe.store import writing
from nrc_probe.store.committed import journal_of
from nrc_probe.store.layout import (
    SCHEMA,
    layer_name,
    link_name,
    read_text,
    write_array,
    write_text,
)
from nrc_probe.store.stream import checks_name
from nrc_probe.store.writing import partial_of

HOPPER = Path(__file__).parent.parent / "fixtures" / "hopper"


def images(n=40):
    torch.manual_seed(2)
    return torch.randn(n, 3, 8, 8), torch.randn(n, 2)


def resnet():
    torch.manual_seed(1)
    return trained(ResNet(basic([1, 1], 4), nn.Linear(8, 2), width=4, kernel=3))


# ---------------------------------------------------------------------- the same scores, all of them


@pytest.fixture(scope="module")
def hopper(tmp_path_factory):
    """A checkpoint's result, its dump, and the result of that."""
    folder = tmp_path_factory.mktemp("hopper")
    checkpoint, path = HOPPER / "wd_1e-3.safetensors", folder / "a.h5"
    dump(checkpoint, output=path)
    return analyze(checkpoint), path, score(path)


def test_an_mlp_s_dump_scores_as_the_network_did(hopper):
    analysed, _, scored = hopper
    assert len(scored.layers) == 8
    assert len(scored.heldout.layers) == 8
    assert_same(analysed, scored, near=1e-9)


@pytest.mark.parametrize("pooling", ["mean", "max", "flatten", "tokens", "first"])
def test_a_resnet_s_dump_scores_as_the_network_did(pooling, tmp_path):
    model, data = resnet(), images()
    analysed = analyze(model, data, pooling=pooling, batch_size=16)
    dump(model, data, output=tmp_path / "a.h5", pooling=pooling, batch_size=16)
    assert len(analysed.layers) == 7
    assert_same(analysed, score(tmp_path / "a.h5"), near=1e-9)


def test_float64_activations_keep_their_digits(tmp_path):
    model = small_network().double()
    x = torch.randn(50, 5, dtype=torch.float64) * 1e-3 + 1e3
    data = [(x, x[:, :2] * 3)]
    dump(model, data, output=tmp_path / "a.h5")
    assert_same(analyze(model, data), score(tmp_path / "a.h5"), near=1e-9)


# measured on the Hopper networks; the README says so
@pytest.mark.parametrize(("dtype", "near", "nrc4"), [("float16", 1e-4, 1e-3), ("bfloat16", 1e-3, 1e-2)])
def test_narrower_types_cost_no_more_than_documented(hopper, dtype, near, nrc4, tmp_path):
    analysed = hopper[0]
    dump(HOPPER / "wd_1e-3.safetensors", output=tmp_path / "a.h5", dtype=dtype)
    scored = score(tmp_path / "a.h5")
    for one, other in zip(analysed.layers, scored.layers, strict=True):
        for name in ("nrc1", "nrc2", "nrc3", "cka"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=near), name
        assert one.nrc4 == pytest.approx(other.nrc4, rel=nrc4)
    assert max(differences_of_layers(analysed, scored)) > 1e-8  # it is another computation


def differences_of_layers(one, other):
    for a, b in zip(one.layers, other.layers, strict=True):
        yield abs(a.nrc1 - b.nrc1)


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 2},
        {"rcond": 0.1},
        {"rank": "auto", "thresholds": {"nrc1": 0.5}},
        {"layers": ["layers.1*"]},
        {"exclude": ["layers.2", "no such layer"]},
    ],
    ids=str,
)
def test_a_dump_is_scored_with_other_options_as_the_network_would_be(options, hopper):
    expected = analyze(HOPPER / "wd_1e-3.safetensors", **options)
    assert_same(expected, score(hopper[1], **options), near=1e-9)


def test_what_was_said_of_scoring_to_the_dump_is_still_said(tmp_path):
    model, data = small_network(), study_arrays()
    options = {"rank": 1, "rcond": 0.01, "exclude": ["2"], "limit": 30, "thresholds": {"nrc1": 0.4}}
    dump(model, data, output=tmp_path / "a.h5", **options)
    assert_same(analyze(model, data, **options), score(tmp_path / "a.h5"))
    assert score(tmp_path / "a.h5", rank=2).settings.rank == 2


@pytest.mark.parametrize("moments", [False, True])
def test_a_layer_may_be_too_wide_for_the_scoring_alone(moments, tmp_path):
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "a.h5", moments=moments)
    assert_same(analyze(checkpoint, data, max_width=6), score(tmp_path / "a.h5", max_width=6))


def study_arrays(n=60, seed=5):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 5)).astype(np.float32)
    return x, x[:, :2] * 2.0


def test_moments_alone_score_to_the_last_digit(tmp_path):
    checkpoint = HOPPER / "wd_0.safetensors"
    dump(checkpoint, output=tmp_path / "m.h5", moments_only=True)
    assert score(tmp_path / "m.h5") == analyze(checkpoint)
    with h5py.File(tmp_path / "m.h5") as book:
        assert "targets" not in book
        assert "features" not in book["layers/layers.2"]


def test_moments_beside_activations_are_what_is_scored(tmp_path):
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "a.h5", dtype="bfloat16", moments=True)
    with h5py.File(tmp_path / "a.h5") as book:
        assert book["layers/layers.2/features"].shape == (60, 8)
    assert score(tmp_path / "a.h5") == analyze(checkpoint, data)


def test_moments_do_not_grow_with_the_rows(tmp_path):
    sizes = []
    for n in (60, 6000):
        checkpoint, data = study(tmp_path / str(n), n)
        dump(checkpoint, data, output=tmp_path / f"{n}.h5", moments_only=True)
        sizes.append((tmp_path / f"{n}.h5").stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 100  # a path or a number may be a digit longer


def test_an_analysis_keeps_what_dump_would_write_and_finds_the_same(tmp_path):
    checkpoint = HOPPER / "wd_0.safetensors"
    plain = analyze(checkpoint)
    kept = analyze(checkpoint, dump=tmp_path / "a.h5", save_moments=tmp_path / "m.h5")
    dump(checkpoint, output=tmp_path / "a2.h5")
    dump(checkpoint, output=tmp_path / "m2.h5", moments_only=True)
    assert kept == plain
    kept, written = everything_in(tmp_path / "a.h5"), everything_in(tmp_path / "a2.h5")
    assert kept.pop("facts") != written.pop("facts")  # they tell whether sums were made beside
    assert kept == written
    assert everything_in(tmp_path / "m.h5") == everything_in(tmp_path / "m2.h5")


def test_a_dump_is_one_pass(tmp_path):
    seen = []
    x, y = (torch.from_numpy(array) for array in study_arrays())

    def batches():
        for start in range(0, 60, 20):
            seen.append(start)
            yield x[start : start + 20], y[start : start + 20]

    dump(small_network(), batches(), output=tmp_path / "a.h5", moments=True)
    assert seen == [0, 20, 40]


# --------------------------------------------------------------------------- what layers can do


def test_a_layer_that_breaks_off_is_not_stored_and_its_reason_is(tmp_path):
    model = small_network()
    x, y = study_arrays()
    x[33, 2] = 3e38  # finite, but not in the next layer
    model[0].weight.data[0] = 1e3
    analysed = analyze(model, (x, y), batch_size=10)
    dump(model, (x, y), output=tmp_path / "a.h5", batch_size=10)
    scored = score(tmp_path / "a.h5")
    assert [item.name for item in scored.skipped] == ["2", "4"]
    assert "first at row 33" in scored.skipped[0].reason
    assert words_of(analysed) == words_of(scored)
    with h5py.File(tmp_path / "a.h5") as book:
        assert list(book["layers"]) == ["0"]


class Sometimes(nn.Module):
    """Runs one layer in the first batch only, another in all but the first, a third never."""

    def __init__(self):
        super().__init__()
        self.first, self.later, self.never = (nn.Linear(5, 2) for _ in range(3))
        self.always = nn.Linear(5, 2)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.always(x) + (self.first(x) if self.calls == 1 else self.later(x))


class Again(Sometimes):
    """Layers that miss a batch and then, in the third, have another reason to be left out."""

    def forward(self, x):
        output, self.calls = self.always(x), self.calls + 1
        if self.calls != 2:
            output = output + self.first(x / (3 - self.calls))
        return output if self.calls < 3 else output + self.later(x) + self.later(x)


@pytest.mark.parametrize("network", [Sometimes, Again])
def test_layers_are_left_out_of_an_analysis_a_dump_and_sums_for_one_reason(network, tmp_path):
    rows = study_arrays()
    said = {item.name: item.reason for item in analyze(network(), rows, batch_size=20).skipped}
    assert said["first"] == said["later"] == "did not run in every batch"
    for how in ({}, {"moments": True}, {"moments_only": True}):
        dump(network(), rows, output=tmp_path / "a.h5", batch_size=20, **how)
        assert {item.name: item.reason for item in score(tmp_path / "a.h5").skipped} == said, how
        assert info(tmp_path / "a.h5").skipped == said, how


def test_layers_that_do_not_run_throughout_are_not_stored(tmp_path):
    x, y = study_arrays()
    dump(Sometimes(), (x, y), output=tmp_path / "a.h5", batch_size=20)
    contents = info(tmp_path / "a.h5")
    assert [layer.name for layer in contents.layers] == ["always"]
    assert contents.skipped["first"] == contents.skipped["later"] == "did not run in every batch"
    assert contents.skipped["never"] == "never ran in the forward pass"
    assert {item.name for item in score(tmp_path / "a.h5").skipped} == {"first", "later", "never"}


def test_activations_too_large_for_float16_are_said_so_and_bfloat16_holds_them(tmp_path):
    model, (x, y) = small_network(), study_arrays()
    x[30] = 1e5
    dump(model, (x, y), output=tmp_path / "half.h5", dtype="float16", batch_size=20)
    dump(model, (x, y), output=tmp_path / "brain.h5", dtype="bfloat16", batch_size=20)
    assert info(tmp_path / "half.h5").skipped["0"] == "its activations are too large for float16"
    dump(model, (x, y), output=tmp_path / "both.h5", dtype="float16", batch_size=20, moments=True)
    assert [item.name for item in score(tmp_path / "both.h5").skipped] == ["0"]
    assert info(tmp_path / "brain.h5").skipped == {}


def test_a_run_in_which_no_layer_can_be_stored_still_scores(tmp_path):
    model, data = small_network(), study_arrays()
    analysed = analyze(model, data, max_width=2)
    dump(model, data, output=tmp_path / "a.h5", max_width=2)
    assert_same(analysed, score(tmp_path / "a.h5"))


@given(st.text(st.characters(), max_size=12))
@example("")
@example(".")
@example("..")
@example("a/b%2F\x00\n\ud800é.0")
def test_every_layer_name_is_a_link_and_comes_back(name):
    link = link_name(name)
    assert layer_name(link) == name
    assert link.strip(".")
    assert "/" not in link
    assert link.isprintable()


def test_strange_layer_names_come_back(tmp_path):
    names = ["a/b", "ü 100%", "c\x1bd", "x" * 300]
    widths = [5, 6, 6, 6, 2]
    modules = {name: nn.Linear(d, out) for name, d, out in zip(names, widths, widths[1:], strict=False)}
    model, data = Named(modules, ""), study_arrays()
    model.run = [names[0], *(part for name in names[1:] for part in ("relu", name))]
    dump(model, data, output=tmp_path / "a.h5")
    assert [layer.name for layer in score(tmp_path / "a.h5").layers] == names
    assert_same(analyze(model, data), score(tmp_path / "a.h5"))


# -------------------------------------------------------------------------------- what is in the file


def test_h5py_alone_reads_the_features_that_the_layers_read(tmp_path):
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "a.h5", rank=1)
    arrays, model = arrays_in(data), small_network()
    with h5py.File(tmp_path / "a.h5") as book, torch.no_grad():
        assert book.attrs["schema"] == b"nrc-probe/activations/1"
        assert (book.attrs["complete"], book.attrs["n"], book.attrs["pooling"]) == (True, 60, b"mean")
        assert len(book.attrs["checkpoint_sha256"]) == len(book.attrs["data_sha256"]) == 64
        np.testing.assert_allclose(book["targets"][()], arrays["y"])
        x = torch.from_numpy(arrays["x"])
        np.testing.assert_allclose(book["outputs"][()], model(x).numpy(), rtol=1e-5)
        for index, name in enumerate(("0", "2", "4")):
            group = book[f"layers/layers.{name}"]
            assert group["features"].dtype == np.float32
            np.testing.assert_allclose(group["features"][()], model[: int(name)](x).numpy(), rtol=1e-5)
            np.testing.assert_array_equal(group["weight"][()], model[int(name)].weight.numpy())
            assert (group.attrs["index"], group.attrs["type"]) == (index, b"Linear")


@pytest.mark.parametrize("compression", ["none", "lzf", "gzip", "blosc"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_form_holds_the_rounded_features(compression, dtype, tmp_path):
    if compression == "blosc":
        pytest.importorskip("hdf5plugin")
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "a.h5", dtype=dtype, compression=compression)
    expected = torch.from_numpy(arrays_in(data)["x"]).to(getattr(torch, dtype)).float().numpy()
    with h5py.File(tmp_path / "a.h5") as book:
        features = book["layers/layers.0/features"]
        assert bool(features.id.get_create_plist().get_nfilters()) == (compression != "none")
        values = features[()]
        if features.attrs["dtype"] == b"bfloat16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        np.testing.assert_array_equal(values.astype(np.float32), expected)
    assert score(tmp_path / "a.h5").data.n == 60


READ_BLOSC = """
import sys
import nrc_probe
sys.modules["hdf5plugin"] = None
try:
    nrc_probe.score(sys.argv[1])
except nrc_probe.ProbeError as error:
    print(error)
del sys.modules["hdf5plugin"]
print(nrc_probe.score(sys.argv[1]).data.n)
"""


def test_another_process_reads_blosc_or_names_the_extra_that_it_lacks(tmp_path):
    pytest.importorskip("hdf5plugin")
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "a.h5", compression="blosc")
    command = [sys.executable, "-c", READ_BLOSC, tmp_path / "a.h5"]
    told, n = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert told.startswith(f"{tmp_path / 'a.h5'}: '/targets' is compressed in a way that is not known here")
    assert told.endswith("pip install 'nrc-probe[compression]'")
    assert n == "60"


def test_h5ls_lists_the_features(tmp_path):
    if not shutil.which("h5ls"):
        pytest.skip("h5ls of HDF5's own tools is not installed")
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "a.h5", moments=True)
    said = subprocess.run(
        ["h5ls", "-r", tmp_path / "a.h5"], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"/layers/layers\.2/features +Dataset \{60/Inf, 8\}", said)


def test_chunks_are_of_about_a_mebibyte_and_rows_lie_in_many(tmp_path):
    model = nn.Sequential(nn.Linear(512, 3))
    x = torch.randn(1500, 512)
    dump(model, (x, x[:, :3]), output=tmp_path / "a.h5", batch_size=700)
    with h5py.File(tmp_path / "a.h5") as book:
        features = book["layers/0/features"]
        assert features.chunks == (512, 512)
        np.testing.assert_array_equal(features[()], x.numpy())
    assert_same(analyze(model, (x, x[:, :3])), score(tmp_path / "a.h5"))


def test_others_can_write_the_schema_without_facts_or_check_sums(tmp_path):
    model, (x, y) = small_network(), study_arrays()
    analysed = analyze(model, (x, y))
    with h5py.File(tmp_path / "a.h5", "w") as book, torch.no_grad():
        book.attrs["schema"], book.attrs["complete"] = "nrc-probe/activations/1", True
        book["targets"] = y
        book["outputs"] = model(torch.from_numpy(x)).double().numpy()
        for index, name in enumerate(("0", "2", "4")):
            group = book.create_group(f"layers/{name}")
            group.attrs["index"], group.attrs["type"] = index, "Linear"
            group["features"] = model[: int(name)](torch.from_numpy(x)).numpy()
            group["weight"] = model[int(name)].weight.numpy()
    scored = score(tmp_path / "a.h5")
    assert scored.model.parameters is None
    for one, other in zip(analysed.layers, scored.layers, strict=True):
        assert one.nrc3 == pytest.approx(other.nrc3, abs=1e-9)
        assert one.nrc4_ratio == pytest.approx(other.nrc4_ratio, rel=1e-9)
    assert scored.last_layer_2024.nrc3 == pytest.approx(analysed.last_layer_2024.nrc3)


# ------------------------------------------------------------------------------------- what is refused


def refused(path, *words):
    with pytest.raises(StoreError) as caught:
        score(path)
    text = str(caught.value)
    assert "\n" not in text
    assert [word for word in words if word not in text] == [], text


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """Checkpoint, data, and a dump that was stopped after 50 of 60 rows, of which three chunks of 15 stay."""
    checkpoint, data = study(tmp_path)
    monkeypatch.setattr(writing, "_SECONDS_BETWEEN_COMMITS", 0.0)
    stop_after(5, monkeypatch)
    with pytest.raises(Stopped):
        dump(checkpoint, data, output=tmp_path / "a.h5", batch_size=10)
    monkeypatch.undo()
    return checkpoint, data, tmp_path / "a.h5"


class Stopped(BaseException):
    pass


def stop_after(batches, monkeypatch):
    end_batch, count = writing.ActivationWriter.end_batch, 0

    def counted(*arguments):
        nonlocal count
        end_batch(*arguments)
        count += 1
        if count == batches:
            raise Stopped

    monkeypatch.setattr(writing.ActivationWriter, "end_batch", counted)
    monkeypatch.setattr("nrc_probe.store.layout._CHUNK_ROWS", 15)


def test_an_unfinished_dump_is_refused_with_the_way_to_resume_it(interrupted):
    _, _, path = interrupted
    assert not path.exists()
    refused(path, "no such file but 'a.h5.partial'", f"nrc-probe dump CHECKPOINT -o '{path}' --resume")
    refused(partial_of(path), "not complete", f"-o '{path}' --resume")
    contents = info(path)
    assert (contents.complete, contents.n, contents.layers[1].rows) == (False, 45, 45)
    assert info(partial_of(path)) == contents


def test_what_is_called_whole_but_does_not_say_so_is_refused(tmp_path):
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as book:
        del book.attrs["complete"]
    refused(tmp_path / "a.h5", "not complete", "--resume")


@pytest.mark.parametrize("said", ["False", "True", 1, [True]], ids=repr)
def test_only_a_true_boolean_calls_a_file_whole(said, tmp_path):
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "a.h5", moments_only=True)
    with h5py.File(tmp_path / "a.h5", "r+") as book:
        book.attrs["complete"] = said
    refused(tmp_path / "a.h5", "the dump is not complete")


def test_what_is_no_such_file_is_refused(tmp_path):
    refused(tmp_path / "none.h5", "there is no such file", "nrc-probe dump")
    refused(tmp_path, "expected a file")
    (tmp_path / "text.h5").write_text("no HDF5\n" * 100)
    refused(tmp_path / "text.h5", "text.h5: cut short, damaged or no file of schema nrc-probe/activations/1")
    with h5py.File(tmp_path / "other.h5", "w") as book:
        book["x"] = np.zeros(3)
    refused(tmp_path / "other.h5", "expected schema nrc-probe/activations/1, got none", "--features")
    with h5py.File(tmp_path / "new.h5", "w") as book:
        book.attrs["schema"] = "nrc-probe/activations/2"
    refused(tmp_path / "new.h5", "got nrc-probe/activations/2")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Unable to synchronously open file"), "a.h5: cannot be read: Permission denied"),
        (OSError(5, "Can't synchronously read data"), "a.h5: cannot be read: Input/output error"),
        (OSError("Unable to synchronously open file (bad thing)"), f"{SCHEMA} (HDF5: bad thing); dump or"),
        (KeyError("Unable to synchronously open object (object 'x' gone)"), "(HDF5: object 'x' gone)"),
        (RuntimeError("Unable to get storage size (so (or so))"), "(HDF5: so (or so))"),
        (TypeError("n must be int, got str"), f"{SCHEMA} (n must be int, got str); dump or copy it again"),
    ],
    ids=str,
)
def test_a_file_that_may_not_be_read_is_not_called_damaged(error, words, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise error

    (tmp_path / "a.h5").write_bytes(b"")
    monkeypatch.setattr(h5py, "File", fails)
    refused(tmp_path / "a.h5", words)
    if isinstance(error, OSError) and error.errno:
        with pytest.raises(StoreError) as caught:
            score(tmp_path / "a.h5")
        assert "damaged" not in str(caught.value)


def test_a_name_that_no_file_can_have_is_said_so(tmp_path):
    for name in ("x" * 300, "x" * 250):  # the second leaves no room for '.partial'
        refused(tmp_path / name, "cannot be read: File name too long")
        with pytest.raises(StoreError, match="cannot be read: File name too long"):
            info(tmp_path / name)


@pytest.mark.parametrize("moments", [False, True])
def test_a_file_that_was_cut_is_refused_at_every_length(moments, tmp_path):
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "a.h5", moments_only=moments)
    content = (tmp_path / "a.h5").read_bytes()
    for length in [*range(0, len(content), len(content) // 40), len(content) - 1]:
        (tmp_path / "cut.h5").write_bytes(content[:length])
        refused(tmp_path / "cut.h5", "cut.h5: cut short, damaged")


@pytest.mark.parametrize(
    "form", [{}, {"compression": "gzip"}, {"moments_only": True}], ids=["plain", "gzip", "moments"]
)
def test_no_changed_byte_changes_a_number(form, tmp_path):
    checkpoint, data = study(tmp_path)
    path, damaged = tmp_path / "a.h5", tmp_path / "damaged.h5"
    dump(checkpoint, data, output=path, **form)
    whole, content = score(path), path.read_bytes()
    rng, refusals = np.random.default_rng(0), 0
    used = np.flatnonzero(np.frombuffer(content, np.uint8))
    for place in rng.choice(used, 120, replace=False):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        damaged.write_bytes(changed)
        try:
            scored = score(damaged)
        except ProbeError:
            refusals += 1
        else:  # what was hit counts for nothing
            found = differences(whole, scored)
            assert max(found.values()) <= 1e-9, (place, max(found, key=found.get))
            assert words_of(whole) == words_of(scored), place
    assert refusals > 60


@pytest.mark.parametrize("form", [{"moments": True}, {"moments_only": True}], ids=str)
def test_nothing_lies_in_hdf5_s_heap_which_has_no_check_sums(form, tmp_path):
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "a.h5", heldout=data, **form)
    content = (tmp_path / "a.h5").read_bytes()
    assert b"OHDR" in content
    assert b"GCOL" not in content  # one wrong length in a heap, and HDF5 reads it for ever


WRONG = [None, -1, True, "\x1b[2Jx", [], [None], {}, {"a": 1}, 10**400, 0.5, "x" * 100_000]


def leaves(value, place=()):
    """The places of all that is in a JSON value."""
    yield place
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*place, key))


def with_value(document, place, value):
    copied = json.loads(json.dumps(document))
    if not place:
        return value
    inner = copied
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copied


def test_facts_of_another_kind_are_refused_or_do_no_harm(tmp_path):
    checkpoint, data = study(tmp_path)
    path = tmp_path / "m.h5"
    dump(checkpoint, data, output=path, moments_only=True, exclude=["layers.2"])
    rng, refusals = np.random.default_rng(0), 0
    for name in ("facts", "outcome"):
        with h5py.File(path) as book:
            document = read_text(book, name)
        for place in leaves(document):
            for value in [WRONG[k] for k in rng.choice(len(WRONG), 3, replace=False)]:
                with h5py.File(path, "r+") as book:
                    write_text(book, name, with_value(document, place, value))
                try:
                    result = score(path)
                    console = Console(file=io.StringIO(), width=80)
                    print_result(result, console)
                    print_contents(info(path), console)
                    json.loads(result.to_json())
                    assert "\x1b[2J" not in console.file.getvalue()
                except ProbeError:
                    refusals += 1
        with h5py.File(path, "r+") as book:
            write_text(book, name, document)
    assert refusals > 60


def test_links_to_other_files_are_not_followed(tmp_path):
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as book:
        group = book["layers/layers.0"]
        del group["features"]
        layout = h5py.VirtualLayout((60, 5), "f4")
        layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (60, 5))
        group.create_virtual_dataset("features", layout)
    refused(tmp_path / "a.h5", "'/layers/layers.0/features': its numbers lie in other files")


def test_a_link_to_a_group_in_another_file_is_not_followed(tmp_path):
    checkpoint, data = study(tmp_path)
    for name in ("a.h5", "b.h5"):
        dump(checkpoint, data, output=tmp_path / name)
    for place in ("layers/layers.0", "layers/layers.0/features", "targets"):
        shutil.copy(tmp_path / "b.h5", tmp_path / "linked.h5")
        with h5py.File(tmp_path / "linked.h5", "r+") as book:
            del book[place]
            book[place] = h5py.ExternalLink("a.h5", place)
        refused(tmp_path / "linked.h5", f"/{place}' lies in another file")


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (
            "layers/0/weight",
            np.full((8, 5), np.nan),
            "layer '0': its weight has shape (8, 5): expected finite",
        ),
        ("layers/0/weight", np.zeros(5), "layer '0': its weight has shape (5,): expected finite (out, d)"),
        ("targets", np.full((60, 2), np.inf), "targets are not finite (first at row 0, position 0)"),
        ("targets", np.zeros((60, 2, 2)), "'/targets': expected numbers (n, d)"),
        ("targets", np.zeros((0, 2)), "there are no rows in it"),
        ("outputs", np.zeros((60, 1)), "'/outputs': expected the shape of the targets, (60, 2), got (60, 1)"),
        ("outputs", np.zeros((59, 2)), "'/outputs': expected the shape of the targets, (60, 2), got (59, 2)"),
        ("outputs", np.zeros(60), "'/outputs': expected numbers (n, d)"),
        ("n", 61, "it says that it has 61 rows, but it has 60: damaged"),
        ("layers/0/features", np.zeros((59, 5)), "layer '0': features have 59 rows, its targets (60, 2)"),
        (
            "layers/0/features",
            np.full((60, 5), b"a"),
            "'/layers/0/features': expected numbers (n, d), got |S1",
        ),
        ("layers", np.zeros(3), "cut short, damaged or no file"),
    ],
)
def test_values_of_others_that_mean_nothing_are_refused(place, value, words, tmp_path):
    x, y = study_arrays()
    with h5py.File(tmp_path / "a.h5", "w") as book:
        book.attrs["schema"], book.attrs["complete"] = "nrc-probe/activations/1", True
        arrays = {"targets": y, "layers/0/features": x, "layers/0/weight": np.ones((8, 5)), place: value}
        for name, array in arrays.items():
            if name == "n":
                book.attrs["n"] = value
            elif not (place == "layers" and name.startswith("layers/")):
                book[name] = array
    refused(tmp_path / "a.h5", words if np.size(value) else "a.h5")


UNWRITTEN = [
    ({}, 0, "was made but never written: it has shape (60, 5) and no values"),
    ({"chunks": (7, 5)}, 0, "was made but never written"),
    ({"chunks": (7, 5)}, 53, "was never wholly written: 8 of its 9 chunks are there"),
    ({"chunks": (7, 2), "compression": "gzip"}, 60, None),
    ({"chunks": (7, 5), "compression": "gzip"}, 50, "was never wholly written: 8 of its 9 chunks are there"),
    ({"chunks": (64, 8), "maxshape": (None, None)}, 60, None),
    ({"fillvalue": 3.0}, 60, None),
]


@pytest.mark.parametrize(("layout", "rows", "words"), UNWRITTEN, ids=str)
@pytest.mark.parametrize("place", ["layers/0/features", "targets", "outputs"])
def test_rows_that_were_never_written_are_refused_and_not_read_as_zeros(place, layout, rows, words, tmp_path):
    values, _ = study_arrays()
    with h5py.File(tmp_path / "a.h5", "w") as book:
        book.attrs["schema"], book.attrs["complete"] = "nrc-probe/activations/1", True
        for name in ("layers/0/features", "targets", "outputs"):
            if name != place:
                book[name] = values
                continue
            dataset = book.create_dataset(name, values.shape, "f4", **layout)
            if rows:
                dataset[:rows] = values[:rows]
    if words is None:
        assert score(tmp_path / "a.h5").data.n == 60
    else:
        refused(tmp_path / "a.h5", f"'/{place}' {words}")


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_features_that_are_all_zero_are_written_however_little_they_take(compression, tmp_path):
    x, y = study_arrays(5000)
    model = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 2))
    nn.init.zeros_(model[0].weight)
    nn.init.constant_(model[0].bias, -1)
    dump(model, (x, y), output=tmp_path / "a.h5", compression=compression)
    assert_same(analyze(model, (x, y)), score(tmp_path / "a.h5"))


def test_values_that_mean_nothing_in_features_leave_their_layer_out(tmp_path):
    x, y = study_arrays()
    with h5py.File(tmp_path / "a.h5", "w") as book:
        book.attrs["schema"], book.attrs["complete"] = "nrc-probe/activations/1", True
        book["targets"], book["layers/1/features"] = y, x
        book["layers/0/features"] = np.full((60, 5), np.nan)
    scored = score(tmp_path / "a.h5")
    assert [layer.name for layer in scored.layers] == ["1"]
    assert scored.skipped[0].reason == "its input is not finite (first at row 0, position 0)"


M = "moments/layers.2"


@pytest.mark.parametrize(
    ("place", "change", "words"),
    [
        (f"{M}/n", lambda n: n + 1, f"'/{M}/n': 61 rows, but the network's errors are of 60"),
        (f"{M}/n", lambda n: n - 60, f"'/{M}/n': expected a number of rows, got 0"),
        (f"{M}/n", lambda n: n + 0.5, f"'/{M}/n': expected a number of rows, got 60.5"),
        ("residuals/n", lambda n: n * np.ones(1, int), "cut short, damaged or no file"),
        (f"{M}/mean_y", lambda y: y + 1, f"'/{M}/mean_y': is of other targets"),
        (f"{M}/scatter_yy", lambda y: y * 2, f"'/{M}/scatter_yy': is of other targets"),
        (f"{M}/scatter_hh", np.triu, f"'/{M}/scatter_hh': expected a symmetric matrix"),
        (f"{M}/scatter_hh", lambda h: h[:3], f"'/{M}/scatter_hh': expected (8, 8), got (3, 8)"),
        (f"{M}/scatter_hh", lambda h: h * np.nan, f"'/{M}/scatter_hh': expected finite numbers"),
        (f"{M}/scatter_hy", lambda h: h * np.inf, f"'/{M}/scatter_hy': expected finite numbers"),
        (f"{M}/mean_h", lambda h: h * 1j, f"'/{M}/mean_h': expected real numbers, got complex128"),
        ("residuals/mean_h", lambda h: h * np.nan, "'/residuals/mean_h': expected finite numbers"),
        ("residuals/mean_y", lambda y: y * np.nan, "'/residuals/mean_y': expected finite numbers"),
    ],
)
def test_moments_that_are_not_of_one_pass_are_refused(place, change, words, tmp_path):
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "m.h5", moments_only=True)
    with h5py.File(tmp_path / "m.h5", "r+") as book:
        value = book[place][()]
        del book[place]
        book[place] = change(value)
    refused(tmp_path / "m.h5", "m.h5", words)


def test_moments_of_other_targets_are_refused(tmp_path):
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "m.h5", moments_only=True)
    with h5py.File(tmp_path / "m.h5", "r+") as book:
        for name, shape in (("mean_y", (1,)), ("scatter_hy", (8, 1)), ("scatter_yy", (1, 1))):
            del book[f"{M}/{name}"]
            book[f"{M}/{name}"] = np.ones(shape)
    refused(tmp_path / "m.h5", f"'/{M}': is of 1 targets, the network's errors of 2")


def test_facts_that_are_no_text_of_ours_are_refused(tmp_path):
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "m.h5", moments_only=True)
    with h5py.File(tmp_path / "m.h5", "r+") as book:
        del book["facts"]
        write_array(book, "facts", np.bytes_(b"{"))
    refused(tmp_path / "m.h5", "m.h5", "'facts' is damaged: no JSON")


def test_moments_without_facts_are_not_merged(tmp_path):
    checkpoint, data = study(tmp_path)
    for name in ("m.h5", "n.h5"):
        dump(checkpoint, data, output=tmp_path / name, moments_only=True)
    with h5py.File(tmp_path / "m.h5", "r+") as book:
        del book["facts"]
    words = "m.h5: tells no facts, so that nobody knows what its moments are of"
    with pytest.raises(StoreError, match=words):
        merge([tmp_path / "m.h5", tmp_path / "n.h5"], output=tmp_path / "sum.h5")


def test_a_file_of_others_without_rows_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as book:
        book.attrs["schema"], book.attrs["complete"] = "nrc-probe/activations/1", True
        book.create_dataset("targets", (0, 2), "f4")
        book.create_dataset("layers/0/features", (0, 5), "f4")
    refused(tmp_path / "a.h5", "a.h5: there are no rows in it")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_of_others_that_is_not_finite_is_refused(value, tmp_path):
    x, y = study_arrays()
    np.savez(tmp_path / "a.npz", f=x, y=y, w=np.full((3, 5), value))
    with pytest.raises(StoreError, match=r"a\.npz: weight 'w' is not finite"):
        score(tmp_path / "a.npz", features=["f"], targets="y", weights={"f": "w"})


def test_check_sums_of_another_number_of_chunks_are_refused(tmp_path):
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as book:
        sums = book[checks_name("targets")][()]
        del book[checks_name("targets")]
        book[checks_name("targets")] = np.append(sums, sums)
    refused(tmp_path / "a.h5", "'/targets': expected a check sum a chunk of", "got (2,)")


def test_a_layer_without_moments_is_said_to_be_left_out(tmp_path):
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "m.h5", moments_only=True)
    with h5py.File(tmp_path / "m.h5", "r+") as book:
        del book[M]
    scored = score(tmp_path / "m.h5")
    assert [(left.name, left.reason) for left in scored.skipped] == [
        ("layers.2", "the file holds no moments of it")
    ]


@pytest.mark.parametrize("options", [{}, {"precision": "fast"}], ids=str)
def test_moments_beside_targets_far_from_zero_are_taken(options, tmp_path):
    x, y = study_arrays()
    for targets in (y + 1e6, np.hstack([y, np.full((60, 1), 0.1)]), np.sort(y, 0) * 1e-9):
        net = small_network() if targets.shape[1] == 2 else nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
        arrays = x, targets.astype(np.float64)
        dump(net, arrays, output=tmp_path / "m.h5", moments_only=True, batch_size=1, **options)
        assert score(tmp_path / "m.h5") == analyze(net, arrays, batch_size=1, **options)


def link_moments(book):
    del book[M]
    book[M] = h5py.ExternalLink("other.h5", M)


def link_sums(book):
    del book[f"{M}/mean_h"]
    book[f"{M}/mean_h"] = h5py.ExternalLink("other.h5", f"{M}/mean_h")


def never_write(book):
    del book["layers/layers.2/weight"]
    book["layers/layers.2"].create_dataset("weight", (10**6, 10**6), "f4", chunks=(1, 8))[0, :8] = 1


def write_zeros(book):
    del book["layers/layers.2/weight"]
    shape = (30_000_000, 1)
    weight = book["layers/layers.2"].create_dataset("weight", shape, "f4", chunks=shape, compression="gzip")
    weight.id.write_direct_chunk((0, 0), b"few bytes")


def put_outside(book):
    del book[f"{M}/mean_h"]
    book[M].create_dataset("mean_h", (8,), "f8", external=[("other.raw", 0, 64)])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (link_moments, "lies in another file"),
        (link_sums, "lies in another file"),
        (never_write, "'/layers/layers.2/weight' was never wholly written: 1 of its 125,000,000,000 chunks"),
        (write_zeros, "'/layers/layers.2/weight': has shape (30000000, 1), but "),
        (put_outside, "its numbers lie in other files"),
    ],
)
def test_moments_and_weights_that_are_not_in_the_file_are_refused(spoil, words, tmp_path):
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "m.h5", moments_only=True)
    shutil.copy(tmp_path / "m.h5", tmp_path / "other.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as book:
        spoil(book)
    refused(tmp_path / "m.h5", words)


def test_a_layer_that_is_not_there_is_named_with_those_that_are(hopper):
    with pytest.raises(LayerError, match=r"layer 'fc3' is not in .*a\.h5; it has: layers\.0, layers\.2"):
        score(hopper[1], layers=["fc3"])
    with pytest.raises(ConfigError, match="score has no option 'rnk'; did you mean 'rank'"):
        score(hopper[1], rnk=2)


# ------------------------------------------------------------------------------------------- resuming


def resume(checkpoint, data, path, **options):
    return dump(checkpoint, data, output=path, **{"batch_size": 10, "resume": True, **options})


def test_a_resumed_dump_runs_only_the_rows_that_are_not_there(interrupted, monkeypatch):
    checkpoint, data, path = interrupted
    rows, forward = [], nrc_probe.capture.Capture.forward

    def counted(self, inputs, targets):
        rows.append(len(inputs))
        return forward(self, inputs, targets)

    monkeypatch.setattr("nrc_probe.capture.Capture.forward", counted)
    resume(checkpoint, data, path)
    assert rows == [10, 10]  # rows 40 to 59: batches are those of a run that was not interrupted
    assert_same(analyze(checkpoint, data, batch_size=10), score(path))
    assert sorted(p.name for p in path.parent.glob("a.h5*")) == ["a.h5"]


def test_a_resumed_dump_is_the_one_that_was_not_interrupted(interrupted, monkeypatch, tmp_path):
    checkpoint, data, path = interrupted
    resume(checkpoint, data, path)
    monkeypatch.setattr("nrc_probe.store.layout._CHUNK_ROWS", 15)
    dump(checkpoint, data, output=tmp_path / "b.h5", batch_size=10)
    assert everything_in(path) == everything_in(tmp_path / "b.h5")


@pytest.mark.parametrize("stopped", [1, 3, 5, 6])
@pytest.mark.parametrize("case", ["breaks off", "sometimes", "tokens"])
def test_what_layers_do_before_and_after_an_interruption_is_the_same(case, stopped, tmp_path, monkeypatch):
    x, y = study_arrays()
    np.savez(tmp_path / "data.npz", x=x, y=y)
    options = {"batch_size": 10, "model": f"{__name__}:{case.replace(' ', '_')}"}
    if case == "tokens":
        options["pooling"] = "tokens"
    (tmp_path / "net.pth").write_bytes(b"")
    torch.save(globals()[case.replace(" ", "_")]().state_dict(), tmp_path / "net.pth")
    monkeypatch.setattr(writing, "_SECONDS_BETWEEN_COMMITS", 0.0)
    with monkeypatch.context() as patch:
        stop_after(stopped, patch)
        with pytest.raises(Stopped):
            dump(tmp_path / "net.pth", tmp_path / "data.npz", output=tmp_path / "a.h5", **options)
    monkeypatch.setattr("nrc_probe.store.layout._CHUNK_ROWS", 15)
    for name, again in (("a.h5", True), ("b.h5", False)):
        dump(tmp_path / "net.pth", tmp_path / "data.npz", output=tmp_path / name, resume=again, **options)
    assert everything_in(tmp_path / "a.h5") == everything_in(tmp_path / "b.h5")


class Row(nn.Module):
    """Which layers run is told by the rows themselves, so that it is the same in every run."""

    def __init__(self, breaks=False):
        super().__init__()
        self.early, self.late, self.always = (nn.Linear(5, 2) for _ in range(3))
        self.breaks = breaks

    def forward(self, x):
        number = float(x.abs().sum())
        if self.breaks:
            return self.always(x) + self.early(x / (number < 43))
        return self.always(x) + (self.early(x) if number > 40 else self.late(x))


def breaks_off():
    torch.manual_seed(0)
    return Row(breaks=True)


def sometimes():
    torch.manual_seed(0)
    return Row()


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(1, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.outer(self.inner(x[..., None])).sum(1)


def tokens():
    torch.manual_seed(0)
    return Tokens()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float16"}, "dtype was float32, now it is float16"),
        ({"compression": "gzip"}, "compression was none, now it is gzip"),
        ({"batch_size": 20}, "batch_size was 10, now it is 20"),
        ({"pooling": "max"}, "pooling was mean, now it is max"),
        ({"activation": "tanh"}, "model facts was"),
        ({"standardize": ["inputs"]}, "the standardisation was None"),
    ],
    ids=str,
)
def test_a_dump_is_not_resumed_with_other_settings(options, words, interrupted):
    with pytest.raises(StoreError, match=rf"a\.h5\.partial: cannot be resumed: {words}"):
        resume(*interrupted, **options)
    resume(*interrupted)


def test_a_resumed_dump_says_first_what_it_will_read_again(interrupted):
    said = []
    resume(*interrupted, announce=said.append)
    assert re.search(r"a\.h5\.partial: going on with it, [\d.]+ KiB are read and checked first$", said[0])


def test_a_dump_is_not_resumed_with_another_checkpoint_or_other_data(interrupted):
    checkpoint, data, path = interrupted
    other = save_network(checkpoint.parent / "other.pth", trained(small_network()))
    with pytest.raises(
        StoreError, match=r"resumed: the checkpoint's SHA-256 was \w{12}\.\.\., now it is \w{12}\.\.\. "
    ):
        resume(other, data, path)
    arrays = arrays_in(data)
    np.savez(data, **{**arrays, "y": arrays["y"] + 1})
    with pytest.raises(StoreError, match="cannot be resumed: the data's SHA-256 was"):
        resume(checkpoint, data, path)


def test_a_dump_is_not_resumed_from_other_columns(tmp_path, monkeypatch):
    checkpoint, data = study(tmp_path)
    arrays = arrays_in(data)
    np.savez(data, **arrays, z=arrays["x"] * 2)
    monkeypatch.setattr(writing, "_SECONDS_BETWEEN_COMMITS", 0.0)
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        with pytest.raises(Stopped):
            dump(checkpoint, data, output=tmp_path / "a.h5", batch_size=10, inputs="x")
    with pytest.raises(StoreError, match="the choice of the data's columns was inputs 'x', targets 'y', now"):
        resume(checkpoint, data, tmp_path / "a.h5", inputs="z")
    resume(checkpoint, data, tmp_path / "a.h5", inputs="x")


def test_a_damaged_unfinished_dump_is_not_resumed_or_comes_out_right(interrupted, tmp_path):
    checkpoint, data, path = interrupted
    partial, copy = partial_of(path), tmp_path / "copy"
    content, journal = partial.read_bytes(), journal_of(partial).read_bytes()
    resume(checkpoint, data, path)
    whole = everything_in(path)
    rng, refusals = np.random.default_rng(0), []
    for place in rng.choice(np.flatnonzero(np.frombuffer(content, np.uint8)), 60, replace=False):
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        partial_of(copy / "a.h5").write_bytes(changed)
        journal_of(partial_of(copy / "a.h5")).write_bytes(journal)
        try:
            resume(checkpoint, data, copy / "a.h5")
        except StoreError as error:
            refusals.append(str(error))
            assert not (copy / "a.h5").exists()
        else:
            assert everything_in(copy / "a.h5") == whole
    assert len(refusals) > 30
    words = "features', rows 0 to 14: damaged, their check sum differs (remove the file and begin anew)"
    assert any(words in text for text in refusals)


def test_live_data_are_not_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_SECONDS_BETWEEN_COMMITS", 0.0)
    stop_after(4, monkeypatch)
    checkpoint = save_network(tmp_path / "net.pth")
    with pytest.raises(Stopped):
        dump(checkpoint, study_arrays(), output=tmp_path / "a.h5", batch_size=10)
    with pytest.raises(StoreError, match="cannot be resumed: the data is no file"):
        resume(checkpoint, study_arrays(), tmp_path / "a.h5")


def test_an_unfinished_dump_is_not_written_over_unasked(interrupted):
    checkpoint, data, path = interrupted
    before = partial_of(path).read_bytes()
    for begin in (lambda: dump(checkpoint, data, output=path), lambda: analyze(checkpoint, data, dump=path)):
        with pytest.raises(StoreError, match="an unfinished dump is there: --resume goes on"):
            begin()
    assert partial_of(path).read_bytes() == before


def test_resuming_a_whole_dump_runs_nothing_and_other_dumps_are_spared(tmp_path, monkeypatch):
    checkpoint, data = study(tmp_path)
    first = resume(checkpoint, data, tmp_path / "a.h5")  # nothing is there: it begins
    monkeypatch.setattr("nrc_probe.probe.stream_rows", None)
    assert resume(checkpoint, data, tmp_path / "a.h5") == first
    with pytest.raises(
        StoreError, match="a whole dump of something else: dtype was float32, now it is float16"
    ):
        resume(checkpoint, data, tmp_path / "a.h5", dtype="float16")


def test_moments_are_no_dump_to_be_resumed(tmp_path):
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "m.h5", moments_only=True)
    with pytest.raises(StoreError, match=r"m\.h5: a whole dump of something else: "):
        resume(checkpoint, data, tmp_path / "m.h5")


def test_a_whole_dump_that_lacks_but_its_name_gets_it(tmp_path, monkeypatch):
    checkpoint, data = study(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(writing, "_rename", lambda *_: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            resume(checkpoint, data, tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()
    monkeypatch.setattr("nrc_probe.probe.stream_rows", None)
    resume(checkpoint, data, tmp_path / "a.h5")
    assert_same(analyze(checkpoint, data, batch_size=10), score(tmp_path / "a.h5"))
    assert not journal_of(partial_of(tmp_path / "a.h5")).exists()


# ---------------------------------------------------------------------------------------- where it goes


def test_files_of_other_kinds_are_spared(tmp_path):
    checkpoint, data = study(tmp_path)
    with h5py.File(tmp_path / "rows.h5", "w") as book:
        book["x"], book["y"] = study_arrays()
    for output in (data, checkpoint, tmp_path / "rows.h5"):
        before = output.read_bytes()
        for write in (
            lambda output=output: dump(checkpoint, tmp_path / "rows.h5", output=output),
            lambda output=output: analyze(checkpoint, data, save_moments=output),
        ):
            with pytest.raises(OutputError, match="it exists and holds no activations or moments"):
                write()
        assert output.read_bytes() == before
    with pytest.raises(OutputError, match="named twice"):
        analyze(checkpoint, data, dump=tmp_path / "a.h5", save_moments=tmp_path / "a.h5")
    with pytest.raises(OutputError, match="there is no folder"):
        dump(checkpoint, data, output=tmp_path / "none" / "a.h5")


def test_an_output_that_cannot_be_read_is_spared_and_said_so(tmp_path, monkeypatch):
    checkpoint, data = study(tmp_path)
    output = tmp_path / "a.h5"
    dump(checkpoint, data, output=output)
    before = output.read_bytes()
    with output.open("rb") as other:
        flock(other, LOCK_EX)
        with pytest.raises(OutputError, match=r"a\.h5': it exists and cannot be read: Resource temporarily"):
            dump(checkpoint, data, output=output)

    def closed(*_args, **_options):
        raise PermissionError(errno.EACCES, "Unable to synchronously open file")

    monkeypatch.setattr(h5py, "File", closed)  # root may read any file: chmod shows nothing
    words = r"a\.h5': it exists and cannot be read: Permission denied \(name another file\)$"
    for write in (
        lambda: dump(checkpoint, data, output=output),
        lambda: analyze(checkpoint, data, save_moments=output),
        lambda: merge([output, output], output=output),
    ):
        with pytest.raises(OutputError, match=words):
            write()
    assert output.read_bytes() == before


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    checkpoint, data = study(tmp_path)
    (tmp_path / "far").mkdir()
    (tmp_path / "a.h5").symlink_to(tmp_path / "far" / "b.h5")
    dump(checkpoint, data, output=tmp_path / "a.h5")
    assert (tmp_path / "a.h5").is_symlink()
    assert score(tmp_path / "far" / "b.h5").data.n == 60


def linked(partial, data):
    partial.symlink_to(data)


def hard_linked(partial, data):
    partial.hardlink_to(data)


def foreign(partial, _):
    partial.write_bytes(b"a diary")


@pytest.mark.parametrize(
    ("lay", "words"), [(linked, "is a link"), (hard_linked, "has 2 names"), (foreign, "no unfinished dump")]
)
def test_what_lies_where_a_dump_begins_is_spared(lay, words, tmp_path):
    checkpoint, data = study(tmp_path)
    partial = partial_of(tmp_path / "a.h5")
    kept = tmp_path / "kept"
    kept.write_bytes(b"")
    lay(partial, kept)
    kept.write_bytes(kept.read_bytes() or b"\0" * 100)
    before = partial.read_bytes()
    with pytest.raises(StoreError, match=rf"a\.h5\.partial: .*{words}.*another output") as refusal:
        dump(checkpoint, data, output=tmp_path / "a.h5")
    assert "\n" not in str(refusal.value)
    assert partial.read_bytes() == before
    assert not (tmp_path / "a.h5").exists()


def test_a_remnant_of_a_dump_that_committed_nothing_is_replaced(tmp_path):
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "b.h5")
    for content in (b"", b"\0" * 100 + b"rows", (tmp_path / "b.h5").read_bytes()):
        partial_of(tmp_path / "a.h5").write_bytes(content)
        dump(checkpoint, data, output=tmp_path / "a.h5")
        assert sorted(path.name for path in tmp_path.glob("a.h5*")) == ["a.h5"]


def test_a_pipe_for_a_journal_is_refused_and_not_waited_for(interrupted):
    checkpoint, data, path = interrupted
    journal_of(partial_of(path)).unlink()
    os.mkfifo(journal_of(partial_of(path)))
    for read in (lambda: resume(checkpoint, data, path), lambda: info(path)):
        with pytest.raises(StoreError, match=r"its journal 'a\.h5\.partial\.journal' is no ordinary file"):
            read()


@pytest.mark.parametrize("length", [248, 255])
def test_a_name_that_leaves_no_room_for_its_partial_file_is_named(length, tmp_path):
    checkpoint, data = study(tmp_path)
    name = "a" * (length - 3) + ".h5"
    with pytest.raises(OutputError, match=rf"cannot write '.*{name}': File name too long"):
        dump(checkpoint, data, output=tmp_path / name)


def test_a_journal_without_its_file_is_no_unfinished_dump(tmp_path):
    checkpoint, data = study(tmp_path)
    journal_of(partial_of(tmp_path / "a.h5")).write_bytes(b"left by a process that ended as it tidied up")
    dump(checkpoint, data, output=tmp_path / "a.h5")
    assert sorted(path.name for path in tmp_path.glob("a.h5*")) == ["a.h5"]


def test_the_journal_of_a_dump_that_was_killed_once_it_had_its_name_goes(tmp_path, monkeypatch):
    checkpoint, data = study(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(
            writing,
            "_rename",
            lambda partial, output: (_ for _ in ()).throw(Stopped(partial.replace(output))),
        )
        with pytest.raises(Stopped):
            resume(checkpoint, data, tmp_path / "a.h5")
    left = ["a.h5", "a.h5.partial.journal"]
    assert sorted(path.name for path in tmp_path.glob("a.h5*")) == left
    resume(checkpoint, data, tmp_path / "a.h5")
    assert sorted(path.name for path in tmp_path.glob("a.h5*")) == ["a.h5"]
    assert score(tmp_path / "a.h5").data.n == 60


def test_the_next_journal_that_a_kill_left_goes_where_the_dump_is_whole(tmp_path):
    checkpoint, data = study(tmp_path)
    resume(checkpoint, data, tmp_path / "a.h5")
    (tmp_path / "a.h5.partial.journal.new").write_bytes(b"half of it")
    resume(checkpoint, data, tmp_path / "a.h5")
    assert sorted(path.name for path in tmp_path.glob("a.h5*")) == ["a.h5"]


def test_a_dump_under_way_is_not_disturbed(tmp_path, monkeypatch):
    checkpoint, data = study(tmp_path)
    end_batch, refusals = writing.ActivationWriter.end_batch, []

    def meanwhile(*arguments):
        for options in ({}, {"resume": True}):
            with pytest.raises(StoreError, match=r"a\.h5\.partial: another process is writing it"):
                dump(checkpoint, data, output=tmp_path / "a.h5", **options)
            refusals.append(options)
        end_batch(*arguments)

    monkeypatch.setattr(writing.ActivationWriter, "end_batch", meanwhile)
    dump(checkpoint, data, output=tmp_path / "a.h5")
    assert len(refusals) == 2
    assert score(tmp_path / "a.h5").data.n == 60


def held(partial: Path) -> bool:
    """Whether others are refused the file."""
    try:
        writing.CommittedFile(partial, create=True).close()
    except StoreError as error:
        return "another process is writing it" in str(error)
    return False


@pytest.mark.parametrize("resumes", [False, True])
def test_a_whole_dump_without_its_name_is_begun_anew_by_nobody_and_named_by_anybody(
    resumes, tmp_path, monkeypatch
):
    checkpoint, data = study(tmp_path)
    rename, seen = writing._rename, []
    if resumes:  # what lacks but its name gets it
        with monkeypatch.context() as patch:
            patch.setattr(writing, "_rename", lambda *_: (_ for _ in ()).throw(Stopped))
            with pytest.raises(Stopped):
                dump(checkpoint, data, output=tmp_path / "a.h5")

    def meanwhile(partial, output):
        with pytest.raises(StoreError, match="another process has just written it"):
            writing.CommittedFile(partial, create=True)
        with monkeypatch.context() as patch:
            patch.setattr(writing, "_rename", rename)
            seen.append(writing.give_name(output))
        rename(partial, output)

    monkeypatch.setattr(writing, "_rename", meanwhile)
    dump(checkpoint, data, output=tmp_path / "a.h5", resume=resumes)
    assert seen == [True]
    assert score(tmp_path / "a.h5").data.n == 60
    assert sorted(path.name for path in tmp_path.glob("a.h5*")) == ["a.h5"]


def test_a_whole_dump_that_is_removed_before_it_has_its_name_is_an_error(tmp_path, monkeypatch):
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "a.h5", limit=20)
    rename = writing._rename
    monkeypatch.setattr(
        writing, "_rename", lambda partial, output: (partial.unlink(), rename(partial, output))
    )
    with pytest.raises(OutputError, match=r"cannot write '.*a\.h5': No such file"):
        dump(checkpoint, data, output=tmp_path / "a.h5")
    assert score(tmp_path / "a.h5").data.n == 20


def test_a_dump_that_is_given_up_is_held_until_its_file_is_gone(tmp_path, monkeypatch):
    checkpoint, data = study(tmp_path)
    is_unfinished, seen = writing.is_unfinished, []

    def look(output):
        if partial_of(output).exists():
            seen.append(held(partial_of(output)))
        return is_unfinished(output)

    monkeypatch.setattr(writing, "is_unfinished", look)
    monkeypatch.setattr(writing.ActivationWriter, "take", lambda *_: (_ for _ in ()).throw(Stopped))
    with pytest.raises(Stopped):
        dump(checkpoint, data, output=tmp_path / "a.h5")
    assert seen == [True]
    assert not list(tmp_path.glob("a.h5*"))


def test_an_interruption_amid_a_write_keeps_what_was_committed(tmp_path, monkeypatch):
    checkpoint, data = study(tmp_path)
    write, calls = writing.CommittedFile.write, []

    def interrupted(self, content):
        calls.append(len(content))
        if len(calls) == 25:
            signal.raise_signal(signal.SIGINT)
        return write(self, content)

    monkeypatch.setattr(writing, "_SECONDS_BETWEEN_COMMITS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(writing.CommittedFile, "write", interrupted)
        patch.setattr("nrc_probe.store.layout._CHUNK_ROWS", 15)
        with pytest.raises(KeyboardInterrupt):
            dump(checkpoint, data, output=tmp_path / "a.h5", batch_size=10)
    resume(checkpoint, data, tmp_path / "a.h5")
    assert_same(analyze(checkpoint, data, batch_size=10), score(tmp_path / "a.h5"))


def test_an_older_dump_is_replaced_at_the_end(tmp_path):
    checkpoint, data = study(tmp_path)
    dump(checkpoint, data, output=tmp_path / "a.h5", limit=20)
    dump(checkpoint, data, output=tmp_path / "a.h5")
    assert score(tmp_path / "a.h5").data.n == 60


def test_a_network_that_fails_at_once_leaves_nothing(tmp_path):
    checkpoint, data = study(tmp_path, x=np.zeros((60, 7), np.float32))
    with pytest.raises(ProbeError, match="cannot take the inputs"):
        dump(checkpoint, data, output=tmp_path / "a.h5")
    assert not list(tmp_path.glob("a.h5*"))


def test_an_unknown_form_is_refused_before_any_work(tmp_path, monkeypatch):
    for options, words in (
        ({"dtype": "int8"}, "dtype must be one of float32, float16, bfloat16; got 'int8'"),
        ({"compression": "zip"}, "compression must be one of none, lzf, gzip, blosc; got 'zip'"),
    ):
        with pytest.raises(ConfigError, match=words):
            dump("none.pth", output=tmp_path / "a.h5", **options)
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(
        ConfigError, match=r"needs the package hdf5plugin: pip install 'nrc-probe\[compression\]'"
    ):
        dump("none.pth", output=tmp_path / "a.h5", compression="blosc")


def test_what_does_not_fit_on_the_disk_is_not_begun_unless_one_says_so(tmp_path, monkeypatch):
    checkpoint, data = study(tmp_path, 6000)
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    said = []
    with pytest.raises(OutputError, match=r"about 9\d\d\.\d KiB to write, 97\.7 KiB free .*--yes"):
        dump(checkpoint, data, output=tmp_path / "a.h5", announce=said.append)
    assert "KiB to write, 97.7 KiB free" in said[0]
    assert not list(tmp_path.glob("a.h5*"))
    dump(checkpoint, data, output=tmp_path / "a.h5", yes=True)
    # two chunks of 4096 rows of 5 + 8 + 8 float32, and 2 + 2 float64; five chunks of 1024 check sums
    assert math.isclose((8192 * (21 * 4 + 4 * 8) + 5 * 8192) / 1024, 968, abs_tol=0.1)


@pytest.mark.parametrize("options", [{}, {"dtype": "float16"}, {"moments": True}, {"limit": 1234}], ids=str)
def test_the_size_that_is_told_is_about_that_of_the_file(options, tmp_path):
    said = []
    dump(HOPPER / "wd_0.safetensors", output=tmp_path / "a.h5", announce=said.append, **options)
    told = float(re.search(r"about ([\d.]+) MiB to write", said[0])[1]) * 2**20
    assert (tmp_path / "a.h5").stat().st_size == pytest.approx(told, rel=0.08)
