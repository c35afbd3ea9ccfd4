"""The tables of a search for mixtures: of a run that has no mixture yet, of a mixture, and of all runs.

A mixture's report has its shares, its arms and their losses, the worth of its sources, and a summary in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from mixray.mixture import ArmResult, Interval, LimitPrice, Mixture, RealisableShares, SourceResult
from mixray.numerics import NATS, TRAINING_TOKENS
from mixray.report.comparison import (
    PLAIN,
    SEARCHED,
    arm_on,
    arms_best_first,
    compared_with_winner,
    difference,
    held_out_losses,
    reference_arm,
    search_overhead,
    winner,
)
from mixray.report.layout import (
    count_text,
    counted,
    difference_text,
    new_table,
    number_text,
    percent,
    share_text,
    small_text,
    titled,
)
from mixray.report.metrics import gains_over_targets, metrics_tables
from mixray.report.realised import forecast_table
from mixray.store import ModelMeta

MOST_PRICES = 5
"""Limits whose prices are printed, dearest first."""
MOST_WHOLE, NAMED = 24, 3
"""Mixtures up to which each is printed whole; of more, so many of the largest shares."""
ArmShares = Mapping[str, Mapping[str, float]]
"""Arm -> source -> share of the training tokens: those of the baselines, which a mixture does not hold."""


# ---------------------------------------------------------------------------------------------- runs, and their stages


def data_table(pool_counts: Mapping[str, Mapping[str, int]]) -> RenderableType:
    """Return a table of what was read. ``pool_counts``: ``"source NAME"`` or ``"target NAME"`` -> its counts."""
    table = new_table("pool", "documents", "MB", "tokens", "duplicates", "in target", "skipped", "split")
    for pool, counts in pool_counts.items():
        skipped = counts["skipped_not_utf8"] + counts["skipped_empty"]
        table.add_row(
            pool,
            f"{counts['documents']:,}",
            f"{counts['bytes'] / 1e6:.1f}",
            f"{counts['tokens']:,}",
            f"{counts['duplicates']:,}",
            f"{counts['in_target']:,}",
            f"{skipped:,}",
            f"{counts['split']:,}",
        )
    return titled("Data", table, "skipped: empty or not UTF-8; split: long documents cut into several")


def proxy_table(proxies: Mapping[str, ModelMeta], *, unit: str = NATS) -> RenderableType:
    """Return a table of the trained proxies, by source, with the first and the last loss of training."""
    table = new_table("source", "parameters", "tokens", f"first loss, {unit}", f"last loss, {unit}")
    for source, proxy in proxies.items():
        first, last = proxy.curve[0][1], proxy.curve[-1][1]
        table.add_row(source, f"{proxy.parameters:,}", f"{proxy.tokens:,}", f"{first:.4f}", f"{last:.4f}")
    return titled("Proxies", table)


def cache_table(
    target: str, losses: Mapping[str, tuple[float, float]], *, documents: int, tokens: int, unit: str = NATS
) -> RenderableType:
    """Return a table of a target's prediction cache.

    ``losses``: proxy -> its loss as a mean over documents and as a mean over tokens, both in ``unit``.
    """
    table = new_table("proxy", "mean over documents", "mean over tokens")
    for proxy, (document_loss, token_loss) in losses.items():
        table.add_row(proxy, f"{document_loss:.4f}", f"{token_loss:.4f}")
    caption = f"loss in {unit}; {documents:,} documents, {tokens:,} tokens"
    return titled(f"Prediction cache of {target}", table, caption)


def runs_table(rows: Sequence[tuple[str, str, str, str]]) -> RenderableType:
    """Return a table of runs. ``rows``: name, kind, next stage (empty for a finished run), start in UTC."""
    table = new_table("run", "kind", "state", "started, UTC")
    for name, kind, next_stage, started in rows:
        table.add_row(name, kind, f"unfinished: {next_stage}" if next_stage else "finished", started)
    return table


# ------------------------------------------------------------------------------------------------------------ mixtures


def mixture_tables(mixtures: Mapping[str, Mixture], arm_shares: Mapping[str, ArmShares]) -> list[RenderableType]:
    """Return the whole report of every mixture, or a table of them where there are many, and the gains over all.

    ``arm_shares``: by the mixture's name, the shares of the baselines.
    """
    gains = [Text(line) for line in gains_over_targets(mixtures)]
    if len(mixtures) > MOST_WHOLE:
        return [overview_table(mixtures), *gains]
    return [*(closing_report(mixture, arm_shares[name]) for name, mixture in mixtures.items()), *gains]


def overview_table(mixtures: Mapping[str, Mixture]) -> RenderableType:
    """Return a table with a row for each of many mixtures: its largest shares and its losses."""
    table = new_table("mixture", "predicted", "held-out")
    table.add_column("largest shares", overflow="fold")
    for name, mixture in mixtures.items():
        leaders = sorted(mixture.weights.items(), key=lambda item: -item[1])[:NAMED]
        retrained = mixture.retrain.get(SEARCHED)
        table.add_row(
            name,
            number_text(mixture.loss[SEARCHED], 4) if SEARCHED in mixture.loss else "",
            "" if retrained is None or retrained.nll is None else number_text(retrained.nll, 4),
            ", ".join(f"{source} {share_text(share)}" for source, share in leaders),
        )
    unit = next(iter(mixtures.values())).loss_unit
    return titled(
        f"{len(mixtures)} mixtures: loss in {unit}", table, "each whole in the folder mixtures of the run folder"
    )


def closing_report(mixture: Mixture, arm_shares: ArmShares) -> RenderableType:
    """Return everything there is to say about one mixture: its shares, its arms, a summary, its warnings."""
    rivals = {method: rival.weights for method, rival in mixture.rivals.items()}
    parts: list[RenderableType] = [weights_table(mixture, {**arm_shares, **rivals})]
    if mixture.loss or mixture.retrain:
        parts.append(arms_table(mixture))
    parts += metrics_tables(mixture)
    if mixture.forecast:
        parts.append(forecast_table(mixture))
    if mixture.gain:
        parts.append(gain_table(mixture))
    if mixture.target_loss:
        parts.append(targets_table(mixture))
    if any(mixture.worth.values()):
        parts.append(worth_table(mixture))
    if any(arm.sources for arm in mixture.retrain.values()):
        parts.append(sources_table(mixture))
    parts += [Text(line) for line in summary_lines(mixture)]
    parts += [Text(line, style="yellow") for line in warning_lines(mixture)]
    return Group(*parts, "")


def weights_table(mixture: Mixture, arm_shares: ArmShares) -> RenderableType:
    """Return a table of the sources, largest share first, with intervals, epochs and the baselines' shares."""
    optional = [name for name, there in (("95 % interval", mixture.interval), ("epochs", mixture.epochs)) if there]
    baselines = [arm for arm in arm_shares if arm != SEARCHED]
    table = new_table("source", "share", *optional, *baselines)
    for source in sorted(mixture.sources, key=lambda name: -mixture.weights[name]):
        cells = [source, share_text(mixture.weights[source])]
        if mixture.interval:
            low, high = mixture.interval[source]
            cells.append(f"{number_text(100 * low, 1)} to {number_text(100 * high, 1)} %")
        if mixture.epochs:
            cells.append(number_text(mixture.epochs[source], 2))
        table.add_row(*cells, *(share_text(arm_shares[arm][source]) for arm in baselines))
    return titled(f"Mixture for {_targets(mixture)}: shares of {mixture.share_of}", table)


