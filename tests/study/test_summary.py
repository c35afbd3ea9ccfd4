"""Seeds put together: spreads, the worst group's name, differences between arms, verdicts of claims."""

from __future__ import annotations

from typing import Any

import numpy as np

from mixray.data.tabular.grouped import GroupedTask
from mixray.report.robust.results import Accuracy, Claim, ExactHeads, SeedHeads, SeedResult, Spread
from mixray.study.intervals import Predictions
from mixray.study.summary import FinishedArm, claims, spread, summary_of_arm, worst_group_differences

BOUND = {"gap": 0.2, "distance": 0.1, "tolerance": 0.0, "slack": 0.1}


def seed_result(
    worst: float = 0.8, *, completeness: float = 0.5, spurious: float = 0.5, holds: bool = True, **changes: Any
) -> SeedResult:
    test = Accuracy(
        accuracy=(0.9, worst),
        counts=(10, 10),
        worst_group=1,
        worst=worst,
        average_test=0.8,
        average_training_share=None,
    )
    about = {"dimensions": 2, "estimator": "random_forest", "kept_variance": None, "per_factor": (completeness,)}
    content = {
        "arm": "erm",
        "seed": 0,
        "selected": {"by": "worst_group", "step": 1, "score": 0.5},
        "test": test,
        "validation": test,
        "steps": 1,
        "rows_seen": 64,
        "parameters": 2,
        "seconds": 1.0,
        "measures": {
            "alignment": {"spurious": spurious, "oracle": 1 - spurious},
            "bound": BOUND | {"holds": holds},
            "completeness": about | {"completeness": completeness},
        },
    }
    lists = ("label_names", "group_names", "spurious_names", "feature_names", "training_counts")
    empty = dict.fromkeys((*lists, "validation_curve", "training_curve", "warnings"), ())
    return SeedResult.model_validate(empty | content | changes)


def seed_heads(gap: float) -> SeedHeads:
    def at(l2: float, gap: float) -> ExactHeads:
        cosines = {"erm": 0.8, "group_dro": 0.3 + gap / 100}
        content = {
            "l2": l2,
            "bound": BOUND | {"gap": gap, "distance": l2, "holds": True},
            "worst_loss": {"erm": 1.0, "group_dro": 0.5},
            "worst_test_accuracy": {"erm": 0.4, "group_dro": 0.7 + l2 / 10 + gap / 100},
            "certificate": 1e-9,
            "oracle": cosines,
            "spurious": cosines,
        }
        return ExactHeads.model_validate(content)

    return SeedHeads(seed=0, rows=10, heads=(at(0.1, gap), at(1.0, gap / 2)))


def finished(task: GroupedTask, wrong_in_group: int, wrong: int) -> FinishedArm:
    """An arm that is wrong on the first so many test rows of a group and right on all others."""
    correct = np.ones(len(task.test), dtype=np.bool_)
    correct[np.flatnonzero(task.test.group_ids == wrong_in_group)[:wrong]] = False
    predictions = Predictions(task.test.row_ids, task.test.group_ids, correct)
    test = Accuracy(
        accuracy=tuple(predictions.accuracy.tolist()),
        counts=tuple(predictions.counts.tolist()),
        worst_group=wrong_in_group,
        worst=float(predictions.accuracy.min()),
        average_test=float(correct.mean()),
        average_training_share=float(predictions.accuracy @ task.training_counts / task.training_counts.sum()),
    )
    return FinishedArm(seed_result(test=test), predictions)


def test_a_spread_is_of_all_seeds_or_none() -> None:
    assert spread([1.0, 3.0]) == Spread(mean=2.0, sd=2**0.5, values=(1.0, 3.0))
    assert spread([1.0]) == Spread(mean=1.0, sd=None, values=(1.0,))
    assert spread([1.0, None]) is None
    assert spread([]) is None


