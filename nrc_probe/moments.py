"""Features and targets -> Moments: accumulate in place, merge, finish. Knows neither files nor models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nrc_probe.memory import check_memory
from nrc_probe.products import Lane, Rows

EXACT, FAST = "exact", "fast"
PRECISIONS = (EXACT, FAST)


@dataclass(frozen=True, eq=False)  # eq=False: `==` on tensors has no single answer
class Moments:
    """Sufficient statistics of one layer's features h and the targets y. All float64, on the CPU."""

    n: int
    mean_h: Tensor
    """(d,)"""
    mean_y: Tensor
    """(t,)"""
    scatter_hh: Tensor
    """(d, d), centred, unnormalised: merging stays exact and the reader picks the divisor."""
    scatter_hy: Tensor
    """(d, t), centred, unnormalised."""
    scatter_yy: Tensor
    """(t, t), centred, unnormalised."""

    @property
    def width(self) -> int:
        """Feature width d."""
        return self.mean_h.numel()

    @property
    def target_dim(self) -> int:
        """Target width t."""
        return self.mean_y.numel()

    @property
    def feature_covariance(self) -> Tensor:
        """S = HcᵀHc / N, (d, d)."""
        return self.scatter_hh / self.n

    @property
    def cross_covariance(self) -> Tensor:
        """C = HcᵀYc / N, (d, t)."""
        return self.scatter_hy / self.n

    @property
    def target_covariance(self) -> Tensor:
        """T = YcᵀYc / N, (t, t)."""
        return self.scatter_yy / self.n

    def merge(self, other: Moments) -> Moments:
        """Moments of both samples together (Chan, Golub & LeVeque 1983)."""
        n = self.n + other.n
        delta_h, delta_y = other.mean_h - self.mean_h, other.mean_y - self.mean_y
        share = other.n / n
        between = self.n * share
        return Moments(
            n=n,
            mean_h=self.mean_h + share * delta_h,
            mean_y=self.mean_y + share * delta_y,
            scatter_hh=self.scatter_hh + other.scatter_hh + between * torch.outer(delta_h, delta_h),
            scatter_hy=self.scatter_hy + other.scatter_hy + between * torch.outer(delta_h, delta_y),
            scatter_yy=self.scatter_yy + other.scatter_yy + between * torch.outer(delta_y, delta_y),
        )


class MomentAccumulator:
    """Moments in the making: batches go in, memory stays at one (d + t)² matrix and one buffer.

    Rows are shifted by the mean of the first batch before they are multiplied, so that a large mean
    costs no digits. However the rows are sorted, the shifted sums exceed the centred ones by a factor
    of at most 1 + N / (rows of the first batch): a few of float64's sixteen digits at worst.
    `exact` multiplies in float64; `fast` multiplies float32 batches and sums products in float64.
    Raises DataError where this machine cannot hold the matrix.
    """

    def __init__(
        self,
        width: int,
        target_dim: int,
        *,
        precision: str = EXACT,
        device: torch.device | str = "cpu",
        lane: Lane | None = None,
    ) -> None:
        self.n = 0
        self._width = width
        self._columns = width + target_dim
        self._shift: Tensor | None = None
        # One more column, of ones: its products are the sums of all others.
        size = (self._columns + 1, self._columns + 1)
        check_memory(8 * math.prod(size), f"the covariance of {width} features and {target_dim} targets")
        self._products = torch.zeros(size, dtype=torch.float64, device=device)
        """Of features, targets and 1, side by side; the upper triangle counts."""
        self._dtype = torch.float32 if precision == FAST else torch.float64
        self._lane = lane or Lane()

    def update(self, features: Tensor, targets: Tensor) -> None:
        """Take in one batch: features (n, d) of any float type, targets (n, t)."""
        if self._shift is None:
            means = (part.mean(0, dtype=torch.float64) for part in (features, targets))
            # rounded to the products' type: any shift is exact as long as it is the same throughout
            self._shift = torch.cat(tuple(means)).to(self._dtype)
        self._lane.add(Rows(features, targets, self._shift), self._products)
        self.n += len(features)

    def finish(self) -> Moments:
        """The moments of all rows so far, on the CPU. There must be at least one."""
        assert self._shift is not None
        self._lane.wait()
        upper, d, both = torch.triu(self._products), self._width, self._columns
        offset = upper[:both, both] / self.n
        scatter = upper[:both, :both] + torch.triu(upper[:both, :both], 1).T
        scatter = (scatter - self.n * torch.outer(offset, offset)).cpu()
        mean = (self._shift.double() + offset).cpu()
        return Moments(
            n=self.n,
            mean_h=mean[:d],
            mean_y=mean[d:],
            scatter_hh=scatter[:d, :d].contiguous(),
            scatter_hy=scatter[:d, d:].contiguous(),
            scatter_yy=scatter[d:, d:].contiguous(),
        )
