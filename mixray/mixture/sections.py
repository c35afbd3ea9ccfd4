"""The sections of a mixture file as typed, frozen records."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

Interval = tuple[float, float]


class MixtureSection(BaseModel):
    """The base of a mixture file's sections. A field that was not set is not written."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _without_unset_fields(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if name in self.model_fields_set}


class MetricResult(MixtureSection):
    """A metric on held-out examples, and its difference to that of the first arm in the run file.

    Both intervals are 95 % ones over the examples; None where there is one example only.
    """

    value: float
    interval: Interval | None
    difference: float | None = None
    difference_interval: Interval | None = None


class HeldOutLoss(MixtureSection):
    """The loss of a retrained model on held-out documents, nats per token.

    ``nll`` is weighted as the run file says, ``nll_document`` is the mean over documents, ``nll_token`` over tokens.
    ``difference`` is this arm's ``nll`` minus that of the first arm in the run file, which has none itself, with a
    paired 95 % interval over documents. With replicates, all are means over them, the interval covers their seeds, too,
    and ``nll_by_seed`` has the ``nll`` of each. ``metrics``: of examples, by name; those of the first seed.
    """

    nll: float | None = None
    nll_document: float | None = None
    nll_token: float | None = None
    documents: int | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    metrics: dict[str, MetricResult] = {}
    nll_by_seed: list[float] = []

    @property
    def difference_interval(self) -> Interval | None:
        """The 95 % interval of the difference; None where there is none."""
        if self.difference_low is None or self.difference_high is None:
            return None
        return self.difference_low, self.difference_high


class SourceResult(MixtureSection):
    """An arm on one source.

    ``share``: the realised share of training tokens; ``nll``: mean loss of ``rows`` rows of the source that the
    training did not read, nats per token, with its 95 % interval over the rows.
    """

    share: float
    rows: int
    nll: float | None = None
    nll_low: float | None = None
    nll_high: float | None = None


class ArmResult(HeldOutLoss):
    """What an arm's retrained model reached, and what its training took.

    ``mixture`` and ``objective``: what it was trained on (mixmin, balanced, natural or shares, which are the user's)
    and what the training minimised, where arms of the run differ in more than the mixture's name; ``outside``: limits
    of the run file that its shares do not keep; ``targets``: of several targets, each one's loss; ``sources``: what it
    reached on every source; ``group_weights``: source -> its last weight in a robust objective; ``model``: where the
    model is stored, a path or URI. With replicates, tokens, seconds, weights and losses are means over their models,
    and ``model`` is that of the first seed.
    """

    mixture: str | None = None
    objective: str | None = None
    outside: list[str] = []
    targets: dict[str, HeldOutLoss] = {}
    sources: dict[str, SourceResult] = {}
    tokens: int | None = None
    seconds: float | None = None
    parameters: int | None = None
    group_weights: dict[str, float] = {}
    model: str | None = None


class PredictedGain(MixtureSection):
    """What the mixture gains over a baseline on documents that did not choose it, nats per token.

    ``estimate``: predicted loss of the baseline minus that of the mixture, less ``optimism``, by which the difference
    of the losses in this file is too large because the mixture was fitted to these documents. ``interval``: 95 %; None
    for a single document. ``more_documents``: how many more target documents are expected to tell the gain from zero;
    0 where the interval excludes zero, None where no number is.
    """

    estimate: float
    optimism: float
    interval: Interval | None
    more_documents: int | None


class InterchangeableSources(MixtureSection):
    """Two sources whose shares the data hardly tell apart. ``correlation``: of their shares across replicates."""

    sources: tuple[str, str]
    correlation: float


class SourceWorth(MixtureSection):
    """By how much the best predicted loss rises without a source, nats per token, with its 95 % interval.

    ``gap``: the certified gap of the problem without the source, and so how exact ``loss_rise`` is.
    """

    loss_rise: float
    interval: Interval | None
    gap: float


class LimitPrice(MixtureSection):
    """A limit that the mixture reaches. ``sources``: those whose shares it bounds together; ``at``: the limit itself.

    ``nats_per_token_per_unit_share``: how fast the predicted loss falls as the limit is loosened.
    """

    sources: list[str]
    limit: Literal["min", "max"]
    at: float
    nats_per_token_per_unit_share: float


class PathMixture(MixtureSection):
    """One mixture between the optimum and the prior.

    ``strength``: of the pull to the prior, nats per token; 0 at the optimum, None (infinite) at the prior.
    ``loss_rise``: above the optimum's loss, nats per token; ``divergence``: KL(shares || prior), nats.
    """

    strength: float | None
    weights: dict[str, float]
    loss: float
    loss_rise: float
    divergence: float
    effective_sources: float


