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

import numpy as np

from mixray.config.training import TrainingConfig, TreesModel
from mixray.data import ExampleInputs, open_rows
from mixray.models.boosted_trees import BoostedTrees
from mixray.models.job import PROXY, TrainingData
from mixray.store import Artifacts, Draft, ModelMeta, fingerprint


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
        opened = {name: open_rows(self.draft.storage, self.data.sources[name]) for name in self.source_shares}
        records = np.concatenate([rows.read(np.arange(len(rows))) for rows in opened.values()])
        row_weights = mixture_weights(self.source_shares, {name: len(rows) for name, rows in opened.items()})
        features, labels = (np.ascontiguousarray(records[name]) for name in ("features", "label"))
        start = time.perf_counter()
        model = BoostedTrees.fit(
            self.config.model.boosted_trees, features, labels, row_weights, classes=len(inputs.label_names)
        )
        seconds = time.perf_counter() - start
        scores = model.log_probs((features, labels), batch_tokens=len(labels)).totals
        if model.value == "error":
            before, after = (model.intercept - labels) ** 2, scores**2
        else:
            before, after = -model.intercept[labels], -scores
        meta = ModelMeta(
            parameters=model.parameter_count,
            tokens=len(labels),
            seconds=seconds,
            curve=[
                (0, float(np.average(before, weights=row_weights))),
                (len(labels), float(np.average(after, weights=row_weights))),
            ],
            source=self.name if is_proxy else None,
            source_shares=None if is_proxy else dict(self.source_shares),
            workers=None if is_proxy else 1,
        )
        with tempfile.TemporaryDirectory(prefix="mixray-") as folder:
            model.save(Path(folder))
            self.draft.publish(self.draft.put_folder(Path(folder)), meta.to_meta())


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