def arms_table(mixture: Mixture) -> RenderableType:
    """Return a table of the arms, best first: losses, and the difference to the reference arm with its interval.

    The best arm is bold only where its interval separates it from the next one. Arms that differ in more than the name
    of their mixture have their mixture and objective beside them.
    """
    held_out, reference, best = held_out_losses(mixture), reference_arm(mixture), winner(mixture)
    compared = () if reference is None else ("held-out", f"vs {reference}", "95 % interval", "in %")
    described = ("mixture", "objective") if any(result.objective for result in mixture.retrain.values()) else ()
    searched = ("search",) if mixture.rivals and mixture.compute and held_out else ()
    table = new_table("arm", *described, *searched, "predicted", *compared)
    arms = arms_best_first(mixture)
    separated = len(held_out) > 1 and difference(mixture, arms[0], arms[1]).is_separated is True
    for arm in arms:
        result = mixture.retrain.get(arm, ArmResult())
        cells = [arm + " *" * (arm == best) + " †" * bool(result.outside)]
        cells += [getattr(result, name) or "" for name in described]
        if searched:
            overhead = search_overhead(mixture, arm) if arm in mixture.retrain else None
            cells.append("" if overhead is None else percent(overhead))
        # What the proxies predict depends on the shares alone.
        predicted = mixture.loss.get(arm, mixture.loss.get(result.mixture or ""))
        cells += ["" if loss is None else f"{loss:.4f}" for loss in (predicted, held_out.get(arm))]
        if reference is not None and arm in held_out and arm != reference:
            above = difference(mixture, arm, reference)
            ratio = f"{difference_text(100 * above.ratio, 2)} %"
            cells += [difference_text(above.value), _interval_text(above.interval), ratio]
        table.add_row(*cells[: len(table.columns)], style="bold" if separated and arm == best else "")
    quantity = "the worst target's loss above its offset," if mixture.over == "worst" else "loss in"
    return titled(f"Arms on {_targets(mixture)}: {quantity} {mixture.loss_unit}", table, _arms_caption(mixture))


