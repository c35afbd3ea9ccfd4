"""Seeds put together: spreads, the worst group's name, verdicts of claims."""

from __future__ import annotations

from typing import Any

import pytest

from mixray.study.summary import claims, spread, summary_of_arm


def result(worst: float, *, completeness: float = 0.5, spurious: float = 0.5, holds: bool = True) -> dict[str, Any]:
    test = {"accuracy": [0.9, worst], "worst_group": 1, "worst": worst, "average_test": 0.8}
    return {
        "test": test | {"average_training_share": None},
        "measures": {
            "alignment": {"spurious": spurious, "oracle": 1 - spurious},
            "bound": {"gap": 0.2, "distance": 0.1, "slack": 0.1, "holds": holds},
            "completeness": {"completeness": completeness},
        },
    }


def heads(gap: float) -> dict[str, Any]:
    def at(l2: float, gap: float) -> dict[str, Any]:
        cosines = {"erm": 0.8, "group_dro": 0.3 + gap / 100}
        bound = {"gap": gap, "distance": l2, "holds": True}
        tests = {"erm": 0.4, "group_dro": 0.7 + l2 / 10 + gap / 100}
        return {"l2": l2, "spurious": cosines, "oracle": cosines, "bound": bound, "worst_test_accuracy": tests}

    return {"heads": [at(0.1, gap), at(1.0, gap / 2)]}


def test_a_spread_is_of_all_seeds_or_none() -> None:
    assert spread([1.0, 3.0]) == {"mean": 2.0, "sd": pytest.approx(2**0.5), "values": [1.0, 3.0]}
    assert spread([1.0]) == {"mean": 1.0, "sd": None, "values": [1.0]}
    assert spread([1.0, None]) is None
    assert spread([]) is None


def test_a_summary_names_the_group_that_is_worst_most_often() -> None:
    found = summary_of_arm([result(0.5), result(0.7)], ["large", "small"])
    assert found["worst_group"] == {"name": "small", "seeds": 2}
    assert found["worst"]["mean"] == pytest.approx(0.6)
    assert found["average_training_share"] is None
    assert found["groups"]["large"]["mean"] == 0.9
    assert found["bound_holds"] == [True, True]


def verdicts(found: list[dict[str, Any]]) -> dict[tuple[str, str], str]:
    return {(told["claim"].partition(":")[0], told["where"]): told["verdict"] for told in found}


def test_claims_hold_do_not_hold_and_stay_undecided() -> None:
    erm = [result(0.4, completeness=0.6 + noise, spurious=0.9 + noise) for noise in (0.0, 0.01, 0.02)]
    robust = [
        result(0.8, completeness=0.7, spurious=0.5),
        result(0.8, completeness=0.7, spurious=0.5, holds=False),
        result(0.8, completeness=0.7, spurious=0.5),
    ]
    found = claims({"erm": erm, "group_dro": robust}, [heads(1.0), heads(1.1), heads(0.9)])
    by_claim = verdicts(found)
    assert by_claim["iv", "arms"] == "does not hold"
    assert by_claim["ii", "arms"] == "does not hold"
    assert by_claim["ii", "every L2"] == "holds"
    told = {(one["claim"], one["where"]): one for one in found}
    assert told["i: less spurious", "arms"]["interval"][0] > 0.3
    assert told["i: more oracle", "L2 1"]["verdict"] == "does not hold"
    assert told["iii: L2 widens gap", "L2 0.1-1"]["verdict"] == "does not hold"
    assert told["iii: L2 widens gap", "L2 0.1-1"]["note"] == "the gap rises in 0 of 1 steps of L2"
    assert told["iii: L2 helps DRO", "L2 0.1-1"]["verdict"] == "holds"


def test_one_seed_decides_nothing() -> None:
    found = claims({"erm": [result(0.4, spurious=0.9)], "group_dro": [result(0.8)]}, [heads(1.0)])
    assert {told["verdict"] for told in found} == {"one seed", "holds"}
    assert all(told["interval"] is None for told in found)


def test_arms_of_one_representation_have_nothing_to_say_of_completeness() -> None:
    same = [result(0.4, spurious=0.9), result(0.4, spurious=0.8)]
    found = claims({"erm": same, "group_dro": [result(0.8), result(0.8)]}, [])
    assert [told["claim"] for told in found if told["claim"].startswith("iv")] == []
