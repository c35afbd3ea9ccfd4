"""The plain maximum over targets by way of smooth ones, where Newton's method stalls at a kink.

The worst case of temperature tau is at most tau log(1 / min pi_hat) below the plain maximum, everywhere (see
``mixray.simplex.goal``). So the shares that are best for a small tau are nearly best for tau = 0, and the target
weights there prove it: the certificate is that of the problem itself. Each temperature starts from the shares of the
last, ten times as high.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from mixray.simplex.checks import Vector
from mixray.simplex.goal import Worst
from mixray.simplex.problem import Point, Problem, Proof
from mixray.simplex.solvers.loop import Outcome, better, minimise
from mixray.simplex.solvers.newton import Newton

HIGHEST = 1.0
"""Nats per token: the temperature to begin with, at most."""
ROUNDS_ALONE, ROUNDS_EACH = 100, 60
"""Rounds after which Newton's method alone is taken to stall, and of every problem on the way."""
NEWTON = Newton()


def minimise_worst(problem: Problem, start: Vector, tolerance: float, max_rounds: int) -> Outcome:
    """Minimise a worst case with tau = 0 as ``minimise`` does, by Newton's method and then by smooth problems.

    In the trace, each smooth problem counts as one round; its value may lie above that of the round before.
    """
    goal = problem.goal
    assert isinstance(goal, Worst)
    outcome = minimise(problem, NEWTON, start, tolerance, min(max_rounds, ROUNDS_ALONE))
    traces, rounds = [outcome.trace], len(outcome.trace) - 1
    for temperature in _temperatures(goal, outcome.point.gap, tolerance):
        left = max_rounds - rounds
        if outcome.status == "converged" or left <= 0:
            break
        smooth = _smooth_optimum(problem, goal, temperature, outcome.point, min(left, ROUNDS_EACH))
        again = minimise(problem, NEWTON, problem.inside(smooth.shares), tolerance, min(left - 1, ROUNDS_EACH))
        point = better(better(smooth, outcome.point), again.point)
        # Where rounding hides which value is lower, the proof decides.
        point = next((each for each in (smooth, again.point) if each.gap <= tolerance), point)
        rounds += 1 + len(again.trace)
        traces += [np.array([[smooth.value, smooth.gap]]), again.trace]
        outcome = Outcome(point, "converged" if point.gap <= tolerance else outcome.status, np.concatenate(traces))
    return outcome


def _temperatures(goal: Worst, gap: float, tolerance: float) -> Iterator[float]:
    """Yield falling temperatures: the first is above the gap, which is as far as there is to go, and the last is below
    the plain maximum by at most half of the tolerance."""
    lowest = tolerance / 2 / max(float(np.log(1 / goal.prior.min())), 1.0)
    temperature = min(HIGHEST, 10 * gap)
    while temperature > lowest:
        yield temperature
        temperature /= 10
    yield lowest


def _smooth_optimum(problem: Problem, goal: Worst, temperature: float, start: Point, rounds: int) -> Point:
    """Return the best point of a smooth problem as a point of the problem itself, with its proof."""
    smooth = replace(problem, goal=replace(goal, tau=temperature))
    optimum = minimise(smooth, NEWTON, problem.inside(start.shares), temperature / 100, rounds).point
    prices = np.zeros(problem.feasible.groups) if optimum.proof is None else optimum.proof.group_prices
    return problem.at(optimum.shares, proof=Proof(optimum.target_weights, prices))
