"""Signs that a mixture should not be trusted: each with a constructed case where it shows and one where it must not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mixray.diagnose import (
    concentration,
    proxies_without_signal,
    retraining_against_prediction,
    target_out_of_reach,
    token_frequency_loss,
)
from mixray.mixture import Mixture

VOCABULARY = 64


def mixture(shares: list[float], **facts: Any) -> Mixture:
    names = [f"s{number}" for number in range(len(shares))]
    return Mixture.model_validate(
        {
            "schema": "mixray.mixture/1",
            "targets": ["t"],
            "sources": names,
            "weights": dict(zip(names, shares, strict=True)),
        }
        | facts
    )


def unigram(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(VOCABULARY, 0.5))


def test_the_loss_of_token_frequencies_is_their_entropy() -> None:
    probabilities = unigram()
    rows = np.random.default_rng(1).choice(VOCABULARY, (2000, 50), p=probabilities)
    entropy = -float(probabilities @ np.log(probabilities))
    assert token_frequency_loss(rows, VOCABULARY) == pytest.approx(entropy, abs=0.01)


def test_a_token_that_one_half_lacks_costs_a_finite_loss() -> None:
    assert np.isfinite(token_frequency_loss(np.array([[1, 1], [2, 2]]), VOCABULARY))


def last_loss(rows: np.ndarray, steps: int) -> float:
    """Train a model of token pairs, and return its loss over its last tenth of steps."""
    table = torch.zeros(VOCABULARY, VOCABULARY, requires_grad=True)
    optimizer = torch.optim.Adam([table], 0.3)
    losses = []
    for step in range(steps):
        batch = torch.from_numpy(rows[step * 8 : step * 8 + 8])
        loss = torch.nn.functional.cross_entropy(table[batch[:, :-1]].flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses[-max(1, steps // 10) :]))


def test_a_proxy_that_was_hardly_trained_has_no_signal_and_a_trained_one_has() -> None:
    """The text is a Markov chain: what a token says about the next one is what there is to learn."""
    draw = np.random.default_rng(2)
    chain = draw.dirichlet(np.full(VOCABULARY, 0.05), VOCABULARY).cumsum(1)
    rows = np.zeros((1600, 65), dtype=np.int64)
    for place in range(1, rows.shape[1]):
        rows[:, place] = (draw.random(len(rows))[:, None] < chain[rows[:, place - 1]]).argmax(1)
    frequencies = {"web": token_frequency_loss(rows, VOCABULARY)}
    (warning,) = proxies_without_signal({"web": last_loss(rows, 1)}, frequencies, "nats per token")
    assert warning.code == "proxies_without_signal"
    assert "1 of 1 proxies" in warning.message
    assert proxies_without_signal({"web": last_loss(rows, 200)}, frequencies, "nats per token") == []


def test_a_target_of_another_alphabet_is_out_of_reach() -> None:
    own = token_frequency_loss(np.random.default_rng(3).integers(0, 8, (500, 20)), VOCABULARY)
    (warning,) = target_out_of_reach("maths", np.log(VOCABULARY), own, "nats per token")
    assert warning.code == "target_out_of_reach"
    assert "has a loss of 4.16 nats per token" in warning.message
    assert target_out_of_reach("maths", own - 0.5, own, "nats per token") == []


@pytest.mark.parametrize(("unit", "tokens", "cause"), [("document", 500, "{segment: 16}"), ("token", 20, "format")])
def test_a_mixture_of_one_source_that_few_documents_speak_for_is_concentrated(
    unit: str, tokens: int, cause: str
) -> None:
    losses = np.tile([100.0, 101.0], (10, 1))
    losses[:6] = losses[:6, ::-1]
    (warning,) = concentration(mixture([0.97, 0.03], unit=unit), losses, np.full(10, tokens))
    assert warning.code == "concentrated"
    assert "s0 has 97.0% of the mixture, but predicts only 40% of the documents best" in warning.message
    assert cause in warning.message


@pytest.mark.parametrize("name", ["spread", "deserved", "single"])
def test_a_spread_mixture_and_a_deserved_one_are_not(name: str) -> None:
    shares = {"spread": [0.6, 0.4], "deserved": [0.97, 0.03], "single": [1.0]}[name]
    losses = np.tile([100.0, 101.0], (10, 1))[:, : len(shares)]
    assert concentration(mixture(shares), losses, np.full(10, 500)) == []


def compared(low: float, high: float, gain: float) -> Mixture:
    """The retrained model of balanced minus that of mixmin is in [low, high]; predicted is a gain."""
    predicted = {"estimate": gain, "optimism": 0.0, "interval": [gain - 0.01, gain + 0.01], "more_documents": 0}
    realised = {"nll": 3.0, "difference": (low + high) / 2, "difference_low": low, "difference_high": high}
    return mixture([0.5, 0.5], gain={"balanced": predicted}, retrain={"mixmin": {"nll": 3.0}, "balanced": realised})


def test_a_retraining_that_loses_against_the_prediction_is_named() -> None:
    (warning,) = retraining_against_prediction(compared(-0.3, -0.1, 0.05))
    assert (warning.code, warning.interval) == ("against_prediction", (-0.3, -0.1))
    assert "0.1000 to 0.3000 above it" in warning.message


@pytest.mark.parametrize("case", [(0.1, 0.3, 0.05), (-0.2, 0.1, 0.05), (-0.3, -0.1, 0.005)])
def test_a_retraining_that_follows_or_may_follow_the_prediction_is_not(case: tuple[float, float, float]) -> None:
    assert retraining_against_prediction(compared(*case)) == []
