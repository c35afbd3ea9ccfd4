"""Which mixtures to train the small models of a swarm on, and which mixtures a method may choose from.

All functions return source shares, float64 (mixtures, sources), rows that sum to 1. ``prior``: float64 (sources,), the
shares that random mixtures scatter around.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mixray.errors import InputError

Floats = NDArray[np.float64]
Design = Literal["dirichlet", "sobol", "d_optimal", "around_answer"]

CONCENTRATIONS = (0.1, 5.0)
"""Random mixtures are drawn at concentrations, evenly in their logarithm, from nearly one source to nearly the prior
(RegMix's range, times the number of sources)."""
POOL = 2000
"""Random mixtures that a D-optimal design is picked from."""
NEAR = 20.0
"""The concentration of mixtures around an answer: the standard deviation of a share of 0.5 is 0.11."""
LEAST = 1e-3
"""Added to the prior, so that every source has some share in a random mixture."""


def random_mixtures(count: int, prior: Floats, seed: int) -> Floats:
    """Draw mixtures from Dirichlet distributions around the prior, from concentrated to even ones."""
    draw = np.random.default_rng(seed)
    low, high = np.log(CONCENTRATIONS)
    concentrations = np.exp(draw.uniform(low, high, (count, 1)))
    return _normalised(draw.standard_gamma(concentrations * _positive(prior) * len(prior)))


def sobol_mixtures(count: int, sources: int, seed: int) -> Floats:
    """Return mixtures that cover the simplex evenly: a scrambled Sobol sequence, made Dirichlet(1/2)."""
    from scipy.special import gammaincinv  # start-up is lazy: only swarms need scipy
    from scipy.stats.qmc import Sobol

    # A whole power of 2 is balanced; its first points are a good design, too.
    points = Sobol(sources, scramble=True, rng=np.random.default_rng(seed)).random_base2(
        (max(count, 2) - 1).bit_length()
    )
    return _normalised(np.asarray(gammaincinv(0.5, np.clip(points[:count], 1e-12, 1 - 1e-12)), np.float64))


def d_optimal_mixtures(count: int, prior: Floats, seed: int) -> Floats:
    """Pick from random mixtures, one by one, the one that most enlarges det(X'X) of a model in shares and their roots.

    That determinant is the inverse volume of the confidence ellipsoid of the model's coefficients.
    """
    pool = random_mixtures(max(POOL, 4 * count), prior, seed)
    features = np.hstack([pool, np.sqrt(pool)])
    inverse = np.eye(features.shape[1]) / 1e-3
    chosen: list[int] = []
    for _ in range(count):
        leverage = ((features @ inverse) * features).sum(axis=1)
        leverage[chosen] = -1.0
        best = int(leverage.argmax())
        chosen.append(best)
        direction = inverse @ features[best]
        inverse -= np.outer(direction, direction) / (1 + features[best] @ direction)
    return pool[chosen]


def mixtures_around(count: int, answers: Floats, prior: Floats, seed: int) -> Floats:
    """Return mixtures around answers, float64 (answers, sources), and on the straight paths from them to the prior.

    Every other one is a draw around a point of a path; the points move from the answer to half way to the prior.
    """
    draw = np.random.default_rng(seed)
    mixtures = []
    for number in range(count):
        answer = answers[number % len(answers)]
        turn = number // len(answers)
        way = 0.5 * draw.uniform()
        point = (1 - way) * answer + way * prior
        is_path = turn % 2 == 0
        mixtures.append(point if is_path else draw.dirichlet(NEAR * _positive(point)))
    return np.array(mixtures).reshape(count, len(prior))


def swarm_mixtures(design: Design, count: int, prior: Floats, answers: Floats, seed: int) -> Floats:
    """Return the mixtures of a swarm by the name of its design. ``answers``: only ``around_answer`` uses them."""
    if count == 0:
        return np.empty((0, len(prior)))
    if design == "around_answer":
        return mixtures_around(count, answers, prior, seed)
    if design == "sobol":
        return sobol_mixtures(count, len(prior), seed)
    return (d_optimal_mixtures if design == "d_optimal" else random_mixtures)(count, prior, seed)


def _positive(shares: Floats) -> Floats:
    return _normalised(np.asarray(shares, np.float64) + LEAST)


def _normalised(values: Floats) -> Floats:
    sums = values.sum(axis=-1, keepdims=True)
    if not (sums > 0).all():
        raise InputError("a mixture has no share above 0", got=values.tolist())
    return np.asarray(values / sums, np.float64)
