"""What is said beside the scores of a layer, word for word, and exactly where it begins to be said."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from test_metrics import RCOND, case, moments_of, score, spectra_of

from nrc_probe.layer_scores import score_layer
from nrc_probe.metrics import random_alignment

CLEAR = np.diag([4.0, 2.0, 1.0, 0.5])


def crossed(*deviations):
    """Features of exactly these deviations along the axes, in any number of rows, and two targets."""
    H = np.vstack([np.eye(len(deviations)), -np.eye(len(deviations))]) * deviations
    return H, H[:, :2].copy()


def notes(H, Y, W, r):
    return score(H, Y, W, r).notes


def test_a_layer_without_anything_to_mind_has_no_notes():
    assert notes(*crossed(4, 3, 2, 1), CLEAR, 2) == ()
    assert notes(*case(), 3) == ()


def test_every_note_says_what_is_undefined_and_why():
    H, Y = crossed(4, 3, 2, 1)
    assert notes(H * 0, Y, CLEAR, 2) == (
        "features do not vary (every unit is dead or constant): NRC1, NRC2, NRC3 and CKA are undefined",
    )
    assert notes(H, Y * 0, CLEAR, 2) == ("targets do not vary: NRC2, CKA and the R² of NRC4 are undefined",)
    assert notes(H, Y, CLEAR, 4) == ("rank >= width 4: NRC1 is trivially 0",)
    assert notes(H, Y, CLEAR * 0, 2) == ("the weight is zero: NRC3 is undefined",)
    assert notes(H * [1, 0, 0, 0], Y, CLEAR, 2) == (
        "features have rank 1 < 2: rounding completes their subspace in NRC3",
    )
    assert notes(*crossed(4, 3, 3, 1), CLEAR, 2) == (
        "features: eigenvalues 2 and 3 nearly equal: their subspace is not defined",
    )
    assert notes(H, Y, np.diag([3.0, 2.0, 2.0, 1.0]), 2) == (
        "weight: singular values 2 and 3 nearly equal: its subspace is not defined",
    )
    assert notes(H, Y, CLEAR[:1], 2) == (
        "the weight has 1 rows < 2: NRC3 is the mean over 1 of its directions",
    )
    assert notes(H, Y, CLEAR * [[1], [1], [0], [0]], 3) == (
        "the weight has rank 2 < 3: NRC3 is the mean over 2 of its directions",
    )


def test_rows_are_few_up_to_the_number_of_features():
    few = "4 rows for 4 features: the covariance is rank deficient and NRC4 optimistic"
    H, Y, W = case(n=4, d=4)
    assert few in notes(H, Y, W, 2)
    H, Y, W = case(n=5, d=4)
    assert notes(H, Y, W, 2) == ()


@pytest.mark.parametrize(("gap", "clear"), [(1.0099, False), (1.0101, True), (1.5, True)])
def test_a_gap_of_one_percent_defines_a_subspace(gap, clear):
    H, Y = crossed(4, 2 * math.sqrt(gap), 2, 1)
    by_features = score(H, Y, CLEAR, 2)
    assert by_features.eigengap_features == pytest.approx(gap)
    assert by_features.eigengap_weight == pytest.approx(2)
    assert (by_features.undecided, len(by_features.notes)) == (((), 0) if clear else (("nrc2", "nrc3"), 1))
    H, Y = crossed(4, 3, 2, 1)
    by_weight = score(H, Y, np.diag([4.0, 2.0 * gap, 2.0, 1.0]), 2)
    assert by_weight.eigengap_weight == pytest.approx(gap)
    assert (by_weight.undecided, len(by_weight.notes)) == (((), 0) if clear else (("nrc3",), 1))


def test_a_number_of_zero_is_undecided_as_any_other():
    H, _ = crossed(2, 2, 1, 1)
    got = score(H, H[:, 2:3].copy(), CLEAR, 1)  # the target lies where the signal does not
    assert got.nrc2 == 0
    assert got.undecided == ("nrc2", "nrc3")


def test_a_layer_without_a_weight_leaves_only_what_needs_one_undefined():
    H, Y = crossed(4, 3, 2, 1)
    moments = moments_of(H, Y)
    got = score_layer(moments, spectra_of(moments), None, 2, RCOND)
    weighted = score(H, Y, CLEAR, 2)
    needs = ("nrc3", "nrc3_noise", "nrc3_chance", "eigengap_weight", "stable_rank_weight")
    for name in set(vars(got)) - {"notes"}:
        value = getattr(got, name)
        assert math.isnan(value) if name in needs else value == getattr(weighted, name), name


@pytest.mark.parametrize(("rows", "weight_rank"), [(4, 3), (2, 2)])
def test_the_chance_level_is_that_of_the_directions_that_are_compared(rows, weight_rank):
    got = score(*crossed(4, 3, 2, 1), CLEAR[:rows], 3)
    assert got.nrc3_chance == random_alignment(4, 3, weight_rank)


def test_a_layer_whose_alignment_is_undefined_has_no_chance_level_either():
    H, Y = crossed(4, 3, 2, 1)
    for got in (score(H * 0, Y, CLEAR, 2), score(H, Y, CLEAR * 0, 2)):
        assert all(math.isnan(value) for value in (got.nrc3, got.nrc3_noise, got.nrc3_chance))


def test_the_share_that_is_explained_counts_all_targets():
    H, Y, W = case()
    got = score(H, Y, W, 3)
    assert got.nrc4_r2 == pytest.approx(1 - got.nrc4 / Y.astype(np.float64).var(0).mean())


def test_a_ratio_to_a_value_of_zero_is_undefined():
    got = score(*crossed(4, 3, 0, 0), np.diag([3.0, 2.0, 0.0, 0.0]), 2)
    assert math.isnan(got.eigengap_features)
    assert math.isnan(got.eigengap_weight)
    assert (got.notes, got.undecided) == ((), ())


def test_a_signal_of_the_whole_width_leaves_no_subspace_to_pick():
    got = score(*crossed(3, 2, 0), CLEAR[:, :3], 3)
    assert got.nrc3 == pytest.approx(1)
    assert got.undecided == ()


def test_scores_are_not_changed_once_made():
    with pytest.raises(FrozenInstanceError):
        score(*case(), 3).nrc1 = 0.0


def test_a_weight_in_float64_holds_its_features_to_a_finer_rounding():
    H = np.full((64, 4), 0.3)
    H[::2] *= 1 + 2**-26  # float32 would not see it
    Y = np.random.default_rng(0).standard_normal((64, 2))
    moments = moments_of(H, Y)
    for kind, varies in ((torch.float32, False), (torch.float64, True)):
        got = score_layer(moments, spectra_of(moments), torch.eye(4, dtype=kind), 1, RCOND)
        assert math.isnan(got.nrc1) != varies
