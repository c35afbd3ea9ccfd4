"""What a mixture gains over a baseline on documents that did not choose it.

The mixture was fitted to the documents, so its loss on them is too low, by the fit's optimism. On the tangent space of
the sources that have a share, with H the curvature of the loss and V the covariance of its gradient over documents,

    gain = gain on the documents - tr(H^-1 V)          variance = that of the paired difference + 2 tr((H^-1 V)^2)

(Takeuchi's information criterion, 1976; the second term is that of the quadratic form whose mean is the optimism).
The documents lie nearer to their own fit than others do, so that V and the paired variance come out too small: both are
multiplied by n / (n - k - 1), for n documents and k directions in which the shares can move (as in least squares;
MacKinnon and White 1985, whose leverages are here all taken at their mean).
The moments are taken over bootstrap replicates, in each of which the shares follow the gradient by H^-1 without
another solve (``sampling.py``): so they hold for several targets, limits, a pull to a prior and rows on shards, too. A
worst case adds that its losses, equal on the documents that chose the mixture, are not equal on others.

With fewer than ``FEW_DOCUMENTS`` for a direction the quadratic model is not good enough: fresh documents are of kinds
that one or none of these documents shows. The gain, and the variance of the paired difference, are then cross-fitted
where that can be (``cross_fit.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mixray.errors import InputError
from mixray.numerics import Z95, interval95
from mixray.simplex.analysis.cross_fit import cross_fit
from mixray.simplex.analysis.sampling import Noise, Response, Samples, response, sampled_noise
from mixray.simplex.checks import Vector, checked_shares
from mixray.simplex.goal import Goal
from mixray.simplex.problem import Point

REPLICATES = 200
FEW_DOCUMENTS = 20
"""For each direction in which the shares can move."""
MOST_TIMES = 1e4
"""A sample that must grow by more than this is not worth naming."""


@dataclass(frozen=True)
class Gain:
    """What a mixture gains over a baseline, nats per token.

    ``estimate``: loss(baseline) - loss(mixture) on fresh documents; ``low``, ``high``: its 95 % interval, NaN where a
    target has one document. ``optimism``: by how much the difference on the documents that chose the mixture is larger.
    ``more_documents``: how many more documents, of all targets together, are expected to tell the gain from zero: 0
    where the interval excludes zero, None where no number of documents is expected to.
    """

    estimate: float
    optimism: float
    low: float
    high: float
    more_documents: int | None

    @property
    def is_separated(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def gains(
    chosen: Point,
    baselines: Mapping[str, ArrayLike],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
    cross_fitting: bool = True,
) -> dict[str, Gain]:
    """Return what a mixture gains over every baseline.

    Args:
        chosen: the mixture, as the optimum of its problem (with a pull to a prior where that chose it).
        baselines: name -> shares ``(sources,)``.
        seed: the same seed gives the same bits.
        replicates: how many samples the moments are taken over.
        cross_fitting: whether gains of few documents are cross-fitted, which solves the problem ten times more.

    Raises:
        InputError: for fewer than two replicates, and a baseline that is not a valid mixture or gives some rows
            probability 0.
    """
    if replicates < 2:
        raise InputError("gains: too few replicates", got=replicates, wanted=">= 2")
    problem = chosen.problem
    shares = {name: checked_baseline(chosen, name, baseline) for name, baseline in baselines.items()}
    mixtures = np.array([*shares.values(), chosen.shares])
    noise = sampled_noise(problem, chosen.shares, mixtures, seed=seed, replicates=replicates)
    follows = response(chosen)
    counts = [objective.documents for objective in problem.objectives]
    weights = follows.target_weights
    effective = 1 / float((weights**2 / np.array(counts)).sum())  # documents, of all targets as much as they count
    factor = effective / max(effective - follows.free - 1, 1.0)
    is_few = effective < FEW_DOCUMENTS * follows.free
    crossed = cross_fit(chosen, seed=seed) if cross_fitting and is_few else None
    mixture = _Judged.of(chosen, noise.scaled(math.sqrt(factor)), follows)
    results = {}
    for place, (name, each) in enumerate(shares.items()):
        losses = np.array([objective.loss(each) for objective in problem.objectives])
        in_sample = problem.goal.value(losses) - problem.goal.value(chosen.losses)
        moments = mixture.moments(losses, math.sqrt(factor) * noise.losses[:, :, place])
        if crossed is not None:
            paired = factor * float(weights**2 @ crossed.paired_variances(each))
            fit_variance = max(0.0, moments.variance - moments.paired_variance)
            moments = _Moments(problem.goal.value(crossed.losses - chosen.losses), paired, paired + fit_variance)
        rounding = 16 * float(np.spacing(np.abs(losses).max()))
        results[name] = _gain(in_sample, moments, counts, rounding)
    return results


def checked_baseline(chosen: Point, name: str, baseline: ArrayLike) -> Vector:
    """Return a baseline's shares. Raises InputError where they are not valid or give some rows probability 0."""
    shares = checked_shares(f"baseline {name}", baseline, chosen.problem.sources)
    if not all(np.isfinite(objective.loss(shares)) for objective in chosen.problem.objectives):
        raise InputError(f"baseline {name!r} gives some rows probability 0", wanted="a finite loss")
    return shares


