"""Moments of disjoint rows add up to those of all of them, and others are not added."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from books import arrays_in, assert_same, study
from runs import save_data, save_network, small_network
from safetensors.torch import save_file
from torch import nn

from nrc_probe import analyze, dump, info, merge, score
from nrc_probe.errors import ConfigError, OutputError, StoreError


@pytest.fixture
def shards(tmp_path):
    """A checkpoint, three files of rows, and one with all of them."""
    checkpoint, whole = study(tmp_path, 90)
    arrays = arrays_in(whole)
    names = []
    for start, stop in ((0, 20), (20, 21), (21, 90)):
        names.append(tmp_path / f"rows{start}.npz")
        np.savez(names[-1], **{key: array[start:stop] for key, array in arrays.items()})
    return checkpoint, names, whole


def sums(checkpoint, data, **options):
    output = data.with_suffix(".h5")
    dump(checkpoint, data, output=output, **{"moments_only": True, **ALONE, **options})
    return output


ALONE = {"batch_size": 1}
"""Each row by itself: in batches of other sizes, its float32 features would differ in the last digit."""


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_moments_of_shards_score_as_all_rows_do(order, shards, tmp_path):
    checkpoint, names, whole = shards
    files = [sums(checkpoint, name) for name in names]
    contents = merge([files[k] for k in order], output=tmp_path / "m.h5")
    assert contents.n == 90
    expected, scored = analyze(checkpoint, whole, **ALONE), score(tmp_path / "m.h5")
    for one, other in zip(expected.layers, scored.layers, strict=True):
        for name in ("nrc1", "nrc2", "nrc3", "nrc4", "nrc4_ratio", "cka", "effective_rank"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-9, abs=1e-12), name
    assert scored.model_mse == pytest.approx(expected.model_mse, rel=1e-12)
    assert scored.data.n == 90
    assert scored.data.path == " + ".join(str(names[k]) for k in order)
    assert "moments of 3 files merged" in scored.data.assumptions


def test_merging_merged_files_is_merging_all(shards, tmp_path):
    checkpoint, names, _ = shards
    files = [sums(checkpoint, name) for name in names]
    merge(files, output=tmp_path / "all.h5")
    merge(files[:2], output=tmp_path / "two.h5")
    merge([tmp_path / "two.h5", files[2]], output=tmp_path / "again.h5")
    one, other = score(tmp_path / "all.h5"), score(tmp_path / "again.h5")
    assert [layer.nrc1 for layer in one.layers] == pytest.approx([x.nrc1 for x in other.layers], abs=1e-12)
    with pytest.raises(StoreError, match=r"rows20\.h5: its rows are in .*two\.h5 too"):
        merge([tmp_path / "two.h5", files[1]], output=tmp_path / "no.h5")
    assert not (tmp_path / "no.h5").exists()


def test_dumps_with_moments_are_merged_too_and_those_without_refused(shards, tmp_path):
    checkpoint, names, _ = shards
    one = sums(checkpoint, names[0], moments_only=False, moments=True)
    two = sums(checkpoint, names[2], moments_only=False)
    with pytest.raises(StoreError, match=r"rows21\.h5: holds activations but no moments .*--moments"):
        merge([one, two], output=tmp_path / "m.h5")
    merge([one, sums(checkpoint, names[2])], output=tmp_path / "m.h5")
    assert score(tmp_path / "m.h5").data.n == 89
    assert info(tmp_path / "m.h5").dtype is None


def test_the_same_held_out_rows_stay_and_others_are_left_out_with_a_word(shards, tmp_path):
    checkpoint, names, whole = shards
    held = [sums(checkpoint, name, heldout=whole) for name in names[:2]]
    merge(held, output=tmp_path / "m.h5")
    assert score(tmp_path / "m.h5").heldout.data.n == 90
    other = sums(checkpoint, names[2], heldout=names[0])
    merge([held[0], other], output=tmp_path / "n.h5")
    scored = score(tmp_path / "n.h5")
    assert scored.heldout is None
    assert any("held-out rows differ" in note for note in scored.data.assumptions)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pooling": "max"}, "the pooling is max, but in .* mean: cannot be merged"),
        ({"layers": ["layers.0"]}, r"the layers are layers\.0 \(5\), but in"),
        ({"precision": "fast"}, "the precision is fast"),
        ({"activation": "tanh"}, "the model is MLP"),
        ({"standardize": ["inputs"]}, "the standardisation .*--standardize FILE"),
    ],
    ids=str,
)
def test_moments_of_another_study_are_refused(options, words, shards, tmp_path):
    checkpoint, names, _ = shards
    files = [sums(checkpoint, names[0]), sums(checkpoint, names[2], **options)]
    with pytest.raises(StoreError, match=words):
        merge(files, output=tmp_path / "m.h5")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"inputs": "z"},
            r"rows20\.h5: its rows are read as inputs 'z', targets 'y', but in .* as inputs 'x'",
        ),
        (
            {"targets": "z[0,2]"},
            r"read as inputs 'x', targets 'z\[0,2\]', but in .*rows0\.h5 as .*targets 'y'",
        ),
    ],
    ids=str,
)
def test_rows_read_from_other_columns_are_refused(options, words, shards, tmp_path):
    checkpoint, names, _ = shards
    for name in names:
        arrays = arrays_in(name)
        np.savez(name, **arrays, z=arrays["x"] * 2)
    files = [sums(checkpoint, names[0]), sums(checkpoint, names[1], **options)]
    with pytest.raises(StoreError, match=words):
        merge(files, output=tmp_path / "m.h5")
    # rows of live data may be any, but they hide no others
    arrays = arrays_in(names[2])
    dump(checkpoint, (arrays["x"], arrays["y"]), output=tmp_path / "live.h5", moments_only=True)
    merge([tmp_path / "live.h5", files[0]], output=tmp_path / "two.h5")
    with pytest.raises(StoreError, match=r"its rows are read as .* \(name the same --inputs and --targets\)"):
        merge([tmp_path / "two.h5", files[1]], output=tmp_path / "m.h5")


def test_columns_are_the_same_however_they_are_named(tmp_path):
    checkpoint = save_network(tmp_path / "net.pth")
    rows = np.random.default_rng(0).normal(size=(40, 7))
    said = [{"inputs": "0:5", "targets": "5,6"}, {"inputs": "0,1,2:5", "targets": "-2:"}, {"targets": "0,1"}]
    files = []
    for k, options in enumerate(said):
        np.savetxt(tmp_path / f"{k}.csv", rows + k, delimiter=",")
        files.append(sums(checkpoint, tmp_path / f"{k}.csv", **options))
    assert merge(files[:2], output=tmp_path / "m.h5").story.facts.data.reading == "inputs 0:5, targets 5:7"
    with pytest.raises(
        StoreError, match=r"read as inputs 2:7, targets 0:2, but in .* inputs 0:5, targets 5:7"
    ):
        merge(files[1:], output=tmp_path / "m.h5")


def test_bytes_read_as_images_are_not_merged_with_bytes_as_they_are(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    files = []
    for k, options in enumerate(({}, {"images": "as-is"})):
        rng = np.random.default_rng(k)
        arrays = {"x": rng.integers(0, 256, (30, 3, 2, 2), np.uint8), "y": rng.normal(size=(30, 2))}
        np.savez(tmp_path / f"{k}.npz", **arrays)
        files.append(tmp_path / f"{k}.h5")
        dump(model, tmp_path / f"{k}.npz", output=files[-1], moments_only=True, **options)
    with pytest.raises(StoreError, match=r"targets 'y', but in .* targets 'y', images with channels first"):
        merge(files, output=tmp_path / "m.h5")


@pytest.mark.parametrize("options", [{"heldout_inputs": "z"}, {"limit": 10}], ids=str)
def test_held_out_rows_that_are_read_otherwise_are_left_out(options, shards, tmp_path):
    checkpoint, names, whole = shards
    np.savez(whole, **arrays_in(whole), z=arrays_in(whole)["x"] * 2)
    files = [sums(checkpoint, names[0], heldout=whole), sums(checkpoint, names[2], heldout=whole, **options)]
    merge(files, output=tmp_path / "m.h5")
    scored = score(tmp_path / "m.h5")
    assert scored.heldout is None
    assert any("held-out rows differ" in note for note in scored.data.assumptions)


def test_moments_of_another_checkpoint_or_of_other_weights_are_refused(shards, tmp_path):
    checkpoint, names, _ = shards
    first = sums(checkpoint, names[0])
    other = save_network(tmp_path / "other.pth", small_network().apply(doubled))
    with pytest.raises(
        StoreError, match=r"the checkpoint's SHA-256 is \w{12}\.\.\., but in .* \w{12}\.\.\.: cannot"
    ):
        merge([first, sums(other, names[2])], output=tmp_path / "m.h5")
    live = [small_network(), small_network().apply(doubled)]
    files = [tmp_path / "live0.h5", tmp_path / "live1.h5"]
    for model, name, file in zip(live, names[::2], files, strict=True):
        dump(model, name, output=file, moments_only=True)
    with pytest.raises(StoreError, match=r"live1\.h5: layer '0' has another weight than in"):
        merge(files, output=tmp_path / "m.h5")


def test_the_same_rows_without_a_fingerprint_are_not_counted_twice(shards, tmp_path):
    checkpoint, names, _ = shards
    arrays = [arrays_in(name) for name in (names[0], names[0], names[2])]
    files = [tmp_path / f"live{k}.h5" for k in range(3)]
    for file, rows, size in zip(files, arrays, (1, 8, 8), strict=True):
        dump(checkpoint, (rows["x"], rows["y"]), output=file, moments_only=True, batch_size=size)
    for pair in ((files[0], files[0]), (files[0], files[1])):
        with pytest.raises(StoreError, match=r"has the same number of rows and the same sums as .*live0\.h5"):
            merge(pair, output=tmp_path / "m.h5")
    with pytest.raises(StoreError, match="the same sums as"):
        merge([files[0], sums(checkpoint, names[0])], output=tmp_path / "m.h5")
    assert merge([files[0], files[2]], output=tmp_path / "m.h5").n == 89


def of_the_same_weights(*modules):
    torch.manual_seed(0)
    first, last = nn.Linear(5, 8), nn.Linear(8, 2)
    return nn.Sequential(first, *modules, last)


def pieces(folder, **models):
    """Files of sums of live modules, each over rows of its own."""
    files = []
    for seed, (name, modules) in enumerate(models.items()):
        rows = torch.randn(30, 7, generator=torch.Generator().manual_seed(seed))
        files.append(folder / f"{name}.h5")
        network = of_the_same_weights(*modules)
        dump(network, (rows[:, :5], rows[:, 5:]), output=files[-1], moments_only=True)
    return files


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ([nn.ReLU()], [nn.Tanh()], r"two\.h5: module '1' is Tanh\(\), but in .*one\.h5 ReLU\(\): cannot"),
        (
            [nn.LeakyReLU(0.1)],
            [nn.LeakyReLU(0.2)],
            r"module '1' is LeakyReLU\(negative_slope=0\.2\), but in .* LeakyReLU\(negative_slope=0\.1\)",
        ),
        ([nn.ReLU(), nn.Tanh()], [nn.Tanh(), nn.ReLU()], r"module '1' is Tanh\(\), but in"),
        ([nn.Sequential(nn.ReLU())], [nn.Sequential()], r"module '1\.0' is not there, but in .* ReLU\(\)"),
        ([nn.Sequential()], [nn.Sequential(nn.ReLU())], r"module '1\.0' is ReLU\(\), but in .* not there"),
    ],
    ids=str,
)
def test_live_modules_of_the_same_weights_but_other_modules_are_refused(one, other, words, tmp_path):
    files = pieces(tmp_path, one=one, two=other)
    with pytest.raises(StoreError, match=words):
        merge(files, output=tmp_path / "m.h5")
    assert not (tmp_path / "m.h5").exists()


class Odd(nn.Module):
    """Says something else of itself in every process, or fails to."""

    def __init__(self, words):
        super().__init__()
        self.words = words

    def extra_repr(self):
        return self.words["says"]

    def forward(self, x):
        return x.relu()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([nn.ReLU()], [nn.ReLU()]),
        ([Odd({})], [Odd({})]),
        ([Odd({"says": "<function f at 0x7f10>"})], [Odd({"says": "<function f at 0x7fA0>"})]),
        ([nn.LazyBatchNorm1d()], [nn.BatchNorm1d(8)]),
    ],
    ids=["ReLU", "failing", "address", "lazy"],
)
def test_live_modules_that_look_the_same_are_merged_with_a_warning(one, other, tmp_path):
    files = pieces(tmp_path, one=one, two=other, three=other)
    merge(files[:2], output=tmp_path / "m.h5")
    merge([tmp_path / "m.h5", files[2]], output=tmp_path / "all.h5")
    for name in ("m.h5", "all.h5"):
        warned = [text for text in score(tmp_path / name).warnings if "live modules" in text]
        assert len(warned) == 1
        assert "nothing tells whether all rows went through one network" in warned[0]


def test_files_of_a_saved_checkpoint_are_merged_without_that_warning(shards, tmp_path):
    checkpoint, names, _ = shards
    merge([sums(checkpoint, name) for name in names], output=tmp_path / "m.h5")
    assert not any("live modules" in text for text in score(tmp_path / "m.h5").warnings)


def doubled(module):
    for parameter in module.parameters(recurse=False):
        parameter.data *= 2


def test_rows_standardised_by_one_file_of_statistics_are_merged(shards, tmp_path):
    checkpoint, names, whole = shards
    arrays = arrays_in(whole)
    save_file(
        {
            f"{key}_{what}": torch.from_numpy(getattr(arrays[name].astype(np.float64), what)(0))
            for key, name in (("inputs", "x"), ("targets", "y"))
            for what in ("mean", "std")
        },
        tmp_path / "statistics.safetensors",
    )
    options = {"standardize": str(tmp_path / "statistics.safetensors")}
    merge([sums(checkpoint, name, **options) for name in names], output=tmp_path / "m.h5")
    expected, scored = analyze(checkpoint, whole, **ALONE, **options), score(tmp_path / "m.h5")
    assert [x.nrc1 for x in expected.layers] == pytest.approx([x.nrc1 for x in scored.layers], abs=1e-9)


def test_one_file_is_not_merged_nor_one_written_over(shards, tmp_path):
    checkpoint, names, _ = shards
    first, second = (sums(checkpoint, name) for name in names[::2])
    with pytest.raises(ConfigError, match="merge takes two files or more, got 1"):
        merge([first], output=tmp_path / "m.h5")
    with pytest.raises(OutputError, match="holds no activations or moments"):
        merge([first, second], output=names[0])
    merge([first, second], output=first)  # it is read before it is replaced
    assert score(first).data.n == 89
    assert_same(score(first), score(first))


def test_a_shard_without_variation_adds_its_rows(tmp_path):
    checkpoint = save_network(tmp_path / "net.pth")
    one, two = tmp_path / "one.npz", save_data(tmp_path / "two.npz", 40)
    np.savez(one, x=np.zeros((5, 5), np.float32), y=np.zeros((5, 2), np.float32))
    merge([sums(checkpoint, one), sums(checkpoint, two)], output=tmp_path / "m.h5")
    both = tmp_path / "both.npz"
    np.savez(both, **{k: np.concatenate([arrays_in(one)[k], arrays_in(two)[k]]) for k in ("x", "y")})
    expected, scored = analyze(checkpoint, both, **ALONE), score(tmp_path / "m.h5")
    assert [x.nrc1 for x in expected.layers] == pytest.approx([x.nrc1 for x in scored.layers], abs=1e-12)


class Breaking(nn.Sequential):
    """Gives nan for rows whose first input is larger than 100."""

    def forward(self, x):
        return super().forward(x).masked_fill(x[:, :1] > 100, torch.nan)


@pytest.mark.parametrize("broken", [(45,), (45, 70), (75,), (3, 45)], ids=str)
def test_the_first_output_that_is_not_finite_is_counted_over_all_files(broken, tmp_path):
    x, y = torch.randn(90, 5), torch.randn(90, 2)
    x[list(broken), 0] = 200.0
    model, files = Breaking(nn.Linear(5, 2)), []
    for start, stop in ((0, 20), (20, 60), (60, 90)):
        files.append(tmp_path / f"{start}.h5")
        dump(model, (x[start:stop], y[start:stop]), output=files[-1], moments_only=True)
    merge(files[:2], output=tmp_path / "two.h5")
    merge([tmp_path / "two.h5", files[2]], output=tmp_path / "m.h5")
    said = [text for text in score(tmp_path / "m.h5").warnings if "output is not finite" in text]
    assert said == [
        f"the network's output is not finite (first at row {broken[0]}, position 0): its error is undefined"
    ]


def test_rows_that_a_limit_left_out_are_told_of_each_file(shards, tmp_path):
    checkpoint, names, _ = shards  # of 20, 1 and 69 rows
    one, two = (sums(checkpoint, name, limit=15) for name in names[:2])
    three = sums(checkpoint, names[2], limit=30)
    merge([one, two], output=tmp_path / "two.h5")
    assert limits(tmp_path / "two.h5") == [f"{names[0]}: only the first 15 of 20 rows were used (--limit)"]
    merge([tmp_path / "two.h5", three], output=tmp_path / "m.h5")
    assert score(tmp_path / "m.h5").data.n == 46
    assert limits(tmp_path / "m.h5") == [
        f"{names[0]}: only the first 15 of 20 rows were used (--limit)",
        f"{names[2]}: only the first 30 of 69 rows were used (--limit)",
    ]


def limits(file):
    return [text for text in score(file).warnings if "--limit" in text]
