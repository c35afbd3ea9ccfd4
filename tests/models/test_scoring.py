"""Log-probabilities against Hugging Face's loss, however the rows are grouped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixray.config.training import NewModel, TrainingConfig
from mixray.errors import InputError, StageError
from mixray.models import CausalLM, build_model
from mixray.models.scoring import TokenRows, batches

VOCABULARY, WINDOW = 40, 24
CPU = torch.device("cpu")


def proxy_of(model: dict[str, Any], precision: Any = "auto") -> CausalLM:
    """Its weights are scaled up: at its start a model predicts nearly the same everywhere."""
    config = TrainingConfig.model_validate({"model": model}).model
    assert isinstance(config, NewModel)
    built = build_model(config, vocab_size=VOCABULARY, window=WINDOW, seed=0)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(8)
    return CausalLM(built, device=CPU, precision=precision)


@pytest.fixture
def proxy(model: dict[str, Any]) -> CausalLM:
    return proxy_of(model)


@pytest.fixture
def plain(neox: dict[str, Any]) -> CausalLM:
    return proxy_of(neox)


def test_totals_are_minus_hugging_faces_loss_times_tokens(proxy: CausalLM, rows: list[np.ndarray]) -> None:
    totals = proxy.log_probs(rows, batch_tokens=100).totals
    assert totals.dtype == np.float64
    for row, total in zip(rows, totals, strict=True):
        if len(row) <= WINDOW:  # Hugging Face's loss also reads the last id
            ids = torch.from_numpy(row.astype(np.int64))[None]
            with torch.inference_mode():
                loss = float(proxy.network(input_ids=ids, labels=ids, use_cache=False).loss)
            assert total / (len(row) - 1) == pytest.approx(-loss, abs=1e-5)
    assert np.std(totals / [len(row) - 1 for row in rows]) > 0.05  # it would not do if all rows were alike


@pytest.mark.parametrize("batch_tokens", [1, 30, 100, 10_000])
def test_grouping_and_padding_change_rounding_only(proxy: CausalLM, rows: list[np.ndarray], batch_tokens: int) -> None:
    alone = np.array([proxy.log_probs([row], batch_tokens=1).totals[0] for row in rows])
    np.testing.assert_allclose(proxy.log_probs(rows, batch_tokens=batch_tokens).totals, alone, rtol=1e-5)


def test_order_changes_rounding_only(proxy: CausalLM, rows: list[np.ndarray]) -> None:
    order = np.random.default_rng(1).permutation(len(rows))
    totals = proxy.log_probs(rows, batch_tokens=60).totals
    permuted = proxy.log_probs([rows[i] for i in order], batch_tokens=60).totals
    np.testing.assert_allclose(permuted, totals[order], rtol=1e-5)


def test_the_same_rows_give_the_same_bits(proxy: CausalLM, rows: list[np.ndarray]) -> None:
    one, other = (proxy.log_probs(rows, batch_tokens=60).totals for _ in range(2))
    assert (one == other).all()


def test_tokens_sum_to_totals_and_know_their_place(proxy: CausalLM, rows: list[np.ndarray]) -> None:
    scores = proxy.log_probs(rows, batch_tokens=60, segment=1)
    assert scores.segments is not None
    assert [values.shape for values in scores.segments] == [(len(row) - 1,) for row in rows]
    assert {values.dtype for values in scores.segments} == {np.dtype(np.float32)}
    np.testing.assert_allclose([values.sum(dtype=np.float64) for values in scores.segments], scores.totals, rtol=1e-12)
    # A token's value depends on what precedes it alone: a row's beginning scores as the beginning of the row.
    index = int(np.argmax([len(row) for row in rows]))
    start = proxy.log_probs([rows[index][:9]], batch_tokens=60, segment=1).segments
    assert start is not None
    np.testing.assert_allclose(start[0], scores.segments[index][:8], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("segment", [1, 3, 7, 100])
@pytest.mark.parametrize("batch_tokens", [1, 60])
def test_segments_are_sums_of_tokens(proxy: CausalLM, rows: list[np.ndarray], segment: int, batch_tokens: int) -> None:
    tokens = proxy.log_probs(rows, batch_tokens=batch_tokens, segment=1).segments
    segments = proxy.log_probs(rows, batch_tokens=batch_tokens, segment=segment).segments
    assert tokens is not None
    assert segments is not None
    for of_tokens, of_segments in zip(tokens, segments, strict=True):
        by_hand = [of_tokens[start : start + segment].sum() for start in range(0, len(of_tokens), segment)]
        assert of_segments.dtype == np.float32
        np.testing.assert_allclose(of_segments, by_hand, rtol=1e-6)


@pytest.mark.parametrize("segment", [None, 1, 4])
def test_completions_are_scored_after_their_prompts(
    proxy: CausalLM, rows: list[np.ndarray], segment: int | None
) -> None:
    """Against the sum of the network's own log-softmax at the places of the completion."""
    draws = np.random.default_rng(0)
    counts = np.array([draws.integers(1, len(row)) for row in rows])
    assert (counts < [len(row) - 1 for row in rows]).sum() > 20
    scores = proxy.log_probs(TokenRows(rows, counts), batch_tokens=60, segment=segment)
    for index, (row, count) in enumerate(zip(rows, counts.tolist(), strict=True)):
        ids = torch.from_numpy(row.astype(np.int64))
        with torch.inference_mode():
            logits = proxy.network(input_ids=ids[None, :-1], use_cache=False).logits[0]
        by_token = logits.log_softmax(1).gather(1, ids[1:, None]).squeeze(1)[-count:]
        assert scores.totals[index] == pytest.approx(float(by_token.sum()), rel=1e-4, abs=1e-5)
        if segment is not None:
            assert scores.segments is not None
            sums = [float(piece.sum()) for piece in by_token.split(segment)]
            np.testing.assert_allclose(scores.segments[index], sums, rtol=1e-4, atol=1e-5)


