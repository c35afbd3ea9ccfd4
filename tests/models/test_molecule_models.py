"""Models of molecules: rows of many assays are merged by weight, and one prediction of each serves all targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from mixray.cache import PREDICTIONS_FILE, read_cache
from mixray.cluster.scoring import MoleculeScorer, MoleculeTask
from mixray.config import RunConfig
from mixray.data import Prepared, molecule_features, prepare
from mixray.models import ARM, PROXY, TrainingData, load_model, new_model, tree_jobs
from mixray.models.boosted_trees import BoostedTrees
from mixray.models.tree_job import merged, mixture_weights
from mixray.store import Artifact, Artifacts, ModelMeta, Storage
from mixray.store.artifacts import fetch_folder
from tests.data.test_molecules import SMILES, MoleculeRun

SHARES = {"one": 0.25, "two": 0.75}


class TwoAssays(MoleculeRun):
    """Two assays of the same molecules, a fifth of which they label differently, and a target."""

    def __init__(self, folder: Path, task: str) -> None:
        super().__init__(folder, lambda function, items, _: map(function, items))
        draws = np.random.default_rng(0)
        labels = np.arange(len(SMILES)) // 59
        values = {"one": labels, "two": labels ^ (draws.random(len(SMILES)) < 0.2)}
        if task == "regression":
            values = {name: each + draws.normal(0, 0.1, len(SMILES)).round(1) for name, each in values.items()}
        table = {"smiles": SMILES, **values}
        sources = {name: self.write(name, table) | {"label": name} for name in values}
        self.run_file = self.config(sources, self.write("goal", table) | {"label": "one"}, label=None, task=task)
        self.prepared: Prepared = prepare(self.run_file, self.artifacts, self.mapper, lambda _: None)


@pytest.fixture(params=["classification", "regression"])
def assays(request: pytest.FixtureRequest, tmp_path: Path) -> TwoAssays:
    return TwoAssays(tmp_path, request.param)


def trained(assays: TwoAssays, kind: str, mixtures: dict[str, dict[str, float]]) -> dict[str, Artifact]:
    data = TrainingData(assays.prepared.sources, assays.prepared.inputs, 0)
    settings: Any = assays.run_file.proxy if kind == PROXY else assays.run_file.retrain
    jobs = tree_jobs(assays.artifacts, kind, settings, data, mixtures)
    for job in jobs.values():
        job.run()
    return {name: assays.artifacts.get(job.draft.kind, job.draft.id) for name, job in jobs.items()}


def model_of(config: RunConfig, storage: Storage, artifact: Artifact, folder: Path) -> Any:
    folder.mkdir()
    return load_model(config.retrain, fetch_folder(storage, artifact, folder), device=torch.device("cpu"))


def test_an_arm_on_merged_rows_predicts_as_one_on_all_of_them(assays: TwoAssays, tmp_path: Path) -> None:
    storage = assays.artifacts.storage
    artifact = trained(assays, ARM, {"arm": SHARES})["arm"]
    model = model_of(assays.run_file, storage, artifact, tmp_path / "model")
    records = [assays.records(assays.prepared, name) for name in SHARES]
    features = np.concatenate([each["features"] for each in records])
    labels = np.concatenate([each["label"] for each in records])
    row_weights = mixture_weights(SHARES, {name: len(each) for name, each in zip(SHARES, records, strict=True)})
    classes = 2 if labels.dtype.kind == "i" else 0
    plain = BoostedTrees.fit(
        assays.run_file.retrain.model.boosted_trees,  # type: ignore[union-attr]
        features,
        labels,
        row_weights,
        classes=classes,
    )
    predictions = plain.predictions(features, batch_tokens=1)
    assert predictions.std() > 0.1
    of_merged = model.predictions(csr_matrix(features), batch_tokens=1)
    np.testing.assert_allclose(of_merged, predictions, rtol=1e-4, atol=1e-5)
    meta = ModelMeta.from_artifact(artifact)
    assert meta.tokens == len(labels)
    errors = predictions[:, 0] - labels if not classes else None
    losses = -predictions[np.arange(len(labels)), labels] if errors is None else errors**2
    assert meta.final_loss == pytest.approx(np.average(losses, weights=row_weights), rel=1e-4)


def test_rows_of_one_molecule_and_label_are_one_with_the_sum_of_their_weights() -> None:
    fingerprints = np.eye(4, dtype=np.float32)
    table = merged(fingerprints, np.array([2, 0, 2, 2]), np.array([1, 0, 1, 0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert table.features.argmax(axis=1).tolist() == [0, 2, 2]
    assert table.labels.tolist() == [0, 0, 1]
    assert table.row_weights.tolist() == [2.0, 4.0, 4.0]
    assert table.rows == 4


def test_one_column_of_predictions_serves_every_target_and_part(assays: TwoAssays, tmp_path: Path) -> None:
    storage, goal = assays.artifacts.storage, assays.prepared.targets["goal"]
    proxies = trained(assays, PROXY, {name: {name: 1.0} for name in SHARES})
    scorer = MoleculeScorer(assays.run_file.cache, assays.run_file.proxy)
    columns = {}
    for name, proxy in proxies.items():
        draft = assays.artifacts.draft("column", name)
        record = scorer(MoleculeTask(name, proxy, goal.meta["molecules"], draft))
        columns[name] = draft.publish({PREDICTIONS_FILE: record}, {"model": name, "molecules": goal.meta["molecules"]})
    fingerprints = molecule_features(storage, goal.meta["molecules"])
    for part in ("fit", "held_out"):
        rows = assays.target(assays.prepared, part)
        cache = read_cache(storage, goal, part, columns)  # type: ignore[arg-type]
        assert len(cache.log_probs) == len(rows) > 10
        for place, (name, proxy) in enumerate(proxies.items()):
            model = model_of(assays.run_file, storage, proxy, tmp_path / f"{name}-{part}")
            labels = np.array([row["label"] for row in rows])
            expected = model.log_probs((fingerprints[[row["molecule"] for row in rows]], labels), batch_tokens=1).totals
            values = cache.log_probs if cache.errors is None else cache.errors
            np.testing.assert_allclose(values[:, place], expected, rtol=1e-6, atol=1e-7)


def test_a_head_learns_from_fingerprints_too(tmp_path: Path) -> None:
    assays = TwoAssays(tmp_path, "classification")
    content = assays.run_file.model_dump(mode="json")
    head = {"model": {"head": "linear"}, "tokens": 100}
    config = RunConfig.model_validate(content | {"proxy": head, "retrain": head})
    model: Any = new_model(config.proxy, assays.prepared.inputs, seed=0, device=torch.device("cpu"))
    records = assays.records(assays.prepared, "one")
    losses = model.training_losses(records)
    fingerprints = molecule_features(assays.artifacts.storage, assays.prepared.sources["one"].meta["molecules"])
    predictions = model.predictions(fingerprints, batch_tokens=7)
    stored = Artifacts(assays.artifacts.storage, "other").get("examples", assays.prepared.sources["one"].id)
    assert stored.meta["tokens"] == len(records) == len(losses)
    labels = np.arange(len(SMILES)) // 59
    place = {text: row for row, text in enumerate(sorted(SMILES))}
    expected = -predictions[[place[text] for text in SMILES], labels]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
