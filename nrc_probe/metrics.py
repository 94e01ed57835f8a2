"""Moments and a weight -> scores. Pure functions: no files, no model.

Letters are the paper's (Rangamani & Unal 2026): S, C, T covariances of features, of features with
targets, and of targets; U the top directions of S; V the top right singular vectors of the weight W.
An undefined score is nan; `score_layer` says why in its notes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from nrc_probe.errors import RankError
from nrc_probe.moments import Moments
from nrc_probe.spectra import FeatureSpectra, Spectrum, WeightSpectrum, scaled, weight_spectrum

_CONSTANT = (64 * torch.finfo(torch.float64).eps) ** 2
"""A variance below this share of the squared mean is rounding of a constant, not variation."""
_CLEAR_GAP = 1.01
"""Below this ratio of neighbouring values, rounding picks the subspace (metrics.md, NRC3)."""
_TARGET_SHARE = 0.99
"""Share of the target variance that the target rank must hold."""


# ------------------------------------------------------------------------------ the four conditions


def noise_fraction(variances: Tensor, rank: int) -> float:
    """Share of feature variance outside the top `rank` directions, in [0, 1 - rank/d].

    0 is full collapse; nan when the features do not vary. Dimensionless.

    variances: (d,) eigenvalues of the feature covariance, descending.
    Raises RankError unless 1 <= rank <= d.
    Source: Rangamani & Unal 2026, NRC1.
    """
    if not 1 <= rank <= len(variances):
        raise RankError(f"rank must be from 1 to the width {len(variances)}, got {rank}")
    return _ratio(float(variances[rank:].sum()), float(variances.sum()))


def signal_alignment(features: Spectrum, C: Tensor, T: Tensor, rank: int) -> float:
    """Linear CKA between the features' top `rank` components and the targets, in [0, 1].

    1 is full collapse; nan when features or targets do not vary. Dimensionless.

    features: spectrum of the feature covariance (d, d). C: (d, t). T: (t, t).
    Source: Rangamani & Unal 2026, NRC2 (section 4.2).
    """
    return _alignment_of(features.coordinates(C)[:rank], features.values[:rank], T)


def linear_cka(variances: Tensor, C: Tensor, T: Tensor) -> float:
    """Linear CKA between all features and the targets, in [0, 1]; nan where either does not vary.

    variances: (d,) eigenvalues of S, whose norm is that of S. C: (d, t). T: (t, t). Dimensionless.
    Source: Kornblith et al. 2019.
    """
    return _alignment_of(C, variances, T)


def _alignment_of(C: Tensor, variances: Tensor, T: Tensor) -> float:
    """||C||² / (||variances|| ||T||) at any scale of features and targets: their units cancel."""
    (C, c), (variances, v), (T, t) = scaled(C), scaled(variances), scaled(T)
    ratio = _ratio(float(C.norm()) ** 2, float(variances.norm()) * float(T.norm()))
    return _capped(_times_power(ratio, 2 * c - v - t))


def principal_cosines(U: Tensor, V: Tensor) -> Tensor:
    """Cosines of the principal angles between span U and span V, descending, in [0, 1].

    U: (d, r), V: (d, k), both with orthonormal columns. Returns (min(r, k),).
    """
    cosines: Tensor = torch.linalg.svdvals(U.T @ V)
    return cosines.clamp(0.0, 1.0)


@lru_cache(maxsize=256)
def random_alignment(width: int, rank: int, weight_rank: int) -> float:
    """Mean principal cosine that a random subspace scores against a fixed one: the chance level of NRC3.

    width: d. rank, weight_rank: dimensions of the two subspaces, each from 1 to d. In [0, 1].

    For two lines it is Γ(d/2) / (√π Γ((d+1)/2)); otherwise a seeded mean over random draws, whose
    standard error is below 0.003. Only r x r matrices are drawn (Bartlett's decomposition).
    """
    if rank == weight_rank == 1:
        return math.exp(math.lgamma(width / 2) - math.lgamma((width + 1) / 2)) / math.sqrt(math.pi)
    small, large = sorted((rank, weight_rank))
    rng = np.random.default_rng(0)
    draws = max(64, 8192 // large)
    top = rng.standard_normal((draws, large, small))
    rest = _gaussian_root(rng, draws, width - large, small)
    gram = np.swapaxes(top, 1, 2) @ top + np.swapaxes(rest, 1, 2) @ rest
    # [top; rest] L⁻ᵀ is an orthonormal basis, of which the top block holds the cosines.
    held = np.linalg.solve(np.linalg.cholesky(gram), np.swapaxes(top, 1, 2))
    cosines = np.linalg.svd(held, compute_uv=False)
    return float(np.clip(cosines, 0.0, 1.0).mean())


def _gaussian_root(rng: np.random.Generator, draws: int, rows: int, columns: int) -> np.ndarray:
    """Matrices with the Gram matrix of Gaussian (rows, columns) ones, in at most `columns` rows."""
    if rows <= columns:
        return rng.standard_normal((draws, rows, columns))
    root = np.triu(rng.standard_normal((draws, columns, columns)), 1)
    diagonal = np.arange(columns)
    root[:, diagonal, diagonal] = np.sqrt(rng.chisquare(rows - diagonal, (draws, columns)))
    return root


# --------------------------------------------------------------------------------- the linear probe


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """The best linear prediction of the targets from the features: y = hᵀ coefficients + intercept."""

    coefficients: Tensor
    """(d, t)"""
    intercept: Tensor
    """(t,)"""
    rank: int
    """How many directions of the features were kept."""

    def error(self, moments: Moments) -> float:
        """Mean squared error per element on the sample that `moments` describe, in squared target units.

        It is exact, also on a sample other than the one the probe was fitted on.
        """
        P = self.coefficients
        offset = moments.mean_h @ P + self.intercept - moments.mean_y
        fitted = (P * (moments.feature_covariance @ P)).sum()
        crossed = (P * moments.cross_covariance).sum()
        spread = moments.target_covariance.trace() - 2 * crossed + fitted
        return max(0.0, float(spread + offset @ offset)) / moments.target_dim


def fit_linear_probe(moments: Moments, features: Spectrum, rcond: float) -> LinearProbe:
    """Minimum-norm least squares with an intercept; directions below `rcond` of the largest are dropped.

    features: spectrum of the feature covariance of `moments`; `rcond` compares singular values of the
    features, so it is squared on their variances. Source: Rangamani & Unal 2026, NRC4.
    """
    features, _ = _without_rounding(moments, features)
    P, rank = _truncated_solution(features, moments.cross_covariance, rcond)
    return LinearProbe(P, moments.mean_y - moments.mean_h @ P, rank)


def linear_error(moments: Moments, features: Spectrum, rcond: float) -> tuple[float, int]:
    """NRC4: error of the best linear prediction, per element, and the number of directions kept.

    The first is in squared target units, in [0, trace T / t]. Arguments as for `fit_linear_probe`.
    """
    explained, rank = _explained(features, moments.cross_covariance, rcond)
    total = float(moments.target_covariance.trace())
    return max(0.0, total - explained) / moments.target_dim, rank


def linear_error_without_intercept(moments: Moments, uncentred: Spectrum, rcond: float) -> float:
    """Error of the best prediction y = hᵀP, per element, with nothing centred. Squared target units.

    uncentred: spectrum of the uncentred second moment of the features of `moments`.
    """
    h, y = moments.mean_h, moments.mean_y
    explained, _ = _explained(uncentred, moments.cross_covariance + torch.outer(h, y), rcond)
    total = float(moments.target_covariance.trace() + y @ y)
    return max(0.0, total - explained) / moments.target_dim


def _kept(features: Spectrum, rcond: float) -> int:
    # Without a cutoff the division still needs one: an eigenvalue of rounding size is not a direction.
    return min(features.rank, int((features.values > rcond**2 * features.values[0]).sum()))


def _truncated_solution(features: Spectrum, C: Tensor, rcond: float) -> tuple[Tensor, int]:
    rank = _kept(features, rcond)
    coordinates = features.coordinates(C)[:rank] / features.values[:rank, None]
    return features.combine(coordinates), rank


def _explained(features: Spectrum, C: Tensor, rcond: float) -> tuple[float, int]:
    rank = _kept(features, rcond)
    (coordinates, c), (values, v) = scaled(features.coordinates(C)[:rank]), scaled(features.values[:rank])
    return _times_power(float((coordinates.square().sum(1) / values).sum()), 2 * c - v), rank


# ------------------------------------------------------------------------------ ranks and dimensions


def stable_rank(values: Tensor) -> float:
    """Sum of `values` over the largest, in [1, len]; nan when all are 0. Dimensionless.

    Of variances: trace S / l1. Of squared singular values: ||W||_F² / ||W||_2².
    values: (k,), not negative, descending.
    """
    return _ratio(float(values.sum()), float(values[0]))


def stable_rank_of_squares(values: Tensor) -> float:
    """Sum of the squares over the largest, as `stable_rank`. Of variances: sum l² / l1²."""
    return stable_rank(scaled(values)[0].square())


def effective_rank(variances: Tensor) -> float:
    """Exponential of the entropy of the variance shares, in [1, d]; nan when all are 0.

    variances: (d,). Dimensionless. Source: Roy & Vetterli 2007.
    """
    total = variances.sum()
    if total <= 0:
        return math.nan
    shares = variances / total
    return float(torch.special.entr(shares).sum().exp())


def target_rank(variances: Tensor) -> int | None:
    """Smallest k whose top k eigenvalues hold 99 % of the target variance; None when there is none.

    variances: (t,) eigenvalues of the target covariance, descending.
    """
    total = float(variances.sum())
    if total <= 0:
        return None
    held = variances.cumsum(0) / total
    return int((held < _TARGET_SHARE - 1e-12).sum()) + 1


# ------------------------------------------------------------------------------------------ a layer


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


def features_vary(moments: Moments) -> bool:
    """Whether the features have more variance than rounding of their mean."""
    return _vary(moments.feature_covariance, moments.mean_h)


def targets_vary(moments: Moments) -> bool:
    """Whether the targets have more variance than rounding of their mean."""
    return _vary(moments.target_covariance, moments.mean_y)


def _vary(covariance: Tensor, mean: Tensor) -> bool:
    mean, k = scaled(mean)
    return _times_power(float(covariance.trace()), -2 * k) > _CONSTANT * float(mean.square().sum())


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
    features, T = _without_rounding(moments, spectra.centred)
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
        nrc4_r2=1 - _ratio(nrc4 * t, float(T.trace())),
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


def _without_rounding(moments: Moments, features: Spectrum) -> tuple[Spectrum, Tensor]:
    """Features and target covariance, exactly 0 where they only hold the rounding of a constant."""
    T = moments.target_covariance
    if not features_vary(moments):
        features = replace(features, values=torch.zeros_like(features.values))
    return features, T if targets_vary(moments) else torch.zeros_like(T)


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
    return _ratio(float(values[r - 1]), float(values[r])) if r < len(values) else math.nan


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


def _capped(value: float) -> float:
    # Not min(): it would turn nan into 1.
    return 1.0 if value > 1 else value


def _times_power(value: float, k: int) -> float:
    """2^k times `value`; inf where that is too large."""
    try:
        return math.ldexp(value, k)
    except OverflowError:
        return math.copysign(math.inf, value)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else math.nan
