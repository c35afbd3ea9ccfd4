"""Covariate shift: do sources differ in their inputs x alone, and does the target lie where a source has none?

For models of a label given x, MixMin assumes that all sources have the same density p(x). A classifier of the source
from x measures how far that is from true. It is trained on four fifths of the examples and judged on the fifth that it
did not see, so sources with the same p(x) have an AUC of 0.5 in expectation, however flexible the classifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mixray.diagnose.source_classifier import (
    LEAST_EXAMPLES,
    CrossFitted,
    Features,
    Floats,
    Integers,
    Mask,
    cross_fitted,
)
from mixray.errors import InputError
from mixray.mixture import MixtureWarning
from mixray.numerics import interval95, sum_standard_error, wilson_interval

NO_SUPPORT = 0.1
"""A source is taken to have no support where its density is below this part of the target's."""
MOST_PAIRED = 12
"""Sources up to which every pair is measured too."""
CLEAR_AUC = 0.7
"""From about here on the shift changed what retrained models reached, and below it did not (jobs/README.md)."""
MUCH_UNSUPPORTED = 0.2
"""Of a target's examples: without any source like them, what is learned from the sources is a guess there."""
MOST_NAMED = 5


@dataclass(frozen=True)
class Separation:
    """How well x alone tells examples apart: ``auc``, 0.5 where it cannot, and its 95 % ``interval`` over examples."""

    auc: float
    interval: tuple[float, float]


@dataclass(frozen=True, eq=False)
class InputShift:
    """How the inputs of sources, and of a target, differ.

    ``against_rest``: of every source, against all other sources. ``pairs``: of two sources, (first, second), first <
    second; empty of more than ``MOST_PAIRED`` sources. ``against_target``: of every source, against the target.
    ``unsupported``: the share of the target's examples where a source's density is below ``NO_SUPPORT`` times the
    target's, of every source, with its 95 % interval; ``unsupported_by_all``: where that holds for all sources at once.
    Intervals do not hold the error of the classifier, which makes the AUC too small rather than too large.
    """

    against_rest: tuple[Separation, ...]
    pairs: dict[tuple[int, int], Separation]
    against_target: tuple[Separation, ...]
    unsupported: tuple[tuple[float, tuple[float, float]], ...]
    unsupported_by_all: tuple[float, tuple[float, float]]


def input_shift(
    features: Sequence[Features],
    target_features: Features,
    *,
    example_ids: Sequence[Integers] | None = None,
    target_ids: Integers | None = None,
    seed: int,
) -> InputShift:
    """Measure how the inputs of sources, and of a target, differ.

    Args:
        features: of every source, (rows, columns).
        target_features: (rows, columns).
        example_ids: of every source's rows, (rows,), and ``target_ids`` of the target's: equal for the same example,
            such as a molecule that several assays measured. It is then in one fold; otherwise a classifier that saw it
            in one source would deny that it is from another. By default rows with equal features are the same example.
        seed: of the folds.

    Raises:
        InputError: for less than two sources, shapes that do not fit, numbers that are not finite and too few examples.
    """
    if len(features) < 2:
        raise InputError("covariate shift needs sources to compare", got=f"{len(features)} sources", wanted="2 or more")
    ids = None if example_ids is None or target_ids is None else [*example_ids, target_ids]
    # The target is one more class: the ratio of two densities is that of their classes' probabilities.
    fitted = cross_fitted([*features, target_features], ids, seed=seed)
    target = len(features)
    is_target = fitted.source_ids == target
    sources = range(target)
    log_ratios = fitted.log_densities[is_target, :target] - fitted.log_densities[is_target, target:]
    is_unsupported = log_ratios < np.log(NO_SUPPORT)
    return InputShift(
        against_rest=tuple(_against_rest(fitted, source, ~is_target) for source in sources),
        pairs={pair: _pair(fitted, *pair) for pair in combinations(sources, 2)} if target <= MOST_PAIRED else {},
        against_target=tuple(_pair(fitted, source, target) for source in sources),
        unsupported=tuple(_share_with_interval(is_unsupported[:, source]) for source in sources),
        unsupported_by_all=_share_with_interval(is_unsupported.all(axis=1)),
    )


