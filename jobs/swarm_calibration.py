"""How well the predicted losses of mixtures come true, measured on a swarm: models that were trained on mixtures.

    python jobs/swarm_calibration.py jobs/quickstart.yaml proxy.tokens=50_000 storage=./swarm

Proxies and swarm are trained on as many tokens each, ``proxy.tokens`` of the run file. Losses are predicted from the
fit part of every target and realised on its held-out part. For each unit that a likelihood can be taken over, this
prints the rank correlation (Spearman) of predicted and realised losses over the swarm, and the slope of the realised on
the predicted ones: 1 where predicted differences have the right size. "power 0.3": the documents' likelihoods to that
power.

The swarm: balanced, random mixtures from Dirichlet(1/2), and for each target the optima over documents and over
segments of 16 tokens, and the mixture halfway from the first of them to balanced. One process and one thread, without
Ray. What is stored is not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from mixray import solve
from mixray.cache import PredictionCache, column_id, read_cache
from mixray.cluster.scoring import Scorer, ScoringTask
from mixray.config import RunConfig, load_config
from mixray.config.mixture import MixtureConfig, SegmentUnit, Unit
from mixray.data import Prepared, prepare
from mixray.models import TrainingData, TrainingJob, arm_jobs, proxy_jobs
from mixray.search.problem import UnitRows
from mixray.simplex import mixture_loss
from mixray.store import Artifact, Artifacts, Storage
from mixray.store.target_parts import TargetPart, part_files

UNITS: list[Unit] = ["document", "window", *(SegmentUnit(segment=length) for length in (32, 16, 8, 4)), "token"]
LEAST_SHARE = 1e-4
Floats = NDArray[np.float64]


def run_here(function: Callable[[Any], Any], items: Sequence[Any], _label: str) -> Iterator[Any]:
    return map(function, items)


def train(artifacts: Artifacts, jobs: Mapping[str, TrainingJob]) -> dict[str, Artifact]:
    models = {}
    for name, job in jobs.items():
        model = artifacts.find(job.draft.kind, job.draft.id)
        if model is None:
            job.run(torch.device("cpu"), lambda _: None)
            job.delete_checkpoints()
            model = artifacts.get(job.draft.kind, job.draft.id)
            print(f"trained {name}", flush=True)
        models[name] = model
    return models


def predictions(
    artifacts: Artifacts, config: RunConfig, data: Prepared, models: Mapping[str, Artifact], part: TargetPart
) -> dict[str, PredictionCache]:
    """Return every target's cache of log-probabilities of single tokens."""
    scorer = Scorer(config.cache, config.proxy)
    settings: dict[str, Any] = {"precision": config.proxy.precision, "on_gpu": False, "segment": config.cache.segment}
    caches = {}
    for target, rows in data.targets.items():
        columns = {}
        for name, model in models.items():
            id = column_id(model.id, rows.id, part, batch_tokens=config.cache.batch_tokens, **settings)
            draft = artifacts.draft("column", id)
            column = artifacts.find(draft.kind, draft.id)
            if column is None:
                tasks = [
                    ScoringTask(name, model, target, rows.files[file], file, draft) for file in part_files(rows, part)
                ]
                column = draft.publish({task.name: scorer(task) for task in tasks}, {"segment": config.cache.segment})
            columns[name] = column
        caches[target] = read_cache(artifacts.storage, rows, part, columns)
    return caches


def swarm_shares(caches: Mapping[str, PredictionCache], sources: int, random: int, seed: int) -> dict[str, Floats]:
    """Return the source shares of every mixture of the swarm."""
    balanced = np.full(sources, 1 / sources)
    draw = np.random.default_rng(seed)
    mixtures = {"balanced": balanced} | {f"random {i}": draw.dirichlet(np.full(sources, 0.5)) for i in range(random)}
    for target, cache in caches.items():
        units: dict[str, Unit] = {"documents": "document", "segments": SegmentUnit(segment=16)}
        optima = {}
        for name, unit in units.items():
            table = UnitRows.of(cache, MixtureConfig(unit=unit))
            optima[name] = solve(table.log_probs, row_weights=table.row_weights).weights
        mixtures |= {f"{target}, optimum over {name}": shares for name, shares in optima.items()}
        mixtures[f"{target}, halfway"] = (optima["documents"] + balanced) / 2
    large = {name: np.where(shares < LEAST_SHARE, 0, shares) for name, shares in mixtures.items()}
    return {name: shares / shares.sum() for name, shares in large.items()}


def report(target: str, cache: PredictionCache, mixtures: Sequence[Floats], realised: Floats) -> None:
    print(f"{target}: {len(mixtures)} mixtures, realised losses {realised.min():.3f} to {realised.max():.3f}")
    tables = {str(unit).replace("=", " "): (UnitRows.of(cache, MixtureConfig(unit=unit)), 1.0) for unit in UNITS}
    tables |= {f"power {power}": (tables["document"][0], power) for power in (0.3, 0.1)}
    for name, (table, power) in tables.items():
        scaled = power * table.log_probs
        predicted = [mixture_loss(scaled, shares, row_weights=table.row_weights) / power for shares in mixtures]
        correlation, slope = spearmanr(predicted, realised).statistic, np.polyfit(predicted, realised, 1)[0]
        print(f"  {name:12} rank correlation {correlation:.2f}, slope {slope:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--random", type=int, default=5, help="random mixtures of the swarm")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(options.run_file, [*options.overrides, "cache.segment=1"])
    artifacts = Artifacts(Storage(config.storage), "swarm")
    data = prepare(config, artifacts, run_here, print)
    training = TrainingData(data.sources, data.inputs, config.seed)
    proxies = train(artifacts, proxy_jobs(artifacts, config.proxy, training, tokens=config.proxy_tokens))
    fit = predictions(artifacts, config, data, proxies, "fit")
    mixtures = swarm_shares(fit, len(data.sources), options.random, config.seed)
    shares = {name: dict(zip(data.sources, values.tolist(), strict=True)) for name, values in mixtures.items()}
    retrain = config.retrain.model_copy(update={"tokens": config.proxy_tokens})
    swarm = train(artifacts, arm_jobs(artifacts, retrain, training, shares, proxies))
    for target, cache in predictions(artifacts, config, data, swarm, "held_out").items():
        losses = cache.losses()
        realised = np.array([losses[name][0] for name in swarm])
        report(target, fit[target], list(mixtures.values()), realised)
        for name in sorted(swarm, key=lambda name: losses[name][0]):
            text = ", ".join(f"{source} {share:.2f}" for source, share in shares[name].items() if share)
            print(f"    {losses[name][0]:.4f}  {name}: {text}")


if __name__ == "__main__":
    main()
