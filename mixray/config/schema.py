"""The run file's schema: frozen, every key known, nonsense refused at creation.

A config means the same on every machine: nothing here looks at files, GPUs or the environment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Stage = Literal["data", "proxies", "cache", "mixture", "retrain", "report"]
"""The stages of a run, in their order."""
Positive = Annotated[int, Field(gt=0)]
Globs = Annotated[list[str], Field(min_length=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
SHARE_ROUNDING = 1e-12
"""How far from 1 a sum of shares may be."""
PRIOR_ROUNDING = 1e-6
"""The same for shares that a person has written down."""


KEY_COLUMNS = ("document", "window", "count")
"""Of the prediction cache, whose other columns are named as the sources."""


class Misfit(ValueError):
    """A value that does not fit others; ``key``: where it stands, dotted, seen from the section that found it."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class Section(BaseModel):
    """A part of the run file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# ---------------------------------------------------------------------------------------------------------- data


class AnswerConfig(Section):
    """The right answer of a multiple-choice item, for ``{answer}`` in ``text``.

    ``options``: columns, one an option, or one column that holds the list of them (dots reach into structs); ``label``:
    the column with the right one's number from 0, or, where ``labels`` names a column of them, its label.
    """

    options: str | Annotated[list[str], Field(min_length=2)]
    label: str
    labels: str | None = None


Reader = Literal["files", "jsonl", "parquet", "dataset"]
READERS: tuple[Reader, ...] = get_args(Reader)


class PoolConfig(Section):
    """One pool of documents: exactly one of ``files``, ``jsonl``, ``parquet``, ``dataset`` says where it is."""

    files: str | Globs | None = None
    """Text files by glob, one document a file. ``{stdlib}`` and ``{package:NAME}`` expand to installed folders."""
    jsonl: str | Globs | None = None
    """JSON lines by glob: plain, ``.gz`` or ``.zst``."""
    parquet: str | Globs | None = None
    """Parquet files by glob, or folders of them."""
    dataset: str | None = None
    """A Hugging Face data set: a hub name or a folder written by ``save_to_disk`` or readable by ``load_dataset``."""

    exclude: list[str] = []
    """Globs of files to leave out."""
    text: str = "text"
    """The column that holds the text (of all but ``files``), or a template: ``"{question} {answer}"``."""
    answer: AnswerConfig | None = None
    subset: str | None = None
    """The hub data set's configuration name."""
    split: str = "train"
    revision: str | None = None
    """The hub data set's commit; without it the newest one is looked up and its hash becomes the identity."""
    streaming: bool = False
    """Read the hub data set as it downloads, keeping no copy."""
    where: dict[str, str] = {}
    """Rows to keep: column (dots reach into structs) -> value, e.g. ``{meta.redpajama_set_name: RedPajamaC4}``."""
    max_tokens: Positive | None = None
    """Keep at most this many tokens of the pool (the first ones, in file order, equally from every part)."""
    document_chars: Positive = 100_000
    """Longer documents are split into documents of at most this many characters, at line ends where there are any."""

    @property
    def reader(self) -> Reader:
        return next(kind for kind in READERS if getattr(self, kind) is not None)

    @property
    def locations(self) -> list[str]:
        value = getattr(self, self.reader)
        return [value] if isinstance(value, str) else list(value)

    @model_validator(mode="after")
    def _one_reader(self) -> Self:
        given = [kind for kind in READERS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(READERS)}; it has {', '.join(given) or 'none'}")
        if self.reader != "dataset" and (self.streaming or self.subset or self.revision):
            raise ValueError("streaming, subset and revision belong to 'dataset'")
        if self.reader == "files" and self.where:
            raise Misfit("where", "a source with columns; text files have none")
        if self.answer is not None and "{answer}" not in self.text:
            raise Misfit("text", "a template with {answer}, because 'answer' is given")
        if self.exclude and self.reader == "dataset":
            raise Misfit("exclude", "a source of files; a data set has none")
        return self


