"""Tables of a comparison of robust methods: worst groups first; on request the mechanisms behind them."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mixray.report.layout import counted, new_table, titled
from mixray.report.robust.results import RobustResults, Spread, SpreadPair, WorstGroupDifference

REFERENCES = ("erm", "importance")
"""The arms with which all others are compared."""


def robust_report(results: RobustResults, *, mechanisms: bool = False) -> RenderableType:
    """Return the tables of a run. ``mechanisms`` adds alignment, bound, completeness, exact heads and claims."""
    parts = [worst_group_table(results), differences_table(results), groups_table(results)]
    if mechanisms:
        parts.append(measures_table(results))
        if results.l2:
            parts.append(bound_table(results))
        if results.heads:
            parts.append(heads_table(results))
        if results.claims:
            parts.append(claims_table(results))
    parts += [Text(f"warning ({warning.code}): {warning.message}", style="yellow") for warning in results.warnings]
    return Group(*parts)


def worst_group_table(results: RobustResults) -> RenderableType:
    """Return a table of every arm's worst group.

    The best arm is bold where its difference from the next one is separated from 0.
    """
    table = new_table("arm", "worst group", "95 % interval", "which")
    summaries = {arm: compared.summary for arm, compared in results.arms.items()}
    ranking = sorted(summaries, key=lambda arm: -summaries[arm].worst.mean)
    best = _difference(results, *ranking[:2]) if len(ranking) > 1 else None
    for arm, summary in summaries.items():
        which = f"{summary.worst_group.name} ({summary.worst_group.seeds}/{len(results.seeds)})"
        table.add_row(
            f"{arm} *" if arm == ranking[0] else arm,
            f"{100 * summary.worst.mean:.1f}",
            _interval(summary.worst.interval, 100, 1),
            which,
            style="bold" if arm == ranking[0] and best is not None and best.is_separated else "",
        )
    test, validation = (sum(results.counts[part].values()) for part in ("test", "validation"))
    by = "worst group" if results.select_by == "worst_group" else "average"
    seeds = counted(len(results.seeds), "seed")
    caption = (
        f"n = {test:,} test rows, {seeds}; intervals cover the choice of test rows and the seeds; "
        f"models selected by the {by} of the validation part, n = {validation:,}; {results.steps:,} steps of "
        f"{results.batch} rows each; which: worst in so many seeds; * highest worst group"
    )
    if best is not None and best.interval is not None and not best.is_separated:
        caption += f", not separated from {best.against}"
    return titled("Worst group: accuracy on the test part, in %", table, caption)


def differences_table(results: RobustResults) -> RenderableType:
    """Return what every arm's worst group gains over ERM and importance weights, paired by seed and test row."""
    references = [arm for arm in REFERENCES if arm in results.arms]
    table = new_table("arm", *(cell for arm in references for cell in (f"vs {arm}", "95 % interval")))
    for arm in results.arms:
        cells: list[str] = []
        for against in references:
            difference = _difference(results, arm, against)
            cells += (
                ["", ""]
                if difference is None
                else [f"{100 * difference.mean:+.1f}", _interval(difference.interval, 100, 1, sign="+")]
            )
        table.add_row(arm, *cells)
    caption = "paired by seed and by test row; an interval that excludes 0 separates the arms"
    return titled("Worst group: difference in points", table, caption)


def groups_table(results: RobustResults) -> RenderableType:
    """Return a table of every group, and of the averages over test rows and by shares of the training rows."""
    table = new_table("group", *results.arms)
    summaries = [compared.summary for compared in results.arms.values()]
    for name in results.group_names:
        table.add_row(name, *(with_half_width(summary.groups[name]) for summary in summaries))
    table.add_section()
    table.add_row("average", *(with_half_width(summary.average_test) for summary in summaries))
    table.add_row("by training share", *(with_half_width(summary.average_training_share) for summary in summaries))
    counts = results.counts
    rows = [f"{name} {counts['train'][name]:,} and {counts['test'][name]:,}" for name in results.group_names]
    caption = f"± reach of the 95 % interval; train and test rows: {', '.join(rows)}"
    return titled("Groups: accuracy on the test part, in %", table, caption)


# ---------------------------------------------------------------------------------------------------------- mechanisms


