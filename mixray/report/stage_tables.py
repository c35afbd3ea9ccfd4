"""The tables of a run that stopped before it had a mixture: its data, its proxies or its prediction cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import RenderableType

from mixray.report.layout import new_table, titled


@dataclass(frozen=True)
class ModelRow:
    """One trained model in a table. ``curve``: pairs of training tokens so far and loss in nats per token."""

    parameters: int
    tokens: int
    curve: Sequence[tuple[int, float]]


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


def proxy_table(proxies: Mapping[str, ModelRow]) -> RenderableType:
    """Return a table of the trained proxies, by source, with the first and the last loss of training."""
    table = new_table("source", "parameters", "tokens", "first loss, nats/token", "last loss, nats/token")
    for source, proxy in proxies.items():
        first, last = proxy.curve[0][1], proxy.curve[-1][1]
        table.add_row(source, f"{proxy.parameters:,}", f"{proxy.tokens:,}", f"{first:.4f}", f"{last:.4f}")
    return titled("Proxies", table)


def cache_table(
    target: str, losses: Mapping[str, tuple[float, float]], *, documents: int, tokens: int
) -> RenderableType:
    """Return a table of a target's prediction cache.

    ``losses``: proxy -> its loss as a mean over documents and as a mean over tokens, both in nats per token.
    """
    table = new_table("proxy", "mean over documents", "mean over tokens")
    for proxy, (document_loss, token_loss) in losses.items():
        table.add_row(proxy, f"{document_loss:.4f}", f"{token_loss:.4f}")
    caption = f"loss in nats per token; {documents:,} documents, {tokens:,} tokens"
    return titled(f"Prediction cache of {target}", table, caption)


def runs_table(rows: Sequence[tuple[str, str, str, str]]) -> RenderableType:
    """Return a table of runs. ``rows``: name, kind, next stage (empty for a finished run), start in UTC."""
    table = new_table("run", "kind", "state", "started, UTC")
    for name, kind, next_stage, started in rows:
        table.add_row(name, kind, f"unfinished: {next_stage}" if next_stage else "finished", started)
    return table
