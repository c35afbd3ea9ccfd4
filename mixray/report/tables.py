"""Tables for a terminal of 80 columns: what a mixture is made of, which arm won and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from mixray.mixture import Mixture
from mixray.report.comparison import (
    PLAIN,
    SEARCHED,
    anchor,
    arms_best_first,
    difference,
    held_out_losses,
    rival,
    winner,
)
from mixray.report.layout import (
    count_text,
    counted,
    difference_text,
    new_table,
    percent,
    share_text,
    small_text,
    titled,
)

MOST_PRICES = 5
"""Limits whose prices are told, the dearest ones."""
ArmShares = Mapping[str, Mapping[str, float]]
"""Arm -> (source -> share of the training tokens): the baselines' shares, which a mixture does not hold."""


def mixture_tables(mixtures: Mapping[str, Mixture], arm_shares: ArmShares) -> list[RenderableType]:
    """Return the whole report of every mixture, beside the shares of the baselines."""
    return [closing_report(mixture, arm_shares) for mixture in mixtures.values()]


def closing_report(mixture: Mixture, arm_shares: ArmShares) -> RenderableType:
    """Everything there is to say about one mixture: its weights, its arms, a summary, its warnings."""
    parts: list[RenderableType] = [weights_table(mixture, arm_shares)]
    if mixture.loss or mixture.retrain:
        parts.append(arms_table(mixture))
    if mixture.target_loss:
        parts.append(targets_table(mixture))
    if any(mixture.worth.values()):
        parts.append(worth_table(mixture))
    parts += [Text(line) for line in summary_lines(mixture)]
    parts += [Text(line, style="yellow") for line in warning_lines(mixture)]
    return Group(*parts, "")


def weights_table(mixture: Mixture, arm_shares: ArmShares) -> RenderableType:
    """Sources, largest share first, with interval, epochs and the baselines' shares."""
    table = new_table("source", "share")
    if mixture.interval:
        table.add_column("95 % interval", justify="right", no_wrap=True)
    if mixture.epochs:
        table.add_column("epochs", justify="right", no_wrap=True)
    others = [arm for arm in arm_shares if arm != SEARCHED]
    for arm in others:
        table.add_column(arm, justify="right", no_wrap=True, style="dim")
    for source in sorted(mixture.sources, key=lambda name: -mixture.weights[name]):
        cells = [source, share_text(mixture.weights[source])]
        if mixture.interval:
            low, high = mixture.interval[source]
            cells.append(f"{100 * low:.1f} to {100 * high:.1f} %")
        if mixture.epochs:
            cells.append(f"{mixture.epochs[source]:.2f}")
        table.add_row(*cells, *(share_text(arm_shares[arm][source]) for arm in others))
    return titled(f"Mixture for {_targets(mixture)}: shares of {mixture.share_of}", table)


def arms_table(mixture: Mixture) -> RenderableType:
    """Arms, best first: predicted and held-out loss, and the difference to the anchor arm with its interval."""
    table = new_table()
    table.add_column("arm")
    table.add_column("predicted", justify="right", no_wrap=True)
    held_out, base, best = held_out_losses(mixture), anchor(mixture), winner(mixture)
    if base is not None:
        for name in ("held-out", f"vs {base}", "95 % interval", "in %"):
            table.add_column(name, justify="right", no_wrap=True)
    for arm in arms_best_first(mixture):
        cells = [f"{arm} *" if arm == best else arm]
        cells += [f"{losses[arm]:.4f}" if arm in losses else "" for losses in (mixture.loss, held_out)]
        if base is not None and arm in held_out and arm != base:
            cells += _difference_cells(mixture, arm, base)
        table.add_row(*cells[: len(table.columns)], style="bold" if arm == best else "")
    what = "the worst target's loss above its offset," if mixture.over == "worst" else "loss in"
    return titled(f"Arms on {_targets(mixture)}: {what} nats per token", table, _arms_caption(mixture))


def targets_table(mixture: Mixture) -> RenderableType:
    """Of a mixture for several targets: how much each counts, its predicted loss, every arm's held-out loss on it."""
    arms = [arm for arm in arms_best_first(mixture) if "targets" in mixture.retrain.get(arm, {})]
    table = new_table()
    table.add_column("target", overflow="fold")
    for column in ("weight", "predicted", *arms):
        table.add_column(column, justify="right", no_wrap=True)
    for target, loss in mixture.target_loss.items():
        reached = [f"{mixture.retrain[arm]['targets'][target]['nll']:.4f}" for arm in arms]
        table.add_row(target, share_text(mixture.target_weights[target]), f"{loss:.4f}", *reached)
    caption = "arms: held-out" if arms else ""
    return titled("Targets: loss in nats per token", table, caption)


def worth_table(mixture: Mixture) -> RenderableType:
    """What each source that counts is worth: the predicted loss that the best mixture without it adds."""
    table = new_table()
    table.add_column("without", overflow="fold")
    for column in ("loss rises by", "95 % interval"):
        table.add_column(column, justify="right", no_wrap=True)
    known = {source: worth for source, worth in mixture.worth.items() if worth is not None}
    needed = [source for source, worth in mixture.worth.items() if worth is None]
    for source in sorted(known, key=lambda name: -known[name]["loss_rise"]):
        worth = known[source]
        if worth["loss_rise"] > (mixture.tolerance or 0.0):
            ends = worth["interval"]
            cell = "" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"
            table.add_row(source, f"{worth['loss_rise']:.4f}", cell)
    caption = f"the limits allow no mixture without {', '.join(needed)}" if needed else "the others: nothing"
    return titled("What a source is worth: nats per token, predicted", table, caption)


