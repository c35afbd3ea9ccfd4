"""Losses and paired differences, by hand and by simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest

from mixray.cache import PredictionCache, compare

MakeCache = Callable[..., PredictionCache]
Weighting = Literal["document", "token"]


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
    found = compare(cache, weighting, "reference")
    for model, value, by_document, by_token in zip(found, nll, (1.5, 1.5), (8 / 6, 10 / 6), strict=True):
        facts = {"nll": value, "nll_document": by_document, "nll_token": by_token, "documents": 2}
        assert {name: found[model][name] for name in facts} == pytest.approx(facts)
    assert set(found["reference"]) == {"nll", "nll_document", "nll_token", "documents"}
    assert found["model"]["difference"] == pytest.approx(difference)
    assert found["model"]["difference_low"] == pytest.approx(difference - 1.959964 * error)
    assert found["model"]["difference_high"] == pytest.approx(difference + 1.959964 * error)


def test_one_document_gives_a_difference_without_an_interval(make_cache: MakeCache) -> None:
    found = compare(make_cache([0, 0], [2, 2], a=[-2.0, -2.0], b=[-4.0, -2.0]), "document", "a")
    assert found["b"]["difference"] == pytest.approx(0.5)
    assert "difference_low" not in found["b"]


@pytest.mark.parametrize("weighting", ["document", "token"])
def test_what_all_models_share_does_not_widen_the_interval(make_cache: MakeCache, weighting: Weighting) -> None:
    generator = np.random.default_rng(0)
    counts = generator.integers(5, 50, 40)
    hard = -counts * generator.uniform(1, 9, 40)  # documents differ by far more than models do
    found = compare(make_cache(range(40), counts, a=hard, b=hard - 0.01 * counts), weighting, "a")
    assert found["b"]["difference"] == pytest.approx(0.01)
    assert found["b"]["difference_high"] - found["b"]["difference_low"] < 1e-6


@pytest.mark.parametrize("weighting", ["document", "token"])
def test_pieces_of_one_document_are_no_new_evidence(make_cache: MakeCache, weighting: Weighting) -> None:
    """40 documents, whole and each cut into 5 equal pieces: the same losses with the same interval."""
    generator = np.random.default_rng(0)
    reference, model = -generator.exponential(20, (2, 40))
    whole = compare(make_cache(range(40), [50] * 40, a=reference, b=model), weighting, "a")
    keys = [(parent, piece) for parent in range(40) for piece in range(5)]
    thin = [np.repeat(log_probs / 5, 5) for log_probs in (reference, model)]
    assert compare(make_cache(keys, [10] * 200, a=thin[0], b=thin[1]), weighting, "a")["b"] == pytest.approx(whole["b"])


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
        facts = compare(cache, weighting, "a")["b"]
        covered += facts["difference_low"] <= truth <= facts["difference_high"]
    assert 0.92 <= covered / 400 <= 0.98
