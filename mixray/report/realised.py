"""What was asked for or expected beside what came out: the tables of an audit and of a forecast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.console import RenderableType

from mixray.mixture import ArmForecast, Interval, Mixture
from mixray.report.comparison import difference, held_out_losses
from mixray.report.layout import count_text, counted, difference_text, new_table, number_text, share_text, titled


class AuditedSource(Protocol):
    """A row of the table. Shares are of the training tokens; ``loss`` is in nats per token; None: not known."""

    @property
    def source(self) -> str: ...
    @property
    def requested(self) -> float: ...
    @property
    def realised(self) -> float: ...
    @property
    def tokens(self) -> float: ...
    @property
    def documents(self) -> float | None: ...
    @property
    def epochs(self) -> float | None: ...
    @property
    def loss(self) -> float | None: ...


def audit_table(name: str, rows: Sequence[AuditedSource], misplaced: float) -> RenderableType:
    """Return the table of one training. ``misplaced``: the share of tokens that came from other sources than asked."""
    optional = [
        column for column in ("documents", "epochs", "loss") if any(getattr(row, column) is not None for row in rows)
    ]
    table = new_table("source", "requested", "realised", "difference", "tokens", *optional)
    for row in rows:
        cells = [share_text(row.requested), share_text(row.realised)]
        cells += [f"{difference_text(100 * (row.realised - row.requested), 2)} %", count_text(row.tokens)]
        for column in optional:
            value: float | None = getattr(row, column)
            cells.append("" if value is None else count_text(value) if column == "documents" else number_text(value))
        table.add_row(row.source, *cells)
    total = count_text(sum(row.tokens for row in rows))
    caption = f"{100 * misplaced:.2g} % of the {total} tokens came from other sources than asked for"
    losses = "; loss in nats per token" if "loss" in optional else ""
    return titled(f"{name}: shares of training tokens{losses}", table, caption)


def forecast_table(mixture: Mixture) -> RenderableType:
    """Return a table of what every arm's difference to the first arm will be and, after the retraining, was."""
    held_out = held_out_losses(mixture)
    reference = next(iter(mixture.forecast.values())).reference
    came_out = {arm for arm in mixture.forecast if {arm, reference} <= set(held_out)}
    columns = ("measured", "95 % interval", "expected", "90 % interval", f"P({reference} better)")
    table = new_table("arm", *columns, *(("came out", "as forecast") if came_out else ()))
    for arm, forecast in mixture.forecast.items():
        cells = [arm, difference_text(forecast.measured), _ends(forecast.measured_interval)]
        cells += [difference_text(forecast.expected), _ends(forecast.interval), _probability(forecast)]
        if arm in came_out:
            value = difference(mixture, arm, reference).value
            cells += [difference_text(value), "yes" if forecast.interval[0] <= value <= forecast.interval[1] else "no"]
        table.add_row(*cells)
    first = next(iter(mixture.forecast.values()))
    caption = (
        f"measured: by models of {count_text(first.tokens)} {mixture.share_of} on the same mixtures, n = "
        f"{counted(first.documents, f'held-out {mixture.sampled}')}, {counted(first.seeds, 'seed')}; expected: of the "
        "retrained models, the chance of their own seeds included"
    )
    title = f"Forecast for {', '.join(mixture.targets)}: loss above {reference}, {mixture.loss_unit}"
    return titled(title, table, caption)


def forecast_lines(mixture: Mixture) -> list[str]:
    """Return the forecast in sentences, one for each arm."""
    lines = []
    for arm, forecast in mixture.forecast.items():
        number = f"n = {counted(forecast.documents, mixture.sampled)}, {counted(forecast.seeds, 'seed')}"
        text = (
            f"forecast for {', '.join(mixture.targets)}: {arm} minus {forecast.reference} "
            f"{difference_text(forecast.expected)} {mixture.loss_unit} (90 % interval {_ends(forecast.interval)}; "
            f"{number}), {forecast.reference} is better with probability {_probability(forecast)}"
        )
        if forecast.covers_zero:
            low, high = forecast.measured_interval
            is_hidden = low <= 0 <= high
            reason = (
                f"{mixture.sampled}s and seeds vary as much"
                if is_hidden
                else "it may be gone with so much more training"
            )
            text += f"; not worth retraining for: {reason}"
        lines.append(text)
    return lines


def _ends(interval: Interval) -> str:
    return " to ".join(map(difference_text, interval))


def _probability(forecast: ArmForecast) -> str:
    """Return a probability in percent, never as certainty: it is from draws."""
    return f"{100 * min(max(forecast.probability, 0.001), 0.999):.3g} %"
