"""The last-layer conditions of 2024 (Andriopoulos et al., arXiv 2409.04180), for comparison.

Their names NRC1-NRC3 mean other things than the numbering of 2026 that metrics.py follows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nrc_probe.moments import Moments
from nrc_probe.spectra import Spectrum, scaled, spectrum, weight_spectrum

_ROUNDING = 64 * torch.finfo(torch.float64).eps
"""What a shift leaves of a root is, below t times this share of it, rounding that has no direction."""


@dataclass(frozen=True)
class LastLayer2024:
    """The last-layer conditions of Andriopoulos et al. (2024), in their energy-weighted form.

    The original normalises each feature vector first. All are 0 when collapsed; nan where undefined.
    """

    nrc1: float
    """Share of the uncentred feature energy outside the top t principal components, in [0, 1]."""
    nrc2: float
    """Share of the uncentred feature energy outside the row space of the weight, in [0, 1]."""
    nrc3: float
    """Squared distance between W Wᵀ and T^(1/2) - g^(1/2) I, each over its norm, best g. In [0, 4]."""


def last_layer_2024(moments: Moments, features: Spectrum, weight: Tensor) -> LastLayer2024:
    """The conditions of 2024 for a last Linear with weight (t, d); nrc3 is nan where W has other rows."""
    W = weight.double()
    energy = moments.feature_covariance + torch.outer(moments.mean_h, moments.mean_h)
    row_space = weight_spectrum(weight, min(W.shape))
    return LastLayer2024(
        nrc1=_energy_outside(energy, features.directions(min(moments.target_dim, moments.width))),
        nrc2=_energy_outside(energy, row_space.directions[:, : row_space.rank]),
        nrc3=_gram_distance(W, moments.target_covariance),
    )


def _energy_outside(energy: Tensor, basis: Tensor) -> float:
    total = float(energy.trace())
    if total <= 0:
        return math.nan
    return max(0.0, 1 - float((basis * (energy @ basis)).sum()) / total)


def _gram_distance(W: Tensor, T: Tensor) -> float:
    W, T = scaled(W)[0], scaled(T)[0]  # their units cancel, and so no product overflows
    A = W @ W.T
    if A.shape != T.shape or not A.any() or not T.any():
        return math.nan
    targets = spectrum(T)
    roots = targets.values.sqrt()
    axes = targets.directions(len(roots))
    root = (axes * roots) @ axes.T
    best = max(_shifted_cosine(A, root, shift) for shift in _shift_candidates(A, root, float(roots[-1])))
    return 2 - 2 * best


def _shift_candidates(A: Tensor, root: Tensor, largest: float) -> list[float]:
    """Ends of [0, largest] and, where it lies inside, the one stationary point of the cosine."""
    a, b = float((A * root).sum()), float(A.trace())
    c, e, t = float(root.square().sum()), float(root.trace()), len(root)
    slope = b * e - a * t
    inner = (b * c - a * e) / slope if slope else 0.0
    return [0.0, largest, min(max(inner, 0.0), largest)]


def _shifted_cosine(A: Tensor, root: Tensor, shift: float) -> float:
    B = root - shift * torch.eye(len(root), dtype=root.dtype)
    size = float(A.norm()) * float(B.norm())
    floor = _ROUNDING * len(root) * float(A.norm()) * float(root.norm())
    return float((A * B).sum()) / size if size > floor else -1.0
