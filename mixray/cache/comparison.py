"""How far retrained models differ on a target's held-out documents, with an interval over documents and seeds.

An arm is one model or, with replicates, one model for each seed. Arms are compared on the same documents and seed by
seed, so that what a document or a seed adds to the losses of both is no part of their difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mixray.cache.table import PredictionCache
from mixray.mixture import HeldOutLoss, MetricResult
from mixray.numerics import SeedEstimate, interval_of_mean

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ArmLoss:
    """What an arm reaches on the held-out documents of one target, or on the mean over several.

    ``nll`` (by the run file's weighting), ``nll_document`` and ``nll_token``: float64 (seeds,), nats per token.
    ``documents``: how many, those cut from one parent counting once. ``differences``: by seed, the nll minus that of
    the reference arm under the same seed; empty for that arm itself.
    """

    nll: Floats
    nll_document: Floats
    nll_token: Floats
    documents: int
    differences: tuple[SeedEstimate, ...] = ()

    def record(self, metrics: Mapping[str, MetricResult] | None = None) -> HeldOutLoss:
        """Return the section of a mixture file: means over the seeds, and the interval of the mean difference.

        ``metrics``: of examples, by name.
        """
        facts: dict[str, object] = {
            "nll": float(self.nll.mean()),
            "nll_document": float(self.nll_document.mean()),
            "nll_token": float(self.nll_token.mean()),
            "documents": self.documents,
        }
        if self.differences:
            facts["difference"] = float(np.mean([each.value for each in self.differences]))
            low, high = interval_of_mean(self.differences)
            if np.isfinite([low, high]).all():  # one document has no standard error, and JSON has no NaN
                facts |= {"difference_low": low, "difference_high": high}
        if len(self.nll) > 1:
            facts["nll_by_seed"] = self.nll.tolist()
        if metrics:
            facts["metrics"] = dict(metrics)
        return HeldOutLoss.model_validate(facts)


def compare(
    cache: PredictionCache, weighting: Literal["document", "token"], arms: Mapping[str, Sequence[str]], reference: str
) -> dict[str, ArmLoss]:
    """Return how each arm does on the documents, and how much it differs from the reference on the same documents.

    ``arms``: arm -> its models in the cache, one for each seed, in the same order for every arm. Differences are ratios
    of means over parents of documents (delta method), of which those cut from one count once.
    """
    lengths = cache.document_counts().astype(np.float64)
    totals = [np.bincount(cache.documents, column, minlength=len(lengths)) for column in cache.log_probs.T]
    nats = -np.stack(totals, axis=1, dtype=np.float64)
    weights = np.ones_like(lengths) if weighting == "document" else lengths
    values = nats / lengths[:, None] if weighting == "document" else nats
    parents = cache.parents()
    parent_weights = np.bincount(parents, weights).astype(np.float64)

    def difference(model: int, other: int) -> SeedEstimate:
        above = np.bincount(parents, values[:, model] - values[:, other]).astype(np.float64)
        return _ratio(above, parent_weights)

    columns = {arm: [cache.models.index(model) for model in models] for arm, models in arms.items()}
    losses = {}
    for arm, places in columns.items():
        pairs = [] if arm == reference else zip(places, columns[reference], strict=True)
        losses[arm] = ArmLoss(
            nll=np.array([values[:, place].sum() / weights.sum() for place in places]),
            nll_document=np.array([(nats[:, place] / lengths).mean() for place in places]),
            nll_token=np.array([nats[:, place].sum() / lengths.sum() for place in places]),
            documents=len(parent_weights),
            differences=tuple(difference(place, other) for place, other in pairs),
        )
    return losses


def _ratio(values: Floats, weights: Floats) -> SeedEstimate:
    """Return sum(values) / sum(weights) over parents; the influences of a single parent are NaN."""
    count, total = len(values), float(weights.sum())
    ratio = float(values.sum() / total)
    scale = np.sqrt(count / (count - 1)) if count > 1 else np.nan  # makes the variance unbiased
    return SeedEstimate(ratio, np.arange(count), scale * (values - ratio * weights) / total)


def mean_over_targets(losses: Mapping[str, ArmLoss], target_weights: Mapping[str, float]) -> ArmLoss:
    """Return the mean of one arm's losses on several targets, which are different documents.

    ``target_weights``: how much each target counts, 1 where it is not named.
    """
    counts = np.array([target_weights.get(target, 1.0) for target in losses])
    shares, each = counts / counts.sum(), list(losses.values())
    return ArmLoss(
        nll=shares @ np.stack([loss.nll for loss in each]),
        nll_document=shares @ np.stack([loss.nll_document for loss in each]),
        nll_token=shares @ np.stack([loss.nll_token for loss in each]),
        documents=sum(loss.documents for loss in each),
        differences=tuple(
            _weighted_sum(by_target, shares) for by_target in zip(*(loss.differences for loss in each), strict=True)
        ),
    )


def _weighted_sum(estimates: Sequence[SeedEstimate], factors: Floats) -> SeedEstimate:
    """Return the sum of one seed's estimates, each times its factor, on rows that no two of them share."""
    influences = [factor * each.influences for factor, each in zip(factors, estimates, strict=True)]
    return SeedEstimate(
        float(sum(factor * each.value for factor, each in zip(factors, estimates, strict=True))),
        np.arange(sum(map(len, influences))),
        np.concatenate(influences),
    )
