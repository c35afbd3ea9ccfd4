"""The tables of the robust job, at the width of a terminal of 80 columns."""

from __future__ import annotations

from typing import Any

import pytest

from mixray.report.robust_tables import arms_table, claims_table, groups_table, measures_table, plus_minus
from tests.report.test_tables import printed


def told(mean: float, sd: float | None = 0.01) -> dict[str, Any]:
    return {"mean": mean, "sd": sd}


def summary(worst: float) -> dict[str, Any]:
    return {
        "worst_group": {"name": "Female|1", "seeds": 4},
        "worst": told(worst),
        "average_test": told(0.8),
        "average_training_share": None,
        "groups": {"Male|0": told(0.9), "Female|1": told(worst, None)},
        "measures": {
            "alignment_spurious": told(-0.5),
            "alignment_oracle": told(0.75),
            "completeness": None,
        },
    }


RESULTS: dict[str, Any] = {
    "seeds": [0, 1, 2, 3, 4],
    "select_by": "worst_group",
    "steps": 1000,
    "batch": 64,
    "l2": 0.01,
    "group_names": ["Male|0", "Female|1"],
    "counts": {
        "train": {"Male|0": 7000, "Female|1": 900},
        "validation": {"Male|0": 700, "Female|1": 90},
        "test": {"Male|0": 3000, "Female|1": 400},
    },
    "completeness": {"dimensions": 32, "estimator": "random_forest", "kept_variance": 0.9},
    "arms": {"erm": {"summary": summary(0.5)}, "group_dro": {"summary": summary(0.75)}},
    "claims": [
        {"claim": "ii: the bound holds", "where": "arms", "estimate": "9 of 9", "interval": None, "verdict": "holds"},
        {
            "claim": "iii: L2 widens gap",
            "where": "L2 0.1-1",
            "estimate": -0.25,
            "interval": [-0.3, -0.2],
            "verdict": "does not hold",
            "note": "the gap rises in 0 of 1 steps of L2",
        },
    ],
}


def test_arms() -> None:
    assert printed(arms_table(RESULTS)) == [
        "Arms: accuracy on the test part, in %",
        "                                                                   average_",
        " arm           worst group            which   average_test   training_share",
        " erm              50.0±1.0   Female|1 (4/5)       80.0±1.0",
        " group_dro *      75.0±1.0   Female|1 (4/5)       80.0±1.0",
        "mean ± sd over 5 seeds; n = 3,400 test rows; models selected by the worst group",
        "of the validation part, n = 790; 1,000 steps of 64 rows each; which: in so many",
        "seeds; * best worst group",
    ]


def test_groups() -> None:
    assert printed(groups_table(RESULTS)) == [
        "Groups: accuracy on the test part, in %",
        " group           erm   group_dro",
        " Male|0     90.0±1.0    90.0±1.0",
        " Female|1       50.0        75.0",
        "train and test rows: Male|0 7,000 and 3,000, Female|1 900 and 400",
    ]


def test_completeness_has_beside_it_what_it_hangs_on() -> None:
    assert printed(measures_table(RESULTS))[-2:] == [
        "alignment: cosine with the exact spurious and oracle heads at L2 0.01;",
        "completeness: D = 32, random_forest, PCA keeps 90 %",
    ]


def test_claims_tell_what_does_not_hold() -> None:
    assert printed(claims_table(RESULTS)) == [
        "Claims",
        " from ERM to Group DRO      where         difference (95 %)         verdict",
        " ii: the bound holds         arms                    9 of 9           holds",
        " iii: L2 widens gap      L2 0.1-1   -0.250 (-0.300, -0.200)   does not hold",
        "i: alignment; iv: completeness; L2: exact heads on the inputs; paired over 5",
        "seeds; the gap rises in 0 of 1 steps of L2",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (told(0.842, None), "84.2"), (told(0.842, 0.0131), "84.2±1.3")]
)
def test_a_spread_is_printed_where_there_is_one(value: Any, text: str) -> None:
    assert plus_minus(value, 100, 1) == text
