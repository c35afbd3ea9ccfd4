"""Units and weightings by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mixray.errors import InputError
from mixray.simplex import mixture_loss, row_weights, solve, sum_by_document

# Three windows of two documents: "b" has windows of 2 and 4 tokens, "a" one of 3.
TOKENS, DOCUMENTS = [2, 3, 4], ["b", "a", "b"]
LOG_PROBS = np.array([[-2.0, -4.0], [-9.0, -3.0], [-6.0, -8.0]])


def test_document_weighting_is_the_mean_over_documents_of_nats_per_token() -> None:
    np.testing.assert_allclose(row_weights(TOKENS, DOCUMENTS, "document"), [1 / 12, 1 / 6, 1 / 12], rtol=1e-15)
    np.testing.assert_allclose(row_weights([6, 3], None, "document"), [1 / 12, 1 / 6], rtol=1e-15)


def test_token_weighting_is_all_nats_over_all_tokens() -> None:
    np.testing.assert_allclose(row_weights(TOKENS, DOCUMENTS, "token"), [1 / 9] * 3, rtol=1e-15)


def test_windows_of_a_document_add_up() -> None:
    log_probs, tokens, documents = sum_by_document(LOG_PROBS, DOCUMENTS, TOKENS)
    assert log_probs.tolist() == [[-9.0, -3.0], [-8.0, -12.0]]
    assert (tokens.tolist(), documents.tolist()) == ([3, 6], ["a", "b"])


def test_sums_are_taken_in_float64() -> None:
    rows = np.array([[1e8], [1.0], [1.0]], dtype=np.float32)
    log_probs, _, _ = sum_by_document(-rows, [0, 0, 0], [1, 1, 1])
    assert log_probs.dtype == np.float64
    assert log_probs[0, 0] == -100_000_002


@pytest.mark.parametrize("weighting", ["document", "token"])
def test_the_loss_of_one_source_is_its_nats_per_token_at_every_unit(weighting: Any) -> None:
    by_hand = {"document": (8 / 6 + 9 / 3) / 2, "token": (8 + 9) / 9}[weighting]
    windows = mixture_loss(LOG_PROBS, [1, 0], row_weights=row_weights(TOKENS, DOCUMENTS, weighting))
    summed, tokens, _ = sum_by_document(LOG_PROBS, DOCUMENTS, TOKENS)
    documents = mixture_loss(summed, [1, 0], row_weights=row_weights(tokens, None, weighting))
    assert windows == pytest.approx(by_hand, rel=1e-14)
    assert documents == pytest.approx(by_hand, rel=1e-14)


def test_the_loss_of_an_impossible_row_is_infinite_unless_it_has_no_weight() -> None:
    table = np.array([[0.0, -np.inf], [-1.0, -1.0]])
    assert mixture_loss(table, [0, 1]) == np.inf
    assert mixture_loss(table, [0, 1], row_weights=[0, 1]) == 1.0
    assert mixture_loss(table, [0.5, 0.5]) == pytest.approx((np.log(2) + 1) / 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: row_weights(TOKENS, DOCUMENTS, "words"), r"unknown weighting 'words'\n  wanted: document, token"),  # type: ignore[arg-type]
        (lambda: row_weights([1, 0, 2, 0], None, "token"), "no tokens in rows 1, 3"),
        (lambda: row_weights([1.5], None, "token"), r"one whole number per row is needed\n.*float64"),
        (lambda: row_weights([], None, "token"), "one whole number per row is needed"),
        (lambda: row_weights([1, 2], ["a"], "document"), r"document_ids: one per row is needed\n  got: shape \(1,\)"),
        (lambda: sum_by_document(LOG_PROBS, ["a", "b"], [1, 2]), r"one row per token count.*\n  got: shape \(3, 2\)"),
        (lambda: mixture_loss(LOG_PROBS, [0.5, 0.6]), "source_shares: not valid shares"),
        (lambda: mixture_loss(LOG_PROBS, [1.0]), "source_shares: not valid shares"),
        (lambda: mixture_loss(LOG_PROBS, [np.nan, 1.0]), "source_shares: not valid shares"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("anything", [np.nan, np.inf, -np.inf, 5.0])
def test_rows_of_weight_0_may_hold_anything(anything: float) -> None:
    table, weights = np.array([[-1.0, -2.0], [-3.0, -1.0]]), np.array([0.4, 0.6])
    padded = np.vstack([table, [[anything, anything]]])
    padded_weights = np.append(weights, 0.0)
    solution, plain = solve(padded, row_weights=padded_weights), solve(table, row_weights=weights)
    np.testing.assert_array_equal(solution.weights, plain.weights)
    assert solution.loss == plain.loss
    assert mixture_loss(padded, [0.5, 0.5], row_weights=padded_weights) == mixture_loss(
        table, [0.5, 0.5], row_weights=weights
    )
