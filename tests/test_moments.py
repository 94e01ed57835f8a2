"""Accumulated moments are the moments of the whole sample, however it arrives."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nrc_probe.errors import DataError
from nrc_probe.moments import MomentAccumulator, Moments

FIELDS = ("mean_h", "mean_y", "scatter_hh", "scatter_hy", "scatter_yy")


def sample(n, d=5, t=2, seed=0, mean=0.0):
    rng = np.random.default_rng(seed)
    H = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + mean
    return torch.from_numpy(H), torch.from_numpy(H[:, :t] ** 2 + rng.standard_normal((n, t)))


def accumulate(H, Y, cuts=(), precision="exact"):
    total = MomentAccumulator(H.shape[1], Y.shape[1], precision=precision)
    edges = [0, *sorted(cuts), len(H)]
    for start, stop in pairwise(edges):
        if stop > start:
            total.update(H[start:stop], Y[start:stop])
    return total.finish()


def whole(H, Y):
    h, y = H.numpy().astype(np.float64), Y.numpy().astype(np.float64)
    hc, yc = h - h.mean(0), y - y.mean(0)
    parts = (h.mean(0), y.mean(0), hc.T @ hc, hc.T @ yc, yc.T @ yc)
    return Moments(len(h), *map(torch.from_numpy, parts))


def assert_same(a, b, rtol=1e-10):
    assert a.n == b.n
    for name in FIELDS:
        left, right = getattr(a, name), getattr(b, name)
        scale = float(right.abs().max()) or 1.0
        torch.testing.assert_close(left, right, rtol=rtol, atol=rtol * scale)


cut_lists = st.lists(st.integers(0, 60), max_size=6)


@given(cuts=cut_lists, seed=st.integers(0, 50))
@settings(deadline=None)
def test_moments_do_not_depend_on_how_the_sample_is_cut(cuts, seed):
    H, Y = sample(60, seed=seed)
    assert_same(accumulate(H, Y, cuts), whole(H, Y))


@given(order=st.permutations(range(30)), batch=st.integers(1, 30))
@settings(deadline=None)
def test_moments_do_not_depend_on_the_order_of_the_rows(order, batch):
    H, Y = sample(30)
    order = list(order)
    assert_same(accumulate(H[order], Y[order], range(0, 30, batch)), whole(H, Y))


@given(first=st.integers(1, 58), second=st.integers(1, 58))
@settings(deadline=None)
def test_merge_is_associative_and_equals_moments_of_the_concatenation(first, second):
    H, Y = sample(60)
    low, high = sorted((first, second + 1))
    if low == high:
        high += 1
    a, b, c = (accumulate(H[i:j], Y[i:j]) for i, j in ((0, low), (low, high), (high, 60)))
    assert_same(a.merge(b).merge(c), whole(H, Y))
    assert_same(a.merge(b.merge(c)), whole(H, Y))


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_a_mean_of_a_million_deviations_costs_no_digit(batch):
    H, Y = sample(100, mean=0.0)
    far = H + 1e6
    near = far - far.mean(0)  # the values that 1e6 leaves of H, centred
    moments = accumulate(far, Y, range(0, 100, batch))
    torch.testing.assert_close(moments.scatter_hh, near.T @ near, rtol=1e-8, atol=1e-8)


def test_rows_sorted_by_a_drifting_mean_cost_no_digit():
    H, Y = sample(64)
    drift = torch.arange(64, dtype=torch.float64)[:, None] * 1e4
    assert_same(accumulate(H + drift, Y, range(64)), whole(H + drift, Y), rtol=1e-12)


def test_batches_longer_than_the_buffer_are_taken_in_pieces():
    H, Y = sample(5000, d=3)
    assert_same(accumulate(H, Y), whole(H, Y))


def test_wide_features_use_column_blocks_and_give_the_same():
    H, Y = sample(50, d=301)
    assert_same(accumulate(H, Y, [20]), whole(H, Y))


def test_fast_precision_is_close_and_sums_in_float64():
    H, Y = sample(4000, d=40, mean=3.0)
    fast = accumulate(H.float(), Y, range(0, 4000, 100), precision="fast")
    assert fast.scatter_hh.dtype == torch.float64
    assert_same(fast, whole(H.float(), Y), rtol=2e-6)


def test_fast_precision_multiplies_in_float32_and_exact_in_float64():
    a = 1 + 2**-13  # its square ends with 2**-26, which float32 has no room for
    H = torch.tensor([[a], [-a]], dtype=torch.float64)
    fast = "FAST".lower()  # as a file says it: not the very object of the constant
    assert float(accumulate(H, H, precision="exact").scatter_hh) == 2 + 2**-11 + 2**-25
    assert float(accumulate(H, H, precision=fast).scatter_hh) == 2 + 2**-11


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_features_are_widened_before_they_are_multiplied(dtype):
    H, Y = sample(300)
    low = H.to(dtype)
    assert_same(accumulate(low, Y, [100]), whole(low.double(), Y))


def test_constant_features_have_no_scatter():
    H = torch.full((100, 4), 0.1, dtype=torch.float64)
    _, Y = sample(100)
    scatter = accumulate(H, Y, [33]).scatter_hh
    assert float(scatter.abs().max()) < 1e-25


def test_a_covariance_that_no_machine_holds_is_refused_before_it_is_made():
    with pytest.raises(DataError, match="the covariance of 3 features and 10000000 targets needs 8000"):
        MomentAccumulator(3, 10**7)


def test_targets_may_be_whole_numbers():
    H, _ = sample(40)
    classes = torch.arange(40)[:, None] % 3
    assert_same(accumulate(H, classes, [7]), whole(H, classes))


def test_the_first_mean_is_taken_in_float64_where_float32_has_no_room_for_the_sum():
    H = torch.full((2, 1), 3e38)
    assert accumulate(H, torch.zeros(2, 1)).scatter_hh == 0


def test_sums_are_made_on_the_device_of_the_features():
    H, Y = torch.empty(9, 4, device="meta"), torch.empty(9, 2, device="meta")
    total = MomentAccumulator(4, 2, device="meta")
    total.update(H, Y)
    with pytest.raises(NotImplementedError, match="meta"):  # the way back to the CPU, which meta has not
        total.finish()


def test_how_rows_are_added_up_is_said_by_name():
    with pytest.raises(TypeError, match="positional"):
        MomentAccumulator(3, 1, "fast")
    assert MomentAccumulator(width=3, target_dim=1, precision="fast").n == 0


def test_moments_are_not_changed_once_made_and_are_equal_to_themselves_alone():
    H, Y = sample(9)
    one, other = accumulate(H, Y), accumulate(H, Y)
    with pytest.raises(FrozenInstanceError):
        one.n = 10
    assert one == one
    assert one != other
