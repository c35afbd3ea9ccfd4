"""Several targets at once: what one number the losses on all of them become.

    mean    sum_t a_t L_t
    worst   max over pi of  sum_t pi_t (L_t - b_t) - tau KL(pi || pi_hat)
                                                        =  tau log sum_t pi_hat_t exp((L_t - b_t) / tau)

``b_t`` are offsets that make losses of different entropy comparable. tau = 0 is the plain maximum (Group DRO's
objective over targets, Sagawa et al. 2020, eq. 7), tau > 0 that of ALSO (arXiv 2508.16734); pi is then proportional to
``pi_hat_t exp((L_t - b_t) / tau)``. Both are convex in the shares because they rise with every loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from mixray.errors import InputError
from mixray.simplex.checks import Matrix, Vector, checked_shares


class Goal(Protocol):
    """A function of the targets' losses ``(targets,)``: convex, rising in each."""

    def value(self, losses: Vector) -> float: ...

    def target_weights(self, losses: Vector) -> Vector:
        """pi, its gradient ``(targets,)`` (a subgradient where it has a kink)."""
        ...

    def bend(self, losses: Vector) -> Matrix | None:
        """Its second derivative ``(targets, targets)``; None where there is none."""
        ...

    def lower_bound(self, losses: Vector, target_weights: Vector) -> float:
        """The value that the given pi proves: never above ``value``."""
        ...


@dataclass(frozen=True, eq=False)
class Mean:
    """``weights``: float64 ``(targets,)``, > 0."""

    weights: Vector

    @classmethod
    def of(cls, weights: ArrayLike | None, targets: int) -> Mean:
        """Equal weights of 1/targets by default. Raises InputError for weights that are not positive."""
        values = np.full(targets, 1 / targets) if weights is None else np.asarray(weights, np.float64)
        if values.shape != (targets,) or not (np.isfinite(values) & (values > 0)).all():
            raise InputError("target_weights: no weights", got=values, wanted=f"{targets} finite numbers > 0")
        return cls(values)

    def value(self, losses: Vector) -> float:
        return float(self.weights @ losses)

    def target_weights(self, losses: Vector) -> Vector:
        return self.weights

    def bend(self, losses: Vector) -> Matrix | None:
        return None

    def lower_bound(self, losses: Vector, target_weights: Vector) -> float:
        return self.value(losses)


@dataclass(frozen=True, eq=False)
class Worst:
    """``offsets``: b, nats per token ``(targets,)``; ``prior``: pi_hat, > 0, sum 1 ``(targets,)``; ``tau``: >= 0."""

    offsets: Vector
    prior: Vector
    tau: float

    @classmethod
    def of(
        cls, targets: int, offsets: ArrayLike | None = None, prior: ArrayLike | None = None, tau: float = 0
    ) -> Worst:
        """Offsets 0 and an even prior by default. Raises InputError for a negative tau and a prior that excludes a
        target: it would never count."""
        if not (np.isfinite(tau) and tau >= 0):
            raise InputError("tau: no temperature", got=tau, wanted="a finite number >= 0, nats per token")
        level = np.zeros(targets) if offsets is None else np.asarray(offsets, np.float64)
        if level.shape != (targets,) or not np.isfinite(level).all():
            raise InputError("offsets: one per target is needed", got=level, wanted=f"{targets} finite numbers")
        shares = checked_shares("target_prior", np.full(targets, 1 / targets) if prior is None else prior, targets)
        if not (shares > 0).all():
            raise InputError("target_prior: a target with prior 0 never counts", got=shares, wanted="shares > 0")
        return cls(level, shares, float(tau))

    def value(self, losses: Vector) -> float:
        above = losses - self.offsets
        top = float(above.max())
        if self.tau == 0:
            return top
        # log1p and expm1: at a large tau the sum is nearly 1, and tau times its rounding would drown the last rounds.
        return top + self.tau * float(np.log1p(self.prior @ np.expm1((above - top) / self.tau)))

    def target_weights(self, losses: Vector) -> Vector:
        above = losses - self.offsets
        if self.tau == 0:
            worst: Vector = np.eye(len(above))[int(np.argmax(above))]
            return worst
        weights = self.prior * np.exp((above - above.max()) / self.tau)
        pi: Vector = weights / weights.sum()
        return pi

    def bend(self, losses: Vector) -> Matrix | None:
        if self.tau == 0:
            return None
        pi = self.target_weights(losses)
        return (np.diag(pi) - np.outer(pi, pi)) / self.tau

    def lower_bound(self, losses: Vector, target_weights: Vector) -> float:
        drawn = target_weights > 0
        kl = float(target_weights[drawn] @ np.log(target_weights[drawn] / self.prior[drawn]))
        return float(target_weights @ (losses - self.offsets)) - self.tau * kl
