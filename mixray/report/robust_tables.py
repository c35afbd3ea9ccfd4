"""Tables of classifiers under several objectives: worst groups and averages, all groups, measures, claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mixray.report.layout import new_table, titled

Told = Mapping[str, Any]
BOUND = ("gap", "distance", "slack")
HEADS = ("E", "G")


def robust_report(results: Told) -> RenderableType:
    """Everything there is to say about a run of ``jobs/train_robust.py``; ``results``: its results file."""
    parts = [arms_table(results), groups_table(results), measures_table(results)]
    if results["l2"]:
        parts.append(bound_table(results))
    if results["heads"]:
        parts.append(heads_table(results))
    if results["claims"]:
        parts.append(claims_table(results))
    parts += [Text(f"warning ({entry['code']}): {entry['message']}", style="yellow") for entry in results["warnings"]]
    return Group(*parts)


def arms_table(results: Told) -> RenderableType:
    table = new_table("arm", "worst group", "which", "average_test", "average_\ntraining_share")
    summaries = _summaries(results)
    best = max(summaries, key=lambda arm: summaries[arm]["worst"]["mean"])
    for arm, told in summaries.items():
        worst = told["worst_group"]
        which = f"{worst['name']} ({worst['seeds']}/{len(results['seeds'])})"
        averages = (plus_minus(told["average_test"], 100, 1), plus_minus(told["average_training_share"], 100, 1))
        table.add_row(
            f"{arm} *" if arm == best else arm,
            plus_minus(told["worst"], 100, 1),
            which,
            *averages,
            style="bold" if arm == best else "",
        )
    counts = results["counts"]
    by = "worst group" if results["select_by"] == "worst_group" else "average"
    test, validation = (sum(counts[part].values()) for part in ("test", "validation"))
    caption = (
        f"mean ± sd over {len(results['seeds'])} seeds; n = {test:,} test rows; models selected by the {by} of the "
        f"validation part, n = {validation:,}; {results['steps']:,} steps of {results['batch']} rows each; "
        "which: in so many seeds; * best worst group"
    )
    return titled("Arms: accuracy on the test part, in %", table, caption)


def groups_table(results: Told) -> RenderableType:
    summaries, counts = _summaries(results), results["counts"]
    table = new_table("group", *summaries)
    for name in results["group_names"]:
        table.add_row(name, *(plus_minus(told["groups"][name], 100, 1) for told in summaries.values()))
    rows = [f"{name} {counts['train'][name]:,} and {counts['test'][name]:,}" for name in results["group_names"]]
    return titled("Groups: accuracy on the test part, in %", table, f"train and test rows: {', '.join(rows)}")


def measures_table(results: Told) -> RenderableType:
    table = new_table("arm", "spurious", "oracle", "completeness")
    for arm, told in _summaries(results).items():
        names = ("alignment_spurious", "alignment_oracle", "completeness")
        table.add_row(arm, *(plus_minus(told["measures"][name], 1, 3) for name in names))
    about = results["completeness"]
    caption = f"alignment: cosine with the exact spurious and oracle heads at L2 {results['l2']:g}"
    if not results["l2"]:
        caption = "alignment: not without L2, which the exact heads need"
    if about is not None:
        pca = "no PCA" if about["kept_variance"] is None else f"PCA keeps {100 * about['kept_variance']:.0f} %"
        caption += f"; completeness: D = {about['dimensions']}, {about['estimator']}, {pca}"
    return titled("Alignment and completeness, each arm on its own representation", table, caption)


def bound_table(results: Told) -> RenderableType:
    table = _bound_columns("arm")
    for arm, told in _summaries(results).items():
        if told["bound_holds"]:
            cells = [plus_minus(told["measures"][f"bound_{name}"], 1, 3) for name in BOUND]
            table.add_row(arm, *cells, f"{sum(told['bound_holds'])} of {len(told['bound_holds'])}")
    caption = f"w_G: the exact Group DRO head on the arm's representation; mu = {results['l2']:g}"
    return titled("Bound: R(w) - R(w_G) >= mu/2 |w - w_G|^2, in nats", table, caption)


def heads_table(results: Told) -> RenderableType:
    """The exact heads: alignment and what it is worth, then the bound."""
    table = new_table("L2", *(f"{what} {arm}" for what in ("spur.", "oracle", "worst %") for arm in HEADS))
    bounds = _bound_columns("L2")
    for told in results["heads"]:
        pairs = [(told["spurious"], 1, 2), (told["oracle"], 1, 2), (told["worst_test_accuracy"], 100, 1)]
        cells = [
            plus_minus(pair[arm], factor, digits) if pair else ""
            for pair, factor, digits in pairs
            for arm in ("erm", "group_dro")
        ]
        table.add_row(f"{told['l2']:g}", *cells)
        bounds.add_row(
            f"{told['l2']:g}", *(plus_minus(told[name], 1, 3) for name in BOUND), f"{told['holds']} of {told['of']}"
        )
    caption = "E: ERM, G: Group DRO; worst: of the test part's groups"
    return Group(titled("Exact heads on the inputs", table, caption), titled("Bound, exact ERM head", bounds))


def claims_table(results: Told) -> RenderableType:
    table = new_table("from ERM to Group DRO", "where", "difference (95 %)", "verdict")
    for told in results["claims"]:
        estimate = told["estimate"] if isinstance(told["estimate"], str) else f"{told['estimate']:+.3f}"
        ends = told["interval"]
        interval = f" ({ends[0]:+.3f}, {ends[1]:+.3f})" if ends else ""
        table.add_row(told["claim"], told["where"], estimate + interval, told["verdict"])
    notes = [told["note"] for told in results["claims"] if "note" in told]
    about = f"i: alignment; iv: completeness; L2: exact heads on the inputs; paired over {len(results['seeds'])} seeds"
    return titled("Claims", table, "; ".join([about, *notes]))


def plus_minus(told: Mapping[str, Any] | None, factor: float, digits: int) -> str:
    """``84.2±1.3``; of one seed without a spread; empty where nothing is known."""
    if told is None:
        return ""
    text = f"{factor * told['mean']:.{digits}f}"
    return text if told["sd"] is None else f"{text}±{factor * told['sd']:.{digits}f}"


def _summaries(results: Told) -> dict[str, Told]:
    return {arm: told["summary"] for arm, told in results["arms"].items()}


def _bound_columns(first: str) -> Table:
    return new_table(first, "R(w) - R(w_G)", "mu/2 |w - w_G|^2", "slack", "holds")
