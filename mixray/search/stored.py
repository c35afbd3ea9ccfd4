"""A run's solutions, kept as artifacts: a run that goes on elsewhere has the same shares to the last bit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import numpy as np

from mixray.cache import read_cache
from mixray.config import RunConfig
from mixray.mixture import Mixture
from mixray.search.answer import Found, find_mixture
from mixray.search.constraints import natural_tokens
from mixray.store import Artifact, Artifacts, fingerprint


def mixture_targets(config: RunConfig, targets: Iterable[str] | None = None) -> dict[str, list[str]]:
    """The mixtures to find: name -> which of the run's targets it is for."""
    targets = list(config.targets if targets is None else targets)
    return {target: [target] for target in targets} if config.mixture.over == "each" else {config.mixture.over: targets}


def solve_once(
    artifacts: Artifacts,
    config: RunConfig,
    *,
    targets: Mapping[str, tuple[Artifact, Mapping[str, Artifact]]],
    available_tokens: Mapping[str, int],
    run: str,
) -> Found:
    """``find_mixture`` from the caches of some targets (name -> rows and columns), kept as an artifact.

    So a run that goes on elsewhere has the same shares to the last bit, whatever the processor, and trained arms fit.
    """
    settings = config.mixture.model_dump(mode="json")
    sizes = natural_tokens(config, available_tokens)
    cache_ids = [[(source, column.id) for source, column in columns.items()] for _, columns in targets.values()]
    known = [list(available_tokens.items()), list(sizes.items()), config.retrain.tokens]
    names = list(targets) if len(targets) > 1 else []  # the name of a single target decides nothing
    identity = fingerprint(["solution", 2, settings, names, cache_ids, known, config.seed])
    draft = artifacts.draft("solution", identity)
    stored = artifacts.find(draft.kind, draft.id)
    if stored is None:
        caches = {
            target: read_cache(artifacts.storage, rows, "fit", columns) for target, (rows, columns) in targets.items()
        }
        found = find_mixture(caches, config, available_tokens=available_tokens, sizes=sizes)
        files = {
            "mixture.json": draft.write("mixture.json", found.mixture.to_json().encode()),
            "trace.json": draft.write("trace.json", json.dumps(found.trace.tolist()).encode()),
        }
        stored = draft.publish(files, {"rounds": found.mixture.rounds})
    text, trace = (artifacts.storage.read(stored.files[name].path) for name in ("mixture.json", "trace.json"))
    mixture = Mixture.from_json(text.decode()).model_copy(update={"run": run, "targets": list(targets)})
    return Found(mixture, np.array(json.loads(trace)))
