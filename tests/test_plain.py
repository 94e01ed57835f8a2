"""Activations that others wrote: arrays told by their names score as the network that made them."""

from __future__ import annotations

import math
import os

import h5py
import numpy as np
import pytest
import torch
from runs import small_network
from safetensors.numpy import save_file

from nrc_probe import analyze, dump, score
from nrc_probe.errors import DataError, StoreError

LAYERS = ("0", "2", "4")


def arrays_of(model, x, y):
    with torch.no_grad():
        features = {f"h{name}": model[: int(name)](torch.from_numpy(x)).numpy() for name in LAYERS}
        weights = {f"w{name}": model[int(name)].weight.numpy() for name in LAYERS}
        return {**features, **weights, "y": y, "predicted": model(torch.from_numpy(x)).double().numpy()}


def write(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    else:
        with h5py.File(path, "w") as book:
            for name, array in arrays.items():
                book[name] = array
    return path


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((70, 5)).astype(np.float32)
    y = x[:, :2] * 2.0
    model = small_network()
    return analyze(model, (x, y)), arrays_of(model, x, y)


NAMES = {
    "features": ["h*"],
    "targets": "y",
    "predictions": "predicted",
    "weights": {f"h{name}": f"w{name}" for name in LAYERS},
}


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".safetensors"])
def test_named_arrays_score_as_the_network_that_made_them(suffix, case, tmp_path):
    analysed, arrays = case
    scored = score(write(tmp_path / f"a{suffix}", arrays), **NAMES)
    assert [layer.name for layer in scored.layers] == ["h0", "h2", "h4"]
    for one, other in zip(analysed.layers, scored.layers, strict=True):
        for name in ("nrc1", "nrc2", "nrc3", "nrc4", "nrc4_ratio", "cka", "stable_rank_weight"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-9), name
        assert other.out == one.out
    assert scored.model_mse == pytest.approx(analysed.model_mse, rel=1e-9)
    assert (scored.checkpoint.path, scored.model.parameters) == (None, None)


def test_what_needs_a_weight_or_predictions_is_null_with_a_reason(case, tmp_path):
    analysed, arrays = case
    scored = score(write(tmp_path / "a.npz", arrays), features=["h0", "h2"], targets="y")
    for one, other in zip(analysed.layers[:2], scored.layers, strict=True):
        assert other.nrc1 == pytest.approx(one.nrc1, abs=1e-9)
        assert other.nrc4 == pytest.approx(one.nrc4, rel=1e-9)
        for name in ("nrc3", "nrc3_noise", "eigengap_weight", "stable_rank_weight", "nrc4_ratio"):
            assert math.isnan(getattr(other, name)), name
        assert "no weight reads these features: NRC3 is undefined" in other.notes
        assert other.out is None
    document = scored.to_dict()
    assert (document["model_mse"], document["layers"][0]["nrc3"]) == (None, None)
    assert scored.warnings == (
        "the network's outputs are not known: its error and NRC4 / model are undefined",
    )


def test_layers_of_a_glob_stand_in_natural_order_and_named_ones_as_named(case, tmp_path):
    _, arrays = case
    more = {f"f{k}": arrays["h2"] + k for k in (10, 9, 1)}
    path = write(tmp_path / "a.npz", {**arrays, **more})
    assert [x.name for x in score(path, features=["f*"], targets="y").layers] == ["f1", "f9", "f10"]
    assert [x.name for x in score(path, features=["h2", "h*"], targets="y").layers] == ["h2", "h0", "h4"]
    only = score(path, features=["f*"], targets="y", exclude=["f9"], rank=1, max_width=7)
    assert [(item.name, item.reason) for item in only.skipped] == [
        ("f9", "excluded by 'f9'"),
        ("f1", "wider than --max-width (8 > 7)"),
        ("f10", "wider than --max-width (8 > 7)"),
    ]


