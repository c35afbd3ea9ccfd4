"""Tiny language models and rows to score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

VOCABULARY, WINDOW = 40, 24
CPU = torch.device("cpu")

ARCHITECTURES = {
    "gpt_neox": {"architecture": "gpt_neox", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "gpt2": {"architecture": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4},
    "llama": {"architecture": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    # Logits that are scaled behind the head: no trunk and head to take apart.
    "cohere": {
        "architecture": "cohere",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "logit_scale": 0.5,
    },
}


@pytest.fixture(params=ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def model(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The run file's ``model``, one architecture after the other."""
    return dict(request.param)


@pytest.fixture
def neox() -> dict[str, Any]:
    return dict(ARCHITECTURES["gpt_neox"])


@pytest.fixture
def rows() -> list[np.ndarray]:
    """Thirty rows of 2 to WINDOW + 1 ids, in the types that data comes in."""
    generator = np.random.default_rng(0)
    lengths = [2, WINDOW + 1, WINDOW, 3, *generator.integers(2, WINDOW + 2, 26)]
    return [
        generator.integers(0, VOCABULARY, length).astype([np.int64, np.uint16, np.int32][i % 3])
        for i, length in enumerate(lengths)
    ]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