def _interval_text(interval: Interval | None) -> str:
    return "" if interval is None else " to ".join(map(difference_text, interval))


def _arms_caption(mixture: Mixture) -> str:
    """Return ``held-out: n = 213 documents, 3 seeds; 2.00 M training tokens each; ...``, as far as all arms agree."""
    parts = []
    documents = {result.documents for result in mixture.retrain.values() if result.documents is not None}
    tokens = {result.tokens for result in mixture.retrain.values() if result.tokens is not None}
    seeds = {len(result.nll_by_seed) for result in mixture.retrain.values()}
    if len(documents) == 1:
        replicates = f", {counted(max(seeds), 'seed')}" if max(seeds) > 1 else ""
        parts.append(f"held-out: n = {counted(documents.pop(), mixture.sampled)}{replicates}")
    if len(tokens) == 1:
        parts.append(f"{count_text(tokens.pop())} {mixture.share_of} each")
    if winner(mixture) is not None:
        parts.append("* lowest held-out loss")
    if mixture.rivals and mixture.compute:
        parts.append("search: its FLOPs in % of those of one retraining")
    outside = [f"{arm}: {', '.join(result.outside)}" for arm, result in mixture.retrain.items() if result.outside]
    if outside:
        parts.append(f"† outside the limits ({'; '.join(outside)})")
    return "; ".join(parts)


def gain_table(mixture: Mixture) -> RenderableType:
    """Return a table of what the mixture gains over every baseline, as predicted on fresh documents and as it came out.

    Before the retraining, how the prediction was corrected stands in place of what came out.
    """
    searched = arm_on(mixture, SEARCHED)
    names = (
        ("predicted", "came out", "95 % interval") if searched else ("gain", "of the fit", f"more {mixture.sampled}s")
    )
    table = new_table("over", names[0], "95 % interval", *names[1:])
    for arm, gain in mixture.gain.items():
        cells = [arm, difference_text(gain.estimate), _interval_text(gain.interval)]
        if searched is None:
            more = "no number" if gain.more_documents is None else f"{gain.more_documents:,}"
            cells += [difference_text(-gain.optimism), more]
        elif (retrained := arm_on(mixture, arm)) is not None:
            realised = difference(mixture, retrained, searched)
            cells += [difference_text(realised.value), _interval_text(realised.interval)]
        table.add_row(*cells)
    if searched is not None:
        caption = (
            f"predicted: at the size of the proxies, on {mixture.sampled}s that did not choose the mixture; came out: "
            f"of the retrained models, on the held-out {mixture.sampled}s"
        )
        title = f"Gain on {_targets(mixture)}: {mixture.loss_unit}, as predicted and as it came out"
        return titled(title, table, caption)
    caption = (
        f"gain: what remains on {mixture.sampled}s that did not choose the mixture; of the fit: what these took off; "
        f"more {mixture.sampled}s: of the target, expected to tell the gain from zero"
    )
    return titled(f"Predicted gain on {_targets(mixture)}: {mixture.loss_unit}", table, caption)


