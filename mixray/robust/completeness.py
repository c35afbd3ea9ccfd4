"""Completeness: is what a representation knows of a factor held by one dimension, or spread over many?

DCI (Eastwood & Williams, ICLR 2018): with R[d, j] >= 0 the importance of dimension d for predicting factor j,

    p_dj = R_dj / sum_d R_dj,   C_j = 1 + sum_d p_dj log_D p_dj,   C = sum_j rho_j C_j,   rho_j = sum_d R_dj / sum R

with D dimensions. One dimension gives 1, k equal ones 1 - log k / log D: 5 dimensions are .589 of 50 and .789 of 2048.
So the number means nothing without D, and it changes with the basis (a PCA), and with what measures importance: the
result carries them all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import xlogy
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from mixray.config.robust import Estimator
from mixray.errors import InputError


@dataclass(frozen=True, eq=False)
class Completeness:
    """How complete a representation is. completeness: in [0, 1]; per_factor: C_j, (factors,).

    dimensions: D. estimator: what measured importance. kept_variance: in [0, 1], of the PCA; None without one.
    """

    completeness: float
    per_factor: tuple[float, ...]
    dimensions: int
    estimator: str
    kept_variance: float | None


def from_importance(importance: ArrayLike, *, estimator: str, kept_variance: float | None = None) -> Completeness:
    """Return the completeness of importances R, (dimensions, factors), not negative.

    A factor that no dimension predicts has C_j = 0 and weight 0. Raises InputError for fewer than 2 dimensions and for
    a matrix of zeros.
    """
    table = np.asarray(importance, dtype=np.float64)
    if table.ndim != 2 or len(table) < 2 or not np.isfinite(table).all() or (table < 0).any() or not table.any():
        raise InputError(
            "importance must be a matrix of non-negative numbers",
            where="importance",
            got=f"shape {table.shape}, smallest {table.min() if table.size else None}",
            wanted="shape (dimensions, factors), at least 2 dimensions, not all 0",
        )
    totals = table.sum(axis=0)
    shares = np.divide(table, totals, out=np.full_like(table, 1 / len(table)), where=totals > 0)
    per_factor = 1 + xlogy(shares, shares).sum(axis=0) / math.log(len(table))
    weights = totals / totals.sum()
    return Completeness(float(weights @ per_factor), tuple(per_factor.tolist()), len(table), estimator, kept_variance)


def completeness(
    features: ArrayLike, factors: ArrayLike, *, estimator: Estimator, seed: int, pca: int | None = None
) -> Completeness:
    """Return the completeness of features, (rows, dimensions), for factors, integer classes (rows, factors).

    estimator: one classifier per factor; importances of its trees, or absolute coefficients of standardised
    features (mean over classes). pca: first rotate and cut to so many dimensions. seed: of both.
    Raises InputError where shapes do not fit together, and where a factor has one class.
    """
    codes, classes = np.asarray(features, dtype=np.float64), np.asarray(factors)
    if estimator not in get_args(Estimator):
        raise InputError("no such estimator", where="estimator", got=estimator, wanted=" | ".join(get_args(Estimator)))
    if codes.ndim != 2 or classes.ndim != 2 or len(codes) != len(classes) or not classes.shape[1]:
        raise InputError(
            "features and factors do not fit together",
            where="features, factors",
            got=f"shapes {codes.shape} and {classes.shape}",
            wanted="(rows, dimensions) and (rows, factors)",
        )
    single = [j for j in range(classes.shape[1]) if len(np.unique(classes[:, j])) < 2]
    if single:
        raise InputError("a factor has one class only", where=f"factors, column {single[0]}")
    kept_variance = None
    if pca is not None:
        if not 2 <= pca <= min(codes.shape):
            raise InputError("no such number of dimensions", where="pca", got=pca, wanted=f"2 to {min(codes.shape)}")
        rotation = PCA(pca, svd_solver="full").fit(codes)
        codes, kept_variance = rotation.transform(codes), float(rotation.explained_variance_ratio_.sum())
    columns = [_importance(codes, classes[:, j], estimator, seed) for j in range(classes.shape[1])]
    return from_importance(np.column_stack(columns), estimator=estimator, kept_variance=kept_variance)


def _importance(codes: NDArray[np.float64], classes: NDArray[np.generic], estimator: str, seed: int) -> ArrayLike:
    """Return the importance of every dimension, (dimensions,), not negative."""
    if estimator == "l1_logistic":
        spread = codes.std(axis=0)
        scaled = (codes - codes.mean(axis=0)) / np.where(spread > 0, spread, 1)
        model = LogisticRegression(l1_ratio=1.0, solver="saga", max_iter=10_000, random_state=seed)
        coefficients: NDArray[np.float64] = np.abs(model.fit(scaled, classes).coef_).mean(axis=0)
        return coefficients
    forest = GradientBoostingClassifier if estimator == "gradient_boosting" else RandomForestClassifier
    importances: NDArray[np.float64] = forest(random_state=seed).fit(codes, classes).feature_importances_
    return importances
