"""What the signs of ``mixray.diagnose`` are worked out from: models, stored rows and predictions of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from mixray.cache import PredictionCache, read_cache
from mixray.config import RunConfig
from mixray.data import TextInputs, open_rows
from mixray.diagnose import (
    MOST_PAIRED,
    concentration,
    input_shift,
    proxies_without_signal,
    shift_warnings,
    target_out_of_reach,
    token_frequency_loss,
    weak_proxies,
)
from mixray.errors import InputError
from mixray.mixture import Mixture, MixtureWarning
from mixray.search.reweighting import source_features, target_features
from mixray.search.solving import StoredCaches
from mixray.store import Artifact, Artifacts, ModelMeta, Storage, fingerprint
from mixray.store.tables import read_table
from mixray.store.target_parts import part_files

FILE = "signs.json"
MOST_WINDOWS = 1024
"""Of each source: enough to know how frequent its tokens are, and little to read."""
MOST_EXAMPLES = 1000
"""Of each source and target: enough to tell an AUC of 0.7 from 0.5, and little to learn from."""


@dataclass(frozen=True)
class ProxyTraining:
    """Source -> the last loss of its proxy's training, and that of predicting its tokens by their frequency alone.

    Both are in nats per token.
    """

    losses: Mapping[str, float]
    frequency_losses: Mapping[str, float]

    @classmethod
    def read(
        cls, storage: Storage, inputs: TextInputs, sources: Mapping[str, Artifact], proxies: Mapping[str, Artifact]
    ) -> ProxyTraining:
        """Read what the proxies' trainings recorded, and the first windows of every source."""
        frequencies = {}
        for name, artifact in sources.items():
            windows = open_rows(storage, artifact)
            if len(windows) >= 2:
                rows = windows.read(np.arange(min(len(windows), MOST_WINDOWS)))
                frequencies[name] = token_frequency_loss(rows, inputs.vocab_size)
        losses = {name: ModelMeta.from_artifact(proxy).final_loss for name, proxy in proxies.items()}
        return cls(losses, frequencies)

    def warnings(self, unit: str) -> list[MixtureWarning]:
        """Return a warning about proxies that have learned little."""
        return proxies_without_signal(self.losses, self.frequency_losses, unit)

    def with_signal(self) -> list[str]:
        """Return the sources whose proxies have learned something."""
        weak = weak_proxies(self.losses, self.frequency_losses)
        return [source for source in self.losses if source not in weak]


def signs_once(
    artifacts: Artifacts,
    config: RunConfig,
    inputs: TextInputs,
    mixture: Mixture,
    *,
    sources: Mapping[str, Artifact],
    proxies: Mapping[str, Artifact],
    caches: StoredCaches,
) -> list[MixtureWarning]:
    """Return the signs against a mixture of texts; work them out, and read what they take, only once.

    ``sources``, ``proxies``: by source; ``caches``: of the mixture's targets, which are left out where their
    predictions are on shards, larger than memory.
    """
    columns = [[column.id for column in by_source.values()] for _, by_source in caches.values()]
    models = [[name, sources[name].id, proxies[name].id] for name in sources]
    on_shards = config.mixture.shards is not None
    draft = artifacts.draft(
        "signs", fingerprint(["signs", 1, mixture.weights, list(caches), columns, models, on_shards])
    )
    stored = artifacts.find(draft.kind, draft.id)
    if stored is None:
        training = ProxyTraining.read(artifacts.storage, inputs, sources, proxies)
        signs = training.warnings(config.loss_unit)
        if not on_shards:
            signs += target_warnings(config, artifacts.storage, inputs, mixture, caches, training)
        content = json.dumps([sign.model_dump(mode="json") for sign in signs]).encode()
        stored = draft.publish({FILE: draft.write(FILE, content)}, {})
    return _read_signs(artifacts.storage, stored)