def targets_table(mixture: Mixture) -> RenderableType:
    """Return a table of several targets: how much each counts, its predicted loss, every arm's held-out loss on it."""
    arms = [arm for arm in arms_best_first(mixture) if arm in mixture.retrain and mixture.retrain[arm].targets]
    table = new_table("target", "weight", "predicted", *arms)
    for target, loss in mixture.target_loss.items():
        held_out = [mixture.retrain[arm].targets[target].nll for arm in arms]
        cells = ["" if nll is None else f"{nll:.4f}" for nll in held_out]
        table.add_row(target, share_text(mixture.target_weights[target]), f"{loss:.4f}", *cells)
    return titled(f"Targets: loss in {mixture.loss_unit}", table, "arms: held-out" if arms else "")


def worth_table(mixture: Mixture) -> RenderableType:
    """Return a table of what each source is worth: the predicted loss that the best mixture without it adds."""
    table = new_table("without", "loss rises by", "95 % interval")
    worth = {source: worth for source, worth in mixture.worth.items() if worth is not None}
    needed = [source for source in mixture.worth if source not in worth]
    for source in sorted(worth, key=lambda name: -worth[name].loss_rise):
        if worth[source].loss_rise > (mixture.tolerance or 0.0):
            ends = worth[source].interval
            interval = "" if ends is None else f"{number_text(ends[0])} to {number_text(ends[1])}"
            table.add_row(source, f"{worth[source].loss_rise:.4f}", interval)
    caption = (
        f"no mixture without {', '.join(needed)}: limits or {mixture.sampled}s need it"
        if needed
        else "the others: nothing"
    )
    return titled(f"What a source is worth: {mixture.loss_unit}, predicted", table, caption)


def sources_table(mixture: Mixture) -> RenderableType:
    """Return a table of every arm's loss on every source, beside its realised share of the training tokens."""
    arms = [arm for arm in arms_best_first(mixture) if arm in mixture.retrain and mixture.retrain[arm].sources]
    table = new_table("source", *(heading for arm in arms for heading in ("share", arm)))
    for source in mixture.sources:
        cells = []
        for result in (mixture.retrain[arm].sources[source] for arm in arms):
            cells += [share_text(result.share), _loss_with_reach(result)]
        table.add_row(source, *cells)
    rows = [result.rows for arm in arms for result in mixture.retrain[arm].sources.values() if result.nll is not None]
    number = f"n = {min(rows)}" if len(set(rows)) == 1 else f"n = {min(rows)} to {max(rows)}" if rows else "n = 0"
    unit = "windows" if mixture.share_of == TRAINING_TOKENS else "examples"
    caption = f"{number} {unit} that the arm's training did not read; ± reach of the 95 % interval over them"
    return titled(f"Sources: realised share, and loss in {mixture.loss_unit}", table, caption)


def _loss_with_reach(result: SourceResult) -> str:
    if result.nll is None or result.nll_high is None:
        return ""
    return f"{result.nll:.3f} ± {result.nll_high - result.nll:.3f}"


# ------------------------------------------------------------------------------------------------------------ in words


