"""What a run will cost, before it is started: tokens, epochs, operations, memory, and the search's share of all.

``check`` finds what is wrong and how large everything is; ``forecast`` only computes. Of texts, samples are read; of
examples, the first part of every pool; of grouped rows, all. Where the size of a pool is unknown (a data set on the
hub), its ``max_tokens`` stands for it; without one, what depends on it is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from mixray.config import RobustConfig, RunConfig, RunFile, load_config
from mixray.config.data import PoolConfig
from mixray.config.loading import Overrides
from mixray.config.training import ModelConfig, NewModel, PretrainedModel
from mixray.data import InputCheck, InputWarning, TextInputs, check_inputs, vocabulary
from mixray.data.tabular.grouped import GroupedTask, read_task
from mixray.models import classifier_size, model_size
from mixray.report import SearchCost, Work, count_text, new_table, titled
from mixray.search import feasible_set, mixture_targets

TRAINING_BYTES = 16
"""Per parameter: weight, gradient and Adam's two moments in float32; activations come on top."""
MOST_PASSES = 4.0
"""Of a model over a source: data that is repeated more often is worth little (Muennighoff et al. 2023)."""
KEY_BYTES = 28
"""Of one row in one column of the cache: document, window, value."""


@dataclass(frozen=True)
class PoolForecast:
    """``bytes`` on disk, None where unknown; ``tokens`` about, None where unknown; ``capped``: it is ``max_tokens``.

    ``bytes_per_token``: of text, measured on a sample; None where there is none.
    """

    bytes: int | None
    tokens: int | None
    capped: bool
    bytes_per_token: float | None


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
    warnings: list[InputWarning]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        fields = {"kind": "mixture"} | asdict(self)
        del fields["cost"]
        return fields | {"compute": self.cost.compute().model_dump(), "formula": self.cost.formula()}

    def tables(self) -> list[RenderableType]:
        """Return a table of the pools and lines on the work."""
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
        lines += [f"warning: {warning.message}" for warning in self.warnings]
        return [titled(f"Forecast of {self.run}", table), *(Text(line) for line in lines)]


@dataclass(frozen=True)
class RobustForecast:
    """The forecast of a comparison of robust training.

    ``rows``: part -> encoded rows under the first seed; ``groups``: group -> its training rows.
    """

    run: str
    arms: list[str]
    seeds: list[int]
    rows: dict[str, int]
    groups: dict[str, int]
    features: int
    parameters: int
    steps: int
    """Optimiser steps of every arm under every seed."""
    batch: int

    @property
    def training_flops(self) -> int:
        """Operations of the training of all arms under all seeds, as 6 x parameters x rows."""
        return 6 * self.parameters * self.steps * self.batch * len(self.arms) * len(self.seeds)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {"kind": "robust comparison"} | asdict(self) | {"training_flops": self.training_flops}

    def tables(self) -> list[RenderableType]:
        """Return a table of the groups and lines on the work."""
        table = new_table("group", "training rows", "share")
        for group, count in self.groups.items():
            table.add_row(group, f"{count:,}", f"{count / self.rows['train']:.1%}")
        parts = ", ".join(f"{count:,} {part}" for part, count in self.rows.items())
        lines = [
            f"rows: {parts}; {self.features:,} features",
            f"training: {len(self.arms)} arms x {len(self.seeds)} seeds x {self.steps:,} steps of {self.batch:,} rows, "
            f"{self.parameters:,} parameters each",
            f"estimate: {self.training_flops:.3g} FLOPs in all (6 x parameters x rows)",
        ]
        return [titled(f"Forecast of {self.run}, a robust comparison", table), *(Text(line) for line in lines)]


@dataclass(frozen=True)
class CheckedInputs:
    """What the checks of a run file learn about its pools and its models. Parameters include embeddings."""

    pools: InputCheck
    proxy_parameters: int
    retrain_parameters: int


def plan(run_file: str | Path, overrides: Overrides = ()) -> Forecast | RobustForecast:
    """Check what can be checked without computing, and forecast the rest. Raises InputError; starts nothing."""
    config = load_config(run_file, overrides, kind=RunFile)
    checked = check(config)
    if isinstance(config, RobustConfig):
        assert isinstance(checked, GroupedTask)
        return forecast_comparison(config, checked)
    assert isinstance(config, RunConfig)
    assert isinstance(checked, CheckedInputs)
    return forecast(config, checked)


