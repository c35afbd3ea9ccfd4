"""The run file on the mixture: what is minimised, within which limits, how sure one wants to be, and other methods."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from mixray.config.section import Misfit, Name, Positive, Section, Share
from mixray.config.training import Resources


class GroupConfig(Section):
    """Limits on the sum of some sources' shares."""

    sources: Annotated[list[Name], Field(min_length=1)]
    """The sources whose shares are added."""
    min: Share = 0.0
    """The smallest sum of their shares."""
    max: Share = 1.0
    """The largest sum of their shares."""

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
    """How strongly the weights of the targets are pulled to `prior`, in nats per token. 0: the plain maximum over
    targets. Larger values give the other targets more weight."""
    offsets: Literal["best_single", "best_mixture", "none"] = "best_single"
    """What is subtracted from each target's loss so that targets compare: its loss under its best single source, its
    loss under its own best mixture, or nothing."""
    prior: dict[Name, Annotated[float, Field(gt=0)]] | None = None
    """Target -> its weight where tau is large. null: equal weights."""


class PriorConfig(Section):
    shares: Literal["balanced", "natural"] | dict[Name, Annotated[float, Field(gt=0, le=1)]] = "balanced"
    """The shares that the mixture is pulled to: balanced (equal), natural (in proportion to the sources' sizes), or a
    share for every source."""
    # Ids are made from what is dumped, and this key is younger than the first of them: the default leaves no trace.
    file: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    """A local file with the shares, in place of `shares`: the same files as an arm of `retrain.arms` may name. Every
    source must have some share in it. The run folder's config holds the shares instead."""
    strength: Annotated[float, Field(ge=0)] = 0.0
    """Adds strength x KL(shares || prior), in nats per token, to the loss that is minimised. 0: no pull."""

    @model_validator(mode="after")
    def _shares_once(self) -> Self:
        if self.file is not None and self.shares != "balanced":
            raise Misfit("shares", "left out beside file")
        return self


class ChooseConfig(Section):
    """Which of the mixtures that the data cannot tell from the optimum is the answer."""

    rule: Literal["optimum", "nearest_to_prior"] = "optimum"
    """optimum: the mixture with the smallest predicted loss. nearest_to_prior: of all mixtures about as good, the one
    closest to `prior.shares`."""
    within: Literal["one_se"] | Annotated[float, Field(gt=0)] = "one_se"
    """How much larger the loss may be for a mixture to count as about as good: a fraction of the loss, or one_se, one
    standard error of the optimum's gain over the prior, paired over documents."""


class ShardsConfig(Section):
    """Ray actors that hold the rows of the convex problem, where a prediction cache is larger than a machine's memory.

    That there are any changes the numbers, by rounding: rows are kept in float32. How many and how large does not."""

    actors: Positive | None = None
    """Number of actors per target of a mixture. null: as many as fit on the cluster."""
    resources: Resources = Resources()
    """CPUs and GPUs of one actor."""
    memory: Positive = 2 * 2**30
    """Bytes that one actor's rows may use, at 4 per source and 16 to 32 more for each row. Rows that need more are kept
    in a file. Ray reserves this memory together with what the process itself needs."""
    scratch: str | None = None
    """The folder of these files, on every machine. null: the system's folder for temporary files."""


class SegmentUnit(Section):
    """A unit that is a piece of a window."""

    segment: Positive
    """Tokens of a segment: a multiple of `cache.segment`. Each window is cut from its start on; its last segment may be
    shorter."""


Unit = Literal["document", "window", "token"] | SegmentUnit
Weighting = Literal["document", "token"]


def segment_tokens(unit: Unit) -> int | None:
    """Return the tokens of a unit that is a piece of a window; None for documents and windows."""
    if isinstance(unit, SegmentUnit):
        return unit.segment
    return 1 if unit == "token" else None


Solver = Literal["auto", "newton", "working_set", "entropic"]


