"""The run file on the mixture: what is minimised, within which limits, and how sure one wants to be."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mixray.config.section import Misfit, Name, Positive, Section, Share
from mixray.config.training import Resources


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


class ShardsConfig(Section):
    """Ray actors that hold the rows of the convex problem, where a prediction cache is larger than a machine's memory.

    That there are any changes the numbers, by rounding: rows are kept in float32. How many and how large does not."""

    actors: Positive | None = None
    """For each target of a mixture; as many as fit by default."""
    resources: Resources = Resources()
    """Of one actor."""
    memory: Positive = 2 * 2**30
    """Bytes that an actor's rows may take, 4 per source and 16 to 32 more for each; if they need more they lie in a
    file. Ray sets it aside together with what the process needs beside its rows."""
    scratch: str | None = None
    """The folder of these files, on every machine; where temporary files go by default."""


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
    shards: ShardsConfig | None = None
    """null: all rows lie in the memory of the process that solves."""

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
        if self.shards is not None and self.choose.rule == "nearest_to_prior" and self.choose.within == "one_se":
            raise Misfit("choose.within", "a part of the loss beside shards; one_se needs every row's loss at once")
        return self