def test_a_summary_names_the_group_that_is_worst_most_often(digits: GroupedTask) -> None:
    summary = summary_of_arm([finished(digits, 1, 20), finished(digits, 1, 30), finished(digits, 2, 10)], digits)
    assert (summary.worst_group.name, summary.worst_group.seeds) == ("0-4|patch", 2)
    assert summary.bound_holds == (True, True, True)
    for accuracy in (summary.worst, summary.average_test, summary.average_training_share, *summary.groups.values()):
        assert accuracy is not None
        assert accuracy.interval is not None
        assert accuracy.interval[0] <= accuracy.mean <= accuracy.interval[1]


def test_without_stored_predictions_there_are_numbers_but_no_intervals(digits: GroupedTask) -> None:
    arms = {
        arm: [FinishedArm(finished(digits, 1, wrong).result, None)] for arm, wrong in (("erm", 60), ("group_dro", 20))
    }
    summaries = {arm: summary_of_arm(seeds, digits) for arm, seeds in arms.items()}
    assert summaries["erm"].worst.interval is None
    (difference,) = worst_group_differences(arms, summaries)
    assert difference.mean > 0
    assert difference.interval is None
    assert not difference.is_separated


def test_arms_are_compared_with_erm_importance_weights_and_the_best_with_the_next(digits: GroupedTask) -> None:
    wrong = {"erm": 60, "importance": 22, "group_dro": 20, "also": 20}
    arms = {arm: [finished(digits, 1, count)] * 2 for arm, count in wrong.items()}
    differences = worst_group_differences(arms, {arm: summary_of_arm(seeds, digits) for arm, seeds in arms.items()})
    by_pair = {(one.arm, one.against): one for one in differences}
    assert set(by_pair) == {
        *((arm, "erm") for arm in ("importance", "group_dro", "also")),
        *((arm, "importance") for arm in ("erm", "group_dro", "also")),
        ("group_dro", "also"),
    }
    assert by_pair["group_dro", "erm"].is_separated
    assert not by_pair["group_dro", "importance"].is_separated
    assert by_pair["group_dro", "also"].interval == (0.0, 0.0)


def verdicts(tested: list[Claim]) -> dict[tuple[str, str], str]:
    return {(claim.claim.partition(":")[0], claim.where): claim.verdict for claim in tested}


def test_claims_hold_do_not_hold_and_stay_undecided() -> None:
    erm = [seed_result(completeness=0.6 + noise, spurious=0.9 + noise) for noise in (0.0, 0.01, 0.02)]
    robust = [seed_result(completeness=0.7, spurious=0.5, holds=holds) for holds in (True, False, True)]
    tested = claims({"erm": erm, "group_dro": robust}, [seed_heads(1.0), seed_heads(1.1), seed_heads(0.9)])
    by_kind = verdicts(tested)
    assert by_kind["iv", "arms"] == "does not hold"
    assert by_kind["ii", "arms"] == "does not hold"
    assert by_kind["ii", "every L2"] == "holds"
    by_name = {(one.claim, one.where): one for one in tested}
    interval = by_name["i: less spurious", "arms"].interval
    assert interval is not None
    assert interval[0] > 0.3
    assert by_name["i: more oracle", "L2 1"].verdict == "does not hold"
    assert by_name["iii: L2 widens gap", "L2 0.1-1"].verdict == "does not hold"
    assert by_name["iii: L2 widens gap", "L2 0.1-1"].note == "the gap rises in 0 of 1 steps of L2"
    assert by_name["iii: L2 helps DRO", "L2 0.1-1"].verdict == "holds"


def test_one_seed_decides_nothing() -> None:
    tested = claims({"erm": [seed_result(spurious=0.9)], "group_dro": [seed_result()]}, [seed_heads(1.0)])
    assert {claim.verdict for claim in tested} == {"one seed", "holds"}
    assert all(claim.interval is None for claim in tested)


def test_arms_with_the_same_representation_say_nothing_about_completeness() -> None:
    erm = [seed_result(spurious=0.9), seed_result(spurious=0.8)]
    tested = claims({"erm": erm, "group_dro": [seed_result(), seed_result()]}, [])
    assert [claim.claim for claim in tested if claim.claim.startswith("iv")] == []