class MixtureConfig(Section):
    over: Literal["each", "mean", "worst"] = "each"
    """each: one mixture per target. mean: one for the weighted mean over targets. worst: one for the target that is
    worst off."""
    target_weights: dict[Name, Annotated[float, Field(gt=0)]] = {}
    """Target -> its weight in the mean over targets. Targets that are not listed have weight 1."""
    worst: WorstConfig = WorstConfig()
    """How targets are compared where `over` is worst."""
    unit: Unit = "document"
    """What one likelihood is taken over: a document, a window, a token, or {segment: N} for pieces of N tokens. Each
    unit's likelihoods are mixed with the shares."""
    weighting: Weighting = "document"
    """document: the loss is the mean over documents. token: every token counts the same, so that long documents count
    more."""
    solver: Solver = "auto"
    """The algorithm of the convex problem. auto: newton or, for many hundreds of sources, working_set, and entropic
    where a prior pulls. entropic: the method of the MixMin paper."""
    tolerance: Annotated[float, Field(gt=0)] = 1e-8
    """The solver stops when the gap, a certified bound on how far the predicted loss is above the smallest one, is
    below this many nats per token."""
    max_rounds: Positive = 10_000
    """The solver stops after this many rounds in any case; the mixture's `status` then says so."""
    bounds: dict[Name, tuple[Share, Share]] = {}
    """Source -> [smallest, largest] share. Sources that are not listed have [0, 1]."""
    groups: list[GroupConfig] = []
    """Limits on the sum of several sources' shares."""
    max_epochs: Annotated[float, Field(gt=0)] | None = None
    """How often the retraining budget may repeat any source: a limit on its share. null: no limit."""
    bootstrap: Annotated[int, Field(ge=0)] = 200
    """Number of resampled data sets that say which sources are interchangeable; the 95 % intervals of shares and gains
    take at least 200. 0: neither. Beside `covariate_shift: reweight` there are neither, and 200 has no effect."""
    prior: PriorConfig = PriorConfig()
    """Shares that the mixture is pulled to."""
    choose: ChooseConfig = ChooseConfig()
    """Which of the mixtures that the data cannot tell apart is the answer."""
    # Ids are made from what is dumped, and this key is younger than the first of them: the default leaves no trace.
    covariate_shift: Annotated[
        Literal["assume_none", "reweight"], Field(exclude_if=lambda value: value == "assume_none")
    ] = "assume_none"
    """Of classes of examples. assume_none: the inputs of all sources are taken to be distributed alike, as MixMin does.
    reweight: each proxy counts more where its source's inputs are denser, as a classifier of the source estimates. The
    problem is then not convex, and its answer has no certified gap and no intervals."""
    shards: ShardsConfig | None = None
    """Actors that hold the rows of the problem, where they exceed one machine's memory. null: all rows are in the
    memory of one process."""

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
        if self.covariate_shift == "reweight":
            conflicts = {
                "over": self.over != "each",
                "bounds": bool(self.bounds),
                "groups": bool(self.groups),
                "max_epochs": self.max_epochs is not None,
                "prior.strength": pulled,
                "choose.rule": self.choose.rule != "optimum",
                "shards": self.shards is not None,
                "bootstrap": self.bootstrap not in (0, type(self).model_fields["bootstrap"].default),
            }
            # A row is an example, and the problem is not the convex one that these settings are about.
            for key in ("unit", "weighting", "solver", "tolerance", "max_rounds"):
                conflicts[key] = getattr(self, key) != type(self).model_fields[key].default
            for key, conflict in conflicts.items():
                if conflict:
                    raise Misfit(
                        key,
                        "left out beside covariate_shift: reweight, which is for examples of one target without limits "
                        "and has a solver of its own",
                    )
        if self.solver == "working_set" and pulled:
            raise Misfit("solver", "newton or entropic: working_set knows no prior")
        if self.solver == "entropic" and self.over == "worst" and self.worst.tau == 0:
            raise Misfit("solver", "newton, or worst.tau > 0: a plain maximum has kinks")
        return self


SizeMethod = Literal["balanced", "natural", "temperature", "unimax"]
"""What needs no search."""
SwarmMethod = Literal["random_search", "ridge", "regmix", "mixing_law", "gaussian_process", "mixmin_with_swarm"]
"""What learns from a swarm."""
SolverMethod = Literal["nearest_to_prior", "mixmin_reference"]
"""What chooses otherwise from the same predictions as mixmin."""
TrainedMethod = Literal["doremi"]
"""What trains models of its own, which see no target."""
Method = Literal["mixmin", SizeMethod, SolverMethod, SwarmMethod, TrainedMethod]
SIZE_METHODS: tuple[str, ...] = get_args(SizeMethod)
SOLVER_METHODS: tuple[str, ...] = get_args(SolverMethod)
SWARM_METHODS: tuple[str, ...] = get_args(SwarmMethod)
TRAINED_METHODS: tuple[str, ...] = get_args(TrainedMethod)


class DoReMiConfig(Section):
    """DoReMi: a reference model, and a proxy that learns the sources' weights by Group DRO on what it lacks of it."""

    reference: Literal["natural", "balanced"] = "natural"
    """The shares that the reference model is trained on."""
    tokens: Positive | None = None
    """Training tokens of the reference model and of DoReMi's proxy, each. null: as many as all the other proxies
    together."""
    step_size: Annotated[float, Field(gt=0)] = 1.0
    """Step size of the sources' weights, per optimizer step and nat of excess loss."""
    smoothing: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    """The fraction of the weights that is spread evenly over the sources after every step."""


class SwarmConfig(Section):
    """Cheap models like the proxies, each trained on one mixture: they measure what the proxies only predict."""

    mixtures: Annotated[int, Field(ge=0, le=100_000)] = 32
    """How many mixtures of the design to train on. Methods such as regmix learn from them. 0: none."""
    design: Literal["dirichlet", "sobol", "d_optimal", "around_answer"] = "dirichlet"
    """Which mixtures: dirichlet are random ones, sobol cover all mixtures evenly, d_optimal are those of many random
    ones that tell most, around_answer are near the computed mixtures and on the way from them to `mixture.prior`."""
    replicates: Positive = 2
    """How many models to train on each mixture, with the seeds `seed`, `seed` + 1 and so on. Two and more show how far
    the seed alone changes a loss, which a forecast needs."""
    tokens: Positive | None = None
    """Training tokens (or examples) of each model. null: as many as a proxy."""
    forecast: bool = True
    """Also train the mixture of every arm at this size, and forecast from it what retraining will bring."""