def measures_table(results: RobustResults) -> RenderableType:
    table = new_table("arm", "spurious", "oracle", "completeness")
    for arm, compared in results.arms.items():
        names = ("alignment_spurious", "alignment_oracle", "completeness")
        table.add_row(arm, *(with_deviation(compared.summary.measures[name], 1, 3) for name in names))
    caption = "alignment: not measured without L2, which the exact heads need"
    if results.l2:
        caption = f"alignment: cosine with the exact spurious and oracle heads at L2 {results.l2:g}"
    about = results.completeness
    if about is not None:
        pca = "no PCA" if about.kept_variance is None else f"PCA keeps {100 * about.kept_variance:.0f} %"
        caption += f"; completeness: D = {about.dimensions}, {about.estimator}, {pca}"
    title = "Alignment and completeness, each arm on its own representation"
    return titled(title, table, f"{caption}; ± standard deviation over {counted(len(results.seeds), 'seed')}")


def bound_table(results: RobustResults) -> RenderableType:
    table = _bound_columns("arm")
    for arm, compared in results.arms.items():
        summary = compared.summary
        if summary.bound_holds:
            cells = [with_deviation(summary.measures[f"bound_{name}"], 1, 3) for name in ("gap", "distance", "slack")]
            table.add_row(arm, *cells, f"{sum(summary.bound_holds)} of {len(summary.bound_holds)}")
    caption = f"w_G: the exact Group DRO head on the arm's representation; mu = {results.l2:g}"
    return titled("Bound: R(w) - R(w_G) >= mu/2 |w - w_G|^2, in nats", table, caption)


def heads_table(results: RobustResults) -> RenderableType:
    """Return two tables of the exact heads: their alignment and worst-group accuracy, and the bound."""
    table = new_table("L2", *(f"{what} {head}" for what in ("spur.", "oracle", "worst %") for head in ("E", "G")))
    bounds = _bound_columns("L2")
    for heads in results.heads:
        table.add_row(
            f"{heads.l2:g}",
            *_pair_cells(heads.spurious, 1, 2),
            *_pair_cells(heads.oracle, 1, 2),
            *_pair_cells(heads.worst_test_accuracy, 100, 1),
        )
        sides = [with_deviation(side, 1, 3) for side in (heads.gap, heads.distance, heads.slack)]
        bounds.add_row(f"{heads.l2:g}", *sides, f"{heads.holds} of {heads.of}")
    caption = "E: ERM, G: Group DRO; worst: accuracy of the worst group of the test part"
    return Group(titled("Exact heads on the inputs", table, caption), titled("Bound, exact ERM head", bounds))


def claims_table(results: RobustResults) -> RenderableType:
    table = new_table("from ERM to Group DRO", "where", "difference (95 %)", "verdict")
    for claim in results.claims:
        estimate = claim.estimate if isinstance(claim.estimate, str) else f"{claim.estimate:+.3f}"
        if claim.interval:
            estimate += f" ({claim.interval[0]:+.3f}, {claim.interval[1]:+.3f})"
        table.add_row(claim.claim, claim.where, estimate, claim.verdict)
    notes = [claim.note for claim in results.claims if claim.note is not None]
    seeds = counted(len(results.seeds), "seed")
    about = f"i: alignment; iv: completeness; L2: exact heads on the inputs; paired over {seeds}"
    return titled("Claims", table, "; ".join([about, *notes]))


# --------------------------------------------------------------------------------------------------------------- cells


def with_half_width(accuracy: Spread | None) -> str:
    """Write ``84.2±1.3`` in %: the estimate and how far its 95 % interval over test rows and seeds reaches."""
    if accuracy is None:
        return ""
    text = f"{100 * accuracy.mean:.1f}"
    if accuracy.interval is None:
        return text
    return f"{text}±{100 * max(accuracy.mean - accuracy.interval[0], accuracy.interval[1] - accuracy.mean):.1f}"


def with_deviation(spread: Spread | None, factor: float, digits: int) -> str:
    """Write ``0.842±0.013``: mean and standard deviation over seeds; the mean alone for one seed."""
    if spread is None:
        return ""
    text = f"{factor * spread.mean:.{digits}f}"
    return text if spread.sd is None else f"{text}±{factor * spread.sd:.{digits}f}"


def _pair_cells(pair: SpreadPair | None, factor: float, digits: int) -> list[str]:
    return [with_deviation(spread, factor, digits) for spread in ((pair.erm, pair.group_dro) if pair else (None, None))]


def _interval(interval: tuple[float, float] | None, factor: float, digits: int, *, sign: str = "") -> str:
    if interval is None:
        return ""
    return " to ".join(f"{factor * end:{sign}.{digits}f}" for end in interval)


def _difference(results: RobustResults, arm: str, against: str) -> WorstGroupDifference | None:
    return next((one for one in results.differences if (one.arm, one.against) == (arm, against)), None)


def _bound_columns(first: str) -> Table:
    return new_table(first, "R(w) - R(w_G)", "mu/2 |w - w_G|^2", "slack", "holds")