def test_totals_alone_carry_no_segments(plain: CausalLM, rows: list[np.ndarray]) -> None:
    assert plain.log_probs(rows, batch_tokens=60).segments is None


def test_no_rows_are_no_scores(plain: CausalLM) -> None:
    scores = plain.log_probs([], batch_tokens=60, segment=1)
    assert scores.totals.shape == (0,)
    assert scores.segments == []


def test_bfloat16_is_near(neox: dict[str, Any], rows: list[np.ndarray]) -> None:
    exact = proxy_of(neox).log_probs(rows, batch_tokens=100).totals
    low = proxy_of(neox, "bfloat16").log_probs(rows, batch_tokens=100).totals
    assert (low != exact).any()
    np.testing.assert_allclose(low, exact, rtol=0.05)


def test_what_is_not_finite_is_returned_as_it_is(plain: CausalLM, rows: list[np.ndarray]) -> None:
    with torch.no_grad():
        plain.network.get_output_embeddings().weight[5, 0] = torch.nan
    totals = plain.log_probs(rows, batch_tokens=100).totals
    assert not np.isfinite(totals).any()


def test_scoring_leaves_a_training_models_dropout_out(neox: dict[str, Any], rows: list[np.ndarray]) -> None:
    proxy = proxy_of(neox | {"hidden_dropout": 0.5})
    proxy.network.train()
    one, other = (proxy.log_probs(rows, batch_tokens=60).totals for _ in range(2))
    assert (one == other).all()


@pytest.mark.parametrize("count", [0, 4])
def test_a_row_without_a_label_is_named(plain: CausalLM, count: int) -> None:
    with pytest.raises(InputError, match="no token to predict"):
        plain.log_probs(TokenRows([np.array([1, 2, 3, 4])], np.array([count])), batch_tokens=100)


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ([7], ["no token to predict", "row 1", "2 or more"]),
        ([], ["no token to predict", "row 1"]),
        ([1] * (WINDOW + 2), ["a row is too long", "row 1: 26 ids", "at most 25"]),
        ([1, 40], ["a row holds a token id that is not in the model's vocabulary", "row 1: ids 1 to 40", "0 to 39"]),
        ([-1, 3], ["a row holds a token id that is not in the model's vocabulary", "row 1: ids -1 to 3"]),
    ],
)
def test_rows_that_cannot_be_scored_are_named(plain: CausalLM, row: list[int], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        plain.log_probs([np.array([1, 2, 3]), np.array(row, dtype=np.int64)], batch_tokens=100)
    for part in parts:
        assert part in str(caught.value)


def test_too_little_memory_is_named(plain: CausalLM, rows: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("mixray.models.scoring.NextTokenNll.__call__", full)
    with pytest.raises(StageError, match="does not fit") as caught:
        plain.log_probs(rows[:2], batch_tokens=48)
    assert "1 rows of 24 tokens" in str(caught.value)
    assert "lower cache.batch_tokens" in str(caught.value)


@given(lengths=st.lists(st.integers(1, 200), max_size=80), batch_tokens=st.integers(1, 500))
def test_batches_hold_every_row_once_and_keep_their_size(lengths: list[int], batch_tokens: int) -> None:
    array = np.array(lengths, dtype=np.int64)
    made = list(batches(array, batch_tokens))
    assert sorted(index for batch in made for index in batch) == list(range(len(lengths)))
    for batch in made:
        assert len(batch) == 1 or len(batch) * array[batch].max() <= batch_tokens
        assert array[batch[0]] == array[batch].max()


def test_batches_pad_little_and_are_few() -> None:
    lengths = np.exp(np.random.default_rng(0).uniform(np.log(8), np.log(1024), 3000)).astype(np.int64)
    made = list(batches(lengths, 8192))
    padded = sum(len(batch) * lengths[batch].max() for batch in made)
    assert 1 - lengths.sum() / padded < 0.06
    assert len(made) < 2.5 * lengths.sum() / 8192
