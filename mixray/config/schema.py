"""The run file's schema: frozen, every key known, nonsense refused at creation.

A config means the same on every machine: nothing here looks at files, GPUs or the environment."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from mixray.config.data import (
    TEXT_KEYS,
    ExamplesConfig,
    SourceConfig,
    TargetConfig,
    TokenizerConfig,
    check_pools,
)
from mixray.config.mixture import (
    SIZE_METHODS,
    SOLVER_METHODS,
    SWARM_METHODS,
    TRAINED_METHODS,
    DoReMiConfig,
    Method,
    MixtureConfig,
    SwarmConfig,
    segment_tokens,
)
from mixray.config.objective import ErmConfig, GroupObjective, ObjectiveConfig
from mixray.config.section import (
    KEY_COLUMNS,
    SHARE_ROUNDING,
    Misfit,
    Name,
    Positive,
    RunFile,
    Section,
    Share,
    shares_fault,
)
from mixray.config.training import (
    CacheConfig,
    HeadConfig,
    ProxyConfig,
    Resources,
    TrainingConfig,
    TreesModel,
    require_cores,
)
from mixray.numerics import NATS, NATS_PER_EXAMPLE, SQUARED_ERROR, TRAINING_EXAMPLES, TRAINING_TOKENS

Stage = Literal["data", "proxies", "cache", "mixture", "swarm", "retrain", "report"]
"""The stages of a run, in their order."""
FEWEST_MIXTURES = 4
"""Of a swarm that methods learn from."""


class ArmConfig(Section):
    """One arm of the comparison: the mixture that its model is trained on, and what the training minimises."""

    name: Name
    """Name of the arm in tables, figures and files."""
    mixture: Method | None = None
    """The mixture: mixmin is the computed one; the others are as in `retrain.arms`. Give exactly one of `mixture`,
    `shares` and `file`."""
    shares: dict[Name, Share] | None = None
    """A mixture of your own: a share of the training tokens for every source. Give exactly one of `mixture`, `shares`
    and `file`."""
    file: str | None = None
    """A local file with such shares: a mixture file of mixray, a JSON object of source -> share, or a mixture that
    DoReMi, RegMix, Olmix, OLMo-core or Levanter wrote. The run folder's config holds the shares in its place. Give
    exactly one of `mixture`, `shares` and `file`."""
    objective: ObjectiveConfig | None = None
    """What the training of this arm minimises. null: what `retrain.objective` says."""

    @model_validator(mode="after")
    def _one_mixture(self) -> Self:
        if [self.mixture, self.shares, self.file].count(None) != 2:
            raise Misfit("mixture", "exactly one of mixture, shares, file")
        # Run files with a published mixture of DoReMi under its name are older than the method here.
        if self.name in get_args(Method) and self.name not in TRAINED_METHODS and self.mixture != self.name:
            raise Misfit("name", f"another name: the arm {self.name} is trained on the mixture of that name")
        return self

    def models(self, mixtures: Iterable[str], *, apart: bool = False) -> dict[str, str]:
        """Return mixture (a target, ``mean`` or ``worst``) -> name of the model that the arm is for it.

        A mixture that is searched for is another one for every target, and so has a model for each. ``apart``: so has
        every arm, because targets have different sources.
        """
        return {name: f"{self.name}-{name}" if apart or self.is_searched else self.name for name in mixtures}

    @property
    def is_searched(self) -> bool:
        """Whether the mixture depends on the targets."""
        return self.mixture is not None and self.mixture not in (*SIZE_METHODS, *TRAINED_METHODS)


class RetrainConfig(TrainingConfig):
    arms: Annotated[list[Method | ArmConfig], Field(min_length=1)] = ["mixmin", "balanced", "natural"]
    """Which mixtures to retrain the model on: mixmin is the computed one, balanced gives every source the same share,
    natural gives shares in proportion to the sources' sizes, temperature in proportion to their square roots. unimax is
    as even as `mixture.max_epochs` (else 4) passes over each source allow. nearest_to_prior is the mixture nearest to
    `mixture.prior` of those about as good as mixmin; mixmin_reference takes the 100 steps of the method's released
    code, wherever they end. With a `swarm`: random_search takes the best
    of its mixtures; regmix (boosted trees), ridge, mixing_law and gaussian_process learn from it what the losses of
    others are; mixmin_with_swarm learns what the proxies predict wrongly. doremi looks at no target: it takes the mean
    weights of a Group DRO training on the loss above a reference model's. {name: NAME, shares: {...}} is a mixture of
    your own. The others are compared with the first."""
    # Ids are made from what is dumped, and this key is younger than the first of them: the default leaves no trace.
    replicates: Annotated[Positive, Field(exclude_if=lambda value: value == 1)] = 1
    """How many models to train of every arm. They differ in the seed, which decides the first weights and the order of
    the training data: `seed` for the first, `seed` + 1 for the next. The arms' seeds are the same, so that differences
    between arms are paired, and their intervals cover the seeds as well as the documents."""
    tokens: Positive | None = None
    """Training tokens of each retrained model, or examples where the run file has `examples`. Required, but left out
    for boosted trees, which learn from every example of all sources, weighted by the shares."""
    workers: Positive | tuple[Positive, Positive] = 1
    """Workers that train one model together: a number, or [min, max] for a group that grows and shrinks with the
    cluster."""
    resources_per_worker: Resources = Resources()
    """CPUs and GPUs of one retraining worker."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """How often the training of one model may fail, for example because a machine dies, before the run gives up.
    Machines that are taken away as announced do not count."""
    objective: ObjectiveConfig = ErmConfig()
    """What retraining minimises: the mean loss (erm), or the loss of the worst groups (group_dro, also)."""

    @property
    def worker_range(self) -> tuple[int, int]:
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)

    @property
    def named_arms(self) -> dict[str, ArmConfig]:
        """The arms by name, in the written order, the short ones written out; each with its objective."""
        arms = [ArmConfig(name=arm, mixture=arm) if isinstance(arm, str) else arm for arm in self.arms]
        return {arm.name: arm.model_copy(update={"objective": arm.objective or self.objective}) for arm in arms}

    @property
    def objectives(self) -> dict[str, ObjectiveConfig]:
        """The objective of the section and those of single arms, by dotted key."""
        of_arms = {
            f"retrain.arms.{number}.objective": arm.objective
            for number, arm in enumerate(self.arms)
            if isinstance(arm, ArmConfig) and arm.objective is not None
        }
        return {"retrain.objective": self.objective, **of_arms}

    @property
    def group_column(self) -> str | None:
        """The column of examples that an objective takes groups from; None where none does."""
        robust = [each for each in self.objectives.values() if isinstance(each, GroupObjective)]
        return next((each.group_column for each in robust if each.group_column), None)

    @model_validator(mode="after")
    def _arms_and_workers(self) -> Self:
        if len(self.named_arms) != len(self.arms):
            raise Misfit("arms", "every arm named once")
        mixtures = {arm.mixture for arm in self.named_arms.values()}
        for name, arm in self.named_arms.items():
            if name in TRAINED_METHODS and arm.mixture != name and name in mixtures:
                raise Misfit("arms", f"another name for the arm {name}, because one has the mixture of that name")
        for key, objective in self.objectives.items():
            if isinstance(objective, GroupObjective) and objective.group_column not in (None, self.group_column):
                where = key.removeprefix("retrain.")
                raise Misfit(f"{where}.groups", f"column:{self.group_column}, as above, or source: rows have one group")
        low, high = self.worker_range
        if low > high:
            raise Misfit("workers", "[min, max] with min <= max")
        if high > self.batch:
            raise Misfit("workers", f"at most {self.batch}, the windows of a batch")
        return self

    @model_validator(mode="after")
    def _budget(self) -> Self:
        if not isinstance(self.model, TreesModel):
            if self.tokens is None:
                raise Misfit("tokens", "a value; only boosted_trees go without")
            return self
        if self.tokens is not None:
            raise Misfit("tokens", "left out beside boosted_trees, which learn from every example")
        if self.worker_range != (1, 1):
            raise Misfit("workers", "1 beside boosted_trees; arms are trained side by side")
        for key, objective in self.objectives.items():
            if not isinstance(objective, ErmConfig):
                where = key.removeprefix("retrain.")
                raise Misfit(f"{where}.kind", "erm beside boosted_trees; robust objectives are for networks")
        if self.replicates > 1:
            raise Misfit("replicates", "1 beside boosted_trees, whose training draws nothing")
        require_cores(self.resources_per_worker, "resources_per_worker")
        return self


class RunConfig(RunFile):
    """A run file that searches for the best mixture of ``sources`` for every one of ``targets``."""

    tokenizer: TokenizerConfig | None = None
    """How text becomes tokens. Required unless the run file has `examples`."""
    window: Annotated[int, Field(ge=2)] | None = None
    """Tokens per training window, and the longest context in which a target is scored. Required unless the run file has
    `examples`."""
    examples: ExamplesConfig | None = None
    """Which columns of labelled rows to use. It takes the place of `tokenizer` and `window`: sources and targets then
    hold labelled rows, and models are classifiers or boosted trees."""
    sources: Annotated[dict[Name, SourceConfig], Field(min_length=1)]
    """The pools of training data: name -> where the data is."""
    targets: Annotated[dict[Name, TargetConfig], Field(min_length=1)]
    """Samples of what the model should be good at: name -> where the data is."""
    proxy: ProxyConfig
    """The cheap models, one per source, whose predictions determine the mixture."""
    cache: CacheConfig = CacheConfig()
    """How the proxies score the targets."""
    mixture: MixtureConfig = MixtureConfig()
    """How the mixture is computed: the loss that is minimised, limits on shares, accuracy."""
    # Ids are made from what is dumped, and this key is younger than the first of them: its absence leaves no trace.
    swarm: Annotated[SwarmConfig | None, Field(exclude_if=lambda value: value is None)] = None
    """Cheap models on mixtures, which other methods learn from and which a forecast is measured on. null: none."""
    # Ids are made from what is dumped, and this key is younger than the first of them: the default leaves no trace.
    doremi: Annotated[DoReMiConfig, Field(exclude_if=lambda value: value == DoReMiConfig())] = DoReMiConfig()
    """How the arm doremi finds its mixture, where `retrain.arms` names it."""
    retrain: RetrainConfig
    """The final models, which are trained on the mixtures to be compared."""

    @property
    def proxy_tokens(self) -> int | None:
        """Training tokens of a proxy. None for boosted trees, which learn from every example of their source."""
        proxy = self.proxy
        if proxy.fraction is None or self.retrain.tokens is None:
            return proxy.tokens
        return max(1, round(proxy.fraction * self.retrain.tokens))

    @property
    def doremi_tokens(self) -> int:
        """Training tokens of each of the two models of the arm doremi."""
        return self.doremi.tokens or (self.proxy_tokens or 0) * len(self.sources)

    @property
    def has_doremi(self) -> bool:
        """Whether an arm is trained on the mixture of DoReMi."""
        return any(arm.mixture == "doremi" for arm in self.retrain.named_arms.values())

    @property
    def document_attention_key(self) -> str | None:
        """The first key by which documents of a training window are kept apart; None where none does."""
        sections = (("proxy", self.proxy), ("retrain", self.retrain))
        return next((f"{name}.attention" for name, section in sections if section.attention == "document"), None)

    def retrain_tokens(self, available_tokens: Mapping[str, int]) -> int:
        """Return the training tokens of a retrained model. Boosted trees learn from every example of all sources.

        ``available_tokens``: source -> its training tokens (or examples).
        """
        return self.retrain.tokens or sum(available_tokens.values())

    @property
    def loss_unit(self) -> str:
        """What losses are in."""
        if self.examples is None:
            return NATS
        return SQUARED_ERROR if self.examples.task == "regression" else NATS_PER_EXAMPLE

    @property
    def share_of(self) -> str:
        """What models are trained on, and shares are of."""
        return TRAINING_TOKENS if self.examples is None else TRAINING_EXAMPLES

    @property
    def mixture_names(self) -> list[str]:
        """The mixtures that the run searches for: one for every target, or the one for all of them."""
        return list(self.targets) if self.mixture.over == "each" else [self.mixture.over]

    def replicate_seeds(self, model: str, replicates: int | None = None) -> dict[str, int]:
        """Return a model's replicates, by default of a retrained one: name -> seed. The first has its own name."""
        later = range(self.seed + 1, self.seed + (replicates or self.retrain.replicates))
        return {model: self.seed} | {f"{model}.seed{seed}": seed for seed in later}

    @property
    def row_tokens(self) -> int:
        """What a training row counts as: the tokens of a window; an example is one."""
        return self.window or 1

    @property
    def is_open(self) -> bool:
        """Whether tables have yet to be read for the names of all sources and targets."""
        tables = any(source.labels is not None for source in self.sources.values())
        return tables or any(target.is_each_source for target in self.targets.values())

    @property
    def leaves_out(self) -> bool:
        """Whether targets have mixtures of different sources, and so arms of their own."""
        return any(target.leave_out is not None for target in self.targets.values())

    def sources_for(self, mixture: str) -> list[str]:
        """Return the sources that may have a share in a mixture, by its name."""
        left_out = self.targets[mixture].leave_out if mixture in self.targets else None
        return [source for source in self.sources if source != left_out]

    @property
    def retrained_mixtures(self) -> list[str]:
        """The mixtures that models are retrained on, by name."""
        return [name for name in self.mixture_names if name not in self.targets or self.targets[name].is_retrained]

    @model_validator(mode="after")
    def _sources_are_left_out(self) -> Self:
        """Check what goes with targets that have mixtures of different sources."""
        check_pools(self.sources, self.targets, has_examples=self.examples is not None)
        if not self.leaves_out and not any(target.is_each_source for target in self.targets.values()):
            return self
        if self.mixture.over != "each":
            raise Misfit("mixture.over", "each, because targets leave sources out")
        if self.swarm is not None:
            raise Misfit("swarm", "left out: targets have mixtures of different sources")
        arms = [
            f"retrain.arms.{place}" for place, arm in enumerate(self.retrain.named_arms.values()) if not arm.mixture
        ]
        arms += ["mixture.groups"] * bool(self.mixture.groups)
        arms += ["mixture.prior.shares"] * isinstance(self.mixture.prior.shares, dict)
        arms += ["mixture.prior.file"] * (self.mixture.prior.file is not None)
        if arms:
            raise Misfit(arms[0], "left out: targets have mixtures of different sources")
        return self

    @model_validator(mode="after")
    def _texts_or_examples(self) -> Self:
        if self.examples is not None:
            self._only_examples()
            return self
        for key in ("tokenizer", "window"):
            if getattr(self, key) is None:
                raise Misfit(key, "a value; only a run file with examples goes without")
        for role, pools in (("sources", self.sources), ("targets", self.targets)):
            for name, pool in pools.items():
                if pool.reader == "csv":
                    raise Misfit(f"{role}.{name}.csv", "files, jsonl, parquet or dataset; csv is for examples")
                if pool.label is not None:
                    raise Misfit(f"{role}.{name}.label", "left out: only a run file with examples has labels")
                if pool.chat_template and self.tokenizer is not None and self.tokenizer.train is not None:
                    raise Misfit(
                        f"{role}.{name}.chat_template", "tokenizer.hub or path beside it; one trained has none"
                    )
        for section, training in (("proxy", self.proxy), ("retrain", self.retrain)):
            if isinstance(training.model, HeadConfig | TreesModel):
                what = "a head needs" if isinstance(training.model, HeadConfig) else "boosted_trees need"
                raise Misfit(f"{section}.model", f"architecture or pretrained; {what} examples")
        for key, objective in self.retrain.objectives.items():
            if isinstance(objective, GroupObjective) and objective.group_column:
                raise Misfit(f"{key}.groups", "source; windows of text have no columns")
        return self

    def _only_examples(self) -> None:
        assert self.examples is not None
        for name, target in self.targets.items():
            if target.held_out_by == "scaffold" and self.examples.smiles is None:
                raise Misfit(f"targets.{name}.held_out_by", "left out: only molecules (examples.smiles) have scaffolds")
        for key in ("tokenizer", "window"):
            if getattr(self, key) is not None:
                raise Misfit(key, "left out beside examples, which have no tokens")
        for role, pools in (("sources", self.sources), ("targets", self.targets)):
            for name, pool in pools.items():
                if isinstance(pool, TargetConfig) and pool.is_each_source:
                    continue
                if pool.reader not in ("parquet", "csv"):
                    raise Misfit(f"{role}.{name}.{pool.reader}", "parquet or csv, because the run file has examples")
                stands_for_many = isinstance(pool, SourceConfig) and pool.labels is not None
                if self.examples.label is None and pool.label is None and not stands_for_many:
                    raise Misfit("examples.label", f"a value; the pool {role}.{name} has no label of its own")
                fields = type(pool).model_fields
                for key in (key for key in TEXT_KEYS if key in fields):
                    if getattr(pool, key) != fields[key].default:
                        raise Misfit(f"{role}.{name}.{key}", "left out: it is for texts, and the run file has examples")
        for section, training in (("proxy", self.proxy), ("retrain", self.retrain)):
            if not isinstance(training.model, HeadConfig | TreesModel):
                raise Misfit(
                    f"{section}.model", "{head: linear | mlp} or {boosted_trees: {}}, because the run file has examples"
                )
        if self.examples.task == "regression":
            self._only_numbers()
        if self.proxy.fraction is not None and self.retrain.tokens is None:
            raise Misfit("proxy.fraction", "tokens in its place: retrained boosted_trees have no budget")
        if segment_tokens(self.mixture.unit) is not None:
            raise Misfit(self._unit_key, "document or window: an example is one row")

    @property
    def _unit_key(self) -> str:
        return "mixture.unit" if isinstance(self.mixture.unit, str) else "mixture.unit.segment"

    def _only_numbers(self) -> None:
        """Check what a squared error goes with: it has no probabilities, and shards need those."""
        for section, training in (("proxy", self.proxy), ("retrain", self.retrain)):
            if isinstance(training.model, HeadConfig):
                raise Misfit(f"{section}.model", "{boosted_trees: {}} beside task: regression; a head is a classifier")
        if self.mixture.shards is not None:
            raise Misfit("mixture.shards", "left out beside task: regression")

    @model_validator(mode="after")
    def _problems_in_memory_have_no_shards(self) -> Self:
        if self.mixture.shards is None:
            return self
        if self.examples is not None and self.examples.smiles is not None:
            raise Misfit("mixture.shards", "left out beside examples.smiles: rows of molecules are solved in memory")
        if self.leaves_out or any(target.is_each_source for target in self.targets.values()):
            wanted = (
                "left out beside targets that leave a source out: workers solve their problems side by side, in memory"
            )
            raise Misfit("mixture.shards", wanted)
        return self

    @model_validator(mode="after")
    def _inputs_may_shift(self) -> Self:
        if self.mixture.covariate_shift == "assume_none":
            return self
        key = "mixture.covariate_shift"
        if self.examples is None:
            raise Misfit(key, "assume_none: texts have no inputs beside what the models predict")
        if self.examples.task == "regression":
            raise Misfit(key, "assume_none beside task: regression: reweight mixes probabilities of classes")
        if self.swarm is not None:
            raise Misfit("swarm", "left out beside mixture.covariate_shift: reweight")
        for number, arm in enumerate(self.retrain.named_arms.values()):
            if arm.mixture in SOLVER_METHODS:
                raise Misfit(f"retrain.arms.{number}", f"left out beside {key}: reweight, which {arm.mixture} lacks")
        return self

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if self.is_open:
            return self
        for source in self.sources:
            if source in KEY_COLUMNS:
                raise Misfit(
                    f"sources.{source}", f"another name: the prediction cache has columns {', '.join(KEY_COLUMNS)}"
                )
        sources = ", ".join(self.sources)
        for source in self.mixture.bounds:
            if source not in self.sources:
                raise Misfit(f"mixture.bounds.{source}", f"the name of a source: {sources}")
        for number, group in enumerate(self.mixture.groups):
            for source in group.sources:
                if source not in self.sources:
                    raise Misfit(f"mixture.groups.{number}.sources", f"names of sources: {sources}; {source!r} is none")
        targets = ", ".join(self.targets)
        for target in self.mixture.target_weights:
            if target not in self.targets:
                raise Misfit(f"mixture.target_weights.{target}", f"the name of a target: {targets}")
        if (worst := self.mixture.worst.prior) is not None and set(worst) != set(self.targets):
            raise Misfit("mixture.worst.prior", f"a weight for every target: {targets}")
        if isinstance(prior := self.mixture.prior.shares, dict) and (fault := shares_fault(prior, self.sources)):
            raise Misfit("mixture.prior.shares", fault)
        trained = self.tokenizer.train if self.tokenizer else None
        for source in (trained.sources or []) if trained else []:
            if source not in self.sources:
                raise Misfit("tokenizer.train.sources", f"names of sources: {sources}; {source!r} is none")
        unit, stored = segment_tokens(self.mixture.unit), self.cache.segment
        if unit is not None and (stored is None or unit % stored):
            multiple = f"{{segment: a multiple of {stored}}}, " if stored else ""
            raise Misfit(self._unit_key, f"{multiple}document or window; or cache.segment: {unit} beside it")
        budgets = {"proxy": self.proxy_tokens, "retrain": self.retrain.tokens}
        budgets |= {"swarm": self.swarm.tokens} if self.swarm else {}
        budgets |= {"doremi": self.doremi.tokens}
        for section, tokens in budgets.items():
            step = self.row_tokens * (self.retrain if section == "retrain" else self.proxy).batch
            if tokens is not None and tokens < step:
                key = "fraction" if section == "proxy" and self.proxy.tokens is None else "tokens"
                what = "tokens (batch x window)" if self.window else "examples (batch)"
                raise Misfit(f"{section}.{key}", f"at least one step of {step} {what}; it is {tokens}")
        return self

    @model_validator(mode="after")
    def _objective_knows_the_sources(self) -> Self:
        if self.is_open:
            return self
        for key, objective in self.retrain.objectives.items():
            if (
                isinstance(objective, GroupObjective)
                and objective.group_column is None
                and isinstance(objective.prior, dict)
                and set(objective.prior) != set(self.sources)
            ):
                raise Misfit(f"{key}.prior", f"a weight for every source: {', '.join(self.sources)}")
        return self

    @model_validator(mode="after")
    def _arms_fit_the_run(self) -> Self:
        if self.is_open:
            return self
        models: set[str] = set()
        for number, arm in enumerate(self.retrain.named_arms.values()):
            if arm.shares is not None and (fault := shares_fault(arm.shares, self.sources)):
                raise Misfit(f"retrain.arms.{number}.shares", fault)
            names = set(arm.models(self.mixture_names, apart=self.leaves_out).values())
            if both := names & models:
                raise Misfit(f"retrain.arms.{number}.name", f"another name: {both.pop()} is the model of another arm")
            models |= names
        return self

    @model_validator(mode="after")
    def _methods_have_a_swarm(self) -> Self:
        if self.swarm is not None:
            for key, section in (("proxy", self.proxy), ("retrain", self.retrain)):
                if isinstance(section.model, TreesModel):
                    raise Misfit("swarm", f"left out beside boosted_trees, which {key}.model are")
        for number, arm in enumerate(self.retrain.named_arms.values()):
            if arm.mixture in TRAINED_METHODS and (self.examples is not None or len(self.sources) < 2):
                raise Misfit(f"retrain.arms.{number}", f"{arm.mixture} only where there are several sources of text")
            is_solved, is_learned = arm.mixture in SOLVER_METHODS, arm.mixture in SWARM_METHODS
            if (is_solved or is_learned) and self.mixture.over == "worst":
                raise Misfit(f"retrain.arms.{number}", f"left out beside over: worst, which {arm.mixture} lacks")
            if is_solved and self.mixture.prior.strength > 0:
                raise Misfit(f"retrain.arms.{number}", f"left out beside prior.strength, which {arm.mixture} lacks")
            if not is_learned:
                continue
            if self.swarm is None or self.swarm.mixtures < FEWEST_MIXTURES:
                raise Misfit(
                    "swarm.mixtures" if self.swarm else "swarm",
                    f"{{mixtures: N}} with N >= {FEWEST_MIXTURES}: the arm {arm.name} learns from a swarm",
                )
        return self

    @model_validator(mode="after")
    def _bounds_leave_a_mixture(self) -> Self:
        if self.is_open:
            return self
        pairs = [self.mixture.bounds.get(source, (0.0, 1.0)) for source in self.sources]
        low, high = (math.fsum(bounds) for bounds in zip(*pairs, strict=True))
        if low > 1 + SHARE_ROUNDING:
            raise Misfit("mixture.bounds", f"lower bounds that sum to at most 1; they sum to {low:.6g}")
        if high < 1 - SHARE_ROUNDING:
            raise Misfit("mixture.bounds", f"upper bounds that sum to at least 1; they sum to {high:.6g}")
        return self