def example_signs_once(
    artifacts: Artifacts,
    config: RunConfig,
    *,
    sources: Mapping[str, Artifact],
    targets: Mapping[str, Artifact],
) -> list[MixtureWarning]:
    """Return the signs against a mixture of examples, which are about their inputs; work them out only once.

    ``sources``, ``targets``: the rows of the mixture's sources and targets, by name. Of many sources a sample is looked
    at, which the seed draws. There are no signs of targets that leave one out: that would take longer than all else.
    """
    if config.leaves_out or len(sources) < 2:
        return []
    sampled_of = None
    if len(sources) > MOST_PAIRED:
        sampled_of, names = len(sources), list(sources)
        drawn = np.sort(np.random.default_rng(config.seed).permutation(sampled_of)[:MOST_PAIRED])
        sources = {names[place]: sources[names[place]] for place in drawn.tolist()}
    is_reweighted = config.mixture.covariate_shift == "reweight"
    ids = [[[name, each.id] for name, each in by_name.items()] for by_name in (sources, targets)]
    facts = ["signs of examples", 1, *ids, is_reweighted, config.seed, *([] if sampled_of is None else [sampled_of])]
    draft = artifacts.draft("signs", fingerprint(facts))
    stored = artifacts.find(draft.kind, draft.id)
    if stored is None:
        features = source_features(artifacts.storage, sources, most=MOST_EXAMPLES, seed=config.seed)
        shifts = {}
        # Sources or targets of a few rows are refused, and say nothing.
        with suppress(InputError):
            for name, rows in targets.items():
                inputs = target_features(artifacts.storage, rows)
                drawn = np.random.default_rng(config.seed).permutation(inputs.shape[0])[:MOST_EXAMPLES]
                shifts[name] = input_shift(features, inputs[drawn], seed=config.seed)
        signs = (
            shift_warnings(shifts, list(sources), sampled_of=sampled_of, is_reweighted=is_reweighted) if shifts else []
        )
        content = json.dumps([sign.model_dump(mode="json") for sign in signs]).encode()
        stored = draft.publish({FILE: draft.write(FILE, content)}, {})
    return _read_signs(artifacts.storage, stored)


def _read_signs(storage: Storage, stored: Artifact) -> list[MixtureWarning]:
    return [MixtureWarning.model_validate(sign) for sign in json.loads(storage.read_record(stored.files[FILE]))]


def target_warnings(
    config: RunConfig,
    storage: Storage,
    inputs: TextInputs,
    mixture: Mixture,
    caches: StoredCaches,
    proxies: ProxyTraining,
) -> list[MixtureWarning]:
    """Return warnings about a mixture's targets, as their fit parts show them.

    Reads the predictions of one target at a time.
    """
    warnings = []
    for target in mixture.targets:
        rows, columns = caches[target]
        cache = read_cache(storage, rows, "fit", columns)
        least_loss = _least_loss(cache, proxies.with_signal())
        frequency_loss = _target_frequency_loss(storage, rows, inputs)
        if least_loss is not None and frequency_loss is not None:
            warnings += target_out_of_reach(target, least_loss, frequency_loss, config.loss_unit)
        if len(mixture.targets) == 1:
            warnings += concentration(mixture, cache.document_losses(), cache.document_counts())
    return warnings


def _least_loss(cache: PredictionCache, sources: list[str]) -> float | None:
    """Return the loss of the best of some proxies for each segment (each window, where no segments are stored), nats
    per token; None of no proxies."""
    if not sources:
        return None
    log_probs = cache.log_probs if cache.segments is None else cache.segments
    best = log_probs[:, [cache.models.index(source) for source in sources]].max(axis=1)
    return -float(best.sum(dtype=np.float64)) / float(cache.counts.sum())


def _target_frequency_loss(storage: Storage, rows: Artifact, inputs: TextInputs) -> float | None:
    """Return the loss of the token frequencies of a target's fit part; None where that has too few rows."""
    table = read_table(storage, rows.files[part_files(rows, "fit")[0]])
    counted = zip(table["tokens"].to_pylist(), table["count"].to_pylist(), strict=True)
    labels = [np.array(tokens[-count:]) for tokens, count in counted]
    if len(labels) < 2:
        return None
    # Halves of whole rows: the frequencies that predict a row come from other rows.
    even, odd = np.concatenate(labels[::2]), np.concatenate(labels[1::2])
    size = min(len(even), len(odd))
    return token_frequency_loss(np.stack([even[:size], odd[:size]]), inputs.vocab_size)
