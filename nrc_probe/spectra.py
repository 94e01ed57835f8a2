"""Eigen- and singular value decompositions, largest first. Float64, on the CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from scipy.linalg import blas
from torch import Tensor

from nrc_probe import lapack
from nrc_probe.lapack import Matrix

_SMALL = 128
"""Up to this size a whole decomposition costs nothing worth saving."""
_IN_SQUARES = 1e-4
"""Singular values below this share of the largest lose too many digits when they are squared."""
_SMALLEST_POWER = -1000
"""The other way its inverse would overflow."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigendecomposition U diag(values) Uᵀ of a symmetric positive semidefinite matrix.

    Of a large matrix, U is kept as it is found: reflections that make the matrix tridiagonal, and the
    tridiagonal's eigenvectors. Multiplying a few columns by them is all that scores need, and half as
    dear as writing U out.
    """

    values: Tensor
    """(d,) descending, clamped at 0."""
    _vectors: Matrix
    """(d, d) eigenvectors of the tridiagonal form, or of the matrix itself; smallest first."""
    _reflections: _Reflections | None = None
    """None where the matrix itself was decomposed."""

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
        turned = columns.numpy()
        if self._reflections is not None:
            turned = self._reflections.undo(turned)
        return torch.from_numpy(self._vectors.T @ turned).flip(0)

    def combine(self, coordinates: Tensor) -> Tensor:
        """U times coordinates (m, k) on the top m eigenvectors: columns (d, k)."""
        m = len(coordinates)
        columns = self._vectors[:, len(self._vectors) - m :] @ coordinates.flip(0).numpy()
        if self._reflections is not None:
            columns = self._reflections.apply(columns)
        return torch.from_numpy(columns)


@dataclass(frozen=True, eq=False)
class FeatureSpectra:
    """Of the centred and of the uncentred second moments of one layer's features."""

    centred: Spectrum
    """Of S, the covariance."""
    uncentred: Spectrum
    """Of S + mean meanᵀ."""


def scaled(values: Tensor) -> tuple[Tensor, int]:
    """`values` over 2^k, a power that brings the largest to between 0.5 and 1; and k.

    No digit changes, and squares of the result neither overflow nor vanish.
    """
    largest = float(values.abs().max()) if values.numel() else 0.0
    k = max(math.frexp(largest)[1], _SMALLEST_POWER)
    return values * math.ldexp(1.0, -k), k


def spectrum(matrix: Tensor) -> Spectrum:
    """Eigendecomposition of a symmetric (d, d) float64 matrix, largest first."""
    driver = "evd" if len(matrix) > 1 else "ev"  # scipy before 1.12 asks evd for too little memory at 1
    try:
        values, vectors = scipy.linalg.eigh(matrix.numpy(), driver=driver, check_finite=False)
    except np.linalg.LinAlgError:  # divide and conquer may fail to converge where plain QR iteration does not
        values, vectors = scipy.linalg.eigh(matrix.numpy(), driver="ev", check_finite=False)
    return Spectrum(_descending(values), vectors)


def feature_spectra(covariance: Tensor, mean: Tensor) -> FeatureSpectra:
    """Spectra of S (d, d) and of S + mean meanᵀ, float64, for little more than the price of one.

    A first reflection turns the mean into the first axis, and the reflections that make S tridiagonal
    leave that axis alone: in their basis mean meanᵀ only adds |mean|² to the first diagonal entry.
    """
    if len(mean) <= _SMALL:
        return FeatureSpectra(spectrum(covariance), spectrum(covariance + torch.outer(mean, mean)))
    diagonal, beside, reflections = _tridiagonal(covariance.numpy(), mean.numpy())
    raised = diagonal.copy()
    raised[0] += float(mean @ mean)
    return FeatureSpectra(
        *(Spectrum(*_of_tridiagonal(entries, beside), reflections) for entries in (diagonal, raised))
    )


@dataclass(frozen=True, eq=False)
class _Reflections:
    """An orthogonal matrix as LAPACK's Householder reflections, after one of our own."""

    axis: Matrix
    """(d,) unit normal of the first reflection."""
    vectors: Matrix
    """(d - 1, d - 1) LAPACK's, which leave the first coordinate alone."""
    scales: Matrix

    def apply(self, columns: Matrix) -> Matrix:
        """The matrix times columns (d, k)."""
        return self._mirror(self._turn(columns, "N"))

    def undo(self, columns: Matrix) -> Matrix:
        """Its transpose times columns (d, k)."""
        return self._turn(self._mirror(columns), "T")

    def _mirror(self, columns: Matrix) -> Matrix:
        return columns - 2 * np.outer(self.axis, self.axis @ columns)

    def _turn(self, columns: Matrix, transposed: str) -> Matrix:
        workspace = 64 * columns.shape[1]
        below, _, info = scipy.linalg.lapack.dormqr(
            "L", transposed, self.vectors, self.scales, columns[1:], lwork=workspace
        )
        assert info == 0, "dormqr refuses only arguments that are out of range"
        return np.concatenate([columns[:1], below])


