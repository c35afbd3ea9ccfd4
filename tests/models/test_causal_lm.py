"""A causal language model's life as a proxy: it learns a source, is kept, and comes back the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mixray.config.training import TrainingConfig
from mixray.data import TextInputs
from mixray.models import CausalLM, Model, new_model
from mixray.store import Storage
from mixray.training import Progress, StorageCheckpoint

VOCABULARY, WINDOW = 40, 24
CPU = torch.device("cpu")


class Cycle:
    """0, 1, ..., 39, 0, ... from anywhere: uniform tokens, each of which says the next."""

    def read(self, start: int, stop: int) -> np.ndarray:
        offsets = np.array([np.random.default_rng(p).integers(VOCABULARY) for p in range(start, stop)])
        return (offsets[:, None] + np.arange(WINDOW)) % VOCABULARY


def config_of(model: dict[str, Any]) -> TrainingConfig:
    return TrainingConfig.model_validate({"model": model, "batch": 8, "optimizer": {"learning_rate": 1e-2}})


def create(config: TrainingConfig) -> CausalLM:
    return CausalLM.create(
        config.model, vocab_size=VOCABULARY, window=WINDOW, seed=0, device=CPU, precision=config.precision
    )


def test_it_learns_its_source_and_knows_it_again(model: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(model)
    proxy: Model = create(config)
    seen: list[Progress] = []
    report = proxy.fit(Cycle(), config=config, steps=40, seed=0, progress=seen.append)
    unigram = np.log(VOCABULARY)
    assert report.records[0].loss > 0.9 * unigram
    assert report.records[-1].loss < 0.6 * unigram
    assert len(seen) == 40

    own = list(Cycle().read(1000, 1010))
    foreign = list(np.random.default_rng(0).integers(0, VOCABULARY, (10, WINDOW)))
    scores = proxy.log_probs(own + foreign, batch_tokens=200)
    assert scores.totals[:10].min() > scores.totals[10:].max() + 10

    folder = tmp_path / "proxy"
    folder.mkdir()
    proxy.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    again = CausalLM.load(folder, device=CPU)
    assert (again.log_probs(own + foreign, batch_tokens=200).totals == scores.totals).all()


def test_a_proxy_that_died_goes_on_where_it_was(neox: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(neox | {"hidden_dropout": 0.1})
    whole = create(config)
    whole.fit(Cycle(), config=config, steps=12, seed=0)

    class Death(Exception):
        pass

    def die(progress: Progress) -> None:
        if progress.step == 8:
            raise Death

    checkpoint = StorageCheckpoint(Storage(str(tmp_path)), "checkpoints/wiki")
    with pytest.raises(Death):
        create(config).fit(Cycle(), config=config, steps=12, seed=0, checkpoint=checkpoint, progress=die)
    resumed = create(config)
    steps: list[int] = []
    resumed.fit(
        Cycle(), config=config, steps=12, seed=0, checkpoint=checkpoint, progress=lambda p: steps.append(p.step)
    )
    assert steps == list(range(7, 13))
    for name, value in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], value)


def test_the_runs_precision_is_the_proxys(neox: dict[str, Any], tmp_path: Path) -> None:
    config = TrainingConfig.model_validate({"model": neox, "precision": "bfloat16"})
    proxy = create(config)
    proxy.save(tmp_path)
    rows = list(Cycle().read(0, 4))
    totals = proxy.log_probs(rows, batch_tokens=100).totals
    low, full = (CausalLM.load(tmp_path, device=CPU, precision=p) for p in ("bfloat16", "float32"))
    assert (low.log_probs(rows, batch_tokens=100).totals == totals).all()
    assert (full.log_probs(rows, batch_tokens=100).totals != totals).any()


def test_the_run_file_keeps_documents_apart(neox: dict[str, Any]) -> None:
    inputs = TextInputs(window=WINDOW, vocab_size=VOCABULARY, end_of_document=0)
    losses = {}
    for attention in ("window", "document"):
        config = TrainingConfig.model_validate({"model": neox, "batch": 8, "attention": attention})
        losses[attention] = new_model(config, inputs, seed=0, device=CPU).fit(Cycle(), config=config, steps=1, seed=0)
    assert losses["window"].records[-1].loss != losses["document"].records[-1].loss


def test_classifiers_have_no_documents() -> None:
    with pytest.raises(ValidationError, match="head"):
        TrainingConfig.model_validate({"model": {"head": "linear"}, "attention": "document"})