def shift_warnings(
    shifts: Mapping[str, InputShift], sources: Sequence[str], *, sampled_of: int | None = None, is_reweighted: bool
) -> list[MixtureWarning]:
    """Return warnings where sources' inputs differ clearly, and about targets where no source has examples.

    ``shifts``: by target; ``sources``: their names; ``sampled_of``: how many sources there are, where these are a
    sample, which does not say what the others support; ``is_reweighted``: the mixture does not assume equal inputs.
    """
    warnings = []
    of_all = f"{len(sources)} sources" if sampled_of is None else f"a sample of {len(sources)} of {sampled_of} sources"
    against_rest = next(iter(shifts.values())).against_rest
    shifted = sorted(
        (each.auc, name) for name, each in zip(sources, against_rest, strict=True) if each.interval[0] > CLEAR_AUC
    )
    if shifted and not is_reweighted:
        named = ", ".join(f"{name} {auc:.2f}" for auc, name in reversed(shifted[-MOST_NAMED:]))
        message = (
            f"the inputs alone tell {len(shifted)} of {of_all} from the others (AUC of a classifier, 0.5 "
            f"where they cannot): {named}. The mixture assumes that all sources have the same inputs; of classes, "
            "mixture.covariate_shift=reweight does not"
        )
        warnings.append(MixtureWarning(code="covariate_shift", message=message))
    for target, shift in shifts.items() if sampled_of is None else ():
        share, (low, high) = shift.unsupported_by_all
        if low > MUCH_UNSUPPORTED:
            message = (
                f"{share:.0%} of the examples of {target} are where every source has less than {NO_SUPPORT:.0%} of its "
                "density: what is learned from the sources is a guess there"
            )
            warnings.append(
                MixtureWarning(code="no_support", message=message, interval=(low, high), unit=f"share of {target}")
            )
    return warnings


def fold_auc(scores: Floats, is_positive: Mask, folds: Integers, example_ids: Integers) -> Separation:
    """Return the AUC within each fold, averaged by the folds' numbers of pairs, and its 95 % interval over examples.

    Scores of different folds, which different classifiers gave, are never compared. The variance is that of DeLong,
    DeLong and Clarke-Pearson (1988) within a fold; folds are added up as by LeDell, Petersen and van der Laan (2015),
    and rows of the same example as by Obuchowski (1997). Of F > 1 folds, whose training rows overlap, it is multiplied
    by 1 + F / (F - 1) (Nadeau and Bengio, 2003). Without that, 87 % of the intervals of sources with equal inputs held
    0.5 in simulations; where sources differ clearly, the intervals are wider than they need be. All arguments (rows,).
    Raises InputError where no fold has rows of both kinds.
    """
    from scipy.stats import rankdata  # start-up is lazy: only this measure needs it

    pairs, wins = 0, 0.0
    parts: list[tuple[Mask, Mask, Floats, Floats]] = []
    for fold in np.unique(folds):
        positive, negative = (folds == fold) & is_positive, (folds == fold) & ~is_positive
        positives, negatives = int(positive.sum()), int(negative.sum())
        if not positives or not negatives:
            continue
        ranks = rankdata(np.concatenate([scores[positive], scores[negative]]))
        # How many of the other kind a row is on the right side of, ties counting half.
        above = ranks[:positives] - rankdata(scores[positive])
        below = positives - (ranks[positives:] - rankdata(scores[negative]))
        pairs, wins = pairs + positives * negatives, wins + float(above.sum())
        parts.append((positive, negative, above, below))
    if not pairs:
        raise InputError("no fold has examples of both kinds", wanted=f"{LEAST_EXAMPLES} examples or more of each")
    auc = wins / pairs
    influences = np.zeros(len(scores))
    for positive, negative, above, below in parts:
        influences[positive] = (above - above.mean()) / pairs
        influences[negative] = (below - below.mean()) / pairs
    _, numbers = np.unique(example_ids, return_inverse=True)
    error = sum_standard_error(np.bincount(numbers, influences).astype(np.float64))
    error *= np.sqrt(1 + len(parts) / (len(parts) - 1)) if len(parts) > 1 else 1.0
    low, high = interval95(auc, error)
    # Where no pair, or every one, is in the wrong order, the variance is 0: the rule of three.
    fewest = min(int(is_positive.sum()), int((~is_positive).sum()))
    low, high = (1 - 3 / fewest, high) if auc == 1 else (low, high)
    low, high = (low, 3 / fewest) if auc == 0 else (low, high)
    return Separation(auc, (max(0.0, low), min(1.0, high)))


def _share_with_interval(holds: Mask) -> tuple[float, tuple[float, float]]:
    """Return for which share of examples something holds, (examples,), and the 95 % interval of it."""
    return float(holds.mean()), wilson_interval(int(holds.sum()), len(holds))


def _against_rest(fitted: CrossFitted, source: int, is_source: Mask) -> Separation:
    """Return how well a source's density over the mean of all other sources' tells examples apart. ``is_source``: which
    rows are not the target's."""
    scores = fitted.log_densities[:, :-1]
    log_odds = scores[:, source] - np.logaddexp.reduce(np.delete(scores, source, axis=1), axis=1)
    return _separation(fitted, log_odds, fitted.source_ids == source, is_source)


def _pair(fitted: CrossFitted, first: int, second: int) -> Separation:
    """Return how well the ratio of two classes' densities tells their examples apart."""
    scores = fitted.log_densities[:, first] - fitted.log_densities[:, second]
    is_first = fitted.source_ids == first
    return _separation(fitted, scores, is_first, is_first | (fitted.source_ids == second))


def _separation(fitted: CrossFitted, scores: Floats, is_positive: Mask, counts: Mask) -> Separation:
    """Return ``fold_auc`` of the rows that count."""
    return fold_auc(scores[counts], is_positive[counts], fitted.folds[counts], fitted.example_ids[counts])
