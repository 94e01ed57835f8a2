"""Features and targets -> Moments: accumulate in place, merge, finish. Knows neither files nor models."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

EXACT, FAST = "exact", "fast"
PRECISIONS = (EXACT, FAST)
_ROWS = 2048
"""Rows that are centred and multiplied at once: bounds the buffer, whatever the batch size."""
_COLUMN_BLOCKS = 4
"""A symmetric product is done in block columns, upper part only: 4 blocks do 5/8 of the work."""
_SMALL = 128
"""Below this width one whole product is faster than several small ones."""


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
    """Moments in the making: batches go in, memory stays at one d x d matrix and one buffer.

    Each batch is centred by its own mean before it is multiplied, so neither a large mean nor the
    order of the rows costs digits. `exact` multiplies in float64; `fast` multiplies float32 batches
    and sums their products in float64.
    """

    def __init__(
        self,
        width: int,
        target_dim: int,
        *,
        precision: str = EXACT,
        device: torch.device | str = "cpu",
    ) -> None:
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self.n = 0
        self._fast = precision == FAST
        self._mean_h = zeros(width)
        self._mean_y = zeros(target_dim)
        self._upper_hh = zeros(width, width)
        self._scatter_hy = zeros(width, target_dim)
        self._scatter_yy = zeros(target_dim, target_dim)
        self._buffer = zeros(0, width)

    def update(self, features: Tensor, targets: Tensor) -> None:
        """Take in one batch: features (n, d) of any float type, targets (n, t)."""
        targets = targets.double()
        for start in range(0, len(features), _ROWS):
            self._add(features[start : start + _ROWS], targets[start : start + _ROWS])

    def finish(self) -> Moments:
        """The moments of all rows so far, on the CPU."""
        upper = torch.triu(self._upper_hh)
        return Moments(
            n=self.n,
            mean_h=self._mean_h.cpu().clone(),
            mean_y=self._mean_y.cpu().clone(),
            scatter_hh=(upper + torch.triu(upper, 1).T).cpu(),
            scatter_hy=self._scatter_hy.cpu().clone(),
            scatter_yy=self._scatter_yy.cpu().clone(),
        )

    def _add(self, features: Tensor, targets: Tensor) -> None:
        n = len(features)
        mean_h = features.mean(0, dtype=torch.float64)
        mean_y = targets.mean(0)
        share = n / (self.n + n)
        between = (self.n * share) ** 0.5
        delta_h, delta_y = mean_h - self._mean_h, mean_y - self._mean_y

        centred_y = torch.cat([targets - mean_y, between * delta_y[None]])
        centred_h = self._room_for(n + 1)
        torch.sub(features, mean_h, out=centred_h[:n])
        # The term between the means rides along as one more row: no second pass over d x d.
        torch.mul(delta_h, between, out=centred_h[n])

        if self._fast:
            product = torch.zeros_like(self._upper_hh, dtype=torch.float32)
            _add_upper_product(centred_h.float(), product)
            self._upper_hh += product
        else:
            _add_upper_product(centred_h, self._upper_hh)
        self._scatter_hy.addmm_(centred_h.T, centred_y)
        self._scatter_yy.addmm_(centred_y.T, centred_y)
        self._mean_h += share * delta_h
        self._mean_y += share * delta_y
        self.n += n

    def _room_for(self, rows: int) -> Tensor:
        if len(self._buffer) < rows:
            self._buffer = self._buffer.new_empty(rows, self._buffer.shape[1])
        return self._buffer[:rows]


def _add_upper_product(rows: Tensor, total: Tensor) -> None:
    """Add the upper triangle of rowsᵀ rows to `total`; what stands below the diagonal has no meaning."""
    width = rows.shape[1]
    step = width if width <= _SMALL else -(-width // _COLUMN_BLOCKS)
    for start in range(0, width, step):
        stop = min(start + step, width)
        total[start:stop, start:].addmm_(rows[:, start:stop].T, rows[:, start:])
