"""Shadow prices: what each active limit costs, that is, what loosening it would bring.

At the optimum the gradient, less the prices of the groups a source is in, is one number (the price of the sum) for all
sources between their bounds; at a lower bound it may be higher, at an upper one lower. The difference is the bound's
price: the loss falls by the price times the share by which the limit is loosened, to first order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixray.simplex.checks import Mask, Vector
from mixray.simplex.problem import Point
from mixray.simplex.solvers.quadratic import optimal_target_weights

AT_LIMIT = 1e-9
"""A share this near to a limit is at it."""


@dataclass(frozen=True, eq=False)
class Prices:
    """Nats per token by which the minimised value falls per unit of share that a limit is loosened, >= 0; 0 where it is
    not reached, and for a source that must have none: what a first share of it would bring, no slope tells.

    ``lower``, ``upper``: ``(sources,)``, 0 for the simplex' own bounds 0 and 1; ``group_lower``, ``group_upper``:
    ``(groups,)``.
    """

    lower: Vector
    upper: Vector
    group_lower: Vector
    group_upper: Vector


def shadow_prices(point: Point) -> Prices:
    """The prices at the optimum."""
    feasible, shares, prior = point.problem.feasible, point.shares, point.problem.prior
    gradient = optimal_target_weights(point) @ point.jacobian + (prior.gradient(shares) if prior else 0.0)
    group_prices = np.zeros(feasible.groups)
    if feasible.groups:
        sums = feasible.member @ shares
        found = feasible.linear_prices(gradient)
        group_prices = np.where(sums <= feasible.group_lower + AT_LIMIT, np.maximum(found, 0.0), 0.0)
        group_prices += np.where(sums >= feasible.group_upper - AT_LIMIT, np.minimum(found, 0.0), 0.0)
    priced = gradient - group_prices @ feasible.member
    at_lower, at_upper = shares <= feasible.lower + AT_LIMIT, shares >= feasible.upper - AT_LIMIT
    between = np.where(at_lower | at_upper, 0.0, shares - feasible.lower)
    level = _level(priced, at_lower & ~at_upper, at_upper & ~at_lower, between)
    return Prices(
        lower=np.where(at_lower & (feasible.lower > 0), np.maximum(priced - level, 0.0), 0.0),
        upper=np.where(at_upper & (feasible.upper < 1), np.maximum(level - priced, 0.0), 0.0),
        group_lower=np.maximum(group_prices, 0.0),
        group_upper=np.maximum(-group_prices, 0.0),
    )


def _level(priced: Vector, at_lower: Mask, at_upper: Mask, between: Vector) -> float:
    """The price of the sum: that of the sources between their bounds, most of all of those with much to lose, else the
    middle of what the others leave open."""
    if between.any():
        return float(np.average(priced, weights=between))
    ends = [*(priced[at_lower].min(keepdims=True) if at_lower.any() else [])]
    ends += [*(priced[at_upper].max(keepdims=True) if at_upper.any() else [])]
    return float(np.mean(ends)) if ends else float(priced.mean())
