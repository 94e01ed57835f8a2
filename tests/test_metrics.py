"""Every score equals an independent oracle on the full matrices, and obeys its laws."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nrc_probe import metrics
from nrc_probe.errors import RankError
from nrc_probe.last_layer_2024 import last_layer_2024
from nrc_probe.layer_scores import score_layer
from nrc_probe.metrics import (
    fit_linear_probe,
    random_alignment,
    target_rank,
)
from nrc_probe.moments import MomentAccumulator
from nrc_probe.spectra import feature_spectra, spectrum, weight_spectrum

RCOND = 1e-3


def moments_of(H, Y, batch=64, precision="exact"):
    total = MomentAccumulator(H.shape[1], Y.shape[1], precision=precision)
    for start in range(0, len(H), batch):
        total.update(torch.from_numpy(H[start : start + batch]), torch.from_numpy(Y[start : start + batch]))
    return total.finish()


def spectra_of(moments):
    return feature_spectra(moments.feature_covariance, moments.mean_h)


def score(H, Y, W, r, rcond=RCOND, batch=64):
    moments = moments_of(H, Y, batch)
    return score_layer(moments, spectra_of(moments), torch.from_numpy(W), r, rcond)


def case(n=200, d=12, t=3, out=9, seed=0, mean=0.0, scale=None):
    rng = np.random.default_rng(seed)
    scale = np.geomspace(1, 0.05, d) if scale is None else scale
    H = (rng.standard_normal((n, d)) * scale) @ np.linalg.qr(rng.standard_normal((d, d)))[0] + mean
    Y = (H - H.mean(0)) @ rng.standard_normal((d, t)) + 0.3 * rng.standard_normal((n, t)) + 0.7
    W = rng.standard_normal((out, d)).astype(np.float32)
    return H.astype(np.float32), Y.astype(np.float32), W


def dead_units(H, Y, W):
    H = H.copy()
    H[:, [1, 4]] = 0
    return H, Y, W


CASES = {
    "plain": (case(), 3),
    "t = 1": (case(t=1), 1),
    "t > 10": (case(d=30, t=14, out=20), 14),
    "r below t": (case(), 2),
    "N < d": (case(n=10, d=25), 3),
    "r = d": (case(d=3), 3),
    "d = 1": (case(d=1, t=1, out=4), 1),
    "weight with fewer rows than r": (case(t=5, out=2), 5),
    "dead units": (dead_units(*case()), 3),
    "one row in the last batch": (case(n=193), 3),
    "wide": (case(n=300, d=150, out=140), 3),
    "mean 1000 times the deviation": (case(mean=1000.0), 3),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch", [1, 64])
def test_every_score_equals_its_oracle(name, batch):
    (H, Y, W), r = CASES[name]
    got = score(H, Y, W, r, batch=batch)
    near = {"rel": 1e-6, "abs": 1e-6}
    assert got.nrc1 == pytest.approx(oracles.nrc1(H, r), **near)
    assert got.nrc2 == pytest.approx(oracles.nrc2(H, Y, r), **near)
    assert got.nrc3 == pytest.approx(oracles.nrc3(H, W, r), **near)
    assert got.nrc3_noise == pytest.approx(oracles.nrc3_noise(H, W, r), **near)
    assert got.cka == pytest.approx(oracles.linear_cka(H, Y), **near)
    assert got.nrc4 == pytest.approx(oracles.nrc4(H, Y, RCOND), rel=1e-4, abs=1e-9)
    assert got.nrc4_no_intercept == pytest.approx(oracles.nrc4_no_intercept(H, Y, RCOND), rel=1e-4)
    assert got.stable_rank_features == pytest.approx(oracles.stable_rank(oracles.centred(H)), rel=1e-6)
    assert got.stable_rank_covariance == pytest.approx(oracles.stable_rank_covariance(H), rel=1e-6)
    assert got.stable_rank_weight == pytest.approx(oracles.stable_rank(W), rel=1e-6)
    assert got.effective_rank == pytest.approx(oracles.effective_rank(H), rel=1e-6)


def test_a_float64_mean_of_a_million_deviations_does_no_harm():
    H, Y, W = case(scale=np.geomspace(1, 0.2, 12))
    H = H.astype(np.float64) + 1e6
    got = score(H, Y, W, 3)
    assert got.nrc1 == pytest.approx(oracles.nrc1(H, 3), rel=1e-6)
    assert got.nrc2 == pytest.approx(oracles.nrc2(H, Y, 3), rel=1e-6)
    assert got.nrc3 == pytest.approx(oracles.nrc3(H, W, 3), rel=1e-6)
    assert got.nrc4 == pytest.approx(oracles.nrc4(H, Y, RCOND), rel=1e-4)
    assert got.nrc4_no_intercept == pytest.approx(oracles.nrc4_no_intercept(H, Y, RCOND), rel=1e-4)


@pytest.mark.parametrize("rcond", [0.0, 1e-2, 0.3])
def test_the_cutoff_of_the_linear_probe_is_the_pseudo_inverse_cutoff(rcond):
    H, Y, W = case(seed=3)
    got = score(H, Y, W, 3, rcond)
    singular = np.linalg.svd(oracles.centred(H), compute_uv=False)
    assert got.nrc4 == pytest.approx(oracles.nrc4(H, Y, rcond), rel=1e-6)
    assert got.nrc4_rank == int((singular > rcond * singular[0]).sum())


def test_scores_of_a_two_by_two_case_computed_by_hand():
    # S = diag(4, 1), C = (2, 0)ᵀ, T = 4/3: y = h1/2 + noise orthogonal to both.
    H = np.array([[2, 1], [2, -1], [-2, 1], [-2, -1]], np.float64)
    Y = np.array([[1.5], [0.5], [-0.5], [-1.5]])
    W = np.array([[3, 0]], np.float64)
    got = score(H, Y, W, 1)
    # C = mean(h1 y, h2 y) = (2, 0.5); T = 1.25; U = V = e1.
    assert got.nrc1 == pytest.approx(1 / 5)
    assert got.nrc2 == pytest.approx(2**2 / (4 * 1.25))
    assert got.cka == pytest.approx((2**2 + 0.5**2) / (math.sqrt(17) * 1.25))
    assert got.nrc3 == pytest.approx(1.0)
    assert got.nrc3_noise == pytest.approx(0.0, abs=1e-7)
    assert got.nrc3_chance == pytest.approx(2 / math.pi)
    assert got.nrc4 == pytest.approx(1.25 - 2**2 / 4 - 0.5**2 / 1, abs=1e-12)
    assert got.eigengap_features == pytest.approx(4)
    assert got.stable_rank_features == pytest.approx(5 / 4)
    assert got.stable_rank_covariance == pytest.approx(17 / 16)
    assert got.stable_rank_weight == pytest.approx(1)
    assert got.effective_rank == pytest.approx(math.exp(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2))))


def test_a_probe_fitted_on_training_rows_is_evaluated_on_others():
    H, Y, _ = case(seed=1)
    H2, Y2, _ = case(seed=2, n=77)
    train, other = moments_of(H, Y), moments_of(H2, Y2)
    probe = fit_linear_probe(train, spectrum(train.feature_covariance), RCOND)
    assert probe.error(other) == pytest.approx(oracles.nrc4_heldout(H, Y, H2, Y2, RCOND), rel=1e-6)
    assert probe.error(train) == pytest.approx(oracles.nrc4(H, Y, RCOND), rel=1e-6)


@pytest.mark.parametrize(
    ("d", "r", "k"), [(2, 1, 1), (8, 2, 2), (40, 3, 3), (10, 4, 2), (5, 4, 4), (3, 3, 3)]
)
def test_the_chance_level_of_nrc3_is_what_random_subspaces_score(d, r, k):
    assert random_alignment(d, r, k) == pytest.approx(oracles.nrc3_chance(d, r, k), abs=0.02)


def test_the_chance_level_of_two_lines_in_the_plane_is_two_over_pi():
    assert random_alignment(2, 1, 1) == pytest.approx(2 / math.pi)


def test_the_terms_of_2024_equal_their_oracle():
    H, Y, _ = case(t=3)
    W = np.random.default_rng(5).standard_normal((3, 12)).astype(np.float32)
    moments = moments_of(H, Y)
    got = last_layer_2024(moments, spectrum(moments.feature_covariance), torch.from_numpy(W))
    first, second, third = oracles.last_layer_2024(H, Y, W)
    assert got.nrc1 == pytest.approx(first, abs=1e-9)
    assert got.nrc2 == pytest.approx(second, abs=1e-9)
    assert got.nrc3 == pytest.approx(third, abs=1e-7)


def test_the_third_term_of_2024_is_zero_where_the_weight_gram_is_the_shifted_root():
    _, Y, _ = case(t=3)
    moments = moments_of(Y, Y)
    targets = spectrum(moments.target_covariance)
    roots = targets.values.sqrt() - 0.5 * targets.values[-1].sqrt()
    axes = targets.directions(3)
    W = 1.7 * (axes * roots.sqrt()) @ axes.T
    got = last_layer_2024(moments, spectrum(moments.feature_covariance), W)
    assert got.nrc3 == pytest.approx(0, abs=1e-9)


def test_the_third_term_of_2024_with_one_target_is_zero():
    H, Y, _ = case(t=1)
    W = torch.ones(1, 12)
    moments = moments_of(H, Y)
    assert last_layer_2024(moments, spectrum(moments.feature_covariance), W).nrc3 == pytest.approx(0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 0.0], 1), ([0.99, 0.01], 1), ([0.5, 0.5], 2), ([98, 1.5, 0.5], 2)],
)
def test_target_rank_holds_99_percent_of_the_variance(values, expected):
    assert target_rank(torch.tensor(values, dtype=torch.float64)) == expected


# ------------------------------------------------------------------------------------------- edges


def test_a_dead_layer_is_undefined_with_a_reason_and_predicts_the_mean():
    H, Y, W = case()
    got = score(np.zeros_like(H), Y, W, 3)
    assert all(math.isnan(v) for v in (got.nrc1, got.nrc2, got.nrc3, got.cka, got.effective_rank))
    assert got.nrc4 == pytest.approx(Y.astype(np.float64).var(0).mean(), rel=1e-9)
    assert got.nrc4_no_intercept == pytest.approx((Y.astype(np.float64) ** 2).mean(), rel=1e-9)
    assert got.notes[0].startswith("features do not vary")


@pytest.mark.parametrize("value", [0.1, 1e6, 3.3333e7])
def test_a_constant_layer_is_recognised_whatever_its_value(value):
    H, Y, W = case()
    got = score(np.full(H.shape, value), Y, W, 3, batch=7)
    assert math.isnan(got.nrc1)
    assert got.notes[0].startswith("features do not vary")


def test_constant_targets_leave_nrc1_and_nrc3_and_explain_the_rest():
    H, Y, W = case()
    got = score(H, np.full_like(Y, 2.5), W, 3)
    assert math.isnan(got.nrc2)
    assert math.isnan(got.nrc4_r2)
    assert got.nrc4 == pytest.approx(0, abs=1e-12)
    assert 0 < got.nrc1 < 1
    assert 0 < got.nrc3 < 1
    assert any(note.startswith("targets do not vary") for note in got.notes)


def test_rank_at_the_width_makes_nrc1_trivially_zero_and_says_so():
    H, Y, W = case(d=3)
    got = score(H, Y, W, 7)
    assert (got.rank, got.nrc1) == (3, 0.0)
    assert "rank >= width 3: NRC1 is trivially 0" in got.notes
    assert math.isnan(got.eigengap_features)


def test_fewer_rows_than_features_is_noted():
    H, Y, W = case(n=10, d=25)
    got = score(H, Y, W, 3)
    assert "10 rows for 25 features: the covariance is rank deficient and NRC4 optimistic" in got.notes


def test_a_weight_of_low_rank_gives_the_mean_over_its_own_rank():
    H, Y, _ = case()
    rng = np.random.default_rng(0)
    W = np.outer(rng.standard_normal(9), rng.standard_normal(12)).astype(np.float32)
    got = score(H, Y, W, 3)
    assert got.nrc3 == pytest.approx(oracles.nrc3(H, W, 3), rel=1e-6)
    assert "the weight has rank 1 < 3: NRC3 is the mean over 1 of its directions" in got.notes


def test_a_weight_with_few_rows_is_noted_as_such():
    H, Y, W = case(t=5, out=2)
    assert "the weight has 2 rows < 5: NRC3 is the mean over 2 of its directions" in score(H, Y, W, 5).notes


def test_a_zero_weight_has_no_alignment():
    H, Y, W = case()
    got = score(H, Y, np.zeros_like(W), 3)
    assert math.isnan(got.nrc3)
    assert math.isnan(got.stable_rank_weight)
    assert "the weight is zero: NRC3 is undefined" in got.notes


def test_features_without_a_weight_keep_every_other_score():
    H, Y, W = case()
    moments = moments_of(H, Y)
    got = score_layer(moments, spectra_of(moments), None, 3, RCOND)
    assert math.isnan(got.nrc3)
    assert math.isnan(got.stable_rank_weight)
    assert got.nrc1 == score(H, Y, W, 3).nrc1
    assert got.notes == ("no weight reads these features: NRC3 is undefined",)


def test_equal_eigenvalues_are_noted_because_rounding_picks_the_subspace():
    H = np.vstack([np.eye(4), -np.eye(4)])
    got = score(H, H[:, :2].copy(), np.diag([3.0, 3.0, 1.0, 1.0]), 1)
    assert got.eigengap_features == pytest.approx(1)
    assert "features: eigenvalues 1 and 2 nearly equal: their subspace is not defined" in got.notes
    assert "weight: singular values 1 and 2 nearly equal: its subspace is not defined" in got.notes


def test_features_of_lower_rank_than_the_signal_are_noted():
    H, Y, W = case()
    flat = np.outer(H[:, 0], np.ones(12))
    got = score(flat, Y, W, 3)
    assert "features have rank 1 < 3: rounding completes their subspace in NRC3" in got.notes
    assert got.undecided == ("nrc3",)
    assert got.nrc2 == pytest.approx(got.cka)  # what completes the subspace carries nothing


def test_a_subspace_that_is_not_defined_leaves_what_depends_on_it_undecided():
    H = np.vstack([np.eye(4), -np.eye(4)])
    clear, equal = np.diag([4.0, 2.0, 1.0, 1.0]), np.diag([3.0, 3.0, 1.0, 1.0])
    apart = H * [4, 3, 2, 1]
    Y = H[:, :2].copy()
    assert score(H, Y, clear, 1).undecided == ("nrc2", "nrc3")
    assert score(apart, Y, equal, 1).undecided == ("nrc3",)
    assert score(apart, Y, clear, 1).undecided == ()
    assert score(H, Y, equal, 4).undecided == ()  # all directions: no subspace is left to pick
    assert score(apart, Y, clear[:1], 2).undecided == ()  # one row: scored on its one direction
    assert score(apart * [1, 1, 0, 0], Y, clear, 3).undecided == ("nrc3",)
    assert score(H * 0, Y, clear, 1).undecided == ()  # there is no number
    # what is equal by rounding alone lies outside the rank, and is no subspace to turn
    assert score(apart, Y, np.diag([3.0, 1e-17, 1e-17, 0.0]), 2).undecided == ()
    assert score(H * [4, 1e-9, 1e-9, 0], Y, clear, 2).undecided == ("nrc3",)


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(rank):
    H, Y, W = case()
    with pytest.raises(RankError, match=f"rank must be at least 1, got {rank}"):
        score(H, Y, W, rank)


def test_noise_fraction_refuses_a_rank_above_the_width():
    with pytest.raises(RankError, match="from 1 to the width 2, got 3"):
        metrics.noise_fraction(torch.ones(2), 3)


# -------------------------------------------------------------------------------------------- laws

seeds = st.integers(0, 1000)
law = settings(deadline=None, max_examples=25)


@given(seed=seeds)
@law
def test_rotating_features_and_weight_together_changes_nothing(seed):
    H, Y, W = (a.astype(np.float64) for a in case(seed=seed))
    Q = np.linalg.qr(np.random.default_rng(seed + 1).standard_normal((12, 12)))[0]
    a, b = score(H, Y, W, 3), score(H @ Q, Y, W @ Q, 3)
    for name in (
        "nrc1",
        "nrc2",
        "nrc3",
        "nrc3_noise",
        "nrc4",
        "nrc4_no_intercept",
        "effective_rank",
    ):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-6, abs=1e-7), name


@given(seed=seeds, scale=st.floats(1e-3, 1e3))
@law
def test_scaling_features_or_weight_changes_nothing(seed, scale):
    H, Y, W = (a.astype(np.float64) for a in case(seed=seed))
    a, b = score(H, Y, W, 3), score(H * scale, Y, W / scale, 3)
    for name in ("nrc1", "nrc2", "nrc3", "cka", "nrc4", "nrc4_no_intercept"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-6, abs=1e-9), name


@given(seed=seeds, scale=st.floats(1e-3, 1e3))
@law
def test_nrc4_scales_with_the_square_of_the_target_units(seed, scale):
    H, Y, W = (a.astype(np.float64) for a in case(seed=seed))
    a, b = score(H, Y, W, 3), score(H, Y * scale, W, 3)
    assert b.nrc4 == pytest.approx(a.nrc4 * scale**2, rel=1e-9)
    assert b.nrc4_r2 == pytest.approx(a.nrc4_r2, rel=1e-9)
    assert b.nrc2 == pytest.approx(a.nrc2, rel=1e-9)


@given(seed=seeds)
@law
def test_all_bounded_scores_stay_in_their_bounds(seed):
    H, Y, W = case(seed=seed, n=40)
    got = score(H, Y, W, 3)
    assert 0 <= got.nrc1 <= 1 - 3 / 12
    assert 0 <= got.nrc2 <= 1
    assert 0 <= got.nrc3 <= 1
    assert got.nrc3**2 + got.nrc3_noise**2 <= 1 + 1e-9
    assert 1 <= got.stable_rank_covariance <= got.stable_rank_features <= 12
    assert got.nrc4 <= float(Y.astype(np.float64).var(0).mean()) + 1e-9


def test_full_collapse_scores_full_collapse():
    rng = np.random.default_rng(0)
    Y = np.linalg.qr(oracles.centred(rng.standard_normal((100, 2))))[0]
    B = np.linalg.qr(rng.standard_normal((8, 2)))[0]
    got = score(Y @ B.T, Y, B.T, 2)
    assert got.nrc1 == pytest.approx(0, abs=1e-12)
    assert got.nrc2 == pytest.approx(1, abs=1e-9)
    assert got.nrc3 == pytest.approx(1, abs=1e-9)
    assert got.nrc4 == pytest.approx(0, abs=1e-12)


def test_large_weights_take_the_squared_path_and_give_the_same_directions():
    rng = np.random.default_rng(0)
    W = rng.standard_normal((300, 4)) @ rng.standard_normal((4, 200)) * 3 + 0.01 * rng.standard_normal(
        (300, 200)
    )
    got = weight_spectrum(torch.from_numpy(W), 4)
    _, s, Vt = np.linalg.svd(W)
    np.testing.assert_allclose(got.values.numpy(), s[:5], rtol=1e-8)
    np.testing.assert_allclose(np.abs(np.diag(got.directions.numpy()[:, :4].T @ Vt[:4].T)), 1, atol=1e-9)


def covariance_and_mean(d, mean):
    A = np.random.default_rng(d).standard_normal((d, d + 3))
    return torch.from_numpy(A @ A.T), torch.from_numpy(A[:, 0] * mean)


@pytest.mark.parametrize("mean", [0.0, 1.0, 1e3])
@pytest.mark.parametrize("d", [1, 2, 5, 129, 200])
def test_spectra_rebuild_the_matrix_with_and_without_the_mean(d, mean):
    S, m = covariance_and_mean(d, mean)
    got = feature_spectra(S, m)
    for found, matrix in ((got.centred, S), (got.uncentred, S + torch.outer(m, m))):
        U = found.directions(d)
        scale = float(matrix.abs().max())
        torch.testing.assert_close((U * found.values) @ U.T, matrix, rtol=1e-10, atol=1e-12 * scale)
        torch.testing.assert_close(U.T @ U, torch.eye(d, dtype=torch.float64), rtol=0, atol=1e-11)
        assert bool((found.values.diff() <= 0).all())


def test_spectra_of_a_mean_along_one_axis_or_of_equal_variances_are_found():
    d = 150
    for m in (torch.eye(d, dtype=torch.float64)[0], -torch.eye(d, dtype=torch.float64)[3] * 2):
        got = feature_spectra(torch.eye(d, dtype=torch.float64), m)
        assert got.centred.values.numpy() == pytest.approx(np.ones(d))
        assert float(got.uncentred.values[0]) == pytest.approx(1 + float(m @ m))


@pytest.mark.parametrize("d", [7, 150])
def test_a_spectrum_multiplies_by_its_directions_without_writing_them_out(d):
    S, m = covariance_and_mean(d, 2.0)
    got, columns = feature_spectra(S, m).uncentred, S[:, :4].clone()
    U = got.directions(d)
    torch.testing.assert_close(got.coordinates(columns), U.T @ columns)
    torch.testing.assert_close(got.combine(columns[:3]), U[:, :3] @ columns[:3])


@pytest.mark.parametrize("scale", [1e-200, 1e200, 1e300])
@pytest.mark.parametrize("shape", [(9, 12), (150, 140)])
def test_the_scale_of_a_weight_never_overflows(shape, scale):
    W = torch.from_numpy(np.random.default_rng(0).standard_normal(shape))
    plain, scaled = weight_spectrum(W, 3), weight_spectrum(W * scale, 3)
    assert scaled.stable_rank == pytest.approx(plain.stable_rank, rel=1e-9)
    assert scaled.values.numpy() / scale == pytest.approx(plain.values.numpy(), rel=1e-9)
    assert scaled.rank == plain.rank


@pytest.mark.parametrize("mean", [0.0, 1e6, 1e9])
def test_the_probe_without_intercept_keeps_its_digits_at_any_mean_of_the_targets(mean):
    rng = np.random.default_rng(0)
    H = rng.standard_normal((2000, 6))
    H[:, 5] = 1  # what takes the mean
    Y = H[:, :2] * 0.5 + 0.17 * rng.standard_normal((2000, 2))
    want = oracles.nrc4_no_intercept(H, Y + mean, 1e-9)
    got = score(H, Y + mean, np.eye(6), 2, rcond=1e-9).nrc4_no_intercept
    assert got == pytest.approx(want, rel=1e-4)
    assert got == pytest.approx(0.17**2, rel=0.1)


def test_one_huge_constant_column_does_not_hide_that_others_vary():
    rng = np.random.default_rng(0)
    H, Y = rng.standard_normal((500, 5)), rng.standard_normal((500, 3))
    H[:, 4], Y[:, 2] = 1e20, 1e17
    got = score(H, Y, np.eye(5), 3)
    assert got.nrc1 == pytest.approx(oracles.nrc1(H[:, :4], 3), rel=1e-6)
    assert 0 < got.nrc2 < 0.05


def test_a_constant_that_float32_computed_in_two_ways_is_a_constant():
    H = np.full((2049, 4), 0.3)
    H[2048] *= 1 + 2**-23
    Y = np.random.default_rng(0).standard_normal((2049, 2))
    narrow, wide = (
        score_layer(moments_of(H, Y), spectra_of(moments_of(H, Y)), torch.eye(4, dtype=kind), 2, RCOND)
        for kind in (torch.float32, torch.float64)
    )
    assert narrow.notes[0].startswith("features do not vary")
    assert narrow.nrc4_rank == 0
    assert wide.nrc1 < 1e-6


@pytest.mark.parametrize("small", [0.0, 1e-12, 1e-9, 1e-7])
@pytest.mark.parametrize("width", [100, 200])
def test_small_singular_values_of_float64_weights_are_told_from_rounding_at_any_width(width, small):
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((width, width)))[0] for _ in "UV")
    values = np.zeros(width)
    values[:3] = 1, small, small / 3
    got = weight_spectrum(torch.from_numpy(U * values @ V.T), 2)
    assert got.rank == (3 if small > 1e-10 else got.rank if small else 1)
    if small > 1e-10:
        np.testing.assert_allclose(got.values[:3], values[:3], rtol=1e-5)
        assert abs(V[:, 1] @ got.directions[:, 1].numpy()) == pytest.approx(1, abs=1e-5)


def test_targets_that_do_not_vary_have_no_rank():
    assert target_rank(torch.zeros(3, dtype=torch.float64)) is None


def test_a_power_of_two_that_is_too_large_is_infinite_with_its_sign():
    assert [metrics._times_power(value, 2000) for value in (1.0, -1.0)] == [math.inf, -math.inf]
