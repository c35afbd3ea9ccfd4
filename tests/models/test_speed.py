"""The measurement of a training speed: it leaves nothing behind, and it is not tried where it would take long."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixray.config.training import Resources, TrainingConfig
from mixray.data import ExampleInputs, ModelInputs, TextInputs
from mixray.models import measure_training

TEXT = TextInputs(window=16, vocab_size=300, end_of_document=0)
SMALL = {"architecture": "gpt_neox", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("model", "inputs"), [(SMALL, TEXT), ({"head": "linear"}, ExampleInputs(3, ("a", "b"), ()))], ids=["text", "rows"]
)
def test_a_model_of_each_kind_is_measured(model: dict[str, object], inputs: ModelInputs) -> None:
    threads, draws = torch.get_num_threads(), torch.random.get_rng_state()
    config = TrainingConfig.model_validate({"model": model, "batch": 4, "compile": True})
    speed = measure_training(config, inputs, Resources())
    assert speed is not None
    assert speed > 0
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), draws)


def test_a_model_too_large_for_a_quick_measurement_is_not_measured() -> None:
    large = SMALL | {"hidden_size": 4096, "num_hidden_layers": 64}
    config = TrainingConfig.model_validate({"model": large})
    assert measure_training(config, TextInputs(2048, 50_000, 0), Resources()) is None


def test_a_model_that_does_not_fit_in_memory_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainingConfig.model_validate({"model": {"head": "linear"}, "batch": 4})
    inputs = ExampleInputs(3, ("a", "b"), ())  # 8 parameters
    monkeypatch.setattr("mixray.models.speed.memory_bytes", lambda **_: 16 * 8 - 1)
    assert measure_training(config, inputs, Resources()) is None
    monkeypatch.setattr("mixray.models.speed.memory_bytes", lambda **_: 16 * 8)
    assert measure_training(config, inputs, Resources()) is not None


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_not_measured() -> None:
    config = TrainingConfig.model_validate({"model": SMALL})
    assert measure_training(config, TEXT, Resources(gpus=1)) is None
