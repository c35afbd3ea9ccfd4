"""The memory of activations, found without computing, is that of real forward passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mixray.config.training import TrainingConfig
from mixray.data import ExampleInputs, TextInputs
from mixray.models import activation_bytes, build_model
from mixray.models.activations import kept_bytes

TEXT = TextInputs(window=32, vocab_size=300, end_of_document=0)
MODELS = {
    "gpt_neox": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "llama": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
}


def config(**settings: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"model": {"head": "linear"}, "batch": 8} | settings)


@pytest.mark.parametrize("architecture", MODELS)
def test_what_a_real_forward_pass_keeps(architecture: str) -> None:
    text = config(model={"architecture": architecture, **MODELS[architecture]})
    model = build_model(text.model, vocab_size=300, window=32, seed=0).train()  # type: ignore[arg-type]
    ids = torch.zeros(8, 32, dtype=torch.int64)
    real = kept_bytes(model, lambda: model.base_model(input_ids=ids, use_cache=False))
    assert real > 8 * 32 * 32 * 4
    # Fake attention also keeps its mask in every layer.
    assert real <= (activation_bytes(text, TEXT, workers=1, on_gpu=False) or 0) <= real + 2 * 8 * 32 * 32 * 4


def test_a_classifiers_layers_keep_their_inputs() -> None:
    inputs = ExampleInputs(7, ("a", "b"), ())
    mlp = config(model={"head": "mlp", "hidden": [5, 3]})
    assert activation_bytes(mlp, inputs, workers=1, on_gpu=False) == 8 * 4 * (7 + 5 + 3)
    assert activation_bytes(mlp, inputs, workers=3, on_gpu=False) == 3 * 4 * (7 + 5 + 3)


def test_smaller_forward_passes_and_bfloat16_keep_less() -> None:
    model = {"architecture": "gpt_neox", **MODELS["gpt_neox"]}
    whole = activation_bytes(config(model=model), TEXT, workers=1, on_gpu=False)
    half = activation_bytes(config(model=model, micro_batch=4), TEXT, workers=1, on_gpu=False)
    narrow = activation_bytes(config(model=model), TEXT, workers=1, on_gpu=True)
    assert whole is not None
    assert half is not None
    assert narrow is not None
    assert half < 0.6 * whole
    assert activation_bytes(config(model=model, micro_batch=64), TEXT, workers=1, on_gpu=False) == whole
    assert narrow < 0.8 * whole
