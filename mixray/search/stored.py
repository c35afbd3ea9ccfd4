"""A run's solutions, kept as artifacts: a run that goes on elsewhere has the same shares to the last bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from mixray.cache import PredictionCache, read_cache
from mixray.config import RunConfig
from mixray.mixture import Mixture
from mixray.search.answer import Found, find_mixture
from mixray.search.constraints import natural_tokens
from mixray.simplex import CrossEntropy
from mixray.store import Artifact, Artifacts, Storage, fingerprint

Targets = Mapping[str, tuple[Artifact, Mapping[str, Artifact]]]
"""Target -> the artifacts that hold its rows and, by source, its columns."""
Opening = Callable[[Storage, Targets], AbstractContextManager[Mapping[str, PredictionCache | CrossEntropy]]]
"""How the predictions for some targets are had, for as long as the block lasts."""


def mixture_targets(config: RunConfig, targets: Iterable[str] | None = None) -> dict[str, list[str]]:
    """The mixtures to find: name -> which of the run's targets it is for."""
    targets = list(config.targets if targets is None else targets)
    return {target: [target] for target in targets} if config.mixture.over == "each" else {config.mixture.over: targets}


def in_memory(storage: Storage, targets: Targets) -> AbstractContextManager[Mapping[str, PredictionCache]]:
    """The fit part of every target's cache, whole."""
    return nullcontext(
        {target: read_cache(storage, rows, "fit", columns) for target, (rows, columns) in targets.items()}
    )


def solve_once(
    artifacts: Artifacts,
    config: RunConfig,
    opening: Opening = in_memory,
    *,
    targets: Targets,
    available_tokens: Mapping[str, int],
    run: str,
) -> Found:
    """``find_mixture`` from the caches of some targets, kept as an artifact.

    So a run that goes on elsewhere has the same shares to the last bit, whatever the processor, and trained arms fit.
    """
    assert all(list(columns) == list(available_tokens) for _, columns in targets.values()), "other columns than sources"
    settings = config.mixture.model_dump(mode="json", exclude={"shards"})
    if config.mixture.shards is not None:  # any: their number and their size change nothing
        settings["rows"] = "float32"
    sizes = natural_tokens(config, available_tokens)
    cache_ids = [[(source, column.id) for source, column in columns.items()] for _, columns in targets.values()]
    known = [list(available_tokens.items()), list(sizes.items()), config.retrain.tokens]
    names = list(targets) if len(targets) > 1 else []  # the name of a single target decides nothing
    identity = fingerprint(["solution", 2, settings, names, cache_ids, known, config.seed])
    draft = artifacts.draft("solution", identity)
    stored = artifacts.find(draft.kind, draft.id)
    if stored is None:
        with opening(artifacts.storage, targets) as predictions:
            found = find_mixture(predictions, config, available_tokens=available_tokens, sizes=sizes)
        files = {
            "mixture.json": draft.write("mixture.json", found.mixture.to_json().encode()),
            "trace.json": draft.write("trace.json", json.dumps(found.trace.tolist()).encode()),
        }
        stored = draft.publish(files, {"rounds": found.mixture.rounds})
    text, trace = (artifacts.storage.read(stored.files[name].path) for name in ("mixture.json", "trace.json"))
    mixture = Mixture.from_json(text.decode()).model_copy(update={"run": run, "targets": list(targets)})
    return Found(mixture, np.array(json.loads(trace)))
