"""Surrogates: what a mixture's loss would be, learned from a swarm, the losses of small models on known mixtures.

Every function takes the swarm's ``shares``, float64 (runs, sources), rows that sum to 1, and ``losses``, float64
(runs,), of one target, and returns a function from shares (mixtures, sources) to losses (mixtures,). Several targets
are learned one by one: the logarithm of a mean of laws is not a law.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixray.errors import InputError

Floats = NDArray[np.float64]
Predict = Callable[[Floats], Floats]
"""Shares (mixtures, sources) -> losses (mixtures,)."""
Fit = Callable[[Floats, Floats], Predict]
"""Shares (runs, sources) and losses (runs,) -> what predicts others."""

FEWEST_RUNS = 4
HUBER = 0.02
"""Residuals beyond it, in the unit of the losses, count linearly (Olmix and the mixing laws' authors use it, too)."""
LAW_STARTS = 8
MOST_TREES = 1000
TREES: dict[str, object] = {
    "objective": "regression",
    "learning_rate": 0.01,
    "num_leaves": 8,
    "min_data_in_leaf": 3,
    "min_data_in_bin": 1,  # else a small swarm is a constant
    "feature_fraction": 0.7,
    "seed": 0,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}
"""Chosen on RegMix's published training runs: they suit swarms of 32 to 512 models."""


def gaussian_process(shares: Floats, losses: Floats, prior_mean: Predict | None = None) -> Predict:
    """Learn a Gaussian process on the square roots of the shares, where equal distances are about equally telling.

    Its kernel is a sum of a squared exponential, a linear one and noise, whose sizes are fitted by maximum likelihood.
    ``prior_mean``: predicts the losses up to their level and scale, such as the mixture loss of single-source proxies;
    the process then learns what is left of them.
    """
    from sklearn.exceptions import ConvergenceWarning  # start-up is lazy: only methods need it
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

    _require_runs(shares, losses)
    mean = _constant(losses) if prior_mean is None else _scaled(prior_mean, shares, losses)
    residuals = losses - mean(shares)
    scale = float(residuals.std()) or 1.0
    kernel = (
        ConstantKernel(1.0, (1e-3, 1e3)) * RBF(1.0, (1e-2, 1e2))
        + ConstantKernel(0.1, (1e-5, 1e3)) * DotProduct(1.0, "fixed")
        + WhiteKernel(1e-2, (1e-6, 1e1))
    )
    process = GaussianProcessRegressor(kernel, n_restarts_optimizer=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a scale at its bound is an answer
        process.fit(np.sqrt(shares), residuals / scale)
    return lambda mixtures: mean(mixtures) + scale * np.asarray(process.predict(np.sqrt(mixtures)), np.float64)


def ridge(shares: Floats, losses: Floats) -> Predict:
    """Learn a linear function of the shares and of log(share + 0.001), whose penalty is chosen by leaving one out."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def features(mixtures: Floats) -> Floats:
        return np.hstack([mixtures, np.log(mixtures + 1e-3)])

    _require_runs(shares, losses)
    model: Any = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 25)))
    model.fit(features(shares), losses)
    return lambda mixtures: np.asarray(model.predict(features(mixtures)), np.float64)


def mixing_law(shares: Floats, losses: Floats) -> Predict:
    """Learn the data mixing law, loss = exp(c) + exp(b + shares @ t) (Ye et al. 2024, arXiv 2403.16952).

    Of one target, such a law is smallest at a single source; mixtures come from several targets, or from averaging.
    The Huber loss of the residuals is minimised from several starts, of which the best is taken. ``b`` is part of
    ``t``, because shares sum to 1.
    """
    from scipy.optimize import minimize

    _require_runs(shares, losses)
    level, spread = float(losses.min()), max(float(np.ptp(losses)), 1e-6)

    def objective(parameters: Floats) -> tuple[float, Floats]:
        floor, term = np.exp(parameters[0]), np.exp(np.minimum(shares @ parameters[1:], 50.0))
        residuals = floor + term - losses
        slopes = np.clip(residuals, -HUBER, HUBER)
        value = slopes * (residuals - slopes / 2)
        gradient = np.concatenate([[floor * slopes.sum()], (slopes * term) @ shares])
        return float(value.sum()), gradient

    draw = np.random.default_rng(0)
    best, parameters = np.inf, np.zeros(1 + shares.shape[1])
    for start in range(LAW_STARTS):
        # The floor may lie anywhere below the smallest loss: what the mixtures share is not known.
        floor = max(level - spread * (0.1 + 2.0 * start / LAW_STARTS), 0.05 * level)
        first = np.concatenate(
            [[np.log(floor)], np.log(max(level + spread / 2 - floor, 1e-6)) + draw.normal(0, 0.5, shares.shape[1])]
        )
        fitted = minimize(objective, first, jac=True, method="L-BFGS-B", options={"maxiter": 500})
        if fitted.fun < best:
            best, parameters = float(fitted.fun), np.asarray(fitted.x, np.float64)
    law = parameters
    return lambda mixtures: np.exp(law[0]) + np.exp(np.minimum(mixtures @ law[1:], 50.0))


def require_lightgbm() -> None:
    """Raise InputError where LightGBM is not installed."""
    if find_spec("lightgbm") is None:
        raise InputError(
            "the method regmix needs LightGBM", got="it is not installed", remedy="pip install 'mixray[trees]'"
        )


def boosted_trees(shares: Floats, losses: Floats) -> Predict:
    """Learn gradient boosted trees, as RegMix does (Liu et al. 2024, arXiv 2407.01492).

    A sixth of the runs decides after how many trees to stop; those are runs of the swarm, never runs to predict.
    Raises InputError where LightGBM is not installed.
    """
    require_lightgbm()
    import lightgbm

    _require_runs(shares, losses)
    order = np.random.default_rng(0).permutation(len(losses))
    judged, taught = np.split(order, [max(1, len(order) // 6)])
    train = lightgbm.Dataset(shares[taught], losses[taught])
    booster = lightgbm.train(
        TREES,
        train,
        num_boost_round=MOST_TREES,
        valid_sets=[lightgbm.Dataset(shares[judged], losses[judged], reference=train)],
        callbacks=[lightgbm.early_stopping(20, verbose=False)],
    )
    return lambda mixtures: np.asarray(booster.predict(mixtures, num_threads=1), np.float64)


def _require_runs(shares: Floats, losses: Floats) -> None:
    if shares.ndim != 2 or losses.shape != (len(shares),):
        raise InputError("a swarm needs one loss for each mixture", got=f"{shares.shape}, {losses.shape}")
    if len(shares) < FEWEST_RUNS:
        raise InputError("the swarm is too small to learn from", got=f"{len(shares)} runs", wanted=f">= {FEWEST_RUNS}")
    if not (np.isfinite(shares).all() and np.isfinite(losses).all()):
        raise InputError("the swarm holds numbers that are not finite")


def _constant(losses: Floats) -> Predict:
    mean = float(losses.mean())
    return lambda mixtures: np.full(len(mixtures), mean)


def _scaled(prior_mean: Predict, shares: Floats, losses: Floats) -> Predict:
    """Return the prediction with the level and the scale, >= 0, that fit the losses best."""
    predicted = prior_mean(shares)
    centred = predicted - predicted.mean()
    spread = float(centred @ centred)
    slope = max(0.0, float(centred @ losses) / spread) if spread else 0.0
    level = float(losses.mean()) - slope * float(predicted.mean())
    return lambda mixtures: level + slope * prior_mean(mixtures)