class OptimalMixture(MixtureSection):
    """The optimum beside which a near-optimal mixture was chosen."""

    weights: dict[str, float]
    loss: float
    gap: float


class MixtureChoice(MixtureSection):
    """How the mixture was chosen among the near-optimal ones.

    ``rule`` and ``within``: as in the run file; ``allowed_rise``: the tolerance in nats per token; ``divergence_gap``:
    a bound on how far the divergence is above the smallest possible one, nats. The others: see ``PathMixture``.
    """

    rule: str
    within: float | str
    allowed_rise: float
    strength: float | None
    loss: float
    loss_rise: float
    divergence: float
    effective_sources: float
    divergence_gap: float
    optimum: OptimalMixture


class RealisableShares(MixtureSection):
    """How shares too small to train on were settled: each is 0 or at least one training window of the budget.

    ``least_share``: that window's share; ``dropped``, ``raised``: sources whose best share is between 0 and it, and
    which have no share or at least that one now; ``loss_rise``: by how much this raises the minimised value, nats per
    token. ``gap`` holds it, too.
    """

    least_share: float
    dropped: list[str]
    raised: list[str]
    loss_rise: float


class LocalMinima(MixtureSection):
    """What a solver reached from several starts where the problem is not convex: none of it is a certificate.

    ``losses``: the predicted loss from every start, ascending; ``slope``: how steeply the loss still falls at the best;
    ``lower_bound``: no shares have a predicted loss below it. All in the mixture's ``loss_unit``.
    """

    losses: list[float]
    slope: float
    lower_bound: float


class SearchCompute(MixtureSection):
    """The search's floating point operations, those of retraining one arm, and their ratio, ``overhead``."""

    search_flops: float
    retrain_flops: float
    overhead: float


class ArmForecast(MixtureSection):
    """What an arm's held-out loss minus that of the first arm, ``reference``, will be, nats per token.

    ``measured``: by cheap models on the same mixtures, trained on ``tokens`` tokens each with so many ``seeds``, with
    its 95 % interval over the held-out ``documents`` and the seeds. ``expected``: of the retrained models, with the
    90 % interval of what will be measured; ``probability``: that the reference is truly better.
    """

    reference: str
    measured: float
    measured_interval: Interval
    documents: int
    seeds: int
    tokens: int
    expected: float
    interval: Interval
    probability: float

    @property
    def covers_zero(self) -> bool:
        """Whether there may be no difference."""
        return self.interval[0] <= 0 <= self.interval[1]


class RivalMixture(MixtureSection):
    """What another method chose for the same targets, from a swarm or from models of its own.

    ``weights``: source -> its share; ``expected``: the loss that the method expects of a model of the swarm, nats per
    token; ``rank_correlation``: of its predictions with the measured losses of mixtures left out (Spearman); None
    where it predicts nothing or the swarm is too small; ``models``: that it learned from, of the swarm or its own;
    ``search_flops``: floating point operations of training and scoring these. mixmin_with_swarm needs the proxies, too.
    Of doremi, which expects nothing of a target, ``expected`` is what the proxies of mixmin predict.
    """

    weights: dict[str, float]
    expected: float
    rank_correlation: float | None
    models: int
    search_flops: float


class MixtureWarning(MixtureSection):
    """Something to know before the mixture is used. ``code`` is for programs, ``message`` for people.

    The other fields hold the numbers behind some of the messages: a gap in nats per token, an interval with its unit, a
    number of documents.
    """

    code: str
    message: str
    gap: float | None = None
    interval: Interval | None = None
    unit: str | None = None
    documents: int | None = None


class SourceSize(MixtureSection):
    """How much data a source holds.

    ``documents``: how many (of tables: rows); ``tokens``: in whole training windows, which one epoch reads;
    ``tail_tokens``: those of the documents' ends that fill no window.
    """

    documents: Annotated[int, Field(ge=1)]
    tokens: Annotated[int, Field(ge=1)]
    tail_tokens: Annotated[int, Field(ge=0)] = 0

    @property
    def mean_tokens(self) -> float:
        """The mean number of tokens per document."""
        return self.all_tokens / self.documents

    @property
    def all_tokens(self) -> int:
        """The tokens of all documents to their ends, which an epoch of a trainer that does not cut windows reads."""
        return self.tokens + self.tail_tokens
