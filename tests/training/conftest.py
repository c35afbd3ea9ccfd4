"""A toy source, a toy model that looks like a Hugging Face one, and a checkpoint in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mixray.config.training import TrainingConfig

VOCABULARY, WINDOW, WIDTH = 13, 10, 16


class ToyStream:
    """Windows of a noisy cycle 0, 1, ..., 12, 0: position p always holds the same window. Remembers what was read."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []

    def read(self, start: int, stop: int) -> np.ndarray:
        self.reads.append((start, stop))
        return np.stack([self._window(position) for position in range(start, stop)])

    def _window(self, position: int) -> np.ndarray:
        generator = np.random.default_rng(position)
        steps = generator.choice([1, 2], p=[0.9, 0.1], size=WINDOW)
        return (generator.integers(VOCABULARY) + np.cumsum(steps)) % VOCABULARY


class ToyCompletions(ToyStream):
    """The same windows with prompts of different lengths, 1 to 8 of the 10 tokens, marked as read only."""

    def _window(self, position: int) -> np.ndarray:
        window = super()._window(position)
        prompt = 1 + position * 5 % 8
        return np.concatenate([~window[:prompt], window[prompt:]])


class ToyTrunk(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        assert not use_cache
        hidden = self.dropout(torch.tanh(self.hidden(self.norm(self.embedding(input_ids)))))
        return ToyOutput(last_hidden_state=hidden)


class ToyOutput(SimpleNamespace):
    def __getitem__(self, index: int) -> torch.Tensor:
        return list(vars(self).values())[index]


class ToyModel(nn.Module):
    """``after``: what happens to the logits behind the head; ``None``: nothing."""

    def __init__(
        self,
        dropout: float = 0.0,
        bias: bool = True,
        tied: bool = False,
        after: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.base_model = ToyTrunk(dropout)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=bias)
        if tied:
            self.head.weight = self.base_model.embedding.weight
        self.after = after

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        logits = self.head(self.base_model(input_ids=input_ids, use_cache=use_cache).last_hidden_state)
        return ToyOutput(logits=self.after(logits) if self.after else logits)


class MemoryCheckpoint:
    """Keeps every state; raises Stopped right after save number ``stop_after``."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.states: dict[int, dict[str, Any]] = {}
        self.stop_after = stop_after

    def latest(self) -> dict[str, Any] | None:
        return copy.deepcopy(self.states[max(self.states)]) if self.states else None

    def save(self, step: int, state: dict[str, Any]) -> None:
        self.states[step] = copy.deepcopy(state)
        if len(self.states) == self.stop_after:
            raise Stopped


class Stopped(Exception):
    """The process died here."""


def toy_config(**changes: Any) -> TrainingConfig:
    settings = {"model": {"architecture": "toy"}, "batch": 8, "optimizer": {"learning_rate": 0.02}}
    return TrainingConfig.model_validate(settings | changes)


@pytest.fixture
def toy() -> SimpleNamespace:
    """Everything above, under one name; the model's weights are seeded."""

    def model(**options: Any) -> ToyModel:
        torch.manual_seed(0)
        return ToyModel(**options)

    return SimpleNamespace(
        stream=ToyStream,
        completions=ToyCompletions,
        model=model,
        config=toy_config,
        checkpoint=MemoryCheckpoint,
        stopped=Stopped,
        vocabulary=VOCABULARY,
        window=WINDOW,
    )


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
