"""Where a linear head points, and what its distance from the robust head proves.

Alignment is the cosine of two heads, flattened. A softmax does not see what is added to all classes alike, so each
weight matrix is centred over classes first; biases are left out.

The bound. Let R(w) = max_g L_g(w) + mu/2 |w|^2 with convex L_g, and w_G its minimiser. Then 0 = s + mu w_G with s a
subgradient of max_g L_g at w_G, and for every w

    R(w) - R(w_G)  >=  -<mu w_G, w - w_G> + mu/2 (|w|^2 - |w_G|^2)  =  mu/2 |w - w_G|^2

So it holds for the ERM head and for any other: it says how far the heads are apart, not why. It holds as well with
parameters that carry no penalty, such as a bias, if the distance leaves them out. R has the penalty in it; the plain
worst-group losses may differ by less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mixray.errors import InputError
from mixray.robust.groups import non_negative

Weights = torch.Tensor | NDArray[np.float64]


def centred(weights: Weights) -> NDArray[np.float64]:
    """Return a head's weights, (classes, features) or (features,) for one logit, as float64 (classes * features,).

    The mean over classes is taken off, where there are classes. Raises InputError for another shape, and for numbers
    that are not finite.
    """
    matrix = np.atleast_2d(_array(weights))
    if matrix.ndim != 2 or not np.isfinite(matrix).all():
        raise InputError(
            "a head's weights must be a matrix of finite numbers",
            where="weights",
            got=f"shape {matrix.shape}",
            wanted="shape (classes, features) or (features,)",
        )
    if len(matrix) > 1:
        matrix = matrix - matrix.mean(axis=0)
    return matrix.ravel()


def alignment(weights: Weights, reference: Weights) -> float:
    """Return the cosine of two heads of the same shape, in [-1, 1].

    Raises InputError where the shapes differ, and where one of the heads is 0 once centred.
    """
    if tuple(weights.shape) != tuple(reference.shape):
        raise InputError(
            "two heads of different shapes cannot be compared",
            where="weights",
            got=f"shapes {tuple(weights.shape)} and {tuple(reference.shape)}",
        )
    one, other = centred(weights), centred(reference)
    lengths = np.linalg.norm(one), np.linalg.norm(other)
    if not all(lengths):
        raise InputError("a head that is the same for all classes points nowhere", where="weights")
    return float(np.clip((one / lengths[0]) @ (other / lengths[1]), -1, 1))


@dataclass(frozen=True)
class Bound:
    """Both sides of R(w) - R(w_G) >= mu/2 |w - w_G|^2.

    gap: the left side; distance: the right one. tolerance: how far ``gap`` may fall short of ``distance`` because the
    robust head is a minimiser only to some error. l2: mu.
    """

    gap: float
    distance: float
    tolerance: float
    l2: float

    @property
    def slack(self) -> float:
        """What the bound gives away: gap - distance."""
        return self.gap - self.distance

    @property
    def holds(self) -> bool:
        return self.slack >= -self.tolerance


def strong_convexity_bound(
    *,
    worst_objective: float,
    robust_worst_objective: float,
    weights: Weights,
    robust_weights: Weights,
    l2: float,
    robust_error: float = 0.0,
) -> Bound:
    """Return the bound for a head and a minimiser of R.

    worst_objective, robust_worst_objective: R of both, the penalty included. l2: mu in mu/2 |w|^2. weights: what is
    penalised, (classes, features), not centred; append a bias only where it is penalised as well. robust_error: a bound
    on R(w_G) - min R (a certificate's gap). Raises InputError where l2 or robust_error is not a number >= 0.
    """
    mu, error = non_negative(l2, "l2"), non_negative(robust_error, "robust_error")
    distance = float(np.linalg.norm(_array(weights).ravel() - _array(robust_weights).ravel()))
    # |w_G - argmin R| <= sqrt(2 error / mu); put into the bound at the exact minimiser.
    tolerance = distance * np.sqrt(2 * mu * error) + error
    return Bound(worst_objective - robust_worst_objective, mu / 2 * distance**2, float(tolerance), mu)


def _array(weights: Weights) -> NDArray[np.float64]:
    return np.asarray(weights.detach().cpu() if isinstance(weights, torch.Tensor) else weights, dtype=np.float64)
