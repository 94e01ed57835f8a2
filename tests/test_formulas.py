"""Each formula on values made by hand: where it stops, what it does at a tie, and what it never exceeds."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import FrozenInstanceError, replace

import numpy as np
import oracles
import pytest
import torch
from test_metrics import RCOND, case, moments_of, score, spectra_of

from nrc_probe import metrics
from nrc_probe.errors import RankError
from nrc_probe.metrics import (
    fit_linear_probe,
    random_alignment,
    resolution_of,
    target_rank,
    targets_vary,
    without_rounding,
)
from nrc_probe.moments import Moments

EPS = 2.0**-52


def wide(*values):
    return torch.tensor(values, dtype=torch.float64)


def single(deviation, mean=1.0):
    """Moments of one feature and one target that deviate from their mean by `deviation`."""
    scatter = wide(deviation**2)[:, None]
    return Moments(1, wide(mean), wide(mean), scatter, scatter, scatter)


def two_variances():
    """Features with variances of exactly 4 and 1, and a target that both tell."""
    H = np.array([[2, 1], [2, -1], [-2, 1], [-2, -1]], np.float64)
    return H, np.array([[1.5], [0.5], [-0.5], [-1.5]])


def test_collapsed_features_never_score_above_one():
    for seed in range(40):  # in a third of them rounding goes above
        rng = np.random.default_rng(seed)
        Y = np.linalg.qr(oracles.centred(rng.standard_normal((100, 2))))[0]
        B = np.linalg.qr(rng.standard_normal((8, 2)))[0]
        got = score(Y @ B.T, Y, B.T, 2)
        assert 1 - 1e-9 < got.nrc2 <= 1
        assert 1 - 1e-9 < got.cka <= 1
        assert 1 - 1e-9 < got.nrc3 <= 1


def test_a_direction_at_the_cutoff_is_dropped_as_the_pseudo_inverse_drops_it():
    H, Y = two_variances()
    assert score(H, Y, np.eye(2), 1, rcond=0.5).nrc4_rank == 1
    assert score(H, Y, np.eye(2), 1, rcond=0.499).nrc4_rank == 2
    assert score(H, Y, np.eye(2), 1, rcond=0.5).nrc4 == pytest.approx(oracles.nrc4(H, Y, 0.5))


def test_a_probe_says_how_many_directions_it_keeps():
    H, Y, W = case()
    moments = moments_of(H, Y)
    for rcond in (RCOND, 0.3):
        probe = fit_linear_probe(moments, spectra_of(moments).centred, rcond)
        assert probe.rank == score(H, Y, W, 3, rcond).nrc4_rank
    assert probe.rank < 12
    with pytest.raises(FrozenInstanceError):
        probe.rank = 12
    assert probe != replace(probe)


def test_no_error_of_a_perfect_prediction_is_negative():
    for seed in range(30):  # in half of them rounding goes below
        rng = np.random.default_rng(seed)
        H = rng.standard_normal((50, 4))
        moments = moments_of(H, H @ rng.standard_normal((4, 2)))
        spectra = spectra_of(moments)
        errors = (
            metrics.linear_error(moments, spectra.centred, RCOND)[0],
            metrics.linear_error_without_intercept(moments, spectra.uncentred, RCOND),
            fit_linear_probe(moments, spectra.centred, RCOND).error(moments),
        )
        assert all(0 <= error < 1e-12 for error in errors)


def test_a_target_is_variation_above_64_roundings_of_its_mean():
    assert not targets_vary(single(64 * EPS))
    assert targets_vary(single(64.5 * EPS))
    assert not targets_vary(single(128 * EPS, mean=-2.0))
    assert not targets_vary(single(0.0, mean=0.0))


@pytest.mark.parametrize(
    ("weight", "limit"),
    [
        (None, 64 * EPS),
        (torch.ones(1, dtype=torch.float64), 64 * EPS),
        (torch.ones(1), 4 * 2.0**-23),
        (torch.ones(1, dtype=torch.bfloat16), 4 * 2.0**-23),
    ],
)
def test_features_vary_above_the_roundings_of_the_type_that_computed_them(weight, limit):
    for deviation, varies in ((limit, False), (limit * 1.01, True)):
        moments = single(deviation)
        features, T = without_rounding(moments, spectra_of(moments).centred, resolution_of(weight))
        assert bool(features.values.any()) == varies
        assert bool(T.any()) == (deviation > 64 * EPS)


def test_targets_that_differ_by_rounding_alone_are_constant():
    H, Y, W = case()
    Y = np.full(Y.shape, 0.1)
    Y[::2] += 2.0**-56  # the next number
    got = score(H.astype(np.float64), Y, W, 3)
    assert math.isnan(got.nrc2)
    assert math.isnan(got.cka)
    assert math.isnan(got.nrc4_r2)
    assert any(note.startswith("targets do not vary") for note in got.notes)


@pytest.mark.parametrize(("short", "expected"), [(0.9e-12, 1), (1e-12, 1), (1.1e-12, 2)])
def test_a_target_rank_holds_99_percent_up_to_rounding(short, expected):
    assert target_rank(wide(0.99 - short, 0.01 + short)) == expected


def test_targets_without_variance_have_no_rank():
    assert target_rank(wide(0.0, 0.0)) is None


def test_a_power_that_float64_has_no_room_for_is_infinite():
    assert metrics._times_power(3.0, -2) == 0.75
    assert metrics._times_power(1.0, 1100) == math.inf
    assert metrics._times_power(-1.0, 1100) == -math.inf


def test_a_noise_fraction_of_no_direction_is_refused():
    with pytest.raises(RankError, match="from 1 to the width 2, got 0"):
        metrics.noise_fraction(torch.ones(2), 0)


@pytest.mark.parametrize(("width", "expected"), [(1, 1), (2, 2 / math.pi), (3, 1 / 2), (5, 3 / 8)])
def test_the_chance_level_of_two_lines_is_the_mean_height_on_a_sphere(width, expected):
    assert random_alignment(width, 1, 1) == pytest.approx(expected)


@pytest.mark.parametrize(("d", "k"), [(9, 3), (30, 2), (40, 5), (100, 7)])
def test_the_chance_level_of_a_line_is_found_within_its_standard_error(d, k):
    # the square of the cosine with a subspace of k dimensions is Beta(k / 2, (d - k) / 2) distributed
    log = math.lgamma((k + 1) / 2) - math.lgamma(k / 2) + math.lgamma(d / 2) - math.lgamma((d + 1) / 2)
    assert random_alignment(d, 1, k) == pytest.approx(math.exp(log), abs=0.003)
    assert random_alignment(d, k, 1) == pytest.approx(math.exp(log), abs=0.003)


def test_subspaces_that_fill_the_space_are_aligned_and_never_by_more_than_one():
    for width in range(1, 12):
        assert 1 - 1e-9 < random_alignment(width, width, width) <= 1
        assert 1 - 1e-9 < random_alignment(width + 2, width + 1, width + 2) <= 1


def test_a_chance_level_takes_little_memory_and_is_computed_once():
    random_alignment.cache_clear()
    tracemalloc.start()
    try:
        random_alignment(200, 64, 64)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**26
    random_alignment(200, 64, 64)
    assert random_alignment.cache_info().hits == 1


@pytest.mark.parametrize("rows", [2, 3, 7])
def test_a_drawn_root_has_the_gram_matrix_of_gaussian_rows(rows):
    root = metrics._gaussian_root(np.random.default_rng(0), 20_000, rows, 3)
    assert root.shape == (20_000, min(rows, 3), 3)
    gram = np.swapaxes(root, 1, 2) @ root
    # of a Wishart matrix: the means are n and 0, the variances 2 n and n
    near = {"abs": 0.15 * math.sqrt(rows)}
    assert gram.mean(0) == pytest.approx(rows * np.eye(3), **near)
    assert gram.var(0) == pytest.approx(rows * (np.eye(3) + 1), rel=0.1)