class SourceConfig(PoolConfig):
    """One named pool of training data."""

    natural_tokens: Positive | None = None
    """How large the source really is, where ``max_tokens`` keeps less of it: the ``natural`` arm is in proportion."""


class TargetConfig(PoolConfig):
    """One named sample of what the model should be good at."""

    held_out: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """The share of documents kept for judging the retrained models; the rest fits the mixture."""


class TrainTokenizer(Section):
    vocab_size: Annotated[int, Field(ge=300, le=1_000_000)] = 4096
    sources: list[Name] | None = None
    """The sources it learns from; all by default. Naming them keeps the tokenizer when a source is added."""
    sample_bytes: Positive = 4_000_000
    """Bytes of text it sees, shared equally among the sources."""


class TokenizerConfig(Section):
    """Exactly one of: trained here (byte-level BPE), a hub name, a folder."""

    train: TrainTokenizer | None = None
    hub: str | None = None
    revision: str | None = None
    path: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(kind is not None for kind in (self.train, self.hub, self.path)) != 1:
            raise ValueError("exactly one of train, hub, path")
        if self.revision is not None and self.hub is None:
            raise Misfit("revision", "a tokenizer of the hub")
        return self


# ------------------------------------------------------------------------------------------------------ training


class Resources(Section):
    """What one proxy, scorer or worker asks of the cluster. Fractions are allowed; ``cpus`` is also its threads."""

    cpus: Annotated[float, Field(gt=0)] = 1
    gpus: Annotated[float, Field(ge=0)] = 0

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus))


class OptimizerConfig(Section):
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    warmup: Share = 0.1
    """Share of the steps over which the learning rate rises linearly."""
    final: Share = 0.1
    """Learning rate at the end, as a share of the peak."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest gradient norm."""


class LoopConfig(Section):
    """What the training loop reads, whatever it trains."""

    optimizer: OptimizerConfig = OptimizerConfig()
    batch: Positive = 16
    """Windows (or rows) per optimiser step, over all workers."""
    micro_batch: Positive | None = None
    """Windows per forward pass of one worker; smaller than its share of the batch means gradient accumulation."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto``: bfloat16 autocast on a GPU that has it, float32 elsewhere."""
    compile: bool = False
    """``torch.compile`` the model."""
    checkpoints: Positive = 4
    """How many times a training run saves its state on the way."""


class TrainingConfig(LoopConfig):
    """What proxies and retrained models share: a model, a token budget and how to spend it."""

    model: dict[str, Any]
    """``{architecture: NAME, ...}`` builds one from a Hugging Face config; ``{pretrained: NAME}`` continues one."""

    @model_validator(mode="after")
    def _model_kind(self) -> Self:
        if ("architecture" in self.model) == ("pretrained" in self.model):
            raise Misfit("model", "exactly one of architecture, pretrained")
        return self


class ProxyConfig(TrainingConfig):
    kind: Literal["causal_lm"] = "causal_lm"
    tokens: Positive | None = None
    """Training tokens per source."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """... or this share of the retraining tokens per source."""
    resources: Resources = Resources()
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """How often one proxy's actor may die before the run gives up on it."""

    @model_validator(mode="after")
    def _budget(self) -> Self:
        if (self.tokens is None) == (self.fraction is None):
            raise ValueError("exactly one of tokens, fraction")
        return self


class CacheConfig(Section):
    """How the prediction cache is built. None of it changes the numbers beyond rounding."""

    batch_tokens: Positive = 8192
    """Tokens per forward pass, padding included."""
    actors: Positive | None = None
    """Scoring actors; as many as fit by default."""
    resources: Resources = Resources()
    token_log_probs: bool = False
    """Keep per-token values too (needed for ``mixture.unit: token``)."""


class GroupConfig(Section):
    """Limits on the sum of some sources' shares."""

    sources: Annotated[list[Name], Field(min_length=1)]
    min: Share = 0.0
    max: Share = 1.0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if len(set(self.sources)) != len(self.sources):
            raise Misfit("sources", "every source named once")
        if self.min > self.max:
            raise Misfit("min", f"at most max, {self.max:g}")
        return self