def input_warnings(config: RunFile) -> list[InputWarning]:
    """Check a run file as ``plan`` does, and return what may be wrong with its inputs. Raises InputError."""
    checked = check(config)
    if isinstance(config, RobustConfig):
        return []  # its results hold the warnings of its task
    assert isinstance(config, RunConfig)
    assert isinstance(checked, CheckedInputs)
    return forecast(config, checked).warnings


def check(config: RunFile) -> CheckedInputs | GroupedTask:
    """Check everything about a run that can be checked without computing: the first step of ``plan`` and of ``run``.

    Returns what it learns: the sizes of a search's inputs, or the task of a comparison's first seed. Raises InputError
    for missing files, wrong columns, impossible models and limits on shares that no mixture satisfies.
    """
    if isinstance(config, RobustConfig):
        return read_task(config.data, config.seed)
    assert isinstance(config, RunConfig)
    feasible_set(config.mixture, list(config.sources))
    pools = check_inputs(config)
    proxy, model = (
        model_size(section, pools.examples or _text_inputs(config, section.model))
        for section in (config.proxy, config.retrain)
    )
    return CheckedInputs(pools, proxy, model)


def forecast(config: RunConfig, checked: CheckedInputs) -> Forecast:
    """Return the forecast of a checked run file."""

    def pools(role: str, configs: Mapping[str, PoolConfig]) -> dict[str, PoolForecast]:
        return {name: _pool(pool, checked.pools, f"{role} {name}") for name, pool in configs.items()}

    sources, targets = pools("source", config.sources), pools("target", config.targets)
    proxy, model = checked.proxy_parameters, checked.retrain_parameters
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
        epochs={name: config.retrain.tokens / pool.tokens for name, pool in sources.items() if pool.tokens},
        cost=SearchCost([Work(proxy, config.proxy_tokens)] * len(sources), scored, Work(model, config.retrain.tokens)),
        cache_bytes=_cache_bytes(config, fit),
        proxy_bytes=TRAINING_BYTES * proxy,
        worker_bytes=TRAINING_BYTES * model,
        warnings=[*checked.pools.warnings, *_small_sources(config, sources)],
    )


def forecast_comparison(config: RobustConfig, task: GroupedTask) -> RobustForecast:
    """Return the forecast of a comparison of robust training. ``task``: that of the first seed."""
    features = task.train.features.shape[1]
    counts = task.training_counts.tolist()
    return RobustForecast(
        run=config.name,
        arms=list(config.arms),
        seeds=config.all_seeds,
        rows={name: len(part) for name, part in task.parts()},
        groups=dict(zip(task.group_names, counts, strict=True)),
        features=features,
        parameters=classifier_size(config.model, features=features, classes=len(task.label_names)),
        steps=config.step_count(len(task.train)),
        batch=config.batch,
    )


def _pool(config: PoolConfig, check: InputCheck, label: str) -> PoolForecast:
    size, tokens, limit = check.stored_bytes[label], check.tokens[label], config.max_tokens
    capped = limit is not None and (tokens is None or tokens > limit)
    return PoolForecast(size, limit if capped else tokens, capped, check.bytes_per_token.get(label))


def _small_sources(config: RunConfig, sources: Mapping[str, PoolForecast]) -> Iterator[InputWarning]:
    """Yield a warning for each source that a budget passes over too often."""
    balanced = config.retrain.tokens / len(sources) if "balanced" in config.retrain.arms else 0.0
    what = "tokens" if config.window else "examples"
    budgets = (("its proxy", config.proxy_tokens, 1.0), ("the arm balanced", balanced, MOST_PASSES))
    for name, pool in sources.items():
        for user, budget, most in budgets:
            if pool.tokens is not None and budget > most * pool.tokens:
                passes = f"{budget / pool.tokens:.1f} times" if pool.tokens else "without end"
                message = (
                    f"source {name} has about {count_text(pool.tokens)} {what}: {user} reads {count_text(budget)} and "
                    f"passes over it {passes}"
                )
                yield InputWarning("source_smaller_than_budget", message)


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
