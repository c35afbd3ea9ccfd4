"""A classifier's life as a proxy: it learns a source, is kept, scores true labels, and comes back the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.special import log_softmax

from mixray.config.training import TrainingConfig
from mixray.data import ExampleInputs, TextInputs
from mixray.data.tabular.encoder import record_type
from mixray.models import ExampleClassifier, Model, load_model, new_model
from mixray.training import ColumnAsGroups
from mixray.training.batch import read_batch

CPU = torch.device("cpu")
FEATURES = 5
"""Odd, so that labels do not stand at multiples of their size."""
INPUTS = ExampleInputs(FEATURES, ("a", "b", "c"), ("left", "middle", "right"))
HEADS: list[dict[str, Any]] = [{"head": "linear"}, {"head": "mlp", "hidden": [8, 4]}]


def config_of(head: dict[str, Any], **changes: Any) -> TrainingConfig:
    optimizer = {"learning_rate": 0.05, "weight_decay": 0.0}
    return TrainingConfig.model_validate({"model": head, "batch": 8, "optimizer": optimizer, **changes})


class Records:
    """The label is the largest of the first three features; the group is 0 or 2, never 1."""

    def read(self, start: int, stop: int) -> np.ndarray:
        records = np.zeros(stop - start, record_type(FEATURES))
        draws = [np.random.default_rng(position) for position in range(start, stop)]
        records["features"] = [draw.normal(size=FEATURES) for draw in draws]
        records["label"] = records["features"][:, :3].argmax(axis=1)
        records["group"] = [2 * draw.integers(2) for draw in draws]
        return records


def proxy_of(head: dict[str, Any], seed: int = 0) -> ExampleClassifier:
    proxy = new_model(config_of(head), INPUTS, seed=seed, device=CPU)
    assert isinstance(proxy, ExampleClassifier)
    return proxy


def scored(proxy: Model, **settings: Any) -> np.ndarray:
    records = Records().read(1000, 1030)
    return proxy.log_probs((records["features"], records["label"].copy()), batch_tokens=7, **settings).totals


@pytest.mark.parametrize("head", HEADS, ids=["linear", "mlp"])
def test_it_learns_its_source_and_knows_it_again(head: dict[str, Any], tmp_path: Path) -> None:
    proxy = proxy_of(head)
    before = scored(proxy)
    report = proxy.fit(Records(), config=config_of(head), steps=150, seed=0)
    assert report.tokens == 150 * 8
    after = scored(proxy)
    assert after.mean() > before.mean() + 0.5
    proxy.save(tmp_path)
    again = load_model(config_of(head), tmp_path, device=CPU)
    assert (scored(again) == after).all()


@pytest.mark.parametrize("head", HEADS, ids=["linear", "mlp"])
@pytest.mark.parametrize("batch_tokens", [1, 7, 1000])
def test_log_probabilities_are_those_of_the_true_labels(head: dict[str, Any], batch_tokens: int) -> None:
    """Of rows as the cache's table has them, with a softmax of its own kind; a row is one token."""
    proxy, records = proxy_of(head), Records().read(0, 30)
    lists = pa.FixedSizeListArray.from_arrays(np.ascontiguousarray(records["features"]).ravel(), FEATURES)
    table = pa.table({"features": lists, "label": records["label"].copy()})
    chunked = pa.concat_tables([table.slice(0, 11), table.slice(11)])
    scores = proxy.log_probs(proxy.rows_of(chunked), batch_tokens=batch_tokens, segment=16)
    with torch.no_grad():
        logits = proxy.network(torch.tensor(records["features"])).numpy().astype(np.float64)
    wanted = log_softmax(logits, axis=1)[np.arange(30), records["label"]]
    np.testing.assert_allclose(scores.totals, wanted, rtol=0, atol=1e-6)
    assert scores.totals.dtype == np.float64
    assert scores.segments is not None
    assert [values.shape for values in scores.segments] == [(1,)] * 30
    assert np.concatenate(scores.segments).tolist() == scores.totals.tolist()


def test_without_tokens_there_are_none() -> None:
    records = Records().read(0, 3)
    assert proxy_of(HEADS[0]).log_probs((records["features"], records["label"].copy()), batch_tokens=8).segments is None


def test_a_seed_draws_the_weights_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    one, other, same = (scored(proxy_of(HEADS[1], seed)) for seed in (0, 1, 0))
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == drawn
    assert (one == same).all()
    assert (one != other).any()


def test_a_classifier_reads_examples_and_a_language_model_texts() -> None:
    with pytest.raises(AssertionError, match="a classifier reads examples"):
        new_model(config_of(HEADS[0]), TextInputs(16, 40, 0), seed=0, device=CPU)
    with pytest.raises(AssertionError, match="a language model reads texts"):
        new_model(config_of({"architecture": "gpt_neox"}), INPUTS, seed=0, device=CPU)


def test_the_layers_are_those_of_the_run_file() -> None:
    shapes = [tuple(weights.shape) for weights in proxy_of(HEADS[1]).network.parameters()]
    assert shapes == [(8, 5), (8,), (4, 8), (4,), (3, 4), (3,)]
    assert len(list(proxy_of({"head": "mlp"}).network.parameters())[1]) == 32


# ------------------------------------------------------------------------------------------------------------- groups


def test_groups_of_a_column_are_numbered_among_those_that_occur() -> None:
    records = Records().read(3, 40)
    batch = ColumnAsGroups(Records(), np.array([0, 2])).read(3, 40)
    assert batch.group_ids is not None
    assert batch.group_ids.tolist() == (records["group"] // 2).tolist()
    assert set(batch.group_ids.tolist()) == {0, 1}
    features, labels = batch.inputs
    assert (features == records["features"]).all()
    assert (labels == records["label"]).all()
    assert (batch.tokens_per_row, len(batch)) == (1, 37)


def test_bare_records_have_no_groups_and_become_tensors() -> None:
    batch = read_batch(Records(), 0, 4)
    assert batch.group_ids is None
    assert [tuple(torch.tensor(array).shape) for array in batch.inputs] == [(4, FEATURES), (4,)]


def test_losses_of_a_columns_groups_are_recorded() -> None:
    """The mean over a group's rows of the step, before it."""
    config, proxy = config_of(HEADS[0], batch=12), proxy_of(HEADS[0])
    records = Records().read(0, 12)
    losses = -proxy.log_probs((records["features"], records["label"].copy()), batch_tokens=12).totals
    stream = ColumnAsGroups(Records(), np.array([0, 2]))
    report = proxy.fit(stream, config=config, steps=1, seed=0, group_names=["left", "right"])
    wanted = {name: losses[records["group"] == group].mean() for name, group in (("left", 0), ("right", 2))}
    assert report.records[0].group_losses == pytest.approx(wanted, rel=1e-6)


def test_a_classifier_is_compiled_where_the_run_file_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **_: compiled.append(type(module).__name__))
    for compile in (False, True):
        proxy_of(HEADS[0]).fit(Records(), config=config_of(HEADS[0], compile=compile), steps=2, seed=0)
    assert compiled == ["ClassifierLoss"]
