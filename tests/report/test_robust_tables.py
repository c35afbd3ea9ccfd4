"""The tables of a robust comparison, at the width of a terminal of 80 columns."""

from __future__ import annotations

from typing import Any

import pytest

from mixray.report.robust.results import RobustResults, Spread
from mixray.report.robust.tables import (
    claims_table,
    differences_table,
    groups_table,
    measures_table,
    robust_report,
    with_deviation,
    with_half_width,
    worst_group_table,
)
from tests.report.test_tables import printed


def spread(mean: float, sd: float | None = 0.01, half: float | None = 0.02) -> dict[str, Any]:
    interval = None if half is None else (mean - half, mean + half)
    return {"mean": mean, "sd": sd, "values": [mean], "interval": interval}


def arm(worst: float) -> dict[str, Any]:
    measures = {"alignment_spurious": spread(-0.5), "alignment_oracle": spread(0.75), "completeness": None}
    summary = {
        "worst_group": {"name": "Female|1", "seeds": 4},
        "worst": spread(worst, half=0.03),
        "average_test": spread(0.8),
        "average_training_share": None,
        "groups": {"Male|0": spread(0.9), "Female|1": spread(worst, half=None)},
        "measures": measures,
        "bound_holds": [],
    }
    return {"summary": summary, "seeds": []}


def difference(one: str, against: str, mean: float, half: float) -> dict[str, Any]:
    return {"arm": one, "against": against, "mean": mean, "interval": (mean - half, mean + half)}


def results(**changes: Any) -> RobustResults:
    content: dict[str, Any] = {
        "run": "adult-1a2b3c4d",
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
        "completeness": {
            "completeness": 0.5,
            "per_factor": [0.5],
            "dimensions": 32,
            "estimator": "random_forest",
            "kept_variance": 0.9,
        },
        "arms": {"erm": arm(0.5), "importance": arm(0.74), "group_dro": arm(0.75)},
        "differences": [
            difference("importance", "erm", 0.24, 0.03),
            difference("group_dro", "erm", 0.25, 0.03),
            difference("erm", "importance", -0.24, 0.03),
            difference("group_dro", "importance", 0.01, 0.02),
        ],
        "heads": [],
        "claims": [
            {
                "claim": "ii: the bound holds",
                "where": "arms",
                "estimate": "9 of 9",
                "interval": None,
                "verdict": "holds",
            },
            {
                "claim": "iii: L2 widens gap",
                "where": "L2 0.1-1",
                "estimate": -0.25,
                "interval": [-0.3, -0.2],
                "verdict": "does not hold",
                "note": "the gap rises in 0 of 1 steps of L2",
            },
        ],
        "warnings": [{"code": "unknown_category", "message": "3 rows have a new colour"}],
    }
    return RobustResults.model_validate(content | changes)


def test_worst_groups_lead_with_an_interval_over_rows_and_seeds() -> None:
    assert printed(worst_group_table(results())) == [
        "Worst group: accuracy on the test part, in %",
        " arm           worst group   95 % interval            which",
        " erm                  50.0    47.0 to 53.0   Female|1 (4/5)",
        " importance           74.0    71.0 to 77.0   Female|1 (4/5)",
        " group_dro *          75.0    72.0 to 78.0   Female|1 (4/5)",
        "n = 3,400 test rows, 5 seeds; intervals cover the choice of test rows and the",
        "seeds; models selected by the worst group of the validation part, n = 790; 1,000",
        "steps of 64 rows each; which: worst in so many seeds; * highest worst group, not",
        "separated from importance",
    ]


def test_differences_from_erm_and_importance_weights() -> None:
    assert printed(differences_table(results())) == [
        "Worst group: difference in points",
        " arm          vs erm    95 % interval   vs importance    95 % interval",
        " erm                                            -24.0   -27.0 to -21.0",
        " importance    +24.0   +21.0 to +27.0",
        " group_dro     +25.0   +22.0 to +28.0            +1.0     -1.0 to +3.0",
        "paired by seed and by test row; an interval that excludes 0 separates the arms",
    ]


def test_groups() -> None:
    assert printed(groups_table(results())) == [
        "Groups: accuracy on the test part, in %",
        " group                    erm   importance   group_dro",
        " Male|0              90.0±2.0     90.0±2.0    90.0±2.0",
        " Female|1                50.0         74.0        75.0",
        " average             80.0±2.0     80.0±2.0    80.0±2.0",
        " by training share",
        "± reach of the 95 % interval; train and test rows: Male|0 7,000 and 3,000,",
        "Female|1 900 and 400",
    ]


@pytest.mark.parametrize(("half", "bold"), [(0.005, True), (0.02, False)])
def test_the_best_arm_is_bold_only_where_it_is_separated_from_the_next(half: float, bold: bool) -> None:
    table = worst_group_table(results(differences=[difference("group_dro", "importance", 0.01, half)]))
    rows = table.renderables[1].rows  # type: ignore[union-attr]
    assert [row.style == "bold" for row in rows] == [False, False, bold]
    assert ("not separated from importance" in " ".join(printed(table))) != bold


def test_the_mechanisms_are_shown_on_request() -> None:
    plain, whole = ("\n".join(printed(robust_report(results(), mechanisms=on))) for on in (False, True))
    assert plain.startswith("Worst group")
    assert "Claims" not in plain
    assert "Claims" in whole
    assert "Alignment" in whole
    assert "warning (unknown_category): 3 rows have a new colour" in plain


def test_completeness_is_shown_with_the_settings_on_which_it_depends() -> None:
    assert printed(measures_table(results()))[-3:] == [
        "alignment: cosine with the exact spurious and oracle heads at L2 0.01;",
        "completeness: D = 32, random_forest, PCA keeps 90 %; ± standard deviation over 5",
        "seeds",
    ]


def test_claims_say_what_does_not_hold() -> None:
    assert printed(claims_table(results())) == [
        "Claims",
        " from ERM to Group DRO      where         difference (95 %)         verdict",
        " ii: the bound holds         arms                    9 of 9           holds",
        " iii: L2 widens gap      L2 0.1-1   -0.250 (-0.300, -0.200)   does not hold",
        "i: alignment; iv: completeness; L2: exact heads on the inputs; paired over 5",
        "seeds; the gap rises in 0 of 1 steps of L2",
    ]


def test_results_survive_storage_and_older_files_can_be_read() -> None:
    whole = results()
    assert RobustResults.from_json(whole.to_json().encode()) == whole
    older = RobustResults.model_validate(whole.model_dump(exclude={"differences"}))
    assert printed(differences_table(older))[-2] != ""


@pytest.mark.parametrize(
    ("half", "sd", "accuracy", "measure"), [(None, None, "84.2", "0.84"), (0.013, 0.02, "84.2±1.3", "0.84±0.02")]
)
def test_spreads_in_cells(half: float | None, sd: float | None, accuracy: str, measure: str) -> None:
    value = Spread.model_validate(spread(0.842, sd, half))
    assert with_half_width(value) == accuracy
    assert with_deviation(value, 1, 2) == measure
    assert with_half_width(None) == with_deviation(None, 1, 2) == ""
