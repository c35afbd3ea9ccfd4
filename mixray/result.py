"""What a run has come to, and the tables that say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import RenderableType

from mixray.cache import PredictionCache
from mixray.config import RunConfig
from mixray.data import Prepared
from mixray.mixture import Mixture
from mixray.report import ModelRow, cache_table, data_table, mixture_tables, proxy_table
from mixray.runs import RunFolder
from mixray.search import baseline_shares, natural_tokens
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
            sizes = natural_tokens(self.config, self.available_tokens)
            return mixture_tables(self.mixtures, baseline_shares(sizes))
        if self.caches:
            return [
                cache_table(target, cache.losses(), documents=len(cache.document_ids), tokens=int(cache.counts.sum()))
                for target, cache in self.caches.items()
            ]
        if self.proxies:
            rows = {
                source: ModelRow(proxy.meta["parameters"], proxy.meta["tokens"], proxy.meta["curve"])
                for source, proxy in self.proxies.items()
            }
            return [proxy_table(rows)]
        return [data_table(self.prepared.counts)]


def folder_tables(folder: RunFolder) -> list[RenderableType]:
    """The same for a run folder."""
    sizes = natural_tokens(folder.config, folder.available_tokens())
    return mixture_tables(folder.mixtures(), baseline_shares(sizes))
