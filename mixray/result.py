"""What a run has come to, and the tables that say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from rich.console import RenderableType

from mixray.cache import PredictionCache
from mixray.config import RunConfig
from mixray.data import Prepared
from mixray.mixture import Mixture
from mixray.report import closing_report, new_table, sweep_table, titled
from mixray.runs import RunFolder
from mixray.search import Sweep, baseline_mixtures, natural_tokens
from mixray.store import Artifact


@dataclass(frozen=True)
class Result:
    """What a run has come to. What lies behind the stage it was to stop at is empty.

    ``folder``: the run folder, a path or URI; ``proxies``: source -> trained proxy; ``caches``: target -> prediction
    cache of its fit part; ``mixtures``: target -> mixture; ``view_command``: opens the run in MLflow.
    """

    folder: str
    config: RunConfig
    prepared: Prepared
    proxies: Mapping[str, Artifact] = field(default_factory=dict)
    caches: Mapping[str, PredictionCache] = field(default_factory=dict)
    mixtures: Mapping[str, Mixture] = field(default_factory=dict)
    view_command: str = ""

    @property
    def available_tokens(self) -> dict[str, int]:
        """Training tokens there are of every source."""
        return {name: int(tokens.meta["tokens"]) for name, tokens in self.prepared.sources.items()}

    def tables(self) -> list[RenderableType]:
        """The last stage's results."""
        if self.mixtures:
            return mixture_tables(self.mixtures, natural_tokens(self.config, self.available_tokens))
        if self.caches:
            return [_cache_table(target, cache) for target, cache in self.caches.items()]
        if self.proxies:
            return [_proxy_table(self.proxies)]
        return [_data_table(self.prepared)]


def mixture_tables(mixtures: Mapping[str, Mixture], sizes: Mapping[str, int] | None = None) -> list[RenderableType]:
    """The closing report of every mixture; with the baselines' shares where the sources' sizes are known."""
    baselines = baseline_mixtures(sizes) if sizes else {}
    shares: dict[str, dict[str, float]] = {arm: mixture.weights for arm, mixture in baselines.items()}
    return [closing_report(mixture, shares) for mixture in mixtures.values()]


def sweep_tables(sweep: Sweep) -> list[RenderableType]:
    """One table per mixture."""
    names = next(list(mixtures) for mixtures in sweep.mixtures if mixtures is not None)
    return [
        sweep_table(
            sweep.key, sweep.values, [None if mixtures is None else mixtures[name] for mixtures in sweep.mixtures]
        )
        for name in names
    ]


def folder_tables(folder: RunFolder) -> list[RenderableType]:
    """The same for a run folder."""
    return mixture_tables(folder.mixtures(), natural_tokens(folder.config, folder.available_tokens()))


def _data_table(prepared: Prepared) -> RenderableType:
    table = new_table("pool", "documents", "MB", "tokens", "duplicates", "in target", "skipped", "split")
    for pool, counts in prepared.counts.items():
        skipped = counts["skipped_not_utf8"] + counts["skipped_empty"]
        table.add_row(
            pool,
            f"{counts['documents']:,}",
            f"{counts['bytes'] / 1e6:.1f}",
            f"{counts['tokens']:,}",
            *(f"{counts[name]:,}" for name in ("duplicates", "in_target")),
            f"{skipped:,}",
            f"{counts['split']:,}",
        )
    return titled("Data", table, "skipped: empty or not UTF-8; split: long ones cut into several documents")


def _proxy_table(proxies: Mapping[str, Artifact]) -> RenderableType:
    table = new_table("source", "parameters", "tokens", "first loss, nats/token", "last loss, nats/token")
    for source, proxy in proxies.items():
        curve = np.array(proxy.meta["curve"])
        counts = (f"{proxy.meta['parameters']:,}", f"{proxy.meta['tokens']:,}")
        table.add_row(source, *counts, f"{curve[0, 1]:.4f}", f"{curve[-1, 1]:.4f}")
    return titled("Proxies", table)


def _cache_table(target: str, cache: PredictionCache) -> RenderableType:
    table = new_table("proxy", "nats/token, mean over documents", "total nats/tokens")
    for model, (document, token) in cache.losses().items():
        table.add_row(model, f"{document:.4f}", f"{token:.4f}")
    caption = f"{len(cache.document_ids):,} documents, {int(cache.counts.sum()):,} tokens"
    return titled(f"Prediction cache of {target}", table, caption)
