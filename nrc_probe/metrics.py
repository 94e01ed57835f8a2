"""Moments -> scores, a formula each. Pure functions: no files, no model.

Letters are the paper's (Rangamani & Unal 2026): S, C, T covariances of features, of features with
targets, and of targets; U the top directions of S; V the top right singular vectors of the weight W.
An undefined score is nan; `layer_scores` puts them together and says why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from nrc_probe.errors import RankError
from nrc_probe.moments import Moments
from nrc_probe.spectra import Spectrum, scaled

_FLOAT64 = 64 * torch.finfo(torch.float64).eps
"""A deviation below this share of the mean is rounding of a constant, not variation."""
_FLOAT32 = 4 * torch.finfo(torch.float32).eps
"""The same of what float32 computed: a constant comes out otherwise where a batch has other rows."""
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
    return ratio(float(variances[rank:].sum()), float(variances.sum()))


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
    share = ratio(float(C.norm()) ** 2, float(variances.norm()) * float(T.norm()))
    return _capped(_times_power(share, 2 * c - v - t))


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
        return _capped(math.exp(math.lgamma(width / 2) - math.lgamma((width + 1) / 2)) / math.sqrt(math.pi))
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


def fit_linear_probe(
    moments: Moments, features: Spectrum, rcond: float, resolution: float = _FLOAT64
) -> LinearProbe:
    """Minimum-norm least squares with an intercept; directions below `rcond` of the largest are dropped.

    features: spectrum of the feature covariance of `moments`; `rcond` compares singular values of the
    features, so it is squared on their variances. resolution: as for `without_rounding`.
    Source: Rangamani & Unal 2026, NRC4.
    """
    features, _ = without_rounding(moments, features, resolution)
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
    P, rank = _truncated_solution(uncentred, moments.cross_covariance + torch.outer(h, y), rcond)
    # Not the total less what is explained: large means of the targets would drown the difference.
    return LinearProbe(P, torch.zeros_like(y), rank).error(moments)


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
    return ratio(float(values.sum()), float(values[0]))


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


# ------------------------------------------------------------------------ rounding is no variation


def resolution_of(weight: Tensor | None) -> float:
    """Relative size of rounding in the features that `weight` reads: its type is what computed them."""
    return _FLOAT64 if weight is None or weight.dtype == torch.float64 else _FLOAT32


def targets_vary(moments: Moments) -> bool:
    """Whether any target deviates by more than rounding of its mean."""
    return _vary(moments.target_covariance, moments.mean_y, _FLOAT64)


def _vary(covariance: Tensor, mean: Tensor, resolution: float) -> bool:
    deviations = covariance.diagonal().clamp(min=0).sqrt()
    return bool((deviations > resolution * mean.abs()).any())


def without_rounding(moments: Moments, features: Spectrum, resolution: float) -> tuple[Spectrum, Tensor]:
    """Features and target covariance, exactly 0 where they only hold the rounding of a constant.

    resolution: by `resolution_of` the weight that reads the features.
    """
    T = moments.target_covariance
    if not _vary(moments.feature_covariance, moments.mean_h, resolution):
        features = replace(features, values=torch.zeros_like(features.values))
    return features, T if targets_vary(moments) else torch.zeros_like(T)


def _capped(value: float) -> float:
    # Not min(): it would turn nan into 1.
    return 1.0 if value > 1 else value


def _times_power(value: float, k: int) -> float:
    """2^k times `value`; inf where that is too large."""
    try:
        return math.ldexp(value, k)
    except OverflowError:
        return math.copysign(math.inf, value)


def ratio(numerator: float, denominator: float) -> float:
    """One over the other; nan where the divisor is 0."""
    return numerator / denominator if denominator > 0 else math.nan
