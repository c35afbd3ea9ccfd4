"""A classifier of the source of an example from its features x, and the densities of the sources that it implies.

Every source counts as much as any other in training, so the classifier's probability of source k at x is proportional
to p_k(x). It is a logistic regression on the columns and, in dense tables, their squares: it notices differences in
location and in scale, not those in how columns go together.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack
from scipy.special import log_softmax

from mixray.errors import InputError

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.integer[Any]]
Mask: TypeAlias = NDArray[np.bool_]
Features: TypeAlias = NDArray[np.floating[Any]] | csr_matrix
"""(rows, columns), finite numbers."""
FOLDS = 5
LEAST_EXAMPLES = 2 * FOLDS
"""Of a source, so that in all likelihood every fold has some to be judged by."""
MOST_STEPS = 200
"""Of the classifier's training, which need not reach its optimum: it is judged by what it does."""


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """What classifiers of the source say about examples that they were not trained on.

    ``log_densities``: float64 (rows, sources): log p_k(x), up to a number for each row that makes ``exp`` sum to 1.
    ``source_ids``: (rows,). ``folds``: (rows,), which classifier judged the row. ``example_ids``: (rows,), equal where
    rows are the same example.
    """

    log_densities: Floats
    source_ids: Integers
    folds: Integers
    example_ids: Integers


def cross_fitted(
    features: Sequence[Features], example_ids: Sequence[Integers] | None = None, *, seed: int
) -> CrossFitted:
    """Return what classifiers say about the source of examples, of each fold those trained on the other folds.

    Arguments and errors: see ``input_shift``; ``features``, ``example_ids``: by source.
    """
    table, source_ids = _stacked(features)
    examples = _example_numbers(table, example_ids, len(source_ids))
    folds = _folds(examples, seed)
    log_densities = _judged(table, source_ids, folds, np.ones(len(folds), bool))
    return CrossFitted(log_densities, source_ids, folds, examples)


def log_densities_at(
    features: Sequence[Features],
    new_features: Features,
    *,
    example_ids: Sequence[Integers] | None = None,
    new_ids: Integers | None = None,
    seed: int,
) -> Floats:
    """Return log p_k(x) of new examples, (rows, sources), up to a number for each row that makes ``exp`` sum to 1.

    No example is judged by a classifier that was trained on it, where it is one of a source as well: a fifth of the new
    examples at a time, by the sources' examples that are not among that fifth. ``features``: by source; ``new_ids``:
    of the new examples; otherwise as ``input_shift``. Raises InputError as that does.
    """
    table, source_ids = _stacked([*features, new_features])
    ids = None if example_ids is None or new_ids is None else [*example_ids, new_ids]
    folds = _folds(_example_numbers(table, ids, len(source_ids)), seed)
    is_new = source_ids == len(features)
    log_densities: Floats = _judged(table, source_ids, folds, ~is_new)[is_new]
    return log_densities


def _folds(examples: Integers, seed: int) -> Integers:
    """Return the fold of every row, (rows,): as many examples in each. ``examples``: the number of each row's."""
    return np.random.default_rng(seed).permutation(examples.max() + 1)[examples] % FOLDS


def _judged(table: Features, source_ids: Integers, folds: Integers, is_taught: Mask) -> Floats:
    """Return log p_k of every row, (rows, sources), by a classifier that was trained on rows of the other folds, of
    those that are taught."""
    sources = source_ids[is_taught].max() + 1
    log_densities = np.empty((len(source_ids), sources))
    for fold in range(FOLDS):
        judged = folds == fold
        taught = is_taught & ~judged
        present = np.bincount(source_ids[taught], minlength=sources)
        if not present.all():
            raise InputError(
                "covariate shift: a source has too few different examples",
                got=f"source {int(present.argmin())}: all of its examples in one of {FOLDS} folds",
                wanted=f"{LEAST_EXAMPLES} examples or more",
            )
        if judged.any():
            log_densities[judged] = _classifier(table[taught], source_ids[taught])(table[judged])
    return log_densities


def _stacked(features: Sequence[Features]) -> tuple[Features, Integers]:
    """Return the rows of all sources in one table, and the number of each row's source. Raises InputError."""
    columns = features[0].shape[-1]
    tables = [_checked(each, columns) for each in features]
    source_ids = np.repeat(np.arange(len(tables)), [table.shape[0] for table in tables])
    if all(isinstance(table, csr_matrix) for table in tables):
        return csr_matrix(vstack(tables)), source_ids
    return np.concatenate([np.asarray(table, np.float64) for table in tables]), source_ids


def _checked(features: Features, columns: int) -> Features:
    """Return a table of finite numbers. Raises InputError."""
    if features.ndim != 2 or features.shape[1] != columns or not features.shape[0]:
        raise InputError(
            "features: tables with the same columns are needed",
            got=f"shape {features.shape}",
            wanted=f"(rows, {columns}), one row or more",
        )
    if not np.isfinite(features.data if isinstance(features, csr_matrix) else features).all():
        raise InputError(
            "features: not all numbers are finite", remedy="encode missing values as a column of their own"
        )
    return features


def _example_numbers(table: Features, example_ids: Sequence[Integers] | None, rows: int) -> Integers:
    """Return the number of each row's example, from 0. Raises InputError for ids that do not fit the rows."""
    if example_ids is not None:
        ids = np.concatenate(list(example_ids))
        if ids.shape != (rows,):
            raise InputError("example_ids: one per row is needed", got=f"shape {ids.shape}", wanted=f"({rows},)")
        numbers: Integers = np.unique(ids, return_inverse=True)[1]
        return numbers
    if isinstance(table, csr_matrix):
        table.sort_indices()
        spans = list(pairwise(table.indptr))
        keys = [table.indices[start:end].tobytes() + table.data[start:end].tobytes() for start, end in spans]
    else:
        keys = [row.tobytes() for row in table + 0.0]  # -0 becomes 0
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(key, len(first)) for key in keys])


def _classifier(table: Features, source_ids: Integers) -> Callable[[Features], Floats]:
    """Return a function from examples to the log-probabilities of their sources, (rows, sources), if all sources were
    as frequent."""
    from sklearn.exceptions import ConvergenceWarning  # start-up is lazy: only this measure needs it
    from sklearn.linear_model import LogisticRegression

    if isinstance(table, csr_matrix):
        encoded = _same
    else:
        centre, scale = table.mean(axis=0), table.std(axis=0)
        encoded = partial(_with_squares, centre, np.where(scale > 0, scale, 1.0))
    model = LogisticRegression(class_weight="balanced", max_iter=MOST_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(encoded(table), source_ids)

    def log_probs(rows: Features) -> Floats:
        margins = model.decision_function(encoded(rows))
        if margins.ndim == 1:  # of two sources there is one margin, the logit of the second
            margins = np.column_stack([np.zeros(len(margins)), margins])
        # scikit-learn takes the logarithm of probabilities, which may round to 0.
        log_probs: Floats = log_softmax(margins, axis=1)
        return log_probs

    return log_probs


def _same(rows: Features) -> Features:
    return rows


def _with_squares(centre: Floats, scale: Floats, rows: Features) -> Features:
    """Return standardised columns and their squares."""
    standard = (np.asarray(rows, np.float64) - centre) / scale
    return np.hstack([standard, standard**2])