class WorstConfig(Section):
    """The worst case over targets: max over pi of sum_t pi_t (L_t - b_t) - tau KL(pi || prior)."""

    tau: Annotated[float, Field(ge=0)] = 0.0
    """Nats per token. 0: the plain maximum; larger ones weigh in the other targets, towards the prior."""
    offsets: Literal["best_single", "best_mixture", "none"] = "best_single"
    """b_t, so that targets of different entropy compare: each one's loss under its best single source, under its own
    best mixture (the worst case is then one of regret), or 0."""
    prior: dict[Name, Annotated[float, Field(gt=0)]] | None = None
    """Target -> its weight where tau is large; equal by default."""


class PriorConfig(Section):
    shares: Literal["balanced", "natural"] | dict[Name, Annotated[float, Field(gt=0, le=1)]] = "balanced"
    strength: Annotated[float, Field(ge=0)] = 0.0
    """Adds strength x KL(shares || prior), nats per token, to what is minimised."""


class ChooseConfig(Section):
    """Which of the mixtures that the data cannot tell from the optimum is the answer."""

    rule: Literal["optimum", "nearest_to_prior"] = "optimum"
    within: Literal["one_se"] | Annotated[float, Field(gt=0)] = "one_se"
    """How far the loss may be above the optimum's: a part of the loss, or one standard error of the optimum's gain over
    the prior, paired over documents."""


Solver = Literal["newton", "entropic", "em", "working_set", "auto"]


class MixtureConfig(Section):
    over: Literal["each", "mean", "worst"] = "each"
    """One mixture per target, or one for all: for their weighted mean, or for the worst off."""
    target_weights: dict[Name, Annotated[float, Field(gt=0)]] = {}
    """Target -> its weight in the mean, 1 by default."""
    worst: WorstConfig = WorstConfig()
    unit: Literal["document", "window", "token"] = "document"
    weighting: Literal["document", "token"] = "document"
    solver: Solver = "newton"
    """``auto``: newton, or for many sources working_set."""
    tolerance: Annotated[float, Field(gt=0)] = 1e-8
    """On the certified gap, in nats per token."""
    max_rounds: Positive = 10_000
    bounds: dict[Name, tuple[Share, Share]] = {}
    groups: list[GroupConfig] = []
    max_epochs: Annotated[float, Field(gt=0)] | None = None
    """No source is repeated more often than this in the retraining budget."""
    bootstrap: Annotated[int, Field(ge=0)] = 200
    """Replicates for the 95 % intervals; 0 for none."""
    prior: PriorConfig = PriorConfig()
    choose: ChooseConfig = ChooseConfig()

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        for source, (low, high) in self.bounds.items():
            if low > high:
                raise Misfit(f"bounds.{source}", "[low, high] with low <= high")
        return self

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        pulled = self.prior.strength > 0
        if pulled and self.choose.rule == "nearest_to_prior":
            raise Misfit("choose.rule", "optimum, because prior.strength pulls to the prior already")
        if self.target_weights and self.over != "mean":
            raise Misfit("target_weights", "over: mean beside it")
        if self.solver == "em" and (pulled or self.over == "worst"):
            raise Misfit("solver", "newton or entropic: em knows neither a prior nor a worst case")
        if self.solver == "working_set" and pulled:
            raise Misfit("solver", "newton or entropic: working_set knows no prior")
        if self.solver == "entropic" and self.over == "worst" and self.worst.tau == 0:
            raise Misfit("solver", "newton, or worst.tau > 0: a plain maximum has kinks")
        return self


class ErmConfig(Section):
    """The mean over rows."""

    kind: Literal["erm"] = "erm"


