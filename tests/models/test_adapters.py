"""Low-rank adapters of a pretrained model: what is trained, kept and loaded, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from mixray.config.training import PretrainedModel, TrainingConfig
from mixray.errors import InputError
from mixray.models import CausalLM, build_model
from mixray.models.building import count_parameters
from mixray.store import Storage
from mixray.training import Progress, StorageCheckpoint

VOCABULARY, WINDOW = 40, 24
CPU = torch.device("cpu")


class Stream:
    """Windows of a cycle through all tokens, and the end of a document in each."""

    def read(self, start: int, stop: int) -> np.ndarray:
        offsets = np.array([np.random.default_rng(position).integers(VOCABULARY) for position in range(start, stop)])
        return (offsets[:, None] + np.arange(WINDOW)) % VOCABULARY


@pytest.fixture
def base(model: dict[str, Any], tmp_path: Path) -> Path:
    """A pretrained model of each architecture."""
    network = build_model(training(model).model, vocab_size=VOCABULARY, window=WINDOW, seed=3)
    network.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def neox_base(neox: dict[str, Any], tmp_path: Path) -> Path:
    network = build_model(training(neox).model, vocab_size=VOCABULARY, window=WINDOW, seed=3)
    network.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def training(model: dict[str, Any], **settings: Any) -> TrainingConfig:
    optimizer = {"learning_rate": 1e-2}
    return TrainingConfig.model_validate({"model": model, "batch": 8, "optimizer": optimizer} | settings)


def adapted(base: Path, **lora: Any) -> TrainingConfig:
    return training({"pretrained": str(base), "lora": lora})


def create(config: TrainingConfig, *, apart: bool = False) -> CausalLM:
    sizes = {"vocab_size": VOCABULARY, "window": WINDOW, "seed": 0, "eos_id": 0}
    return CausalLM.create(config.model, **sizes, device=CPU, separate_documents=apart)


def state(model: CausalLM) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.network.state_dict().items()}


def test_only_adapters_are_trained_and_they_come_back_the_same(base: Path, tmp_path: Path) -> None:
    config = adapted(base, rank=2, alpha=4)
    model, original = create(config), AutoModelForCausalLM.from_pretrained(base)
    rows = list(Stream().read(100, 120))
    assert (
        model.log_probs(rows, batch_tokens=99).totals
        == CausalLM(original, device=CPU, precision="auto").log_probs(rows, batch_tokens=99).totals
    ).all(), "adapters begin as nothing"
    before = state(model)
    report = model.fit(Stream(), config=config, steps=20, seed=0)
    assert report.records[-1].loss < report.records[0].loss - 0.1
    after = state(model)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved == {name for name in after if "lora_" in name}
    assert {name.replace(".base_layer", "") for name in after.keys() - moved} == original.state_dict().keys()

    (tmp_path / "arm").mkdir()
    model.save(tmp_path / "arm")
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "arm").iterdir()}
    assert "model.safetensors" not in sizes
    assert sum(sizes.values()) < (base / "model.safetensors").stat().st_size / 2
    scores = model.log_probs(rows, batch_tokens=99).totals
    again = CausalLM.load(tmp_path / "arm", device=CPU)
    assert (again.log_probs(rows, batch_tokens=99).totals == scores).all()
    assert again.parameter_count == model.parameter_count
    elsewhere = CausalLM(AutoModelForCausalLM.from_pretrained(tmp_path / "arm"), device=CPU, precision="auto")
    assert (elsewhere.log_probs(rows, batch_tokens=99).totals == scores).all(), "as transformers loads it"


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_resumed_training_of_adapters_is_the_one_that_never_stopped(
    neox_base: Path, tmp_path: Path, micro_batch: int | None
) -> None:
    config = adapted(neox_base, dropout=0.2).model_copy(update={"micro_batch": micro_batch})
    whole = create(config, apart=True)
    whole.fit(Stream(), config=config, steps=12, seed=0)

    class Death(Exception):
        pass

    def die(progress: Progress) -> None:
        if progress.step == 8:
            raise Death

    checkpoint = StorageCheckpoint(Storage(str(tmp_path)), "checkpoint")
    with pytest.raises(Death):
        create(config, apart=True).fit(Stream(), config=config, steps=12, seed=0, checkpoint=checkpoint, progress=die)
    saved = checkpoint.latest()
    assert saved is not None
    assert saved["model"]
    assert all("lora_" in name for name in saved["model"]), "the model itself is where it was"
    resumed, steps = create(config, apart=True), list[int]()
    resumed.fit(
        Stream(), config=config, steps=12, seed=0, checkpoint=checkpoint, progress=lambda each: steps.append(each.step)
    )
    assert min(steps) > 1
    assert all(torch.equal(value, state(whole)[name]) for name, value in state(resumed).items())


def test_named_modules_and_their_size(neox_base: Path) -> None:
    """Two layers of width 32, whose attention's output is a matrix of 32 x 32."""
    config = adapted(neox_base, rank=3, modules=["attention.dense"]).model
    assert isinstance(config, PretrainedModel)
    plain = count_parameters(PretrainedModel(pretrained=str(neox_base)), VOCABULARY, WINDOW)
    assert count_parameters(config, VOCABULARY, WINDOW, only_trained=True) == 2 * 3 * (32 + 32)
    assert count_parameters(config, VOCABULARY, WINDOW) == plain + 2 * 3 * (32 + 32)
    network = build_model(config, vocab_size=VOCABULARY, window=WINDOW, seed=0)
    trained = [name for name, each in network.named_parameters() if each.requires_grad]
    assert len(trained) == 4
    assert all(".attention.dense.lora_" in name for name in trained)


@pytest.mark.parametrize("counts", [count_parameters, build_model])
def test_modules_that_are_not_there_are_refused(neox_base: Path, counts: Any) -> None:
    """Though others are, which peft would adapt alone."""
    config = adapted(neox_base, modules=["dense", "query_key"]).model
    sizes = {"seed": 0} if counts is build_model else {}
    with pytest.raises(InputError, match="no such linear layer") as caught:
        counts(config, vocab_size=VOCABULARY, window=WINDOW, **sizes)
    for part in ("model.lora.modules", "got: query_key", "query_key_value"):
        assert part in str(caught.value)


def test_without_the_library_the_extra_is_named(neox_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixray.models.building.find_spec", {}.get)
    with pytest.raises(InputError, match="pip install 'mixray\\[lora\\]'"):
        count_parameters(adapted(neox_base).model, VOCABULARY, WINDOW)


def test_adapters_of_another_model_are_refused(neox_base: Path, neox: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "arm").mkdir()
    create(adapted(neox_base)).save(tmp_path / "arm")
    CausalLM.load(tmp_path / "arm", device=CPU)
    build_model(training(neox).model, vocab_size=VOCABULARY, window=WINDOW, seed=4).save_pretrained(neox_base)
    with pytest.raises(InputError, match="not the one that its adapters were trained on"):
        CausalLM.load(tmp_path / "arm", device=CPU)


def test_a_run_file_without_adapters_leaves_no_trace_of_them(neox_base: Path) -> None:
    """Ids are made from what is dumped."""
    plain = training({"pretrained": str(neox_base)}).model_dump(mode="json")["model"]
    assert json.dumps(plain) == json.dumps({"pretrained": str(neox_base)})
    settings = {"rank": 8, "alpha": 16.0, "modules": "all-linear", "dropout": 0.0}
    assert adapted(neox_base).model_dump(mode="json")["model"]["lora"] == settings
