"""Training boosted trees on one source or on a mixture, and publishing them: as ``job.py`` does for networks.

Trees read every row of all sources with a share. The mixture is realised by weights: a row's is share / rows of its
source, divided by the mean over all rows.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import vstack

from mixray.config.training import TrainingConfig, TreesModel
from mixray.data import ExampleInputs, ExampleRows, molecule_features, open_rows
from mixray.models.boosted_trees import BoostedTrees, Features
from mixray.models.job import PROXY, TrainingData
from mixray.store import Artifacts, Draft, ModelMeta, fingerprint
from mixray.store.target_parts import MOLECULE


@dataclass(frozen=True)
class TreeJob:
    """Everything that is needed to train and publish boosted trees, on any machine.

    ``name`` is the arm or the proxy's source. ``source_shares``: all positive; of a proxy there is one.
    """

    name: str
    config: TrainingConfig
    source_shares: Mapping[str, float]
    data: TrainingData
    draft: Draft

    def run(self) -> None:
        """Train and publish the model."""
        assert isinstance(self.config.model, TreesModel), "trees are made by a job of their own"
        inputs, is_proxy = self.data.inputs, self.draft.kind == PROXY
        assert isinstance(inputs, ExampleInputs), "boosted trees read examples"
        table = self._table()
        start = time.perf_counter()
        model = BoostedTrees.fit(
            self.config.model.boosted_trees,
            table.features,
            table.labels,
            table.row_weights,
            classes=len(inputs.label_names),
        )
        seconds = time.perf_counter() - start
        scores = model.log_probs((table.features, table.labels), batch_tokens=len(table.labels)).totals
        if model.value == "error":
            before, after = (model.intercept - table.labels) ** 2, scores**2
        else:
            before, after = -model.intercept[table.labels], -scores
        meta = ModelMeta(
            parameters=model.parameter_count,
            tokens=table.rows,
            seconds=seconds,
            curve=[
                (0, float(np.average(before, weights=table.row_weights))),
                (table.rows, float(np.average(after, weights=table.row_weights))),
            ],
            source=self.name if is_proxy else None,
            source_shares=None if is_proxy else dict(self.source_shares),
            workers=None if is_proxy else 1,
        )
        with tempfile.TemporaryDirectory(prefix="mixray-") as folder:
            model.save(Path(folder))
            self.draft.publish(self.draft.put_folder(Path(folder)), meta.to_meta())

    def _table(self) -> WeightedTable:
        """Read every row of the sources."""
        opened: dict[str, ExampleRows] = {}
        for name in self.source_shares:
            rows = open_rows(self.draft.storage, self.data.sources[name])
            assert isinstance(rows, ExampleRows), "boosted trees read examples"
            opened[name] = rows
        records = [rows.read_stored(np.arange(len(rows))) for rows in opened.values()]
        row_weights = mixture_weights(self.source_shares, {name: len(rows) for name, rows in opened.items()})
        labels = np.concatenate([each["label"] for each in records])
        tables = [rows.molecules for rows in opened.values()]
        if None in tables:
            features = np.concatenate([each["features"] for each in records])
            return WeightedTable(features, labels, row_weights, len(labels))
        fingerprints: list[Any] = []
        firsts: dict[str, int] = {}
        for artifact_id in dict.fromkeys(each for each in tables if each is not None):
            firsts[artifact_id] = sum(each.shape[0] for each in fingerprints)
            fingerprints.append(molecule_features(self.draft.storage, artifact_id))
        numbers = [each[MOLECULE] + firsts[name or ""] for each, name in zip(records, tables, strict=True)]
        return merged(vstack(fingerprints, format="csr"), np.concatenate(numbers), labels, row_weights)


@dataclass(frozen=True)
class WeightedTable:
    """What trees learn from: ``features`` (rows, columns), ``labels`` (rows,) and ``row_weights``, float64 (rows,).
    ``rows``: how many rows of the sources it stands for."""

    features: Features
    labels: NDArray[Any]
    row_weights: NDArray[np.float64]
    rows: int


def merged(
    fingerprints: Features, molecules: NDArray[np.int64], labels: NDArray[Any], row_weights: NDArray[np.float64]
) -> WeightedTable:
    """Return a table with one row for each molecule and label, whose weight is the sum of its rows' weights.

    Hundreds of assays measure the same molecules, and a weight of 2 counts as the same row twice. ``fingerprints``:
    (molecules, bits); ``molecules``: the number of every row's, (rows,).
    """
    values, codes = np.unique(labels, return_inverse=True)
    pairs, places = np.unique(molecules * len(values) + codes, return_inverse=True)
    weights: NDArray[np.float64] = np.bincount(places, row_weights).astype(np.float64)
    return WeightedTable(fingerprints[pairs // len(values)], values[pairs % len(values)], weights, len(labels))


def mixture_weights(source_shares: Mapping[str, float], row_counts: Mapping[str, int]) -> np.ndarray:
    """Return the weight of every row, float64 (rows,), mean 1, source after source in the order of the shares."""
    rows = np.array([row_counts[name] for name in source_shares])
    each = np.array(list(source_shares.values())) / rows
    return np.repeat(each * (rows.sum() / (each * rows).sum()), rows)


def tree_jobs(
    artifacts: Artifacts,
    kind: str,
    config: TrainingConfig,
    data: TrainingData,
    mixtures: Mapping[str, Mapping[str, float]],
) -> dict[str, TreeJob]:
    """Return one job per mixture (name -> shares of the sources), of arms (``kind``: ARM) or of proxies (PROXY).

    A job's id is the hash of everything that decides the trees. Nothing is drawn, so the seed does not.
    """
    assert isinstance(config.model, TreesModel), "networks are made by jobs of their own"
    settings = config.model.model_dump(mode="json")
    contents = {name: source.meta.get("content", source.id) for name, source in data.sources.items()}
    jobs = {}
    for mixture, shares in mixtures.items():
        # The order of the rows changes sums by rounding: so it is that of the sources' names, whatever the run file's.
        positive = {name: shares[name] for name in sorted(shares) if shares[name] > 0}
        id = fingerprint([kind, 1, settings, [(contents[name], share) for name, share in positive.items()]])
        jobs[mixture] = TreeJob(mixture, config, positive, data, artifacts.draft(kind, id))
    return jobs