class GroupObjective(Section):
    """What Group DRO and ALSO share. Their groups are the sources of the arm."""

    groups: str = "source"
    step_size: Annotated[float, Field(ge=0)] = 0.01
    """Of the group weights, per optimiser step and nat."""
    tau: Annotated[float, Field(ge=0)] = 0.0
    """Nats. Pull of the group weights towards the prior: - tau KL(weights || prior)."""
    prior: Literal["uniform", "shares"] | dict[Name, Annotated[float, Field(gt=0)]] = "uniform"
    """Where the group weights start and what they are pulled to; ``shares``: the arm's; else source -> weight."""
    missing: Literal["inverse_presence", "present_only", "ema", "uniform_sampling"] = "inverse_presence"
    """What to do about sources that a step has no window of."""
    excess: Literal["none", "proxy"] = "none"
    """``proxy``: judge a source by its loss above what its own proxy reached on it in training."""

    @model_validator(mode="after")
    def _groups_of_texts(self) -> Self:
        if self.groups != "source":
            raise Misfit("groups", "source; windows of text have no columns: column:NAME is for jobs/train_robust.py")
        return self


class GroupDROConfig(GroupObjective):
    """As ``mixray.robust.GroupDRO``."""

    kind: Literal["group_dro"] = "group_dro"
    adjustment: Annotated[float, Field(ge=0)] = 0.0
    """C: a source's loss is raised by C / sqrt(its windows in the run) when the weights are found."""
    alpha: Annotated[float, Field(gt=0, le=1)] | None = None
    """CVaR over sources: no weight is above share / alpha, and there is no climbing."""

    @model_validator(mode="after")
    def _alpha_or_prior(self) -> Self:
        if self.alpha is not None and (self.tau or self.prior != "uniform"):
            key = "tau" if self.tau else "prior"
            raise Misfit(key, "left out beside alpha, which limits the weights by the sources' shares")
        return self


class ALSOConfig(GroupObjective):
    """As ``mixray.robust.ALSO``, with the optimizer's settings."""

    kind: Literal["also"] = "also"
    tau: Annotated[float, Field(ge=0)] = 0.01
    mode: Literal["optimistic", "descent_ascent"] = "optimistic"
    weighting: Literal["group_mean", "group_sum"] = "group_mean"
    """Whether a source's loss is the mean over its windows in the step or, as in the paper's code, their sum."""

    @model_validator(mode="after")
    def _sums_miss_nothing(self) -> Self:
        if self.weighting == "group_sum" and self.missing != "inverse_presence":
            raise Misfit("missing", "left out beside weighting: group_sum, where an absent source's sum is 0")
        return self


OBJECTIVES: dict[str, type[Section]] = {"erm": ErmConfig, "group_dro": GroupDROConfig, "also": ALSOConfig}


def _own_keys(raw: Any) -> Any:
    """Refuses a kind that there is not, and keys that belong to other kinds alone."""
    if not isinstance(raw, Mapping):
        return raw
    kind = raw.get("kind", "erm")
    if not isinstance(kind, str) or kind not in OBJECTIVES:
        raise Misfit("kind", " | ".join(OBJECTIVES))
    for key in raw:
        owners = [name for name, section in OBJECTIVES.items() if key in section.model_fields]
        if owners and kind not in owners:
            raise Misfit(str(key), f"kind: {' or '.join(owners)} beside it; {kind} has no {key}")
    return raw


def _kind_of(raw: Any) -> str:
    kind = raw.get("kind") if isinstance(raw, Mapping) else getattr(raw, "kind", None)
    return kind if isinstance(kind, str) and kind in OBJECTIVES else "erm"


ObjectiveConfig = Annotated[
    Annotated[ErmConfig, Tag("erm")] | Annotated[GroupDROConfig, Tag("group_dro")] | Annotated[ALSOConfig, Tag("also")],
    Discriminator(_kind_of),
    BeforeValidator(_own_keys),
]


Arm = Literal["mixmin", "balanced", "natural"]


