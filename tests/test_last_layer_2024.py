"""The last-layer conditions of 2024: where each is 0, undefined, or the same in other units."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import numpy as np
import oracles
import pytest
import torch
from test_metrics import case, moments_of

from nrc_probe.last_layer_2024 import _gram_distance, last_layer_2024
from nrc_probe.spectra import spectrum


def conditions(H, Y, W):
    moments = moments_of(H, Y)
    return last_layer_2024(moments, spectrum(moments.feature_covariance), torch.as_tensor(W))


def weight_whose_gram_is(targets, shift):
    """W (t, t) with W Wᵀ = T^(1/2) - shift I, the shift a share of the smallest root."""
    roots = targets.values.sqrt()
    axes = targets.directions(len(roots))
    return (axes * (roots - shift * roots[-1]).sqrt()) @ axes.T


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.999])
def test_the_third_term_is_zero_at_any_shift_of_the_root(shift):
    _, Y, _ = case(t=4, seed=1)
    moments = moments_of(Y, Y)
    targets = spectrum(moments.target_covariance)
    W = 1.3 * weight_whose_gram_is(targets, shift)
    assert conditions(Y, Y, W).nrc3 == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("t", [2, 4])
def test_the_best_shift_is_the_best_of_many(seed, t):
    H, Y, _ = case(t=t, seed=seed)
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((t, 12)) * np.geomspace(1, 0.1 + seed, t)[:, None]
    got = conditions(H, Y, W)
    first, second, third = oracles.last_layer_2024(H, Y, W)
    assert got.nrc1 == pytest.approx(first, abs=1e-9)
    assert got.nrc2 == pytest.approx(second, abs=1e-9)
    assert got.nrc3 == pytest.approx(third, abs=1e-6)


def test_the_third_term_is_farthest_where_the_root_opposes_the_gram():
    # T = diag(4, 1), W Wᵀ = diag(0, 1): every shift s scores (1 - s) / |(2 - s, 1 - s)|, best at s = 0
    H = np.array([[2, 1], [2, -1], [-2, 1], [-2, -1]], np.float64)
    W = np.array([[0.0, 0.0], [0.0, 1.0]])
    assert conditions(H, H, W).nrc3 == pytest.approx(2 - 2 / math.sqrt(5))
    # and for diag(1, 0) the root less its smallest is parallel to it
    assert conditions(H, H, W[::-1, ::-1].copy()).nrc3 == pytest.approx(0, abs=1e-12)


def test_no_shift_goes_beyond_the_smallest_root():
    # T^(1/2) = diag(3, 2, 1), W Wᵀ = diag(1, 0, 0): a shift of 1.3 would score more than 1 does
    H = np.vstack([np.eye(3), -np.eye(3)]) * [3, 2, 1]
    assert conditions(H, H, np.diag([1.0, 0.0, 0.0])).nrc3 == pytest.approx(2 - 4 / math.sqrt(5))


@pytest.mark.parametrize(("t", "seed"), [(2, 11), (2, 77), (2, 162), (2, 171)])
def test_of_whitened_targets_only_the_root_itself_is_compared(t, seed):
    # every shift of equal roots gives the same; at the whole root, rounding once passed for a direction
    draw = torch.Generator().manual_seed(seed)
    Y = torch.linalg.qr(torch.randn(50, t, generator=draw, dtype=torch.float64))[0]
    W = torch.randn(t, t + 3, generator=draw, dtype=torch.float64)
    gram = W @ W.T
    expected = 2 - 2 * float(gram.trace() / gram.norm()) / math.sqrt(t)
    assert _gram_distance(W, Y.T @ Y) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_what_rounding_leaves_of_equal_roots_is_not_compared(seed):
    rng = np.random.default_rng(seed)
    Y = np.linalg.qr(oracles.centred(rng.standard_normal((50, 3))))[0]
    W = rng.standard_normal((3, 3))
    A = W @ W.T
    expected = 2 - 2 * np.trace(A) / (np.linalg.norm(A) * math.sqrt(3))  # of the identity, unshifted
    assert conditions(Y, Y, W).nrc3 == pytest.approx(expected)


def test_features_that_do_not_exist_have_no_energy_to_lie_anywhere():
    H, Y, _ = case(t=3)
    got = conditions(np.zeros_like(H), Y, np.ones((3, 12)))
    assert math.isnan(got.nrc1)
    assert math.isnan(got.nrc2)
    assert got.nrc3 >= 0


@pytest.mark.parametrize("edge", ["zero weight", "constant targets", "fewer rows", "more rows"])
def test_the_third_term_is_undefined_without_two_matrices_to_compare(edge):
    H, Y, _ = case(t=3)
    W = np.random.default_rng(0).standard_normal(({"fewer rows": 2, "more rows": 4}.get(edge, 3), 12))
    if edge == "zero weight":
        W = W * 0
    if edge == "constant targets":
        Y = np.full_like(Y, 2.0)
    got = conditions(H, Y, W)
    assert math.isnan(got.nrc3)
    assert 0 < got.nrc1 < 1
    assert got.nrc2 == pytest.approx(1) if edge == "zero weight" else 0 < got.nrc2 < 1


def test_energy_within_the_weights_rows_and_the_top_components_leaves_none_outside():
    for seed in range(20):  # in some of them rounding goes below 0
        rng = np.random.default_rng(seed)
        Y, W = rng.standard_normal((60, 3)), rng.standard_normal((3, 7))
        got = conditions(oracles.centred(Y) @ W, Y, W)
        assert 0 <= got.nrc1 < 1e-12
        assert 0 <= got.nrc2 < 1e-12


def test_the_mean_of_the_features_counts_as_energy():
    H, Y, _ = case(t=3, mean=5.0)
    W = np.random.default_rng(5).standard_normal((3, 12))
    got = conditions(H.astype(np.float64), Y, W)
    first, second, _ = oracles.last_layer_2024(H, Y, W)
    assert got.nrc1 == pytest.approx(first, abs=1e-9)
    assert got.nrc2 == pytest.approx(second, abs=1e-9)


def test_more_targets_than_features_leave_no_energy_outside_all_components():
    H, Y, _ = case(d=3, t=5)
    assert conditions(H, Y, np.random.default_rng(0).standard_normal((5, 3))).nrc1 == pytest.approx(
        0, abs=1e-9
    )


def test_no_condition_depends_on_the_units_of_the_features():
    H, Y, _ = case(t=3)
    W = np.random.default_rng(0).standard_normal((3, 12))
    one, other = conditions(H, Y, W), conditions(H * np.float32(2**-10), Y, W)
    for name in ("nrc1", "nrc2", "nrc3"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-9)


@pytest.mark.parametrize("power", [-150, 150])
def test_no_condition_depends_on_the_units_of_the_weight(power):
    H, Y, _ = case(t=3)
    W = np.random.default_rng(0).standard_normal((3, 12))
    one, other = conditions(H, Y, W), conditions(H, Y, W * 10.0**power)
    for name in ("nrc1", "nrc2", "nrc3"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-9)


def test_the_conditions_are_not_changed_once_found():
    H, Y, _ = case(t=3)
    with pytest.raises(FrozenInstanceError):
        conditions(H, Y, np.ones((3, 12))).nrc1 = 0.0
