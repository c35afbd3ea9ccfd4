"""What a run will cost, told before it is started: tokens, epochs, operations, memory, the search's share of it all.

Nothing is read but sizes and the run file, and of examples the first part of every pool. Where a pool's size is not to
be had (a hub data set), its ``max_tokens`` is taken; where there is none either, what hangs on it is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from mixray.config import RunConfig, load_config
from mixray.config.data import PoolConfig
from mixray.config.loading import Overrides
from mixray.config.training import ModelConfig, NewModel, PretrainedModel
from mixray.data import TextInputs, check_inputs, look_ahead, vocabulary
from mixray.models import model_size
from mixray.report import SearchCost, Work, count_text, new_table, titled
from mixray.search import feasible_set, mixture_targets

BYTES_PER_TOKEN = 4.0
"""Of text, as common tokenizers cut English; code and small vocabularies need fewer bytes a token."""
TRAINING_BYTES = 16
"""Per parameter: weight, gradient and Adam's two moments in float32; activations come on top."""
KEY_BYTES = 28
"""Of one row in one column of the cache: document, window, value."""


@dataclass(frozen=True)
class PoolForecast:
    """``bytes`` on disk, None where unknown; ``tokens`` about, None where unknown; ``capped``: it is ``max_tokens``."""

    bytes: int | None
    tokens: int | None
    capped: bool


@dataclass(frozen=True)
class Forecast:
    """The forecast of a run. Tokens and bytes are estimates; operations are those of the formula."""

    run: str
    sources: dict[str, PoolForecast]
    targets: dict[str, PoolForecast]
    window: int | None
    proxy_tokens: int
    proxy_parameters: int
    retrain_tokens: int
    retrain_parameters: int
    models: int
    """Models to retrain: one mixmin model per mixture, and the baselines."""
    epochs: dict[str, float]
    """Source -> passes over it by a model trained on it alone."""
    cost: SearchCost
    cache_bytes: int | None
    proxy_bytes: int
    """Weights, gradients and optimiser state of one proxy."""
    worker_bytes: int
    """The same for one retraining worker."""

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        fields = asdict(self)
        del fields["cost"]
        return fields | {"compute": self.cost.compute().model_dump(), "formula": self.cost.formula()}

    def tables(self) -> list[RenderableType]:
        """For a terminal."""
        table = new_table()
        table.add_column("pool", overflow="fold")
        for column in ("kind", "bytes", "tokens, about", "epochs if alone"):
            table.add_column(column, justify="right")
        for kind, pools in (("source", self.sources), ("target", self.targets)):
            for name, pool in pools.items():
                epochs = f"{self.epochs[name]:.2f}" if name in self.epochs and kind == "source" else ""
                tokens = (
                    "unknown" if pool.tokens is None else ("at most " if pool.capped else "") + count_text(pool.tokens)
                )
                table.add_row(name, kind, "unknown" if pool.bytes is None else f"{pool.bytes:,}", tokens, epochs)
        lines = [
            f"proxies: {len(self.sources)} x {self.proxy_parameters:,} parameters x {self.proxy_tokens:,} tokens, "
            f"{_size(self.proxy_bytes)} of weights and optimiser each",
            f"retraining: {self.models} models x {self.retrain_parameters:,} parameters "
            f"x {self.retrain_tokens:,} tokens, {_size(self.worker_bytes)} of weights and optimiser per worker",
            f"prediction cache: {'unknown' if self.cache_bytes is None else _size(self.cache_bytes)}",
            self.cost.formula(),
        ]
        return [titled(f"Forecast of {self.run}", table), *(Text(line) for line in lines)]


def plan(run_file: str | Path, overrides: Overrides = ()) -> Forecast:
    """Check what can be checked without computing, and forecast the rest. Raises InputError; starts nothing."""
    return forecast(load_config(run_file, overrides))


def forecast(config: RunConfig) -> Forecast:
    """The forecast of a checked config.

    Raises InputError for missing files, impossible models and limits on shares that no mixture satisfies."""
    feasible_set(config.mixture, list(config.sources))
    sizes = check_inputs(config)
    read, examples = look_ahead(config, config.examples) if config.examples is not None else (None, {})

    def pools(role: str, configs: Mapping[str, PoolConfig]) -> dict[str, PoolForecast]:
        labels = {name: f"{role} {name}" for name in configs}
        return {name: _pool(pool, sizes[labels[name]], examples.get(labels[name])) for name, pool in configs.items()}

    sources, targets = pools("source", config.sources), pools("target", config.targets)
    known = {name: pool.tokens for name, pool in sources.items() if pool.tokens}
    proxy, model = (
        model_size(section, read or _text_inputs(config, section.model)) for section in (config.proxy, config.retrain)
    )
    fit = {name: _fit_tokens(pool, config.targets[name].held_out) for name, pool in targets.items()}
    scored = [Work(proxy, tokens) for tokens in fit.values() if tokens for _ in sources]
    return Forecast(
        run=config.name,
        sources=sources,
        targets=targets,
        window=config.window,
        proxy_tokens=config.proxy_tokens,
        proxy_parameters=proxy,
        retrain_tokens=config.retrain.tokens,
        retrain_parameters=model,
        models=sum(len(mixture_targets(config)) if arm == "mixmin" else 1 for arm in config.retrain.arms),
        epochs={name: config.retrain.tokens / tokens for name, tokens in known.items()},
        cost=SearchCost([Work(proxy, config.proxy_tokens)] * len(sources), scored, Work(model, config.retrain.tokens)),
        cache_bytes=_cache_bytes(config, fit),
        proxy_bytes=TRAINING_BYTES * proxy,
        worker_bytes=TRAINING_BYTES * model,
    )


def _pool(config: PoolConfig, size: int | None, examples: int | None) -> PoolForecast:
    """``examples``: how many there are; None for texts."""
    tokens = int(size / BYTES_PER_TOKEN) if examples is None and size is not None else examples
    if config.max_tokens is not None and (tokens is None or tokens > config.max_tokens):
        return PoolForecast(size, config.max_tokens, capped=True)
    return PoolForecast(size, tokens, capped=False)


def _fit_tokens(pool: PoolForecast, held_out: float) -> int | None:
    return None if pool.tokens is None else round((1 - held_out) * pool.tokens)


def _text_inputs(config: RunConfig, model: ModelConfig) -> TextInputs:
    """A model that states its vocabulary needs no tokenizer; a trained tokenizer's size is in the run file."""
    if isinstance(model, PretrainedModel):
        return TextInputs(config.row_tokens, 1, 0)
    if isinstance(model, NewModel) and "vocab_size" in model.settings:
        return TextInputs(config.row_tokens, int(model.settings["vocab_size"]), 0)
    assert config.tokenizer is not None
    return TextInputs(config.row_tokens, vocabulary(config.tokenizer), 0)


def _cache_bytes(config: RunConfig, fit: Mapping[str, int | None]) -> int | None:
    """Rows are whole windows at least; short documents make more of them."""
    if any(tokens is None for tokens in fit.values()):
        return None
    tokens = sum(tokens or 0 for tokens in fit.values())
    values = 4 * tokens if config.cache.token_log_probs else 0
    return len(config.sources) * (KEY_BYTES * -(-tokens // config.row_tokens) + values)


def _size(size: int) -> str:
    return f"{count_text(size)}B"
