"""Seeds put together: what each arm reaches, with its spread, and what the mechanism paper's claims come to here.

Claims of "Alignment, Convexity and Completeness: Mechanisms Behind GroupDRO" (2025), each a hypothesis about paired
differences over seeds. One holds where the 95 % interval (Student's t) lies on its side of 0, does not hold where it
lies on the other, and is undecided where 0 is inside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from mixray.robust.completeness import interval_over_seeds

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Arm -> the results of its seeds, in the order of the seeds (``results_of``)."""
Told = dict[str, Any]


def spread(values: Sequence[float | None]) -> Told | None:
    """Mean, standard deviation (None of one seed) and values; None where a seed has none."""
    sample = [value for value in values if value is not None]
    if not sample or len(sample) < len(values):
        return None
    deviation = float(np.std(sample, ddof=1)) if len(sample) > 1 else None
    return {"mean": float(np.mean(sample)), "sd": deviation, "values": sample}


def summary_of_arm(results: Sequence[Mapping[str, Any]], group_names: Sequence[str]) -> Told:
    """Accuracies on the test part and measures, each as a ``spread`` over seeds."""
    tests = [result["test"] for result in results]
    worst, times = Counter(test["worst_group"] for test in tests).most_common(1)[0]
    return {
        "worst_group": {"name": group_names[worst], "seeds": times},
        "worst": spread([test["worst"] for test in tests]),
        "average_test": spread([test["average_test"] for test in tests]),
        "average_training_share": spread([test["average_training_share"] for test in tests]),
        "groups": {name: spread([test["accuracy"][group] for test in tests]) for group, name in enumerate(group_names)},
        "measures": {
            name: spread([find(result["measures"]) for result in results]) for name, find in _MEASURES.items()
        },
        "bound_holds": [result["measures"]["bound"]["holds"] for result in results if "bound" in result["measures"]],
    }


def _at(*path: str) -> Callable[[Mapping[str, Any]], float | None]:
    def find(measures: Mapping[str, Any]) -> float | None:
        value: Any = measures
        for key in path:
            value = None if value is None else value.get(key)
        return None if value is None else float(value)

    return find


_MEASURES = {
    "alignment_spurious": _at("alignment", "spurious"),
    "alignment_oracle": _at("alignment", "oracle"),
    "bound_gap": _at("bound", "gap"),
    "bound_distance": _at("bound", "distance"),
    "bound_slack": _at("bound", "slack"),
    "completeness": _at("completeness", "completeness"),
}


# ------------------------------------------------------------------------------------------------------------- claims


def claims(results: Results, heads: Sequence[Mapping[str, Any]]) -> list[Told]:
    """Every claim that these results can speak of: claim, where, estimate with interval (None of one seed), verdict.

    heads: of each seed, ``measures_of_heads`` for every strength of L2.
    """
    found = []
    for place in range(len(heads[0]["heads"]) if heads else 0):
        at = [seed["heads"][place] for seed in heads]
        where = f"L2 {at[0]['l2']:g}"
        if at[0]["spurious"] is not None:
            falls = [one["spurious"]["erm"] - one["spurious"]["group_dro"] for one in at]
            found.append(_claim("i: less spurious", where, falls))
        rises = [one["oracle"]["group_dro"] - one["oracle"]["erm"] for one in at]
        found.append(_claim("i: more oracle", where, rises))
    if {"erm", "group_dro"} <= results.keys():
        found += _of_trained(results["erm"], results["group_dro"])
    found += _bounds(results, heads)
    if heads and len(heads[0]["heads"]) > 1:
        found += _l2(heads)
    return found


def _of_trained(erm: Sequence[Mapping[str, Any]], robust: Sequence[Mapping[str, Any]]) -> list[Told]:
    where = "arms"
    pairs = [(one["measures"], other["measures"]) for one, other in zip(erm, robust, strict=True)]
    wanted = [
        ("i: less spurious", "alignment_spurious", 1),
        ("i: more oracle", "alignment_oracle", -1),
        ("iv: less complete", "completeness", 1),
    ]
    found = []
    for name, measure, sign in wanted:
        find = _MEASURES[measure]
        values = [(find(one), find(other)) for one, other in pairs]
        differences = [sign * (one - other) for one, other in values if one is not None and other is not None]
        # Arms that share their representation, as linear ones do, have nothing to say of completeness.
        if len(differences) == len(pairs) and any(differences):
            found.append(_claim(name, where, differences))
    return found


def _bounds(results: Results, heads: Sequence[Mapping[str, Any]]) -> list[Told]:
    exact = [one["bound"]["holds"] for seed in heads for one in seed["heads"]]
    trained = [
        result["measures"]["bound"]["holds"]
        for of_arm in results.values()
        for result in of_arm
        if "bound" in result["measures"]
    ]
    found = []
    for where, holds in (("every L2", exact), ("arms", trained)):
        if holds:
            verdict = "holds" if all(holds) else "does not hold"
            found.append(
                {
                    "claim": "ii: the bound holds",
                    "where": where,
                    "estimate": f"{sum(holds)} of {len(holds)}",
                    "interval": None,
                    "verdict": verdict,
                }
            )
    return found


def _l2(heads: Sequence[Mapping[str, Any]]) -> list[Told]:
    """The paper explains the gains of L2 by the bound; then the gap should grow with L2, and Group DRO gain."""
    strengths = [one["l2"] for one in heads[0]["heads"]]
    order = np.argsort(strengths)
    low, high = int(order[0]), int(order[-1])
    where = f"L2 {strengths[low]:g}-{strengths[high]:g}"

    def change(find: Callable[[Mapping[str, Any]], float]) -> list[float]:
        return [find(seed["heads"][high]) - find(seed["heads"][low]) for seed in heads]

    steps = [
        [float(seed["heads"][after]["bound"]["gap"] - seed["heads"][before]["bound"]["gap"]) for seed in heads]
        for before, after in pairwise(order)
    ]
    rising = sum(np.mean(step) > 0 for step in steps)
    return [
        _claim("iii: L2 widens gap", where, change(lambda one: one["bound"]["gap"]))
        | {"note": f"the gap rises in {rising} of {len(steps)} steps of L2"},
        _claim("iii: L2 raises bound", where, change(lambda one: one["bound"]["distance"])),
        _claim(
            "iii: L2 helps DRO",
            where,
            change(lambda one: one["worst_test_accuracy"]["group_dro"]),
        ),
    ]


def _claim(claim: str, where: str, differences: Sequence[float]) -> Told:
    """``differences``: one per seed, positive where the claim is right."""
    told: Told = {"claim": claim, "where": where, "estimate": float(np.mean(differences)), "interval": None}
    if len(differences) < 2:
        return told | {"verdict": "one seed"}
    found = interval_over_seeds(differences)
    verdict = "holds" if found.low > 0 else "does not hold" if found.high < 0 else "undecided"
    return told | {"interval": [found.low, found.high], "verdict": verdict}
