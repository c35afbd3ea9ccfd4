"""Losses and paired differences, by hand and by simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest

from mixray.cache import ArmLoss, PredictionCache, compare, mean_over_targets
from mixray.mixture import HeldOutLoss
from mixray.numerics import SeedEstimate

MakeCache = Callable[..., PredictionCache]
Weighting = Literal["document", "token"]


def compared(cache: PredictionCache, weighting: Weighting, reference: str) -> dict[str, HeldOutLoss]:
    """Every model as an arm of its own."""
    arms = {model: [model] for model in cache.models}
    return {arm: loss.record() for arm, loss in compare(cache, weighting, arms, reference).items()}


@pytest.fixture
def cache(make_cache: MakeCache) -> PredictionCache:
    """Two documents, of 2 tokens (one row) and 4 tokens (two rows, not side by side)."""
    return make_cache([1, 0, 1], [3, 2, 1], reference=[-3.0, -4.0, -1.0], model=[-5.0, -2.0, -3.0])


# reference: 4 nats / 2 tokens, 4 / 4; model: 2 / 2, 8 / 4
def test_losses_are_nats_per_token_by_document_and_in_all(cache: PredictionCache) -> None:
    losses = cache.losses()
    assert list(losses) == ["reference", "model"]
    assert losses["reference"] == pytest.approx(((2 + 1) / 2, 8 / 6))
    assert losses["model"] == pytest.approx(((1 + 2) / 2, 10 / 6))


# document: differences -1 and 1, mean 0, standard error sqrt(2) / sqrt(2);
# token: nats -2 and 4 over 2 and 4 tokens, ratio 1/3, residuals -8/3 and 8/3, standard error sqrt(2 * 2 * 64/9) / 6
@pytest.mark.parametrize(
    ("weighting", "nll", "difference", "error"),
    [("document", (1.5, 1.5), 0.0, 1.0), ("token", (8 / 6, 10 / 6), 1 / 3, 8 / 9)],
)
def test_models_are_compared_document_by_document(
    cache: PredictionCache, weighting: Weighting, nll: tuple[float, float], difference: float, error: float
) -> None:
    losses = compared(cache, weighting, "reference")
    for model, value, by_document, by_token in zip(losses, nll, (1.5, 1.5), (8 / 6, 10 / 6), strict=True):
        facts = {"nll": value, "nll_document": by_document, "nll_token": by_token, "documents": 2}
        assert {name: getattr(losses[model], name) for name in facts} == pytest.approx(facts)
    assert losses["reference"].model_fields_set == {"nll", "nll_document", "nll_token", "documents"}
    assert losses["model"].difference == pytest.approx(difference)
    ends = (difference - 1.959964 * error, difference + 1.959964 * error)
    assert losses["model"].difference_interval == pytest.approx(ends)


def test_one_document_gives_a_difference_without_an_interval(make_cache: MakeCache) -> None:
    loss = compared(make_cache([0, 0], [2, 2], a=[-2.0, -2.0], b=[-4.0, -2.0]), "document", "a")["b"]
    assert loss.difference == pytest.approx(0.5)
    assert loss.difference_interval is None


@pytest.mark.parametrize("weighting", ["document", "token"])
def test_what_all_models_share_does_not_widen_the_interval(make_cache: MakeCache, weighting: Weighting) -> None:
    generator = np.random.default_rng(0)
    counts = generator.integers(5, 50, 40)
    hard = -counts * generator.uniform(1, 9, 40)  # documents differ by far more than models do
    loss = compared(make_cache(range(40), counts, a=hard, b=hard - 0.01 * counts), weighting, "a")["b"]
    assert loss.difference == pytest.approx(0.01)
    low, high = loss.difference_interval or (0.0, 1.0)
    assert high - low < 1e-6


@pytest.mark.parametrize("weighting", ["document", "token"])
def test_pieces_of_one_document_are_no_new_evidence(make_cache: MakeCache, weighting: Weighting) -> None:
    """40 documents, whole and each cut into 5 equal pieces: the same losses with the same interval."""
    generator = np.random.default_rng(0)
    reference, model = -generator.exponential(20, (2, 40))
    whole = compared(make_cache(range(40), [50] * 40, a=reference, b=model), weighting, "a")["b"]
    keys = [(parent, piece) for parent in range(40) for piece in range(5)]
    thin = [np.repeat(log_probs / 5, 5) for log_probs in (reference, model)]
    pieces = compared(make_cache(keys, [10] * 200, a=thin[0], b=thin[1]), weighting, "a")["b"]
    assert pieces.model_dump() == pytest.approx(whole.model_dump())


# Half the documents have 10 tokens and cost 0.1 nats per token more, half have 100 and 0.3 more; the noise is skewed.
@pytest.mark.parametrize(("weighting", "truth"), [("document", 0.2), ("token", (10 * 0.1 + 100 * 0.3) / 110)])
def test_the_interval_covers_the_true_difference_in_19_of_20_samples(
    make_cache: MakeCache, weighting: Weighting, truth: float
) -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        counts = generator.choice([10, 100], 200)
        difference = np.where(counts == 10, 0.1, 0.3) + generator.exponential(0.4, 200) - 0.4
        cache = make_cache(range(200), counts, a=-2.0 * counts, b=-(2.0 + difference) * counts)
        low, high = compared(cache, weighting, "a")["b"].difference_interval or (1.0, 0.0)
        covered += low <= truth <= high
    assert 0.92 <= covered / 400 <= 0.98


# ----------------------------------------------------------------------------------------------------------- replicates

SEEDS = 3


def replicated(make_cache: MakeCache, losses: dict[str, np.ndarray]) -> PredictionCache:
    """One document a row, of 10 tokens. ``losses``: arm -> nats per token, (seeds, documents)."""
    columns = {f"{arm}{seed}": -10 * row for arm, rows in losses.items() for seed, row in enumerate(rows)}
    documents = next(iter(losses.values())).shape[1]
    return make_cache(range(documents), [10] * documents, **columns)


def two_arms(cache: PredictionCache, seeds: int = SEEDS) -> dict[str, ArmLoss]:
    return compare(cache, "document", {arm: [f"{arm}{seed}" for seed in range(seeds)] for arm in "ab"}, "a")


def test_replicates_are_compared_seed_by_seed_and_averaged(make_cache: MakeCache) -> None:
    first = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])
    loss = two_arms(replicated(make_cache, {"a": first, "b": first + np.array([[0.1], [0.2], [0.6]])}))["b"].record()
    assert loss.nll_by_seed == pytest.approx([1.6, 3.7, 7.6])
    assert loss.nll == pytest.approx(4.3)
    assert loss.difference == pytest.approx(0.3)
    # All documents agree: what is left is Student's interval of three numbers.
    reach = 4.302653 * np.std([0.1, 0.2, 0.6], ddof=1) / 3**0.5
    assert loss.difference_interval == pytest.approx((0.3 - reach, 0.3 + reach))


def test_replicates_that_agree_have_the_interval_of_one(make_cache: MakeCache) -> None:
    draw = np.random.default_rng(0)
    one = {"a": draw.normal(5, 1, (1, 30)), "b": draw.normal(5, 1, (1, 30))}
    single = two_arms(replicated(make_cache, one), 1)["b"].record()
    three = two_arms(replicated(make_cache, {arm: np.repeat(rows, 3, axis=0) for arm, rows in one.items()}))[
        "b"
    ].record()
    assert three.difference_interval == pytest.approx(single.difference_interval)
    assert single.nll_by_seed == []


# Differences have an effect of the document, one of the seed, and one of both together; the two arms' losses also share
# a large effect of each, which is no part of their difference.
@pytest.mark.parametrize(("seeds", "seed_sd", "targets"), [(3, 0.0, 1), (3, 0.1, 1), (5, 0.05, 1), (5, 0.05, 2)])
def test_the_interval_covers_documents_and_seeds(
    make_cache: MakeCache, seeds: int, seed_sd: float, targets: int
) -> None:
    """Of several targets, a seed has the same effect on all."""
    draw, covered, problems, documents = np.random.default_rng(2), 0, 600, 40
    for _ in range(problems):
        of_seed, losses = draw.normal(0, seed_sd, (seeds, 1)), {}
        for target in range(targets):
            shared = draw.normal(5, 1, documents) + draw.normal(0, 1, (seeds, 1))
            difference = 0.2 + draw.normal(0, 0.3, documents) + of_seed + draw.normal(0, 0.1, (seeds, documents))
            losses[str(target)] = two_arms(replicated(make_cache, {"a": shared, "b": shared + difference}), seeds)["b"]
        low, high = mean_over_targets(losses, {}).record().difference_interval or (1.0, 0.0)
        covered += low <= 0.2 <= high
    assert 0.92 <= covered / problems <= 0.985


# ------------------------------------------------------------------------------------------------------ several targets


def target_loss(nll: float, *influences: float, difference: float) -> ArmLoss:
    estimate = SeedEstimate(difference, np.arange(len(influences)), np.array(influences))
    return ArmLoss(np.array([nll]), np.array([nll]), np.array([nll]), len(influences), (estimate,))


def test_the_mean_over_targets_weighs_losses_and_adds_squared_errors() -> None:
    losses = {"one": target_loss(2.0, 0.1, -0.1, difference=0.4), "two": target_loss(4.0, 0.2, 0.0, -0.2, difference=0)}
    joint = mean_over_targets(losses, {"one": 3.0}).record()
    assert (joint.nll, joint.documents) == (2.5, 5)
    assert joint.difference == pytest.approx(0.3)
    reach = 1.959964 * ((0.75**2 * 0.02) + (0.25**2 * 0.08)) ** 0.5
    assert joint.difference_interval == pytest.approx((0.3 - reach, 0.3 + reach))


def test_the_mean_over_targets_has_no_interval_where_one_target_has_none(make_cache: MakeCache) -> None:
    single = make_cache([0], [10], a=[-10.0], b=[-14.0])
    several = make_cache([0, 1], [10, 10], a=[-10.0, -20.0], b=[-10.0, -20.0])
    losses = {
        name: compare(cache, "document", {"a": ["a"], "b": ["b"]}, "a")["b"]
        for name, cache in (("one", single), ("two", several))
    }
    joint = mean_over_targets(losses, {}).record()
    assert joint.difference == pytest.approx(0.2)
    assert joint.difference_interval is None
