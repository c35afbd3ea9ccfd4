"""How often do forecasts of retraining come true? By retraining what was forecast.

    python jobs/forecast_calibration.py jobs/quickstart.yaml proxy.tokens=50_000 --ratios 4 16 storage=./calibration

Mixtures: the optimum for every target, balanced, and random ones from Dirichlet(1/2). Cheap models, of ``proxy.tokens``
of the run file, and retrained ones, of so many times the tokens, are trained on each under two seeds. For every target,
the difference of each mixture from the target's optimum is forecast from the cheap models, as ``mixray run`` does with
a swarm, and compared with what the retrained models differ by. Pairs of one target share their models, so they are
no independent draws; the last lines count them all.

One process and one thread, without Ray. What is stored is not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from swarm_calibration import predictions, run_here, train

from mixray import solve
from mixray.cache import ArmLoss, PredictionCache, compare
from mixray.config import load_config
from mixray.config.mixture import MixtureConfig
from mixray.data import prepare
from mixray.methods import outlook
from mixray.models import TrainingData, arm_jobs, proxy_jobs
from mixray.search.forecasts import measured_difference
from mixray.search.problem import UnitRows
from mixray.search.swarm import NoiseFloor, without_small_shares
from mixray.store import Artifact, Artifacts, Storage

SEEDS = 2
Floats = NDArray[np.float64]


def tried_mixtures(fit: Mapping[str, PredictionCache], sources: Sequence[str], random: int, seed: int) -> Floats:
    """Return the mixtures, float64 (mixtures, sources): the targets' optima first, in their order."""
    tables = [UnitRows.of(cache, MixtureConfig()) for cache in fit.values()]
    optima = [solve(table.log_probs, row_weights=table.row_weights).weights for table in tables]
    drawn = np.random.default_rng(seed).dirichlet(np.full(len(sources), 0.5), random)
    return np.vstack([*optima, np.full(len(sources), 1 / len(sources)), drawn])


def compared(cache: PredictionCache, mixtures: int, reference: int) -> list[ArmLoss]:
    """Return every mixture's held-out loss, with its difference from the reference's under the same seeds."""
    models = {str(mixture): [_model(mixture, seed) for seed in range(SEEDS)] for mixture in range(mixtures)}
    return list(compare(cache, "document", models, str(reference)).values())


def _model(mixture: int, seed: int) -> str:
    return f"mixture.{mixture}.seed{seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--random", type=int, default=3, help="random mixtures")
    parser.add_argument("--ratios", type=float, nargs="+", default=[4.0], help="tokens of a retrained per cheap model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(options.run_file, [*options.overrides, "cache.segment=1"])
    assert config.proxy_tokens is not None, "of boosted trees there are no tokens"
    artifacts = Artifacts(Storage(config.storage), "calibration")
    data = prepare(config, artifacts, run_here, print)
    training = TrainingData(data.sources, data.inputs, config.seed)
    proxies = train(artifacts, proxy_jobs(artifacts, config.proxy, training, tokens=config.proxy_tokens))
    fit = predictions(artifacts, config, data, proxies, "fit")
    names = list(data.sources)
    mixtures = tried_mixtures(fit, names, options.random, config.seed)
    settled = without_small_shares(mixtures, config.row_tokens / config.proxy_tokens)
    shares = [dict(zip(names, row, strict=True)) for row in settled.tolist()]

    def held_out(tokens: int) -> dict[str, PredictionCache]:
        models: dict[str, Artifact] = {}
        retrain = config.retrain.model_copy(update={"tokens": tokens})
        for seed in range(SEEDS):
            seeded = TrainingData(data.sources, data.inputs, config.seed + seed)
            arms = {_model(number, seed): mixture for number, mixture in enumerate(shares)}
            models |= train(artifacts, arm_jobs(artifacts, retrain, seeded, arms, proxies))
        return predictions(artifacts, config, data, models, "held_out")

    cheap = held_out(config.proxy_tokens)
    for ratio in options.ratios:
        retrained = held_out(round(ratio * config.proxy_tokens))
        held, right, separated, pairs = 0, 0, 0, 0
        for place, target in enumerate(data.targets):
            before, after = (compared(each[target], len(shares), place) for each in (cheap, retrained))
            losses = np.array([loss.nll for loss in before])
            noise = NoiseFloor.of(losses)
            assert noise is not None, "two seeds and mixtures show the noise"
            spread = float(losses.mean(axis=1).std(ddof=1))
            for number, (cheap_loss, loss) in enumerate(zip(before, after, strict=True)):
                measured = measured_difference(cheap_loss.differences, noise, spread)
                if measured is None:
                    continue
                forecast = outlook(measured, token_ratio=ratio, replicates=SEEDS, seed=config.seed)
                realised = float(np.mean([each.value for each in loss.differences]))
                is_held = forecast.low <= realised <= forecast.high
                held, pairs = held + is_held, pairs + 1
                if not forecast.covers_zero:
                    separated += 1
                    right += (realised > 0) == (forecast.low > 0)
                print(
                    f"{ratio:g} x tokens, {target}, mixture {number}: measured {measured.value:+.4f}, forecast "
                    f"{forecast.expected:+.4f} ({forecast.low:+.4f} to {forecast.high:+.4f}), came out {realised:+.4f}"
                    f"{'' if is_held else '  missed'}",
                    flush=True,
                )
        print(f"{ratio:g} x tokens: {held} of {pairs} intervals (90 %) held; of {separated} signs, {right} came true")


if __name__ == "__main__":
    main()