def test_integers_and_one_column_of_targets_are_numbers_too(tmp_path):
    rng = np.random.default_rng(0)
    h = rng.integers(0, 99, (50, 4))
    scored = score(write(tmp_path / "a.npz", {"h": h, "y": h[:, 0]}), features=["h"], targets="y")
    assert scored.data.target_dim == 1
    assert scored.layers[0].nrc4 == pytest.approx(0, abs=1e-9)


def test_targets_that_are_not_finite_are_refused(case, tmp_path):
    _, arrays = case
    arrays["y"][3, 0] = np.nan
    with pytest.raises(StoreError, match=r"a\.npz: targets are not finite \(first at row 3, position 0\)"):
        score(write(tmp_path / "a.npz", arrays), **NAMES)
    with pytest.raises(StoreError, match="targets are not finite"):
        score(tmp_path / "a.npz", **NAMES, max_width=1)  # where no layer is read


def test_values_that_are_not_finite_leave_their_layer_out(case, tmp_path):
    _, arrays = case
    arrays["h2"][33, 1] = np.inf
    scored = score(write(tmp_path / "a.npz", arrays), **NAMES)
    assert [layer.name for layer in scored.layers] == ["h0", "h4"]
    assert scored.skipped[0].reason == "its input is not finite (first at row 33, position 1)"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({}, "which array holds the targets? It has h0 (70, 5), h2 (70, 8), "),
        ({"targets": "y"}, "which arrays are features? It has h0 (70, 5)"),
        ({"targets": "z", "features": ["h0"]}, "has no array 'z' (targets); it has h0 (70, 5)"),
        ({"targets": "y", "features": ["g*"]}, "has no array 'g*'; it has h0"),
        ({"targets": "y", "features": ["h0"], "predictions": "p"}, "has no array 'p' (predictions)"),
        (
            {"targets": "y", "features": ["h0"], "predictions": "h2"},
            "predictions 'h2' have shape (70, 8), expected",
        ),
        ({"targets": "y", "features": ["w0"]}, "'w0' has 8 rows, the targets have 70"),
        ({"targets": "y", "features": ["h0"], "weights": {"h2": "w2"}}, "weight of 'h2': no such features"),
        ({"targets": "y", "features": ["h0"], "weights": {"h0": "v"}}, "has no array 'v' (weights)"),
        (
            {"targets": "y", "features": ["h0"], "weights": {"h0": "w2"}},
            "weight 'w2' is float32 (8, 8); expected (out, 5)",
        ),
        ({"targets": "text", "features": ["h0"]}, "'text' is str32 (2,); expected numbers (n, d)"),
        ({"targets": "y", "features": ["cube"]}, "'cube' is float64 (2, 3, 4); expected numbers (n, d)"),
    ],
    ids=str,
)
def test_wrong_names_and_shapes_are_said_with_what_there_is(names, words, case, tmp_path):
    _, arrays = case
    path = write(tmp_path / "a.npz", {**arrays, "text": np.array(["a", "b"]), "cube": np.zeros((2, 3, 4))})
    with pytest.raises(StoreError) as caught:
        score(path, **names)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_or_a_missing_file_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(StoreError, match="a table; expected arrays"):
        score(tmp_path / "a.csv", features=["a"], targets="b")
    with pytest.raises(DataError, match="there is no such file"):
        score(tmp_path / "b.npz", features=["a"], targets="b")


def test_sums_that_no_machine_holds_are_refused_by_the_name_of_their_file(tmp_path, monkeypatch):
    wide = np.random.default_rng(0).normal(size=(6, 700))
    named = write(tmp_path / "a.npz", {"h": wide, "y": wide[:, :2]})
    dump(torch.nn.Linear(700, 2), (wide, wide[:, :2]), output=tmp_path / "a.h5")
    monkeypatch.setattr(os, "sysconf", lambda _: 1500)  # 2.25 MB of memory
    for path, names in ((named, {"features": ["h"], "targets": "y"}), (tmp_path / "a.h5", {})):
        with pytest.raises(DataError) as caught:
            score(path, **names)
        assert str(caught.value) == (
            f"{path}: the covariance of 700 features and 2 targets needs 3953672 bytes, "
            "this machine has 2250000"
        )
