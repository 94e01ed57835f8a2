"""Eigen- and singular value decompositions, largest first. Float64, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch
from scipy.linalg import blas, lapack
from torch import Tensor

_SMALL = 128
"""Up to this size a whole decomposition costs nothing worth saving."""

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigendecomposition U diag(values) Uᵀ of a symmetric positive semidefinite matrix.

    U is kept as LAPACK finds it, a product of reflections and the eigenvectors of a tridiagonal
    matrix: multiplying a few columns by it is all that scores need, and half as dear as writing it out.
    """

    values: Tensor
    """(d,) descending, clamped at 0."""
    _vectors: Matrix
    """(d, d) eigenvectors of the tridiagonal form, or of the matrix itself; smallest first."""
    _reflections: tuple[Matrix, Matrix] | None = None
    """Householder vectors and scales that made the matrix tridiagonal; None where it was kept."""

    @property
    def rank(self) -> int:
        """Numerical rank: eigenvalues above rounding of the largest."""
        tolerance = self.values[0] * len(self.values) * torch.finfo(torch.float64).eps
        return int((self.values > tolerance).sum())

    def directions(self, count: int) -> Tensor:
        """The top `count` eigenvectors as columns, (d, count)."""
        return self.combine(torch.eye(count, dtype=torch.float64))

    def coordinates(self, columns: Tensor) -> Tensor:
        """Uᵀ times columns (d, k): a row for each eigenvector, largest first."""
        turned = self._reflect(columns.numpy(), "T")
        return torch.from_numpy(self._vectors.T @ turned).flip(0)

    def combine(self, coordinates: Tensor) -> Tensor:
        """U times coordinates (m, k) on the top m eigenvectors: columns (d, k)."""
        m = len(coordinates)
        mixed = self._vectors[:, len(self._vectors) - m :] @ coordinates.flip(0).numpy()
        return torch.from_numpy(self._reflect(mixed, "N"))

    def _reflect(self, columns: Matrix, transposed: str) -> Matrix:
        if self._reflections is None:
            return columns
        vectors, scales = self._reflections
        below, _, info = lapack.dormqr(
            "L", transposed, vectors, scales, columns[1:], lwork=64 * columns.shape[1]
        )
        assert info == 0, "dormqr refuses only arguments that are out of range"
        return np.concatenate([columns[:1], below])


def spectrum(matrix: Tensor) -> Spectrum:
    """Eigendecomposition of a symmetric (d, d) float64 matrix, largest first."""
    d = len(matrix)
    if d <= _SMALL:
        values, vectors = scipy.linalg.eigh(matrix.numpy(), driver="evd", check_finite=False)
        return Spectrum(_descending(values), vectors)
    workspace = int(lapack.dsytrd_lwork(d, lower=1)[0])
    reflected, diagonal, beside, scales, _ = lapack.dsytrd(matrix.numpy(), lower=1, lwork=workspace)
    values, vectors, info = lapack.dstevd(diagonal, beside)
    if info != 0:  # divide and conquer did not converge, which a plain QR iteration hardly ever fails at
        values, vectors = scipy.linalg.eigh_tridiagonal(diagonal, beside, lapack_driver="stev")
    householder = np.asfortranarray(reflected[1:, :-1])
    return Spectrum(_descending(values), vectors, (householder, scales))


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
    if small <= max(_SMALL, rank):
        _, values, right = torch.linalg.svd(W, full_matrices=False)
        directions = right.T
    else:
        values, directions = _leading_of_gram(W.numpy(), min(rank + 1, small))
    return WeightSpectrum(values, directions, float(values[0]) * max(W.shape) * eps)


def _leading_of_gram(W: Matrix, count: int) -> tuple[Tensor, Tensor]:
    """The top singular values and right singular vectors, from WᵀW.

    Only leading directions are read, so squaring the singular values costs no digit that matters.
    """
    d = W.shape[1]
    gram = blas.dsyrk(1.0, W.T, lower=1)
    squares, vectors = scipy.linalg.eigh(
        gram, lower=True, subset_by_index=[d - count, d - 1], check_finite=False
    )
    return _descending(squares).sqrt(), torch.from_numpy(vectors).flip(1)


def _descending(values: Matrix) -> Tensor:
    return torch.from_numpy(values).flip(0).clamp_(min=0)
