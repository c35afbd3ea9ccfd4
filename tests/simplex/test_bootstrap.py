"""Error bars: every replicate against a solve of its own, the shapes that theory knows, the same bits twice."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mixray.errors import InputError
from mixray.simplex import bootstrap, mixture_loss, solve

Array = NDArray[np.float64]

SHARES = np.array([0.6, 0.3, 0.1])


def disjoint(documents: int) -> Array:
    """Every document belongs to one source: its share is a sample proportion."""
    counts = (SHARES * documents).round().astype(int)
    return np.where(np.eye(3)[np.repeat(range(3), counts)] > 0, 0.0, -np.inf)


def blurred(seed: int, documents: int = 300, sources: int = 4) -> Array:
    draw = np.random.default_rng(seed)
    return draw.normal(-30, 1.5, (documents, sources)) + np.linspace(0, 1.5, sources)


def test_intervals_of_proportions_are_those_of_the_binomial() -> None:
    found = bootstrap(disjoint(1000), SHARES, seed=0, replicates=2000)
    half_widths = 1.96 * np.sqrt(SHARES * (1 - SHARES) / 1000)
    np.testing.assert_allclose(found.interval, np.stack([SHARES - half_widths, SHARES + half_widths], 1), atol=2.5e-3)
    assert found.documents == 1000


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"upper": [0.3, 1, 1, 1], "lower": [0, 0.1, 0, 0]},
        {"prior": [0.1, 0.2, 0.3, 0.4], "prior_strength": 0.05},
    ],
    ids=["free", "bounds", "prior"],
)
def test_every_replicate_is_the_optimum_of_its_draw(options: dict[str, Any]) -> None:
    log_probs = blurred(1)
    found = bootstrap(log_probs, solve(log_probs, **options).weights, seed=5, replicates=8, **options)
    generator = np.random.default_rng(5)
    for shares in found.replicate_shares:
        drawn = np.bincount(generator.integers(300, size=300), minlength=300)
        again = solve(log_probs, row_weights=drawn / 300, **options)
        assert abs(shares.sum() - 1) <= 1e-12
        np.testing.assert_allclose(shares, again.weights, atol=5e-3)
    assert found.gap <= 1e-3 / np.sqrt(300)


def test_rows_of_a_document_are_drawn_together() -> None:
    # Ten windows a document, all alike: as uncertain as the documents are, not ten times surer.
    documents = disjoint(100)
    alone = bootstrap(documents, SHARES, seed=0)
    together = bootstrap(
        np.repeat(documents, 10, axis=0),
        SHARES,
        seed=0,
        document_ids=np.repeat(np.arange(100), 10),
        token_counts=[7] * 1000,
    )
    assert together.documents == 100
    np.testing.assert_allclose(together.replicate_shares, alone.replicate_shares, atol=1e-3)


def test_the_gain_is_that_of_the_given_mixture() -> None:
    log_probs = blurred(2)
    shares, balanced = solve(log_probs).weights, np.full(4, 0.25)
    found = bootstrap(log_probs, shares, seed=0, baselines={"balanced": balanced, "itself": shares})
    low, high = found.gain["balanced"]
    assert 0 < low < mixture_loss(log_probs, balanced) - mixture_loss(log_probs, shares) < high
    assert found.gain["itself"] == (0.0, 0.0)


def test_a_replicates_gain_is_per_token_of_its_own_documents() -> None:
    # One long document and many short ones, token weighting: every document gains one nat per token.
    tokens = np.array([1000] + [10] * 20)
    log_probs = np.stack([-1.0 * tokens, -2.0 * tokens], axis=1)
    weights = np.full(21, 1 / tokens.sum())
    arguments: dict[str, Any] = {"row_weights": weights, "baselines": {"worse": [0.0, 1.0]}, "seed": 0}
    per_token = bootstrap(log_probs, [1.0, 0.0], token_counts=tokens, **arguments)
    assert per_token.gain["worse"] == pytest.approx((1.0, 1.0), rel=1e-12)
    unscaled = bootstrap(log_probs, [1.0, 0.0], **arguments)
    assert unscaled.gain["worse"][0] < 0.5


def test_the_same_seed_gives_the_same_bits() -> None:
    log_probs = blurred(3)
    shares = solve(log_probs).weights
    first, second, other = (bootstrap(log_probs, shares, seed=seed, replicates=20) for seed in (1, 1, 2))
    assert first.replicate_shares.tobytes() == second.replicate_shares.tobytes()
    assert first.replicate_shares.tobytes() != other.replicate_shares.tobytes()


def test_batches_change_the_memory_and_not_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    log_probs = blurred(4)
    shares = solve(log_probs).weights
    whole = bootstrap(log_probs, shares, seed=1, replicates=20)
    monkeypatch.setattr(import_module("mixray.simplex.bootstrap"), "BATCH_ENTRIES", 2000)
    np.testing.assert_allclose(
        bootstrap(log_probs, shares, seed=1, replicates=20).replicate_shares, whole.replicate_shares, atol=1e-9
    )


def test_documents_without_weight_never_leave_a_replicate_empty() -> None:
    found = bootstrap(np.log([[0.9, 0.1], [0.2, 0.8]]), [1.0, 0.0], seed=0, row_weights=[1.0, 0.0])
    np.testing.assert_allclose(found.interval, [[1, 1], [0, 0]], atol=1e-6)


def test_a_source_that_a_replicate_never_sees_gets_no_share_in_it() -> None:
    found = bootstrap(disjoint(10), SHARES, seed=0, replicates=400)
    assert found.interval[2, 0] == pytest.approx(0, abs=1e-4)
    assert found.interval[0, 1] < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"replicates": 0}, "bootstrap: no replicates\n  got: 0"),
        ({"document_ids": [1, 2]}, r"document_ids: one per row is needed"),
        ({"token_counts": [1, 2]}, r"token_counts: one whole number per row is needed\n.*\n  wanted: \(10,\)"),
        ({"baselines": {"natural": [0.0, 0.5, 0.5]}}, "baseline 'natural' gives some rows probability 0"),
        ({"baselines": {"natural": [0.5, 0.6]}}, "these are no shares"),
        ({"row_weights": [1.0]}, "row_weights: one weight per row"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bootstrap(disjoint(10), SHARES, **{"seed": 0} | arguments)
