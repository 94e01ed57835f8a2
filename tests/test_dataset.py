"""Batches hold every row once; standardising uses the right numbers; live data stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from nrc_probe.dataset import Dataset, Statistics, bytes_in_memory, open_dataset, rows, wrap_dataset
from nrc_probe.dataset.standardize import Spread
from nrc_probe.errors import DataError
from nrc_probe.spec import DataSpec

RNG = np.random.default_rng(0)
X = RNG.normal(3.0, 2.0, size=(40, 4))
Y = RNG.normal(size=(40, 2)) * [1.0, 50.0]
BOTH = ("inputs", "targets")


def read(dataset: Dataset, size: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = zip(*dataset.batches(size), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def cut(values: torch.Tensor, cuts: list[int]) -> rows.Blocks:
    yield from torch.tensor_split(values, sorted(cuts))


@given(
    n=st.integers(1, 60),
    size=st.integers(1, 70),
    cuts=st.lists(st.integers(0, 60), max_size=8),
    limit=st.none() | st.integers(1, 70),
)
def test_batches_joined_are_the_array_however_it_is_stored(
    n: int, size: int, cuts: list[int], limit: int | None
) -> None:
    values = torch.arange(n * 2).reshape(n, 2)
    batches = list(rows.rebatch(cut(values, cuts), size, limit))
    assert torch.equal(torch.cat(batches), values[:limit])
    kept = min(n, limit or n)
    assert [len(batch) for batch in batches] == [min(size, kept - start) for start in range(0, kept, size)]


def test_the_reader_is_closed_once_the_limit_is_reached() -> None:
    reader = cut(torch.arange(20), [5, 10])
    list(rows.rebatch(reader, 5, limit=5))
    assert reader.gi_frame is None


@given(
    n=st.integers(1, 60),
    cuts=st.lists(st.integers(1, 59), max_size=8, unique=True),
    offset=st.sampled_from([0.0, 1.0, -1e6]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    seed=st.integers(0, 99),
)
def test_streamed_statistics_are_those_of_the_whole(
    n: int, cuts: list[int], offset: float, scale: float, seed: int
) -> None:
    values = (np.random.default_rng(seed).normal(size=(n, 3)) + offset) * scale
    spread = Spread()
    for block in cut(torch.tensor(values), [place for place in cuts if place < n]):
        spread.add(block)
    mean, deviation = spread.finish()
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-13, atol=1e-13 * scale)
    np.testing.assert_allclose(deviation, values.std(0), rtol=1e-9, atol=1e-13 * scale)


def test_rows_are_standardised_by_their_own_mean_and_population_deviation() -> None:
    dataset = wrap_dataset((X, Y), DataSpec(standardize=BOTH))
    inputs, targets = read(dataset)
    assert dataset.standardized == BOTH
    np.testing.assert_allclose(inputs, (X - X.mean(0)) / X.std(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(targets, (Y - Y.mean(0)) / Y.std(0), rtol=1e-12, atol=1e-13)


def test_one_of_the_two_can_be_standardised_alone() -> None:
    dataset = wrap_dataset((X, Y), DataSpec(standardize=("targets",)))
    np.testing.assert_array_equal(read(dataset)[0], X)
    assert dataset.standardized == ("targets",)
    assert dataset.statistics.inputs is None


def test_the_limit_does_not_change_the_statistics() -> None:
    dataset = wrap_dataset((X, Y), DataSpec(standardize=BOTH))
    _, targets = next(dataset.batches(5, limit=5))
    np.testing.assert_allclose(targets, ((Y - Y.mean(0)) / Y.std(0))[:5])


def test_held_out_rows_use_the_training_statistics() -> None:
    train = wrap_dataset((X, Y), DataSpec(standardize=BOTH))
    heldout = wrap_dataset((X + 9, Y), DataSpec(standardize=BOTH), statistics=train.statistics)
    np.testing.assert_allclose(read(heldout)[0], (X + 9 - X.mean(0)) / X.std(0), rtol=1e-6)


def test_held_out_rows_cannot_use_statistics_that_training_has_not() -> None:
    with pytest.raises(DataError, match="targets are to be standardised as in training, but"):
        wrap_dataset((X, Y), DataSpec(standardize=("targets",)), statistics=Statistics())


def test_a_constant_column_is_centred_not_scaled_and_noted() -> None:
    inputs = X.copy()
    inputs[:, 2] = 0.1
    dataset = wrap_dataset((inputs, Y), DataSpec(standardize=BOTH))
    assert (read(dataset)[0][:, 2] == 0).all()
    assert dataset.notes == ("inputs: 1 constant (column 2): centred, not scaled",)


@pytest.mark.parametrize("stored", ["float64", "int32", "int64", "uint32"])
def test_what_float32_would_round_stays_as_it_is_stored(stored: str) -> None:
    values = (2**24 + np.arange(40)[:, None]).astype(stored)
    assert values.dtype != np.float32
    np.testing.assert_array_equal(read(wrap_dataset((values, Y)))[0], values)


@pytest.mark.parametrize("stored", ["float16", "float32", "int16", "uint8", "bool"])
def test_what_float32_holds_is_float32(stored: str) -> None:
    values = (np.arange(40)[:, None] % 2).astype(stored)
    assert read(wrap_dataset((values, Y)))[0].dtype == torch.float32


def test_standardised_inputs_keep_the_digits_that_float64_gives_them() -> None:
    values = np.random.default_rng(0).normal(size=(40, 3)) + 1e9
    found = read(wrap_dataset((values, Y), DataSpec(standardize=BOTH)))[0]
    np.testing.assert_allclose(found, (values - values.mean(0)) / values.std(0), atol=1e-6)
    assert (found != found.float()).any()


def test_float32_inputs_are_centred_in_float64() -> None:
    inputs = 1e6 + np.arange(40.0)[:, None]
    found = read(wrap_dataset((inputs, Y), DataSpec(standardize=BOTH)))[0]
    np.testing.assert_allclose(found, (inputs - inputs.mean()) / inputs.std(), rtol=1e-6)


@pytest.mark.parametrize("names", [("inputs", "targets"), ("x", "y")])
def test_statistics_are_read_from_a_file(names: tuple[str, str], tmp_path: Path) -> None:
    x, y = names
    saved = {f"{x}_mean": X.mean(0) + 1, f"{x}_std": X.std(0), f"{y}_mean": 3.0, f"{y}_std": 2.0}
    np.savez(tmp_path / "s.npz", **saved)
    dataset = wrap_dataset((X, Y), DataSpec(standardize="s.npz", folder=tmp_path))
    inputs, targets = read(dataset)
    np.testing.assert_allclose(inputs, (X - X.mean(0) - 1) / X.std(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(targets, (Y - 3) / 2)


def test_a_file_may_hold_the_statistics_of_the_inputs_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x_mean=X.mean(0), x_std=X.std(0))
    dataset = wrap_dataset((X, Y), DataSpec(standardize="s.npz", folder=tmp_path))
    assert dataset.standardized == ("inputs",)
    assert dataset.notes == ("s.npz holds no targets_mean: targets left as they are",)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (
            {"mean": X[0], "std": X[0]},
            r"s\.npz: expected inputs_mean, inputs_std, .* has mean, std \(w",
        ),
        ({"x_mean": X[0]}, r"s\.npz: has no inputs_std; it has x_mean"),
        (
            {"x_mean": X[0], "x_std": -np.ones(4)},
            "x_std: expected finite numbers, none of x_std below",
        ),
        (
            {"x_mean": X[0, :3], "x_std": X[0, :3]},
            r"inputs has shape \(4,\), their .* \(3,\); expected",
        ),
    ],
)
def test_statistics_that_do_not_fit_are_refused(
    saved: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "s.npz", **saved)
    with pytest.raises(DataError, match=message):
        wrap_dataset((X, Y), DataSpec(standardize="s.npz", folder=tmp_path))


IMAGES = RNG.integers(0, 256, size=(40, 6, 5, 3), dtype=np.uint8)


def test_bytes_with_channels_last_become_nchw_floats_up_to_one() -> None:
    dataset = wrap_dataset((IMAGES, Y))
    inputs = read(dataset)[0]
    np.testing.assert_allclose(inputs, IMAGES.transpose(0, 3, 1, 2) / 255.0, rtol=1e-6)
    assert inputs.dtype == torch.float32
    assert dataset.input_shape == (3, 6, 5)
    assert dataset.notes == (
        "inputs (40, 6, 5, 3) read as images, channels last: turned to NCHW, divided by 255",
    )


def test_bytes_with_channels_first_are_scaled_in_place() -> None:
    dataset = wrap_dataset((IMAGES.transpose(0, 3, 1, 2), Y))
    assert dataset.input_shape == (3, 6, 5)
    assert float(read(dataset)[0].max()) == 1.0
    assert "channels first, divided by 255" in dataset.notes[0]


def test_images_are_left_alone_when_asked() -> None:
    dataset = wrap_dataset((IMAGES, Y), DataSpec(images="as-is"))
    np.testing.assert_array_equal(read(dataset)[0], IMAGES)
    assert dataset.notes == ()


def test_images_of_unusual_channels_are_turned_when_asked() -> None:
    dataset = wrap_dataset((IMAGES.repeat(2, axis=3), Y), DataSpec(images="nhwc"))
    assert dataset.input_shape == (6, 6, 5)
    with pytest.raises(DataError, match=r"'nhwc' needs inputs \(n, h, w, c\); got \(40, 4\)"):
        wrap_dataset((X, Y), DataSpec(images="nhwc"))


def test_images_are_standardised_by_channel() -> None:
    dataset = wrap_dataset((IMAGES, Y), DataSpec(standardize=("inputs",)))
    scaled = IMAGES.transpose(0, 3, 1, 2) / 255.0
    expected = (scaled - scaled.mean((0, 2, 3))[:, None, None]) / scaled.std((0, 2, 3))[:, None, None]
    np.testing.assert_allclose(read(dataset)[0], expected, rtol=1e-5, atol=1e-6)


def test_class_labels_are_noted_and_counts_are_not() -> None:
    labels = wrap_dataset((X, np.arange(40) % 10)).notes
    assert labels == (
        "targets are whole numbers of 10 distinct values, as class labels are: "
        "these scores are about regression",
    )
    assert wrap_dataset((np.ones((400, 2)), np.arange(400))).notes == ()


def test_one_dimensional_targets_and_inputs_become_a_column() -> None:
    dataset = wrap_dataset((X[:, 0], Y[:, 0]))
    inputs, targets = next(dataset.batches(8))
    assert (inputs.shape, targets.shape) == ((8, 1), (8, 1))
    assert dataset.notes == ("inputs (40,) read as one column",)


def test_a_map_style_data_set_is_collated_and_keeps_its_types() -> None:
    data = TensorDataset(torch.tensor(X), torch.tensor(Y).float())
    dataset = wrap_dataset(data)
    inputs, targets = read(dataset)
    assert (dataset.n, dataset.input_shape, dataset.target_dim) == (40, (4,), 2)
    assert (inputs.dtype, targets.dtype) == (torch.float64, torch.float64)
    np.testing.assert_array_equal(inputs, X)


@pytest.mark.parametrize("wrap", [lambda pair: pair, lambda pair: [pair]])
def test_a_network_that_writes_into_its_input_leaves_the_data_alone(wrap: Any) -> None:
    values = torch.tensor(X, dtype=torch.float32)
    for inputs, _ in wrap_dataset(wrap((values, torch.tensor(Y)))).batches(8):
        inputs.zero_()
    np.testing.assert_array_equal(values, X.astype(np.float32))


def test_a_loader_is_taken_in_the_batches_it_makes() -> None:
    loader = DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_size=16)
    dataset = wrap_dataset(loader)
    assert [len(targets) for _, targets in dataset.batches(3)] == [16, 16, 8]
    assert [len(targets) for _, targets in dataset.batches(3, limit=20)] == [16, 4]
    assert dataset.n == 40
    assert wrap_dataset(DataLoader(loader.dataset, batch_size=16, drop_last=True)).n is None


def test_a_stream_of_samples_is_collated_and_has_no_length() -> None:
    class Samples(IterableDataset[tuple[np.ndarray, np.ndarray]]):
        def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            return iter(zip(X, Y, strict=True))

    dataset = wrap_dataset(Samples())
    assert dataset.n is None
    np.testing.assert_array_equal(read(dataset)[1], Y)


def test_batches_of_tuples_and_mappings_keep_their_form() -> None:
    tokens = torch.arange(40).reshape(10, 4)
    batch = ({"ids": tokens, "extras": (torch.ones(10, 2), None)}, torch.ones(10))
    inputs, targets = next(wrap_dataset([batch]).batches(5, limit=6))
    assert torch.equal(inputs["ids"], tokens[:6])
    assert inputs["ids"].dtype == torch.int64
    assert inputs["extras"][0].shape == (6, 2)
    assert targets.shape == (6, 1)


def test_a_generator_gives_one_pass_and_says_so_at_the_second() -> None:
    dataset = wrap_dataset((x, y) for x, y in [(X[:30], Y[:30]), (X[30:], Y[30:])])
    np.testing.assert_array_equal(read(dataset)[1], Y)
    with pytest.raises(DataError, match="data: this iterator is used up, it gives its batches once"):
        read(dataset)


def test_a_generator_cannot_be_standardised_by_itself() -> None:
    with pytest.raises(DataError, match="data: standardising needs a second pass, and this iterator"):
        wrap_dataset(iter([(X, Y)]), DataSpec(standardize=BOTH))


def test_live_data_are_standardised_over_all_batches() -> None:
    dataset = wrap_dataset([(X[:30], Y[:30]), (X[30:], Y[30:])], DataSpec(standardize=BOTH))
    np.testing.assert_allclose(read(dataset)[0], (X - X.mean(0)) / X.std(0), rtol=1e-9)


def test_a_mapping_of_arrays_is_read_like_a_file() -> None:
    dataset = wrap_dataset({"obs": X, "actions": Y})
    np.testing.assert_array_equal(read(dataset)[1], Y)
    assert dataset.notes[0] == "inputs taken from array 'obs'"


BAD = X.copy()
BAD[33, 1] = np.nan


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "got a int; expected a torch Dataset or DataLoader, an iterable of batches"),
        ([], "no batches, the iterable is empty"),
        ([X], "batch 0: got a ndarray of 40; expected a pair"),
        ([(X, Y), (X, Y[:3])], "batch 1: 40 rows of inputs, 3 of targets"),
        (
            [(X, Y), (X, Y[:, :1])],
            r"batch 1: one target has shape \(1,\), in the first batch \(2,\)",
        ),
        ([(X[0, 0], Y[0, 0])], "batch 0: got a single sample; expected tensors of several"),
        ([(X, Y[:, :, None])], r"targets have shape \(40, 2, 1\) float64; expected real"),
        ([(X[:30], Y[:30]), (BAD[30:], Y[30:])], r"inputs at row 33, column 1 .* got nan"),
        (iter([(X, Y), 1 / np.ones(3)]), "batch 1: got a ndarray of 3; expected a pair"),
    ],
)
def test_live_data_that_are_no_batches_are_refused(source: object, message: str) -> None:
    with pytest.raises(DataError, match=f"data: {message}"):
        read(wrap_dataset(source))


def test_a_data_set_that_fails_is_named_with_its_own_error() -> None:
    def broken() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield X, Y
        raise OSError("disk gone")

    with pytest.raises(DataError, match=r"data: batch 1 could not be made \(OSError: disk gone\)"):
        read(wrap_dataset(broken()))


def test_batch_sizes_and_limits_start_at_one() -> None:
    with pytest.raises(DataError, match="batch size 0: expected 1 or more"):
        wrap_dataset((X, Y)).batches(0)
    with pytest.raises(DataError, match="limit -1: expected 1 or more"):
        wrap_dataset((X, Y)).batches(5, limit=-1)


def test_opening_a_file_and_wrapping_its_arrays_is_the_same(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    opened = open_dataset(DataSpec("d.npz", folder=tmp_path, standardize=BOTH))
    wrapped = wrap_dataset((X, Y), DataSpec(standardize=BOTH))
    for one, other in zip(read(opened), read(wrapped), strict=True):
        assert torch.equal(one, other)


def test_what_is_standardised_is_inputs_or_targets(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((3, 2)), y=np.ones((3, 1)))
    with pytest.raises(DataError, match=r"standardize 'labels': expected inputs or targets"):
        open_dataset(DataSpec("d.npz", standardize=("labels",), folder=tmp_path))


def test_inputs_of_several_tensors_are_not_standardised_by_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x_mean=np.zeros(2), x_std=np.ones(2))
    pair = (torch.ones(3, 2), torch.ones(3, 2))
    words = r"inputs are (not one tensor|a tuple, not one tensor): standardise them in the data set"
    for standardize in (("inputs",), str(tmp_path / "s.npz")):
        with pytest.raises(DataError, match=words):
            list(wrap_dataset([(pair, torch.ones(3, 1))], DataSpec(standardize=standardize)).batches(3, None))


def test_a_table_is_no_file_of_statistics(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("x_mean,x_std\n0,1\n")
    np.savez(tmp_path / "d.npz", x=np.ones((3, 2)), y=np.ones((3, 1)))
    with pytest.raises(DataError, match=r"s\.csv: a table; expected a file that holds inputs_mean"):
        open_dataset(DataSpec("d.npz", standardize="s.csv", folder=tmp_path))


def test_flat_inputs_and_targets_are_standardised_as_one_column(tmp_path: Path) -> None:
    x = np.arange(4.0)
    np.savez(tmp_path / "d.npz", x=x[:, None], y=x)
    dataset = open_dataset(DataSpec("d.npz", standardize=("targets",), folder=tmp_path))
    expected = torch.from_numpy((x - x.mean()) / x.std())[:, None]
    torch.testing.assert_close(read(dataset)[1], expected)


def test_a_limit_beyond_the_end_takes_all_rows() -> None:
    dataset = wrap_dataset([(torch.ones(3, 2), torch.ones(3, 1))] * 2, DataSpec())
    assert sum(len(targets) for _, targets in dataset.batches(4, 100)) == 6


def test_images_keep_their_four_dimensions() -> None:
    batches = [(torch.ones(3, 4, 4, 3), torch.ones(3, 1)), (torch.ones(3, 2), torch.ones(3, 1))]
    with pytest.raises(DataError, match=r"images have shape \(3, 2\); expected 4 dimensions"):
        list(wrap_dataset(batches, DataSpec(images="nhwc")).batches(3, None))


def test_rows_that_are_in_no_file_are_of_no_known_size(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((3, 2)), y=np.ones((3, 1)))
    assert bytes_in_memory(open_dataset(DataSpec("d.npz", folder=tmp_path))) == 3 * (2 * 8 + 8)
    assert bytes_in_memory(wrap_dataset([(torch.ones(3, 2), torch.ones(3, 1))], DataSpec())) is None
