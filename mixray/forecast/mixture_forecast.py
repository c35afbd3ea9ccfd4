"""The forecast of a search for mixtures: tokens, epochs, operations, and the search's share of all.

Of texts, samples are read; of examples, the first part of every pool. Where the size of a pool is unknown (a data set
on the hub), its ``max_tokens`` stands for it; without one, what depends on it is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from mixray.config import RunConfig
from mixray.config.data import PoolConfig
from mixray.config.objective import ALSOConfig
from mixray.config.training import TreesModel
from mixray.data import InputCheck, InputWarning
from mixray.errors import InputError
from mixray.forecast.checking import CheckedInputs
from mixray.report import ModelsToTrain, ResourceForecast, SearchCost, Work, cost_tables, count_text, new_table, titled
from mixray.search import doremi_flops, require_mixtures, swarm_tokens

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
class SwarmForecast:
    """The models of a swarm: ``design``, of which methods learn, and ``arms``, which the forecast of the retraining is
    measured on. ``tokens``: of each; ``flops``: of training all."""

    design: int
    arms: int
    tokens: int
    flops: float

    def line(self) -> str:
        """Return the work in words."""
        return (
            f"swarm: {self.design} models for methods and {self.arms} for the forecast of the retraining "
            f"x {self.tokens:,} tokens = {self.flops:.3g} FLOPs"
        )


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
    """Models to retrain: of every arm one, on the mixture mixmin one per target, times the replicates."""
    replicates: int
    epochs: dict[str, float]
    """Source -> passes over it by a model trained on it alone."""
    cost: SearchCost | None
    """None where boosted trees take part, whose operations are not in proportion to their size."""
    models_to_train: tuple[ModelsToTrain, ...]
    """The proxies, the models of DoReMi and of the swarm where there are any, and last the retrained models."""
    cache_bytes: int | None
    proxy_bytes: int
    """Weights, gradients and optimizer state of one proxy."""
    worker_bytes: int
    """The same for one retraining worker."""
    warnings: list[InputWarning]
    swarm: SwarmForecast | None = None
    """The cheap models on mixtures; None where there are none."""
    doremi_flops: float | None = None
    """Operations of DoReMi's reference model and proxy; None where no arm asks for them."""
    resources: ResourceForecast | None = None
    """Time, memory and disk; None where they were not asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        fields = {"kind": "mixture"} | asdict(replace(self, resources=None))
        del fields["cost"], fields["models_to_train"]
        resources = None if self.resources is None else self.resources.to_dict()
        return fields | {
            "resources": resources,
            "compute": None if self.cost is None else self.cost.compute().model_dump(),
            "formula": None if self.cost is None else self.cost.formula(),
        }

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
            f"proxies: {len(self.sources)} models x {self.proxy_parameters:,} parameters "
            f"x {self.proxy_tokens:,} tokens",
            f"retraining: {self.models} models{self._of_each()} x {self.retrain_parameters:,} parameters "
            f"x {self.retrain_tokens:,} tokens{self._in_all()}",
            *([] if self.swarm is None else [self.swarm.line()]),
            *([] if self.doremi_flops is None else [f"DoReMi: reference and proxy = {self.doremi_flops:.3g} FLOPs"]),
            f"prediction cache: {'unknown' if self.cache_bytes is None else _size(self.cache_bytes)}",
            *([] if self.cost is None else [self.cost.formula()]),
        ]
        messages = [warning.message for warning in self.warnings]
        return [titled(f"Forecast of {self.run}", table), *map(Text, lines), *cost_tables(self.resources, messages)]

    def _in_all(self) -> str:
        return "" if self.cost is None else f" = {self.models * self.cost.retrain_flops:.3g} FLOPs"

    def _of_each(self) -> str:
        return f" ({self.replicates} replicates of {self.models // self.replicates})" if self.replicates > 1 else ""


def forecast(config: RunConfig, checked: CheckedInputs) -> Forecast:
    """Return the forecast of a checked run file."""

    def pools(role: str, configs: Mapping[str, PoolConfig]) -> dict[str, PoolForecast]:
        return {name: _pool(pool, checked.pools, f"{role} {name}") for name, pool in configs.items()}

    sources, targets = pools("source", config.sources), pools("target", config.targets)
    proxy, model = checked.proxy_parameters, checked.retrain_parameters
    fit = {name: _fit_tokens(pool, config.targets[name].held_out) for name, pool in targets.items()}
    reads = {name: checked.pools.reads.get(f"target {name}", 1.0) for name in targets}
    scored = [Work(proxy, round(tokens * reads[name])) for name, tokens in fit.items() if tokens for _ in sources]
    sizes = {name: pool.tokens or 0 for name, pool in sources.items()}
    budget = config.retrain_tokens(sizes)
    # Of boosted trees, the mean over the proxies, each of which learns from all of its source.
    proxy_tokens = config.proxy_tokens or round(sum(sizes.values()) / len(sizes))
    trees = any(isinstance(section.model, TreesModel) for section in (config.proxy, config.retrain))
    learned = Work(proxy, proxy_tokens, checked.proxy_trained)
    retrained = Work(model, budget, checked.retrain_trained)
    swarm = _swarm(config, learned)
    trained = _models_to_train(config, checked, fit, targets, proxy_tokens, budget, swarm)
    proxies, arms = trained[0], trained[-1]
    return Forecast(
        run=config.name,
        sources=sources,
        targets=targets,
        window=config.window,
        proxy_tokens=proxy_tokens,
        proxy_parameters=proxy,
        retrain_tokens=budget,
        retrain_parameters=model,
        models=arms.models,
        replicates=config.retrain.replicates,
        epochs={name: budget / pool.tokens for name, pool in sources.items() if pool.tokens},
        cost=None if trees else SearchCost([learned] * len(sources), scored, retrained),
        models_to_train=trained,
        swarm=swarm,
        doremi_flops=doremi_flops(replace(learned, tokens=config.doremi_tokens)) if config.has_doremi else None,
        cache_bytes=_cache_bytes(config, checked.pools, fit),
        proxy_bytes=proxies.memory_bytes,
        worker_bytes=arms.memory_bytes,
        warnings=[*checked.pools.warnings, *_small_sources(config, sources), *_too_few_tokens(config, sources)],
    )


def _swarm(config: RunConfig, proxy: Work) -> SwarmForecast | None:
    """Return the work of the swarm, whose models are as large as a ``proxy``."""
    if config.swarm is None:
        return None
    arms = config.retrain.named_arms.values()
    names = {model for arm in arms for model in arm.models(config.mixture_names).values()}
    design, tokens = config.swarm.mixtures * config.swarm.replicates, swarm_tokens(config)
    rehearsed = len(names) * config.swarm.replicates if config.swarm.forecast else 0
    return SwarmForecast(design, rehearsed, tokens, (design + rehearsed) * replace(proxy, tokens=tokens).training_flops)


def _models_to_train(
    config: RunConfig,
    checked: CheckedInputs,
    fit: Mapping[str, int | None],
    targets: Mapping[str, PoolForecast],
    proxy_tokens: int,
    budget: int,
    swarm: SwarmForecast | None,
) -> tuple[ModelsToTrain, ...]:
    """Return what is trained, in order; see ``Forecast``. ``fit``: target -> tokens of its fit part."""
    proxy, retrain = config.proxy, config.retrain
    names = {
        model
        for arm in retrain.named_arms.values()
        for model in arm.models(config.retrained_mixtures, apart=config.leaves_out).values()
    }
    models = len(names) * retrain.replicates
    fit_tokens = judged_tokens = held_out_tokens = None
    if None not in fit.values():
        fit_tokens = judged_tokens = held_out_tokens = 0
        for name, pool in targets.items():
            label, scored = f"target {name}", fit[name] or 0
            reads, options = checked.pools.reads.get(label, 1.0), checked.pools.options.get(label, 0.0)
            fit_tokens += round(scored * reads)
            judged = ((pool.tokens or 0) - scored) * reads
            judged_tokens += round(judged)
            held_out_tokens += round(judged * (1 + options))  # the swarm is not asked to choose among options
    proxies = ModelsToTrain(
        name="proxies",
        models=len(config.sources),
        parameters=checked.proxy_parameters,
        trained=checked.proxy_trained,
        tokens=proxy_tokens,
        scored_tokens=None if fit_tokens is None else fit_tokens * len(config.sources),
        workers=(1, 1),
        device_kind="GPU" if proxy.resources.gpus else "core",
        devices_per_worker=proxy.resources.gpus or proxy.resources.cpus,
    )
    cheap = []
    if config.has_doremi:  # one after the other; the reference model scores what the proxy is trained on
        one = replace(proxies, models=1, tokens=config.doremi_tokens, scored_tokens=config.doremi_tokens)
        cheap += [replace(one, name="doremi reference"), replace(one, name="doremi proxy", scored_tokens=0)]
    if swarm is not None and swarm.design + swarm.arms:
        scored_tokens = None
        if fit_tokens is not None and judged_tokens is not None:
            scored_tokens = swarm.design * fit_tokens + (swarm.design + swarm.arms) * judged_tokens
        size = swarm.design + swarm.arms
        cheap.append(replace(proxies, name="swarm", models=size, tokens=swarm.tokens, scored_tokens=scored_tokens))
    arms = ModelsToTrain(
        name="retraining",
        models=models,
        parameters=checked.retrain_parameters,
        trained=checked.retrain_trained,
        tokens=budget,
        scored_tokens=None if held_out_tokens is None else held_out_tokens * models,
        workers=retrain.worker_range,
        device_kind="GPU" if retrain.resources_per_worker.gpus else "core",
        devices_per_worker=retrain.resources_per_worker.gpus or retrain.resources_per_worker.cpus,
        is_optimistic=any(
            isinstance(each, ALSOConfig) and each.mode == "optimistic" for each in retrain.objectives.values()
        ),
    )
    return (proxies, *cheap, arms)


def _pool(config: PoolConfig, check: InputCheck, label: str) -> PoolForecast:
    size, tokens, limit = check.stored_bytes[label], check.tokens[label], config.max_tokens
    capped = limit is not None and (tokens is None or tokens > limit)
    return PoolForecast(size, limit if capped else tokens, capped, check.bytes_per_token.get(label))


def _small_sources(config: RunConfig, sources: Mapping[str, PoolForecast]) -> Iterator[InputWarning]:
    """Yield a warning for each source that a budget passes over too often."""
    is_trained = any(arm.mixture == "balanced" for arm in config.retrain.named_arms.values())
    balanced = (config.retrain.tokens or 0) / len(sources) if is_trained else 0.0
    what = "tokens" if config.window else "examples"
    budgets = (("its proxy", config.proxy_tokens or 0, 1.0), ("the arm balanced", balanced, MOST_PASSES))
    for name, pool in sources.items():
        for user, budget, most in budgets:
            if pool.tokens is not None and budget > most * pool.tokens:
                passes = f"{budget / pool.tokens:.1f} times" if pool.tokens else "without end"
                message = (
                    f"source {name} has about {count_text(pool.tokens)} {what}: {user} reads {count_text(budget)} and "
                    f"passes over it {passes}"
                )
                yield InputWarning("source_smaller_than_budget", message)


def _too_few_tokens(config: RunConfig, sources: Mapping[str, PoolForecast]) -> Iterator[InputWarning]:
    """Yield a warning where, as far as the estimates are right, no mixture keeps ``mixture.max_epochs``."""
    available = {name: pool.tokens for name, pool in sources.items() if pool.tokens}
    if len(available) < len(sources):
        return
    try:
        require_mixtures(config, available)
    except InputError as error:
        yield InputWarning(
            "too_few_tokens", f"by the estimated sizes of the sources, {error.what}: {error.got}; {error.remedy}"
        )


def _fit_tokens(pool: PoolForecast, held_out: float) -> int | None:
    return None if pool.tokens is None else round((1 - held_out) * pool.tokens)


def _cache_bytes(config: RunConfig, pools: InputCheck, fit: Mapping[str, int | None]) -> int | None:
    """Rows are whole windows at least; short documents make more of them. Of molecules there is one column for all
    targets of the same files, with a float64 number for each class."""
    if pools.molecules and pools.examples is not None:
        return len(config.sources) * pools.molecules * 8 * max(1, len(pools.examples.label_names))
    if any(tokens is None for tokens in fit.values()):
        return None
    tokens = sum(tokens or 0 for tokens in fit.values())
    segment = config.cache.segment if config.window else None
    values = 4 * -(-tokens // segment) if segment else 0
    return len(config.sources) * (KEY_BYTES * -(-tokens // config.row_tokens) + values)


def _size(size: int) -> str:
    return f"{count_text(size)}B"
