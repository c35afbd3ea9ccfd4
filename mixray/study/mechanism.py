"""Why a head is robust: where it points, how far it is from the robust minimum, how spread its representation is.

Heads are compared on one representation each: that of the arm's own trunk, which for a linear model is the inputs.
There the references are exact minimisers at the arm's strength of L2 (``linear_heads``), on training rows:

    spurious   the ERM head that predicts the spurious attribute
    oracle     the ERM head that predicts the label with all groups weighed alike
    robust     the Group DRO head, which the bound R(w) - R(w_G) >= mu/2 |w - w_G|^2 is about
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixray.config.robust import MeasuresConfig
from mixray.data.tabular.task import Part, Task
from mixray.models import Classifier
from mixray.robust.alignment import Bound, alignment, strong_convexity_bound
from mixray.robust.completeness import Completeness, completeness
from mixray.robust.linear_heads import Head, HeadProblem
from mixray.robust.worst_group import group_accuracy
from mixray.study.stream import importance_weights

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class References:
    """Exact heads on one representation at one strength of L2. ``spurious``: None where no attribute is named."""

    problem: HeadProblem
    erm: Head
    oracle: Head
    robust: Head
    spurious: Head | None


def references(features: Matrix, part: Part, group_counts: NDArray[np.int64], l2: float) -> References:
    """features: float64 (rows, dimensions), of the part's rows."""
    problem = HeadProblem(features, part.labels, part.group_ids, l2)
    row_weights = importance_weights(group_counts)[part.group_ids]
    spurious = None
    if part.spurious is not None:
        spurious = HeadProblem(features, part.spurious, part.group_ids, l2).erm()
    return References(problem, problem.erm(), problem.erm(row_weights), problem.group_dro(), spurious)


def bound_of(parameters: Matrix, known: References) -> Bound:
    """The bound for any head, (classes, features + 1) with the bias last, on the references' rows."""
    flat = parameters.astype(np.float64).ravel()
    l2 = known.problem.l2
    return strong_convexity_bound(
        worst_objective=float(known.problem.group_losses(flat).max()) + l2 / 2 * float(flat @ flat),
        robust_worst_objective=known.robust.worst_objective,
        weights=parameters,
        robust_weights=known.robust.parameters,
        l2=l2,
        robust_error=known.robust.error,
    )


def measured_rows(task: Task, most: int, seed: int) -> Part:
    """Training rows that the measures are taken on: all, or ``most`` drawn ones with every group among them.

    The draw keeps the groups' shares but leaves a group at least 50 rows, or all that it has.
    """
    part, counts = task.train, task.training_counts
    if len(part) <= most:
        return part
    draws = np.random.default_rng([seed, most])
    kept = []
    for group, count in enumerate(counts):
        rows = np.flatnonzero(part.group_ids == group)
        kept.append(draws.permutation(rows)[: max(min(50, count), round(most * count / len(part)))])
    return part.rows(np.sort(np.concatenate(kept)))


@torch.no_grad()
def representation(model: Classifier, part: Part) -> Matrix:
    """The trunk's output, float64 (rows, dimensions)."""
    device = next(model.parameters()).device
    out: Matrix = model.trunk(torch.from_numpy(part.features).to(device)).cpu().double().numpy()
    return out


def measures_of_arm(model: Classifier, rows: Part, *, l2: float, config: MeasuresConfig, seed: int) -> dict[str, Any]:
    """Plain numbers: alignment with the two references, both sides of the bound, completeness with what it hangs on.

    Without L2 there are no exact heads, and so neither alignment nor bound.
    """
    features = representation(model, rows)
    head = model.head.weight.detach().cpu().double().numpy()
    bias = model.head.bias.detach().cpu().double().numpy()
    found: dict[str, Any] = {"completeness": _told(completeness_of(features, rows, config, seed))}
    if l2:
        known = references(features, rows, np.bincount(rows.group_ids), l2)
        bound = bound_of(np.column_stack([head, bias]), known)
        found["bound"] = asdict(bound) | {"slack": bound.slack, "holds": bound.holds, "l2": l2}
        found["alignment"] = {
            "oracle": alignment(head, known.oracle.weights),
            "spurious": None if known.spurious is None else alignment(head, known.spurious.weights),
        }
    return found


def completeness_of(features: Matrix, part: Part, config: MeasuresConfig, seed: int) -> Completeness | None:
    """Of a representation, for the label and, where there is one, the spurious attribute.

    None where fewer than 2 dimensions vary: there is nothing to spread over.
    """
    if (features.std(axis=0) > 0).sum() < 2:
        return None
    factors = [part.labels] if part.spurious is None else [part.labels, part.spurious]
    pca = None if config.pca is None else min(config.pca, *features.shape)
    return completeness(features, np.column_stack(factors), estimator=config.estimator, seed=seed, pca=pca)


def _told(found: Completeness | None) -> Mapping[str, Any] | None:
    if found is None:
        return None
    return {
        "completeness": found.completeness,
        "per_factor": found.per_factor.tolist(),
        "dimensions": found.dimensions,
        "estimator": found.estimator,
        "kept_variance": found.kept_variance,
    }


def measures_of_heads(rows: Part, test: Part, *, l2: float) -> dict[str, Any]:
    """The paper's setting, exact ERM and Group DRO heads on fixed inputs: alignments and the bound, plain numbers."""
    known = references(rows.features.astype(np.float64), rows, np.bincount(rows.group_ids), l2)
    bound = bound_of(known.erm.parameters, known)
    found: dict[str, Any] = {
        "l2": l2,
        "bound": asdict(bound) | {"slack": bound.slack, "holds": bound.holds},
        "worst_loss": {"erm": float(known.erm.group_losses.max()), "group_dro": float(known.robust.group_losses.max())},
        "worst_test_accuracy": {"erm": _worst(known.erm, test), "group_dro": _worst(known.robust, test)},
        "certificate": known.robust.error,
        "oracle": {
            name: alignment(head.weights, known.oracle.weights)
            for name, head in (("erm", known.erm), ("group_dro", known.robust))
        },
        "spurious": None,
    }
    if known.spurious is not None:
        reference = known.spurious.weights
        found["spurious"] = {
            "erm": alignment(known.erm.weights, reference),
            "group_dro": alignment(known.robust.weights, reference),
        }
    return found


def _worst(head: Head, test: Part) -> float:
    predicted = (test.features @ head.weights.T + head.bias).argmax(axis=1)
    groups = int(test.group_ids.max()) + 1
    return group_accuracy(predicted, test.labels, test.group_ids, num_groups=groups).worst