def sweep_tables(
    key: str, values: Sequence[object], mixtures: Sequence[Mapping[str, Mixture] | None]
) -> list[RenderableType]:
    """Return one table per mixture: its predicted loss and its largest shares for every value of a setting.

    ``mixtures``: per value, name -> mixture; None where no mixture satisfies the constraints.
    """
    names = next((list(by_name) for by_name in mixtures if by_name is not None), [])
    return [
        _sweep_table(key, values, [None if by_name is None else by_name[name] for by_name in mixtures])
        for name in names
    ]


def _sweep_table(key: str, values: Sequence[object], mixtures: Sequence[Mixture | None]) -> RenderableType:
    table = new_table(key, "loss", "gap", "sources")
    table.add_column("largest shares", overflow="fold")
    title = ""
    for value, mixture in zip(values, mixtures, strict=True):
        if mixture is None:
            table.add_row(str(value), "", "", "", "no mixture satisfies the constraints")
            continue
        title = _targets(mixture)
        largest = sorted(mixture.weights.items(), key=lambda item: -item[1])[:3]
        shares = ", ".join(f"{source} {share_text(share)}" for source, share in largest)
        effective = "" if mixture.effective_sources is None else f"{mixture.effective_sources:.1f}"
        table.add_row(str(value), f"{mixture.loss[SEARCHED]:.6f}", small_text(mixture.gap or 0.0), effective, shares)
    return titled(f"Sweep for {title}: predicted loss in nats per token", table, "sources: their effective number")


def summary_lines(mixture: Mixture) -> list[str]:
    """The result in plain sentences, one a line: who won and by how much, the certificate, the cost."""
    lines = []
    if (best := winner(mixture)) is not None:
        lines.append(f"{_targets(mixture)}: {_who_won(mixture, best)}")
    elif {SEARCHED, PLAIN} <= set(mixture.loss):
        searched, plain = mixture.loss[SEARCHED], mixture.loss[PLAIN]
        what = "the worst target's predicted loss above its offset" if mixture.over == "worst" else "predicted loss"
        lines.append(f"{_targets(mixture)}: {what} {searched:.4f} nats per token, {plain - searched:.4f} below {PLAIN}")
    if mixture.gap is not None:
        lines.append(
            f"solver: {mixture.status} after {counted(mixture.rounds or 0, 'round')}, "
            f"at most {small_text(mixture.gap)} nats per token above the optimum"
        )
    if mixture.choice:
        chosen = mixture.choice
        lines.append(
            f"chosen: the near-optimal mixture nearest to the prior, predicted loss {small_text(chosen['loss_rise'])} "
            f"above the optimum's, where {small_text(chosen['allowed_rise'])} was allowed"
        )
    lines += [_price_line(price) for price in mixture.prices[:MOST_PRICES]]
    for pair in mixture.interchangeable:
        first, second = pair["sources"]
        lines.append(f"{first} and {second} are interchangeable: the data hardly tell their shares apart")
    if "overhead" in mixture.compute:
        lines.append(f"search: {percent(mixture.compute['overhead'])} of the FLOPs of one retraining")
    return lines


def warning_lines(mixture: Mixture) -> list[str]:
    return [f"warning ({entry['code']}): {entry['message']}" for entry in mixture.warnings]


# ------------------------------------------------------------------------------------------------------------ helpers


def _price_line(price: Mapping[str, Any]) -> str:
    limit = {"min": "at least", "max": "at most"}[price["limit"]]
    names = " + ".join(price["sources"])
    gain = price["nats_per_token_per_unit_share"] / 100
    return (
        f"limit {names} {limit} {price['at']:g}: loosened by one percent of share, the loss falls by {small_text(gain)}"
    )


def _targets(mixture: Mixture) -> str:
    return ", ".join(mixture.targets) or "the target"


def _difference_cells(mixture: Mixture, arm: str, base: str) -> list[str]:
    above = difference(mixture, arm, base)
    interval = " to ".join(map(difference_text, above.interval)) if above.interval else ""
    return [difference_text(above.value), interval, f"{difference_text(100 * above.share, 2)} %"]


def _arms_caption(mixture: Mixture) -> str:
    """``held-out: n = 213 documents; 2.00 M training tokens each; * lowest held-out loss``, what of it is known."""
    parts = []
    documents = {result["documents"] for result in mixture.retrain.values() if "documents" in result}
    tokens = {result["tokens"] for result in mixture.retrain.values() if "tokens" in result}
    if len(documents) == 1:
        parts.append(f"held-out: n = {documents.pop():,} documents")
    if len(tokens) == 1:
        parts.append(f"{count_text(tokens.pop())} training tokens each")
    if winner(mixture) is not None:
        parts.append("* lowest held-out loss")
    return "; ".join(parts)


def _who_won(mixture: Mixture, best: str) -> str:
    text = f"{best} has the lowest held-out loss, {held_out_losses(mixture)[best]:.4f} nats per token"
    other = rival(mixture)
    if other is None:
        return text
    below = difference(mixture, best, other)
    text += f", {-below.value:.4f} ({-100 * below.share:.2f} %) below {other}"
    if below.interval is not None:
        text += f" (95 % interval {-below.interval[1]:.4f} to {-below.interval[0]:.4f})"
    return text if below.is_separated is not False else f"{text}: not separated from zero"
