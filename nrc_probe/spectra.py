"""Eigen- and singular value decompositions, largest first. Float64, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

import scipy.linalg
import torch
from torch import Tensor

_WHOLE_SVD = 64
"""Up to this many rows or columns, a weight's full SVD costs nothing worth saving."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigendecomposition of a symmetric positive semidefinite matrix, largest first."""

    values: Tensor
    """(d,) descending, clamped at 0."""
    directions: Tensor
    """(d, d), a direction a column."""

    @property
    def rank(self) -> int:
        """Numerical rank: eigenvalues above rounding of the largest."""
        tolerance = self.values[0] * len(self.values) * torch.finfo(torch.float64).eps
        return int((self.values > tolerance).sum())


def spectrum(matrix: Tensor) -> Spectrum:
    """Eigenvalues and eigenvectors of a symmetric (d, d) float64 matrix, largest first."""
    values, directions = scipy.linalg.eigh(matrix.numpy(), driver="evd", check_finite=False)
    return Spectrum(
        torch.from_numpy(values).flip(0).clamp_(min=0), torch.from_numpy(directions).flip(1)
    )


@dataclass(frozen=True, eq=False)
class WeightSpectrum:
    """Leading singular values and right singular vectors of a weight, largest first."""

    values: Tensor
    """(k,) descending; k is at least rank + 1 where the weight has as many."""
    directions: Tensor
    """(d, k) right singular vectors."""
    tolerance: float
    """Singular values at or below this are rounding of the largest."""

    @property
    def rank(self) -> int:
        """Numerical rank, counted among the leading values only."""
        return int((self.values > self.tolerance).sum())


def weight_spectrum(weight: Tensor, rank: int) -> WeightSpectrum:
    """The top `rank` + 1 singular values and right singular vectors of a weight (out, d), float64."""
    # Half precision trains in float32 or rounds at random: its own epsilon would drown every value.
    eps = min(torch.finfo(weight.dtype).eps, torch.finfo(torch.float32).eps)
    W = weight.double()
    small = min(W.shape)
    if small <= max(_WHOLE_SVD, rank):
        _, values, right = torch.linalg.svd(W, full_matrices=False)
        directions = right.T
    else:
        # Only leading directions are read, so squaring the singular values costs no digit of them.
        d = W.shape[1]
        keep = min(rank + 1, small)
        squares, vectors = scipy.linalg.eigh(
            (W.T @ W).numpy(), subset_by_index=[d - keep, d - 1], check_finite=False
        )
        values = torch.from_numpy(squares).flip(0).clamp_(min=0).sqrt()
        directions = torch.from_numpy(vectors).flip(1)
    return WeightSpectrum(values, directions, float(values[0]) * max(W.shape) * eps)