def summary_lines(mixture: Mixture) -> list[str]:
    """Return the result in plain sentences: which arm is best and by how much, the certificate, the cost."""
    lines = []
    if (best := winner(mixture)) is not None:
        lines.append(f"{_targets(mixture)}: {_winner_sentence(mixture, best)}")
    elif {SEARCHED, PLAIN} <= set(mixture.loss):
        searched, plain = mixture.loss[SEARCHED], mixture.loss[PLAIN]
        quantity = "the worst target's predicted loss above its offset" if mixture.over == "worst" else "predicted loss"
        below = mixture.gain[PLAIN].estimate if PLAIN in mixture.gain else plain - searched
        unit = mixture.loss_unit
        fresh = f" on fresh {mixture.sampled}s" if PLAIN in mixture.gain else ""
        lines.append(f"{_targets(mixture)}: {quantity} {searched:.4f} {unit}, {below:.4f} below {PLAIN}{fresh}")
    if mixture.gap is not None:
        choice, settled = mixture.choice, mixture.realisable
        by_choice = (choice.loss_rise if choice else 0.0) + (settled.loss_rise if settled else 0.0)
        above = small_text(max(0.0, mixture.gap - by_choice))
        lines.append(
            f"solver: {mixture.status} after {counted(mixture.rounds or 0, 'round')}, "
            f"at most {above} {mixture.loss_unit} above the optimum{' but by choice' if by_choice else ''}"
        )
    if (minima := mixture.local_minima) is not None:
        lines.append(
            f"solver: the best of {counted(len(minima.losses), 'start')}, which reached losses up to "
            f"{small_text(minima.losses[-1] - minima.losses[0])} {mixture.loss_unit} apart; the problem is not convex "
            f"and nothing certifies the answer, but no shares have a loss below {minima.lower_bound:.4f}"
        )
    if (choice := mixture.choice) is not None:
        part = percent(choice.loss_rise / abs(choice.optimum.loss)) if choice.optimum.loss else "0 %"
        rise, allowed = small_text(choice.loss_rise), small_text(choice.allowed_rise)
        lines.append(
            f"chosen: the near-optimal mixture nearest to the prior, {part} above the optimum's predicted loss by "
            f"choice ({rise} {mixture.loss_unit}, where {allowed} was allowed)"
        )
    settled = mixture.realisable
    if settled is not None and (settled.raised or settled.loss_rise > (mixture.tolerance or 0.0)):
        lines.append(_realisable_sentence(settled, mixture.loss_unit))
    lines += [_price_sentence(price) for price in mixture.prices[:MOST_PRICES]]
    for pair in mixture.interchangeable:
        lines.append(f"{' and '.join(pair.sources)} are interchangeable: the data hardly tell their shares apart")
    if mixture.compute is not None:
        lines.append(f"search: {percent(mixture.compute.overhead)} of the FLOPs of one retraining")
    return lines


def _winner_sentence(mixture: Mixture, best: str) -> str:
    text = f"{best} has the lowest held-out loss, {held_out_losses(mixture)[best]:.4f} {mixture.loss_unit}"
    other = compared_with_winner(mixture)
    if other is None:
        return text
    below = difference(mixture, best, other)
    text += f", {-below.value:.4f} ({-100 * below.ratio:.2f} %) below {other}"
    if below.interval is not None:
        text += f" (95 % interval {-below.interval[1]:.4f} to {-below.interval[0]:.4f})"
    return text if below.is_separated is not False else f"{text}: not separated from zero"


def _realisable_sentence(settled: RealisableShares, loss_unit: str) -> str:
    changes = [
        f"{', '.join(sources)} {fate}"
        for sources, fate in ((settled.dropped, "to no share"), (settled.raised, "to at least that share"))
        if sources
    ]
    return (
        f"best shares below one training window of the budget, {percent(settled.least_share)}, were put "
        f"{' and '.join(changes)}: {small_text(settled.loss_rise)} {loss_unit}"
    )


def _price_sentence(price: LimitPrice) -> str:
    limit = {"min": "at least", "max": "at most"}[price.limit]
    gain = price.nats_per_token_per_unit_share / 100
    change = f"loosened by one percent of share, the loss falls by {small_text(gain)}"
    return f"limit {' + '.join(price.sources)} {limit} {price.at:g}: {change}"


def warning_lines(mixture: Mixture) -> list[str]:
    """Return every warning with its code, one a line."""
    return [f"warning ({warning.code}): {warning.message}" for warning in mixture.warnings]


def _targets(mixture: Mixture) -> str:
    return ", ".join(mixture.targets) or "the target"