@dataclass(frozen=True)
class _Moments:
    """``optimism``: nats per token; ``paired_variance``: of the difference on the documents; ``variance``: with that of
    the fit."""

    optimism: float
    paired_variance: float
    variance: float


@dataclass(frozen=True, eq=False)
class _Judged:
    """The mixture's losses ``(targets,)``, and how much higher those on fresh documents are in every replicate: by the
    documents' own noise, and by the fit, each ``(replicates, targets)``."""

    goal: Goal
    losses: Vector
    noise: Samples
    fit: Samples

    @classmethod
    def of(cls, chosen: Point, noise: Noise, follows: Response) -> _Judged:
        losses = noise.losses[:, :, -1]
        change = follows.to(noise.gradients, losses)
        # A replicate's deviation is how the sample at hand differs from fresh documents: fresh ones lack it.
        fit = -np.einsum("rtk,rk->rt", noise.gradients[:, :, follows.columns], change)
        return cls(chosen.problem.goal, chosen.losses, -losses, fit)

    def moments(self, baseline_losses: Vector, baseline_noise: Samples) -> _Moments:
        """Return the moments against a baseline. ``baseline_noise``: deviations of its losses, ``(replicates,
        targets)``."""
        unbiased = len(self.noise) / (len(self.noise) - 1)  # the replicates are centred on their own mean
        rise = _rises(self.goal, self.losses, self.noise + self.fit)
        # Which loss of the baseline is the largest the documents decided, of those of the mixture the fit made equal.
        baseline_rise = -_rises(self.goal, baseline_losses, baseline_noise)
        paired = baseline_rise - _rises(self.goal, self.losses, self.noise)
        return _Moments(
            unbiased * float((rise - baseline_rise).mean()),
            float(paired.var(ddof=1)),
            float((baseline_rise - rise).var(ddof=1)),
        )


def _gain(in_sample: float, moments: _Moments, documents: list[int], rounding: float) -> Gain:
    """Return the gain. ``in_sample``: on the documents; ``rounding``: a difference that is none, nats per token."""
    estimate = in_sample - moments.optimism
    error = max(math.sqrt(moments.variance), rounding)
    low, high = (math.nan, math.nan) if min(documents) < 2 else interval95(estimate, error)
    is_separated = low > 0 or high < 0
    more: int | None = None
    if abs(in_sample) > rounding:
        more = 0 if is_separated else _more_documents(sum(documents), in_sample, moments)
    return Gain(estimate, moments.optimism, low, high, more)


def _rises(goal: Goal, losses: Vector, changes: Samples) -> Vector:
    """Return by how much the goal rises with changes of the losses ``(replicates, targets)``."""
    here = goal.value(losses)
    return np.array([goal.value(losses + change) - here for change in changes])


def _more_documents(documents: int, in_sample: float, moments: _Moments) -> int | None:
    """Return how many more documents would separate the gain from zero.

    With x times fewer noise, x = documents / those of the larger sample, the expected gain is that of the best mixture,
    in_sample - optimism / 2, less x optimism / 2; its variance falls with x, that of the fit with x^2.
    """
    fit_variance = max(0.0, moments.variance - moments.paired_variance)

    def lower_end(x: float) -> float:
        variance = moments.paired_variance * x + fit_variance * x * x
        return in_sample - moments.optimism * (1 + x) / 2 - Z95 * math.sqrt(variance)

    if not lower_end(1 / MOST_TIMES) > 0:
        return None
    small, large = 1 / MOST_TIMES, 1.0
    for _ in range(60):
        middle = (small + large) / 2
        small, large = (middle, large) if lower_end(middle) > 0 else (small, middle)
    return math.ceil(documents / small) - documents