class RetrainConfig(TrainingConfig):
    arms: Annotated[list[Arm], Field(min_length=1)] = ["mixmin", "balanced", "natural"]
    tokens: Positive
    workers: Positive | tuple[Positive, Positive] = 1
    """Workers of one arm, or [min, max] for an elastic group."""
    resources_per_worker: Resources = Resources()
    max_failures: Annotated[int, Field(ge=0)] = 3
    objective: ObjectiveConfig = ErmConfig()

    @property
    def worker_range(self) -> tuple[int, int]:
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)

    @model_validator(mode="after")
    def _arms_and_workers(self) -> Self:
        if len(set(self.arms)) != len(self.arms):
            raise Misfit("arms", "every arm named once")
        low, high = self.worker_range
        if low > high:
            raise Misfit("workers", "[min, max] with min <= max")
        if high > self.batch:
            raise Misfit("workers", f"at most {self.batch}, the windows of a batch")
        return self


class TrackingConfig(Section):
    uri: str | None = None
    """MLflow's tracking URI; null: a database in the storage folder."""
    experiment: str | None = None
    """null: the run file's name."""


# ------------------------------------------------------------------------------------------------------- the run


class RunConfig(Section):
    """A whole run file."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    storage: str = "./mixray-runs"
    """A folder or any URI that pyarrow.fs opens."""
    tokenizer: TokenizerConfig
    window: Annotated[int, Field(ge=2)]
    """Tokens per training window, and the longest context a target is scored with."""
    sources: Annotated[dict[Name, SourceConfig], Field(min_length=1)]
    targets: Annotated[dict[Name, TargetConfig], Field(min_length=1)]
    proxy: ProxyConfig
    cache: CacheConfig = CacheConfig()
    mixture: MixtureConfig = MixtureConfig()
    retrain: RetrainConfig
    tracking: TrackingConfig = TrackingConfig()

    @property
    def proxy_tokens(self) -> int:
        """Training tokens per source."""
        proxy = self.proxy
        return proxy.tokens if proxy.tokens is not None else max(1, round((proxy.fraction or 0) * self.retrain.tokens))

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
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
        if isinstance(prior := self.mixture.prior.shares, dict):
            if set(prior) != set(self.sources):
                raise Misfit("mixture.prior.shares", f"a share for every source: {sources}")
            if abs(math.fsum(prior.values()) - 1) > PRIOR_ROUNDING:
                raise Misfit(
                    "mixture.prior.shares", f"shares that sum to 1; they sum to {math.fsum(prior.values()):.6g}"
                )
        for source in (self.tokenizer.train.sources or []) if self.tokenizer.train else []:
            if source not in self.sources:
                raise Misfit("tokenizer.train.sources", f"names of sources: {sources}; {source!r} is none")
        if self.mixture.unit == "token" and not self.cache.token_log_probs:
            raise Misfit("mixture.unit", "cache.token_log_probs: true beside it, or document or window")
        for section, tokens in (("proxy", self.proxy_tokens), ("retrain", self.retrain.tokens)):
            step = self.window * getattr(self, section).batch
            if tokens < step:
                key = "fraction" if section == "proxy" and self.proxy.tokens is None else "tokens"
                raise Misfit(f"{section}.{key}", f"at least one step of {step} tokens (batch x window); it is {tokens}")
        return self

    @model_validator(mode="after")
    def _objective_knows_the_sources(self) -> Self:
        objective = self.retrain.objective
        if (
            isinstance(objective, GroupObjective)
            and isinstance(objective.prior, dict)
            and set(objective.prior) != set(self.sources)
        ):
            raise Misfit("retrain.objective.prior", f"a weight for every source: {', '.join(self.sources)}")
        return self

    @model_validator(mode="after")
    def _bounds_leave_a_mixture(self) -> Self:
        pairs = [self.mixture.bounds.get(source, (0.0, 1.0)) for source in self.sources]
        low, high = (math.fsum(bounds) for bounds in zip(*pairs, strict=True))
        if low > 1 + SHARE_ROUNDING:
            raise Misfit("mixture.bounds", f"lower bounds that sum to at most 1; they sum to {low:.6g}")
        if high < 1 - SHARE_ROUNDING:
            raise Misfit("mixture.bounds", f"upper bounds that sum to at least 1; they sum to {high:.6g}")
        return self
