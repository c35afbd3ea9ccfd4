"""Boosted trees as a model: they learn, weights count as repeated rows, and files give back the same model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.special import log_softmax

from mixray.config.training import TrainingConfig, TreesConfig
from mixray.data import ExampleInputs
from mixray.data.tabular.encoder import record_type
from mixray.errors import InputError
from mixray.models import ARM, PROXY, TrainingData, TreeJob, boosted_trees, load_model, model_size, tree_jobs
from mixray.models.boosted_trees import BoostedTrees
from mixray.models.tree_job import mixture_weights
from mixray.store import Artifact, Artifacts, ModelMeta, Storage

CPU = torch.device("cpu")
LIBRARIES = ["xgboost", "lightgbm"]
FEATURES = 4


def settings(library: str, **changes: Any) -> TreesConfig:
    return TreesConfig.model_validate({"library": library, "rounds": 20, "depth": 3} | changes)


def training(library: str, **changes: Any) -> TrainingConfig:
    trees = {"library": library, "rounds": 20, "depth": 3} | changes
    return TrainingConfig.model_validate({"model": {"boosted_trees": trees}})


def examples(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers below 20, so that a library puts every value into a bin of its own; the label follows one of them
    but for a tenth of the rows."""
    draws = np.random.default_rng([seed, count])
    features = draws.integers(0, 20, (count, FEATURES)).astype(np.float32)
    labels = features[:, 1].astype(np.int64) * classes // 20
    labels = np.where(draws.random(count) < 0.1, draws.integers(0, classes, count), labels)
    return features, labels


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("classes", [0, 2, 3])
def test_a_sparse_table_of_bits_gives_the_predictions_of_a_dense_one(library: str, classes: int) -> None:
    draws = np.random.default_rng(classes)
    bits = (draws.random((500, 30)) < 0.2).astype(np.float32)
    labels = bits[:, 0] + bits[:, 3] * bits[:, 5] + draws.normal(0, 0.1, 500)
    if classes:
        labels = np.clip(labels.round(), 0, classes - 1).astype(np.int64)
    dense, sparse = (
        BoostedTrees.fit(settings(library), table, labels, np.ones(500), classes=classes).predictions(
            table, batch_tokens=1
        )
        for table in (bits, csr_matrix(bits))
    )
    assert dense.shape == (500, max(1, classes))
    assert dense.std() > 0.1
    np.testing.assert_allclose(sparse, dense, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_they_learn_and_come_back_the_same(library: str, classes: int, tmp_path: Path) -> None:
    features, labels = examples(600, classes)
    model = BoostedTrees.fit(settings(library), features, labels, np.ones(600), classes=classes)
    test = examples(300, classes, seed=1)
    totals = model.log_probs(test, batch_tokens=7).totals
    assert totals.dtype == np.float64
    # The Bayes-optimal classifier gives the likely label 0.9 + 0.1 / classes.
    right = 0.9 + 0.1 / classes
    best = right * np.log(right) + (1 - right) * np.log(0.1 / classes)
    assert best - 0.2 < totals.mean() < best + 0.1
    model.save(tmp_path)
    again = load_model(training(library), tmp_path, device=CPU)
    assert (again.log_probs(test, batch_tokens=300).totals == totals).all()
    assert again.parameter_count == model.parameter_count
    assert 20 < model.parameter_count <= model_size(training(library), ExampleInputs(FEATURES, ("a",) * classes, ()))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("classes", [2, 3])
def test_every_labels_probability_is_that_of_the_librarys_own_prediction(
    library: str, classes: int, tmp_path: Path
) -> None:
    """The saved files are enough: the library's margins and the intercept of config.json, without mixray's code."""
    features, labels = examples(400, classes)
    model = BoostedTrees.fit(settings(library), features, labels, np.ones(400), classes=classes)
    model.save(tmp_path)
    intercept = json.loads((tmp_path / "config.json").read_text())["intercept"]
    if library == "xgboost":
        import xgboost

        booster = xgboost.Booster(model_file=tmp_path / "model.json")
        margins = booster.predict(xgboost.DMatrix(features), output_margin=True)
    else:
        import lightgbm

        margins = lightgbm.Booster(model_file=tmp_path / "model.txt").predict(features, raw_score=True)
    logits = np.zeros((400, classes))
    logits[:, -1 if classes == 2 else slice(None)] = margins
    by_class = log_softmax(logits + intercept, axis=1)
    scored = [model.log_probs((features, np.full(400, label)), batch_tokens=1).totals for label in range(classes)]
    np.testing.assert_allclose(np.stack(scored, axis=1), by_class, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.exp(scored).sum(axis=0), 1, rtol=1e-12)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("classes", [2, 4])
def test_a_weight_of_two_is_the_row_twice(library: str, classes: int) -> None:
    features, labels = examples(200, classes)
    times = np.random.default_rng(2).integers(1, 4, 200)
    weighted = BoostedTrees.fit(settings(library), features, labels, times.astype(float), classes=classes)
    rows = np.repeat(np.arange(200), times)
    repeated = BoostedTrees.fit(settings(library), features[rows], labels[rows], np.ones(len(rows)), classes=classes)
    plain = BoostedTrees.fit(settings(library), features, labels, np.ones(200), classes=classes)
    test = examples(100, classes, seed=3)
    totals, expected, unweighted = (
        model.log_probs(test, batch_tokens=100).totals for model in (weighted, repeated, plain)
    )
    np.testing.assert_allclose(totals, expected, rtol=0, atol=2e-5)
    assert np.abs(totals - unweighted).max() > 0.1


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_same_examples_give_the_same_bytes(library: str, tmp_path: Path) -> None:
    """Whatever torch's generator holds and however many threads there are."""
    contents = []
    features, labels = examples(500, 3)
    for threads, name in enumerate(("one", "two"), start=1):
        torch.manual_seed(threads)
        torch.set_num_threads(threads)
        model = BoostedTrees.fit(settings(library), features, labels, np.ones(500), classes=3)
        (tmp_path / name).mkdir()
        model.save(tmp_path / name)
        contents.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert contents[0] == contents[1]
    assert len(contents[0]) == 2


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_that_a_source_lacks_is_improbable_and_not_impossible(library: str, classes: int) -> None:
    features = examples(50, classes)[0]
    labels = np.zeros(50, np.int64)
    model = BoostedTrees.fit(settings(library), features, labels, np.ones(50), classes=classes)
    totals = model.log_probs((features, np.full(50, classes - 1)), batch_tokens=50).totals
    assert np.isfinite(totals).all()
    assert (totals <= np.log(1 / (50 + classes)) + 1e-12).all()


@pytest.mark.parametrize("library", LIBRARIES)
def test_one_row_and_constant_columns_are_learned_from(library: str) -> None:
    for count in (1, 30):
        features, labels = np.ones((count, 2), np.float32), np.arange(count) % 2
        model = BoostedTrees.fit(settings(library), features, labels, np.ones(count), classes=2)
        probability = np.exp(model.log_probs((features[:1], labels[:1]), batch_tokens=1).totals)
        assert probability == pytest.approx((-(-count // 2) + 1) / (count + 2), abs=1e-6)


def test_rows_are_those_of_the_caches_table() -> None:
    features, labels = examples(10, 2)
    lists = pa.FixedSizeListArray.from_arrays(features.ravel(), FEATURES)
    read = BoostedTrees.rows_of(pa.table({"features": lists, "label": labels}))
    assert (read[0] == features).all()
    assert (read[1] == labels).all()
    model = BoostedTrees.fit(settings("xgboost"), features, labels, np.ones(10), classes=2)
    scores = model.log_probs(read, batch_tokens=1, segment=16)
    assert scores.segments is not None
    assert np.concatenate(scores.segments).tolist() == scores.totals.astype(np.float32).tolist()


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosted_trees, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"not installed[\s\S]*lightgbm[\s\S]*pip install 'mixray\[trees\]'"):
        model_size(training("lightgbm"), ExampleInputs(FEATURES, ("a", "b"), ()))


# --------------------------------------------------------------------------------------------------------------- jobs


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(Storage(str(tmp_path)), "test")


@pytest.fixture
def data(artifacts: Artifacts) -> TrainingData:
    """Two sources of 60 and 20 examples, whose labels follow another feature each."""
    sources = {}
    for number, (name, count) in enumerate({"low": 60, "high": 20}.items()):
        records = np.zeros(count, record_type(FEATURES))
        records["features"], _ = examples(count, 2, seed=number)
        records["label"] = records["features"][:, number] > 9
        draft = artifacts.draft("examples", (name.encode().hex() + "0" * 64)[:64])
        np.save(path := Path(artifacts.storage.root, "records.npy"), records)
        meta = {"tokens": count, "shards": {"000000.npy": count}, "content": f"content of {name}"}
        sources[name] = draft.publish({"000000.npy": draft.write("000000.npy", path.read_bytes())}, meta)
    return TrainingData(sources, ExampleInputs(FEATURES, ("no", "yes"), ()), 0)


def models_of(artifacts: Artifacts, jobs: Mapping[str, TreeJob]) -> dict[str, Artifact]:
    for job in jobs.values():
        job.run()
    return {name: artifacts.get(job.draft.kind, job.draft.id) for name, job in jobs.items()}


def test_a_mixtures_weights_are_share_over_size_and_one_on_average() -> None:
    weights = mixture_weights({"low": 0.25, "high": 0.75}, {"low": 60, "high": 20})
    assert weights[:60].tolist() == pytest.approx([80 * 0.25 / 60] * 60)
    assert weights[60:].tolist() == pytest.approx([80 * 0.75 / 20] * 20)
    assert weights.mean() == pytest.approx(1)


def test_an_arm_learns_from_every_row_by_its_weight(artifacts: Artifacts, data: TrainingData) -> None:
    shares = {"natural": {"low": 0.75, "high": 0.25}, "tilted": {"low": 0.1, "high": 0.9}, "one": {"low": 1, "high": 0}}
    models = models_of(artifacts, tree_jobs(artifacts, ARM, training("xgboost"), data, shares))
    meta = {name: ModelMeta.from_artifact(model) for name, model in models.items()}
    assert [meta[name].tokens for name in shares] == [80, 80, 60]
    assert meta["tilted"].source_shares == {"low": 0.1, "high": 0.9}
    assert [len(meta[name].curve) for name in shares] == [2, 2, 2]
    assert all(each.curve[1][1] < each.curve[0][1] for each in meta.values())
    features, labels = examples(200, 2, seed=5)
    labels = (features[:, 1] > 9).astype(np.int64)
    losses = {}
    for name, model in models.items():
        folder = Path(artifacts.storage.root, next(iter(model.files.values())).path).parent
        loaded = load_model(training("xgboost"), folder, device=CPU)
        losses[name] = -loaded.log_probs((features, labels), batch_tokens=9).totals.mean()
    assert losses["tilted"] < losses["natural"] < losses["one"]


def test_an_id_names_the_bytes_and_nothing_else(artifacts: Artifacts, data: TrainingData) -> None:
    mixture = {"low": 0.25, "high": 0.75}

    def identity(library: str = "xgboost", data: TrainingData = data, shares: Mapping[str, float] = mixture) -> str:
        return tree_jobs(artifacts, ARM, training(library), data, {"arm": shares})["arm"].draft.id

    reordered = TrainingData(dict(reversed(data.sources.items())), data.inputs, 9)
    stated = TrainingConfig.model_validate(
        {"model": {"boosted_trees": {"rounds": 20, "depth": 3, "learning_rate": 0.1}}}
    )
    assert identity() == identity(data=reordered, shares=dict(reversed(mixture.items())))
    assert identity() == tree_jobs(artifacts, ARM, stated, data, {"other": mixture})["other"].draft.id
    ids = [
        tree_jobs(artifacts, PROXY, training("xgboost"), data, {"low": {"low": 1.0}})["low"].draft.id,
        tree_jobs(artifacts, ARM, training("xgboost", depth=4), data, {"arm": mixture})["arm"].draft.id,
        identity("lightgbm"),
        identity(shares={"low": 0.5, "high": 0.5}),
        identity(shares={"low": 0.75, "high": 0.25}),
        identity(),
    ]
    assert len(set(ids)) == 6


# -------------------------------------------------------------------------------------------------------------- numbers


def targets_of(features: np.ndarray, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng([seed, len(features)]).normal(size=len(features))
    return 1000 + 3.0 * features[:, 0] - (features[:, 1] - 9.5) ** 2 / 5 + noise


@pytest.mark.parametrize("library", LIBRARIES)
def test_numbers_are_learned_and_scored_by_their_errors(library: str, tmp_path: Path) -> None:
    features, _ = examples(2000, 2)
    model = BoostedTrees.fit(
        settings(library, rounds=150), features, targets_of(features), np.ones(len(features)), classes=0
    )
    assert model.value == "error"
    test, _ = examples(500, 2, seed=4)
    truth = targets_of(test, seed=4)
    errors = model.log_probs((test, truth), batch_tokens=500).totals
    assert 0.8 < (errors**2).mean() < 1.4  # the noise has variance 1, the numbers have one of about 330
    np.testing.assert_allclose(model.log_probs((test, truth + 5), batch_tokens=500).totals, errors - 5, atol=1e-9)
    model.save(tmp_path)
    again = load_model(training(library), tmp_path, device=CPU)
    assert again.value == "error"
    assert (again.log_probs((test, truth), batch_tokens=500).totals == errors).all()
    assert model.parameter_count <= model_size(training(library, rounds=150), ExampleInputs(FEATURES, (), ()))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_weight_of_two_is_the_row_twice_for_numbers(library: str) -> None:
    features, _ = examples(200, 2)
    truth, times = targets_of(features), np.random.default_rng(2).integers(1, 4, 200)
    rows = np.repeat(np.arange(200), times)
    weighted = BoostedTrees.fit(settings(library), features, truth, times.astype(float), classes=0)
    repeated = BoostedTrees.fit(settings(library), features[rows], truth[rows], np.ones(len(rows)), classes=0)
    plain = BoostedTrees.fit(settings(library), features, truth, np.ones(200), classes=0)
    errors, expected, unweighted = (
        model.log_probs((features, truth), batch_tokens=9).totals for model in (weighted, repeated, plain)
    )
    np.testing.assert_allclose(errors, expected, rtol=0, atol=1e-4)
    assert np.abs(errors - unweighted).max() > 0.1


def test_the_loss_of_numbers_is_their_squared_error(artifacts: Artifacts) -> None:
    records = np.zeros(50, record_type(FEATURES, label="<f8"))
    records["features"], _ = examples(50, 2)
    records["label"] = targets_of(records["features"])
    draft = artifacts.draft("examples", "a" * 64)
    np.save(path := Path(artifacts.storage.root, "records.npy"), records)
    meta = {"tokens": 50, "shards": {"000000.npy": 50}}
    source = draft.publish({"000000.npy": draft.write("000000.npy", path.read_bytes())}, meta)
    data = TrainingData({"one": source}, ExampleInputs(FEATURES, (), ()), 0)
    jobs = tree_jobs(artifacts, PROXY, training("xgboost"), data, {"one": {"one": 1.0}})
    (first, last) = ModelMeta.from_artifact(models_of(artifacts, jobs)["one"]).curve
    assert tuple(first) == (0, pytest.approx(records["label"].var()))
    assert last[0] == 50
    assert last[1] < first[1] / 4
