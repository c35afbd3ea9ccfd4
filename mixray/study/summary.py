"""From single seeds to a comparison: what every arm reaches, how far the arms differ, and what the claims come to.

The claims are those of "Alignment, Convexity and Completeness: Mechanisms Behind GroupDRO" (2025), each a hypothesis
about paired differences over seeds. A claim holds where the 95 % interval (Student's t) lies on its side of 0, does not
hold where it lies on the other side, and is undecided where 0 is inside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mixray.config.robust import RobustConfig
from mixray.data.tabular.grouped import GroupedTask
from mixray.numerics import SeedEstimate, interval_of_mean, interval_over_seeds
from mixray.report.robust.results import (
    ArmSummary,
    Claim,
    ComparedArm,
    ErmAndRobust,
    ExactHeads,
    HeadsSummary,
    RobustResults,
    SeedHeads,
    SeedResult,
    Spread,
    SpreadPair,
    WorstGroup,
    WorstGroupDifference,
)
from mixray.study.intervals import Predictions, accuracy_of_group, weighted_accuracy, worst_accuracy


@dataclass(frozen=True, eq=False)
class FinishedArm:
    """One arm under one seed. ``predictions`` is None where an earlier version did not store them."""

    result: SeedResult
    predictions: Predictions | None


def compare(
    config: RobustConfig,
    run: str,
    task: GroupedTask,
    arms: Mapping[str, Sequence[FinishedArm]],
    heads: Sequence[SeedHeads],
) -> RobustResults:
    """Return the results of a run. ``arms`` and ``heads`` hold every seed, in any order."""
    ordered = {arm: sorted(seeds, key=lambda one: one.result.seed) for arm, seeds in arms.items()}
    results = {arm: [one.result for one in seeds] for arm, seeds in ordered.items()}
    heads = sorted(heads, key=lambda one: one.seed)
    first = next(iter(results.values()))[0]
    summaries = {arm: summary_of_arm(seeds, task) for arm, seeds in ordered.items()}
    warnings = [warning for seeds in results.values() for one in seeds for warning in one.warnings]
    return RobustResults(
        run=run,
        seeds=tuple(config.all_seeds),
        select_by=config.select_by,
        steps=first.steps,
        batch=config.batch,
        l2=config.l2,
        group_names=task.group_names,
        counts={
            name: dict(
                zip(task.group_names, np.bincount(rows.group_ids, minlength=task.num_groups).tolist(), strict=True)
            )
            for name, rows in task.parts()
        },
        completeness=first.measures.completeness,
        arms={arm: ComparedArm(summary=summaries[arm], seeds=tuple(results[arm])) for arm in arms},
        differences=tuple(worst_group_differences(ordered, summaries)),
        heads=tuple(summary_of_heads([one.heads[place] for one in heads]) for place in range(len(config.measures.l2))),
        claims=tuple(claims(results, heads)),
        warnings=tuple(dict.fromkeys(warnings)),
    )


# ---------------------------------------------------------------------------------------------------------- accuracies


def spread(values: Sequence[float | None], estimates: Sequence[SeedEstimate] | None = None) -> Spread | None:
    """Return mean, standard deviation and values, or None where a seed has no value.

    ``estimates``: the same numbers where they are accuracies, from which the interval over test rows and seeds comes.
    """
    sample = [value for value in values if value is not None]
    if not sample or len(sample) < len(values):
        return None
    deviation = float(np.std(sample, ddof=1)) if len(sample) > 1 else None
    interval = None
    if estimates is not None:
        low, high = interval_of_mean(estimates)
        interval = (max(low, 0.0), min(high, 1.0))
    return Spread(mean=float(np.mean(sample)), sd=deviation, values=tuple(sample), interval=interval)


def summary_of_arm(seeds: Sequence[FinishedArm], task: GroupedTask) -> ArmSummary:
    tests = [one.result.test for one in seeds]
    measures = [one.result.measures.numbers() for one in seeds]
    predictions = [one.predictions for one in seeds if one.predictions is not None]

    def over_rows(values: Sequence[float | None], estimate: Callable[[Predictions], SeedEstimate]) -> Spread | None:
        has_rows = len(predictions) == len(seeds) and None not in values
        return spread(values, [estimate(one) for one in predictions] if has_rows else None)

    def average_over_groups(group_counts: NDArray[np.int64]) -> Callable[[Predictions], SeedEstimate]:
        return lambda one: weighted_accuracy(one, group_counts / group_counts.sum())

    worst, times = Counter(test.worst_group for test in tests).most_common(1)[0]
    worst_spread = over_rows([test.worst for test in tests], worst_accuracy)
    average = over_rows([test.average_test for test in tests], lambda one: average_over_groups(one.counts)(one))
    assert worst_spread is not None
    assert average is not None
    return ArmSummary(
        worst_group=WorstGroup(name=task.group_names[worst], seeds=times),
        worst=worst_spread,
        average_test=average,
        average_training_share=over_rows(
            [test.average_training_share for test in tests], average_over_groups(task.training_counts)
        ),
        groups={
            name: over_rows([test.accuracy[group] for test in tests], partial(accuracy_of_group, group=group))
            for group, name in enumerate(task.group_names)
        },
        measures={name: spread([one[name] for one in measures]) for name in measures[0]},
        bound_holds=tuple(one.result.measures.bound.holds for one in seeds if one.result.measures.bound is not None),
    )


def worst_group_differences(
    arms: Mapping[str, Sequence[FinishedArm]], summaries: Mapping[str, ArmSummary]
) -> list[WorstGroupDifference]:
    """Compare every arm with ERM and with importance weights, and the best arm with the next one."""
    pairs = [(arm, against) for against in ("erm", "importance") if against in arms for arm in arms if arm != against]
    ranking = sorted(arms, key=lambda arm: -summaries[arm].worst.mean)
    pairs += [pair for pair in pairwise(ranking[:2]) if pair not in pairs]
    return [_difference(arm, against, arms[arm], arms[against]) for arm, against in pairs]


def _difference(
    arm: str, against: str, seeds: Sequence[FinishedArm], others: Sequence[FinishedArm]
) -> WorstGroupDifference:
    pairs = list(zip(seeds, others, strict=True))
    estimates = [
        worst_accuracy(one.predictions).minus(worst_accuracy(other.predictions))
        for one, other in pairs
        if one.predictions is not None and other.predictions is not None
    ]
    return WorstGroupDifference(
        arm=arm,
        against=against,
        mean=float(np.mean([one.result.test.worst - other.result.test.worst for one, other in pairs])),
        interval=interval_of_mean(estimates) if len(estimates) == len(pairs) else None,
    )


# ------------------------------------------------------------------------------------------------------------ measures


def summary_of_heads(seeds: Sequence[ExactHeads]) -> HeadsSummary:
    """Return the exact heads at one strength of L2 over seeds."""

    def both(pairs: Sequence[ErmAndRobust]) -> SpreadPair:
        return SpreadPair(
            erm=_full_spread([pair.erm for pair in pairs]), group_dro=_full_spread([pair.group_dro for pair in pairs])
        )

    spurious = [one.spurious for one in seeds if one.spurious is not None]
    return HeadsSummary(
        l2=seeds[0].l2,
        spurious=both(spurious) if len(spurious) == len(seeds) else None,
        oracle=both([one.oracle for one in seeds]),
        worst_loss=both([one.worst_loss for one in seeds]),
        worst_test_accuracy=both([one.worst_test_accuracy for one in seeds]),
        gap=_full_spread([one.bound.gap for one in seeds]),
        distance=_full_spread([one.bound.distance for one in seeds]),
        slack=_full_spread([one.bound.slack for one in seeds]),
        holds=sum(one.bound.holds for one in seeds),
        of=len(seeds),
    )


def _full_spread(values: Sequence[float]) -> Spread:
    result = spread(values)
    assert result is not None
    return result


# -------------------------------------------------------------------------------------------------------------- claims


def claims(arms: Mapping[str, Sequence[SeedResult]], heads: Sequence[SeedHeads]) -> list[Claim]:
    """Test every claim about which these results say something. Arms and heads hold the same seeds in one order."""
    tested = []
    for place in range(len(heads[0].heads) if heads else 0):
        at_l2 = [seed.heads[place] for seed in heads]
        where = f"L2 {at_l2[0].l2:g}"
        falls = [one.spurious.erm - one.spurious.group_dro for one in at_l2 if one.spurious is not None]
        if len(falls) == len(at_l2):
            tested.append(_claim("i: less spurious", where, falls))
        tested.append(_claim("i: more oracle", where, [one.oracle.group_dro - one.oracle.erm for one in at_l2]))
    if {"erm", "group_dro"} <= arms.keys():
        tested += _claims_of_arms(arms["erm"], arms["group_dro"])
    exact = [one.bound.holds for seed in heads for one in seed.heads]
    trained = [one.measures.bound.holds for seeds in arms.values() for one in seeds if one.measures.bound is not None]
    tested += [_bound_claim(where, holds) for where, holds in (("every L2", exact), ("arms", trained)) if holds]
    if heads and len(heads[0].heads) > 1:
        tested += _claims_of_l2(heads)
    return tested


def _claims_of_arms(erm: Sequence[SeedResult], robust: Sequence[SeedResult]) -> list[Claim]:
    tested = []
    for claim, measure, sign in (
        ("i: less spurious", "alignment_spurious", 1),
        ("i: more oracle", "alignment_oracle", -1),
        ("iv: less complete", "completeness", 1),
    ):
        pairs = [
            (one.measures.numbers()[measure], other.measures.numbers()[measure])
            for one, other in zip(erm, robust, strict=True)
        ]
        differences = [sign * (one - other) for one, other in pairs if one is not None and other is not None]
        # Arms with the same representation, such as linear ones, say nothing about completeness.
        if len(differences) == len(pairs) and any(differences):
            tested.append(_claim(claim, "arms", differences))
    return tested


def _bound_claim(where: str, holds: Sequence[bool]) -> Claim:
    return Claim(
        claim="ii: the bound holds",
        where=where,
        estimate=f"{sum(holds)} of {len(holds)}",
        interval=None,
        verdict="holds" if all(holds) else "does not hold",
    )


def _claims_of_l2(heads: Sequence[SeedHeads]) -> list[Claim]:
    """Test whether the bound explains the gains of L2: then the gap grows with L2, and Group DRO gains."""
    strengths = [one.l2 for one in heads[0].heads]
    order = [int(place) for place in np.argsort(strengths)]
    low, high = order[0], order[-1]
    where = f"L2 {strengths[low]:g}-{strengths[high]:g}"

    def change(number: Callable[[ExactHeads], float]) -> list[float]:
        return [number(seed.heads[high]) - number(seed.heads[low]) for seed in heads]

    steps = [
        [seed.heads[after].bound.gap - seed.heads[before].bound.gap for seed in heads]
        for before, after in pairwise(order)
    ]
    rising = sum(np.mean(step) > 0 for step in steps)
    note = f"the gap rises in {rising} of {len(steps)} steps of L2"
    return [
        _claim("iii: L2 widens gap", where, change(lambda one: one.bound.gap), note),
        _claim("iii: L2 raises bound", where, change(lambda one: one.bound.distance)),
        _claim("iii: L2 helps DRO", where, change(lambda one: one.worst_test_accuracy.group_dro)),
    ]


def _claim(claim: str, where: str, differences: Sequence[float], note: str | None = None) -> Claim:
    """Test one claim. ``differences``: one for each seed, positive where the claim is right."""
    interval, verdict = interval_over_seeds(differences), "one seed"
    if interval is not None:
        verdict = "holds" if interval[0] > 0 else "does not hold" if interval[1] < 0 else "undecided"
    mean = float(np.mean(differences))
    return Claim(claim=claim, where=where, estimate=mean, interval=interval, verdict=verdict, note=note)