def _tridiagonal(matrix: Matrix, mean: Matrix) -> tuple[Matrix, Matrix, _Reflections]:
    """Diagonal, subdiagonal, and the reflections that bring `mean` to the first axis and `matrix` there."""
    axis = mean.copy()
    axis[0] += np.copysign(np.linalg.norm(mean), mean[0])
    length = np.linalg.norm(axis)
    axis = axis / length if length > 0 else axis
    image = matrix @ axis
    crossed = 2 * (image - (axis @ image) * axis)
    mirrored = blas.dsyr2(-1.0, axis, crossed, a=np.asfortranarray(matrix), lower=1)
    reduced, diagonal, beside, scales = lapack.tridiagonal_form(mirrored)
    vectors = np.asfortranarray(reduced[1:, :-1])
    return diagonal, beside, _Reflections(axis, vectors, scales)


def _of_tridiagonal(diagonal: Matrix, beside: Matrix) -> tuple[Tensor, Matrix]:
    found = lapack.of_tridiagonal(diagonal, beside)
    if found is None:  # as in `spectrum`
        found = scipy.linalg.eigh_tridiagonal(diagonal, beside, lapack_driver="stev")
    values, vectors = found
    return _descending(values), vectors


@dataclass(frozen=True, eq=False)
class WeightSpectrum:
    """Leading singular values and right singular vectors of a weight, largest first."""

    values: Tensor
    """(k,) descending; k is at least rank + 1 where the weight has as many."""
    directions: Tensor
    """(d, k) right singular vectors."""
    tolerance: float
    """Singular values at or below this are rounding of the largest."""
    stable_rank: float
    """||W||_F² / ||W||_2², of all singular values; nan for a zero weight."""

    @property
    def rank(self) -> int:
        """Numerical rank, counted among the leading values only."""
        return int((self.values > self.tolerance).sum())


def weight_spectrum(weight: Tensor, rank: int) -> WeightSpectrum:
    """The top `rank` + 1 singular values and right singular vectors of a weight (out, d), float64."""
    # Half precision trains in float32 or rounds at random: its own epsilon would drown every value.
    eps = min(torch.finfo(weight.dtype).eps, torch.finfo(torch.float32).eps)
    W = weight.double()
    scale = float(W.abs().max()) or 1.0
    W = W / scale  # so that no square overflows
    small = min(W.shape)
    whole = small <= max(_SMALL, rank)
    if not whole:
        values, directions = _leading_of_gram(W.numpy(), min(rank + 1, small))
        # of float32 weights such values are rounding anyway
        whole = weight.dtype == torch.float64 and bool(values[-1] <= _IN_SQUARES * values[0])
    if whole:
        values, directions = _whole(W)
    return WeightSpectrum(
        values=values * scale,
        directions=directions,
        tolerance=float(values[0]) * scale * max(W.shape) * eps,
        stable_rank=float(W.square().sum()) / float(values[0]) ** 2 if values[0] > 0 else math.nan,
    )


def _whole(W: Tensor) -> tuple[Tensor, Tensor]:
    """All singular values and right singular vectors."""
    try:
        _, values, right = torch.linalg.svd(W, full_matrices=False)
    except RuntimeError:  # it did not converge: as in `spectrum`
        _, *found = scipy.linalg.svd(W.numpy(), full_matrices=False, lapack_driver="gesvd")
        values, right = map(torch.from_numpy, found)
    return values, right.T


def _leading_of_gram(W: Matrix, count: int) -> tuple[Tensor, Tensor]:
    """The top singular values and right singular vectors, from WᵀW.

    Only leading directions are read, so squaring the singular values costs no digit that matters.
    """
    d = W.shape[1]
    gram = np.zeros((d, d))
    lapack.add_gram(np.ascontiguousarray(W), gram)
    found = lapack.leading(gram.T, count)
    if found is None:
        found = scipy.linalg.eigh(W.T @ W, subset_by_index=[d - count, d - 1], driver="evx")
    squares, vectors = found
    return _descending(squares).sqrt(), torch.from_numpy(vectors).flip(1)


def _descending(values: Matrix) -> Tensor:
    return torch.from_numpy(values).flip(0).clamp_(min=0)
