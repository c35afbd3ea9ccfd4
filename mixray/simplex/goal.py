"""What is minimised: one number from the losses on all targets, and a pull to a prior mixture.

The goal makes one number of several losses:

    mean    sum_t a_t L_t
    worst   max over pi of  sum_t pi_t (L_t - b_t) - tau KL(pi || pi_hat)
                                                        =  tau log sum_t pi_hat_t exp((L_t - b_t) / tau)

``b_t`` are offsets that make losses of different entropy comparable. tau = 0 is the plain maximum (Group DRO's
objective over targets, Sagawa et al. 2020, eq. 7), tau > 0 that of ALSO (arXiv 2508.16734); pi is then proportional to
``pi_hat_t exp((L_t - b_t) / tau)``. Both are convex in the shares because they rise with every loss.

The pull adds ``strength * KL(shares || prior_shares)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from mixray.errors import InputError
from mixray.simplex.checks import Matrix, Vector, checked_shares
from mixray.simplex.feasible import FeasibleSet
from mixray.simplex.objectives.objective import Replicates

SMALLEST_SHARE = 1e-300
"""Stands for a share of 0 inside a logarithm."""


class Goal(Protocol):
    """A convex function of the targets' losses ``(targets,)`` that rises with each of them."""

    def value(self, losses: Vector) -> float: ...

    def target_weights(self, losses: Vector) -> Vector:
        """Return pi, the gradient ``(targets,)``, or a subgradient where there is a kink."""
        ...

    def curvature(self, losses: Vector) -> Matrix | None:
        """Return the second derivative ``(targets, targets)``, or None where it is 0 or does not exist."""
        ...

    def lower_bound(self, losses: Vector, target_weights: Vector) -> float:
        """Return the lower bound on ``value`` that any pi proves."""
        ...


@dataclass(frozen=True, eq=False)
class Mean:
    """The weighted sum of the losses. ``weights``: float64 ``(targets,)``, > 0."""

    weights: Vector

    @classmethod
    def of(cls, weights: ArrayLike | None, targets: int) -> Mean:
        """Return the mean with these weights, 1/targets each by default. Raises InputError unless all are positive."""
        values = np.full(targets, 1 / targets) if weights is None else np.asarray(weights, np.float64)
        if values.shape != (targets,) or not (np.isfinite(values) & (values > 0)).all():
            raise InputError("target_weights: not valid weights", got=values, wanted=f"{targets} finite numbers > 0")
        return cls(values)

    def value(self, losses: Vector) -> float:
        return float(self.weights @ losses)

    def target_weights(self, losses: Vector) -> Vector:
        return self.weights

    def curvature(self, losses: Vector) -> Matrix | None:
        return None

    def lower_bound(self, losses: Vector, target_weights: Vector) -> float:
        return self.value(losses)


class OffsetRule(Protocol):
    """How offsets follow from the documents (``analysis/offsets.py``)."""

    def replicated(self, batch: Sequence[Replicates]) -> Matrix:
        """Return the offsets of every replicate of a batch, ``(replicates, targets)``."""
        ...


@dataclass(frozen=True, eq=False)
class Worst:
    """The worst loss, above the offsets, of all targets.

    ``offsets``: b, nats per token ``(targets,)``. ``prior``: pi_hat, > 0, sum 1 ``(targets,)``. ``tau``: >= 0, nats per
    token; the worst case is smooth where it is > 0. ``rule``: how a replicate's offsets follow from its documents; None
    where they do not depend on these.
    """

    offsets: Vector
    prior: Vector
    tau: float
    rule: OffsetRule | None = None

    @classmethod
    def of(
        cls, targets: int, offsets: ArrayLike | None = None, prior: ArrayLike | None = None, tau: float = 0
    ) -> Worst:
        """Return the worst case, with offsets 0 and an even prior by default.

        Raises InputError for a negative tau, and for a prior that excludes a target: it would never count.
        """
        if not (np.isfinite(tau) and tau >= 0):
            raise InputError("tau: not a valid temperature", got=tau, wanted="a finite number >= 0, nats per token")
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

    def curvature(self, losses: Vector) -> Matrix | None:
        if self.tau == 0:
            return None
        pi = self.target_weights(losses)
        return (np.diag(pi) - np.outer(pi, pi)) / self.tau

    def lower_bound(self, losses: Vector, target_weights: Vector) -> float:
        counts = target_weights > 0
        kl = float(target_weights[counts] @ np.log(target_weights[counts] / self.prior[counts]))
        return float(target_weights @ (losses - self.offsets)) - self.tau * kl


@dataclass(frozen=True, eq=False)
class Prior:
    """A pull to a prior mixture.

    ``shares``: float64 ``(sources,)``; a source that they exclude gets no share. ``strength``: nats per token, > 0.
    """

    shares: Vector
    strength: float

    @classmethod
    def of(cls, prior_shares: ArrayLike | None, strength: float, sources: int) -> Prior | None:
        """Return the pull to these shares, balanced by default, or None for a strength of 0. Raises InputError for
        shares or a strength that are not valid."""
        if not (np.isfinite(strength) and strength >= 0):
            raise InputError(
                "prior_strength: not a valid strength", got=strength, wanted="a finite number >= 0, nats per token"
            )
        shares = np.full(sources, 1 / sources) if prior_shares is None else prior_shares
        shares = checked_shares("prior", shares, sources)
        return cls(shares, strength) if strength > 0 else None

    def value(self, source_shares: Vector) -> float:
        return self.strength * float(source_shares @ self._log_ratio(source_shares))

    def gradient(self, source_shares: Vector) -> Vector:
        return self.strength * (self._log_ratio(source_shares) + 1)

    def curvature(self, source_shares: Vector) -> Vector:
        """Return the diagonal of the second derivative, which is 0 elsewhere."""
        return self.strength / np.maximum(source_shares, SMALLEST_SHARE)

    def least(self, gradient: Vector, feasible: FeasibleSet, group_prices: Vector | None = None) -> float:
        """Return a lower bound on ``<gradient, shares> + value(shares)`` over the set: exact, but for groups' prices.

        ``group_prices``: prices to try besides those computed here, which are poor where the pull is weak.
        """
        log_targets = log_shares(self.shares) - gradient / self.strength
        if not feasible.groups:
            return self._priced_least(gradient, log_targets, np.zeros(0), feasible)
        trials = [feasible.entropic_prices(log_targets)]
        trials += [] if group_prices is None else [group_prices / self.strength]
        return max(self._priced_least(gradient, log_targets, prices, feasible) for prices in trials)

    def _priced_least(self, gradient: Vector, log_targets: Vector, prices: Vector, feasible: FeasibleSet) -> float:
        """Return the bound that prices on the groups' sums, in units of the strength, prove."""
        best = feasible.box.nearest(log_targets + prices @ feasible.member)
        paid = feasible.support(prices) - float(prices @ (feasible.member @ best))
        return float(gradient @ best) + self.value(best) + self.strength * paid

    def _log_ratio(self, source_shares: Vector) -> Vector:
        return log_shares(source_shares) - log_shares(self.shares)


def log_shares(shares: Vector) -> Vector:
    """Return the logarithm of shares, finite for a share of 0."""
    return np.log(np.maximum(shares, SMALLEST_SHARE))
