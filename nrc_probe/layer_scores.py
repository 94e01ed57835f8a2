"""Moments and a weight -> every score of one layer, and why some are undefined. No files, no model.

The formulas stand in `metrics`, and so does what the letters mean. An undefined score is nan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nrc_probe.errors import RankError
from nrc_probe.metrics import (
    effective_rank,
    linear_cka,
    linear_error,
    linear_error_without_intercept,
    noise_fraction,
    principal_cosines,
    random_alignment,
    ratio,
    resolution_of,
    signal_alignment,
    stable_rank,
    stable_rank_of_squares,
    without_rounding,
)
from nrc_probe.moments import Moments
from nrc_probe.spectra import FeatureSpectra, Spectrum, WeightSpectrum, weight_spectrum

_CLEAR_GAP = 1.01
"""Below this ratio of neighbouring values, rounding picks the subspace (metrics.md, NRC3)."""


@dataclass(frozen=True)
class LayerScores:
    """What one layer scores: the four conditions and their companions. nan where undefined."""

    rank: int
    """Signal dimension used: the asked one, at most the width."""
    nrc1: float
    nrc2: float
    nrc3: float
    nrc4: float
    """Squared target units, per element."""
    nrc4_r2: float
    nrc4_rank: int
    nrc4_no_intercept: float
    """Squared target units, per element."""
    cka: float
    nrc3_noise: float
    nrc3_chance: float
    eigengap_features: float
    eigengap_weight: float
    stable_rank_features: float
    stable_rank_covariance: float
    stable_rank_weight: float
    effective_rank: float
    undecided: tuple[str, ...] = ()
    """Those of "nrc2" and "nrc3" whose number rounding picks, since a subspace is not defined."""
    notes: tuple[str, ...] = ()
    """Why a value is undefined, or what to mind when reading it."""


def score_layer(
    moments: Moments, spectra: FeatureSpectra, weight: Tensor | None, rank: int, rcond: float
) -> LayerScores:
    """Every score of one layer.

    spectra: of the features of `moments`. weight: (out, d), any float type; None
    where the features have no weight, and then what needs one is nan. rank: signal dimension; above
    the width it is cut to it, with a note. rcond: cutoff of the linear probe.
    Raises RankError where rank < 1. Source: Rangamani & Unal 2026, and the docstring of each score.
    """
    if rank < 1:
        raise RankError(f"rank must be at least 1, got {rank}")
    r = min(rank, moments.width)
    features, T = without_rounding(moments, spectra.centred, resolution_of(weight))
    W = weight_spectrum(weight, r) if weight is not None else _no_weight(moments.width)
    C, t = moments.cross_covariance, moments.target_dim
    nrc4, nrc4_rank = linear_error(moments, features, rcond)
    weight_rank = min(r, W.rank)
    nrc3, nrc3_noise, nrc3_chance = _alignment(features, W, r, weight_rank)
    scores = LayerScores(
        rank=r,
        nrc1=noise_fraction(features.values, r),
        nrc2=signal_alignment(features, C, T, r),
        nrc3=nrc3,
        nrc4=nrc4,
        nrc4_r2=1 - ratio(nrc4 * t, float(T.trace())),
        nrc4_rank=nrc4_rank,
        nrc4_no_intercept=linear_error_without_intercept(moments, spectra.uncentred, rcond),
        cka=linear_cka(features.values, C, T),
        nrc3_noise=nrc3_noise,
        nrc3_chance=nrc3_chance,
        eigengap_features=_gap(features.values, r),
        eigengap_weight=_gap(W.values, r),
        stable_rank_features=stable_rank(features.values),
        stable_rank_covariance=stable_rank_of_squares(features.values),
        stable_rank_weight=W.stable_rank,
        effective_rank=effective_rank(features.values),
    )
    return replace(
        scores,
        undecided=_undecided(features, weight_rank, scores),
        notes=(
            *_sample_notes(moments, r, T),
            *_feature_notes(features, scores),
            *_weight_notes(weight, weight_rank, scores),
        ),
    )


def _no_weight(width: int) -> WeightSpectrum:
    wide = torch.float64
    return WeightSpectrum(torch.empty(0, dtype=wide), torch.empty(width, 0, dtype=wide), 0.0, math.nan)


def _alignment(features: Spectrum, W: WeightSpectrum, r: int, weight_rank: int) -> tuple[float, float, float]:
    """NRC3, its noise companion (mean sine instead of mean cosine) and its chance level."""
    if features.rank == 0 or weight_rank == 0:
        return math.nan, math.nan, math.nan
    U, V = features.directions(r), W.directions[:, :weight_rank]
    cosines = principal_cosines(U, V)
    sines = (1 - cosines.square()).sqrt()
    return float(cosines.mean()), float(sines.mean()), random_alignment(len(U), r, weight_rank)


def _gap(values: Tensor, r: int) -> float:
    """Ratio of the r-th value to the next; nan where there is no next, or it is 0."""
    return ratio(float(values[r - 1]), float(values[r])) if r < len(values) else math.nan


def _undecided(features: Spectrum, weight_rank: int, scores: LayerScores) -> tuple[str, ...]:
    """Which of NRC2 and NRC3 depend on how rounding turns or completes a subspace.

    Directions that complete features of a lower rank than r carry nothing, so NRC2 does not mind them.
    A weight of lower rank is scored on the directions that it has.
    """
    r = scores.rank
    incomplete = features.rank < r < len(features.values)
    mixed = features.rank >= r and scores.eigengap_features < _CLEAR_GAP
    mixed_weight = weight_rank == r and scores.eigengap_weight < _CLEAR_GAP
    picked = {"nrc2": mixed, "nrc3": incomplete or mixed or mixed_weight}
    return tuple(name for name, by_rounding in picked.items() if by_rounding and getattr(scores, name) >= 0)


def _sample_notes(moments: Moments, r: int, T: Tensor) -> Iterator[str]:
    if r >= moments.width:
        yield f"rank >= width {moments.width}: NRC1 is trivially 0"
    if moments.n <= moments.width:
        yield (
            f"{moments.n} rows for {moments.width} features: "
            "the covariance is rank deficient and NRC4 optimistic"
        )
    if not T.any():
        yield "targets do not vary: NRC2, CKA and the R² of NRC4 are undefined"


def _feature_notes(features: Spectrum, scores: LayerScores) -> Iterator[str]:
    r = scores.rank
    if features.rank == 0:
        yield (
            "features do not vary (every unit is dead or constant): NRC1, NRC2, NRC3 and CKA are undefined"
        )
    elif features.rank < r:
        yield f"features have rank {features.rank} < {r}: rounding completes their subspace in NRC3"
    elif scores.eigengap_features < _CLEAR_GAP:
        yield f"features: eigenvalues {r} and {r + 1} nearly equal: their subspace is not defined"


def _weight_notes(weight: Tensor | None, weight_rank: int, scores: LayerScores) -> Iterator[str]:
    r = scores.rank
    if weight is None:
        yield "no weight reads these features: NRC3 is undefined"
    elif weight_rank == 0:
        yield "the weight is zero: NRC3 is undefined"
    elif weight_rank < r:
        why = f"has {len(weight)} rows" if len(weight) == weight_rank else f"has rank {weight_rank}"
        yield f"the weight {why} < {r}: NRC3 is the mean over {weight_rank} of its directions"
    elif scores.eigengap_weight < _CLEAR_GAP:
        yield f"weight: singular values {r} and {r + 1} nearly equal: its subspace is not defined"
