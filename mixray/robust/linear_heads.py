"""Linear heads on fixed features, at the minimum: ERM and Group DRO, the latter with a certificate.

Softmax regression with a penalty on all parameters, the bias among them (it is the weight of a feature that is 1):

    ERM        min over w  sum_i share_i loss_i(w) + mu/2 |w|^2
    Group DRO  min over w, max over q of  sum_g q_g L_g(w) + mu/2 |w|^2  =: D_q(w)

The dual, d(q) = min over w of D_q(w), is concave and smooth with gradient L(w_q), and has as many variables as there
are groups. It is maximised over the simplex; every inner minimum starts from the last one. At any w and q the value
R(w) = max_g L_g(w) + mu/2 |w|^2 is at most

    R(w) - D_q(w) + |gradient of D_q at w|^2 / (2 mu)

above the minimum, because D_q is mu-strongly convex: the certificate, which needs nothing to have converged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp

from mixray.errors import InputError

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Head:
    """A head that minimises. weights: (classes, features); bias: (classes,); both float64 and both penalised.

    group_losses: L_g, nats, (groups,), without the penalty; worst_objective: R, with it; objective: what was minimised;
    error: a bound on objective - its minimum; group_weights: the q that a Group DRO head is the ERM head of, else None.
    """

    weights: Matrix
    bias: Vector
    group_losses: Vector
    objective: float
    worst_objective: float
    error: float
    group_weights: Vector | None

    @property
    def parameters(self) -> Matrix:
        """All that is penalised, (classes, features + 1): what the strong-convexity bound measures distances of."""
        return np.column_stack([self.weights, self.bias])


@dataclass(frozen=True, eq=False)
class HeadProblem:
    """The rows and the penalty that heads are fitted to.

    features: float64 (rows, features); labels, group_ids: int64 (rows,); l2: mu, above 0. Raises InputError where these
    do not fit together, where a group has no rows, and where the labels have one class.
    """

    features: Matrix
    labels: Ids
    group_ids: Ids
    l2: float

    def __post_init__(self) -> None:
        rows = len(self.features)
        if self.features.ndim != 2 or not rows or self.labels.shape != (rows,) or self.group_ids.shape != (rows,):
            raise InputError(
                "features, labels and group ids do not fit together",
                where="HeadProblem",
                got=f"shapes {self.features.shape}, {self.labels.shape}, {self.group_ids.shape}",
                wanted="(rows, features), (rows,), (rows,)",
            )
        if not np.isfinite(self.features).all() or min(self.labels.min(), self.group_ids.min()) < 0:
            raise InputError("features must be finite, labels and group ids not negative", where="HeadProblem")
        if len(np.unique(self.labels)) < 2:
            raise InputError("a head needs labels of two classes", where="labels", got=np.unique(self.labels).tolist())
        if not self.l2 > 0:
            raise InputError("without a penalty the minimum may not exist", where="l2", got=self.l2, wanted="above 0")
        empty = np.flatnonzero(np.bincount(self.group_ids) == 0)
        if len(empty):
            raise InputError("a group has no training rows", where=f"group_ids, group {empty.tolist()}")

    @property
    def num_groups(self) -> int:
        return int(self.group_ids.max()) + 1

    @property
    def num_classes(self) -> int:
        return int(self.labels.max()) + 1

    def erm(self, row_weights: Vector | None = None) -> Head:
        """Return the head of least mean loss, weighted by ``row_weights``, (rows,), not negative, unless None."""
        weights = np.ones(len(self.labels)) if row_weights is None else row_weights
        weights = weights / weights.sum()
        flat, value, slope = self._minimum(weights, self._start())
        return self._head(flat, value, float(slope @ slope) / (2 * self.l2), None)

    def group_dro(self, *, tolerance: float = 1e-9, rounds: int = 200) -> Head:
        """Return the head of least worst-group loss; ``error`` is its certificate, about ``tolerance``."""
        flat = self._start()
        best: list[Head] = []

        def dual(group_weights: Vector) -> tuple[float, Vector]:
            nonlocal flat
            q = np.clip(group_weights, 0, None)
            q /= q.sum()
            flat, value, slope = self._minimum(self._row_weights(q), flat)
            losses = self.group_losses(flat)
            worst = float(losses.max()) + self.l2 / 2 * float(flat @ flat)
            error = worst - value + float(slope @ slope) / (2 * self.l2)
            if not best or error < best[0].error:
                best[:] = [self._head(flat, worst, error, q)]
            return -value, -losses

        groups = self.num_groups
        minimize(
            dual,
            np.full(groups, 1 / groups),
            jac=True,
            method="SLSQP",
            bounds=[(0, 1)] * groups,
            constraints={"type": "eq", "fun": lambda q: q.sum() - 1, "jac": np.ones_like},
            options={"maxiter": rounds, "ftol": tolerance**2},
        )
        return best[0]

    def group_losses(self, flat: Vector) -> Vector:
        """Return the mean loss of each group, nats, (groups,), at parameters (classes * (features + 1),)."""
        sums = np.bincount(self.group_ids, weights=self._losses(flat)[0])
        return sums / np.bincount(self.group_ids)

    def _row_weights(self, group_weights: Vector) -> Vector:
        return (group_weights / np.bincount(self.group_ids))[self.group_ids]

    def _start(self) -> Vector:
        return np.zeros(self.num_classes * (self.features.shape[1] + 1))

    def _losses(self, flat: Vector) -> tuple[Vector, Matrix]:
        """Return losses (rows,) and class probabilities (rows, classes)."""
        parameters = flat.reshape(self.num_classes, -1)
        logits = self.features @ parameters[:, :-1].T + parameters[:, -1]
        log_probs = logits - logsumexp(logits, axis=1, keepdims=True)
        return -log_probs[np.arange(len(logits)), self.labels], np.exp(log_probs)

    def _minimum(self, row_weights: Vector, start: Vector) -> tuple[Vector, float, Vector]:
        """Return parameters, objective and gradient at the minimum of the weighted loss with the penalty."""

        def objective(flat: Vector) -> tuple[float, Vector]:
            losses, slope = self._losses(flat)
            slope[np.arange(len(slope)), self.labels] -= 1
            slope *= row_weights[:, None]
            gradient = np.column_stack([slope.T @ self.features, slope.sum(axis=0)]).ravel() + self.l2 * flat
            return float(row_weights @ losses) + self.l2 / 2 * float(flat @ flat), gradient

        options = {"maxiter": 10_000, "maxfun": 20_000, "ftol": 0.0, "gtol": 1e-10, "maxcor": 30}
        flat = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
        return flat, *objective(flat)

    def _head(self, flat: Vector, objective: float, error: float, group_weights: Vector | None) -> Head:
        parameters, losses = flat.reshape(self.num_classes, -1), self.group_losses(flat)
        worst = float(losses.max()) + self.l2 / 2 * float(flat @ flat)
        return Head(parameters[:, :-1].copy(), parameters[:, -1].copy(), losses, objective, worst, error, group_weights)
