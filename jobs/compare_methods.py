"""Which method's mixture is best after retraining, and what did its search cost? Mixmin beside what people use instead.

    python jobs/compare_methods.py jobs/quickstart.yaml storage=./comparison --swarms 7 21 70 --seeds 0 1 2 3 4

For every seed, which decides the split of the documents, the models' weights and the order of their data: proxies on
every source, a swarm of cheap models on random mixtures (Dirichlet, around the square roots of the sources' sizes),
DoReMi's two models, and for every target one retrained model for each mixture that a method chooses. Cheap models and
proxies are trained on ``proxy.tokens`` each; longer training counts as several. The methods that learn from a swarm
learn from the first models of it, as many as ``--swarms`` says. Printed are losses on held-out documents, means over
the seeds with 95 % intervals (Student's t) of the paired differences from ``mixmin``, the optimum that mixray finds by
default; and how far above it the optima for the other targets are.

One process and one thread, without Ray. What is stored is not made again, so --seeds may be extended later.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t
from swarm_calibration import predictions, run_here, train

from mixray.cache import PredictionCache
from mixray.config import RunConfig, load_config
from mixray.config.mixture import SegmentUnit
from mixray.data import Prepared, prepare
from mixray.methods import random_mixtures, swarm_mixtures
from mixray.models import TrainingData, arm_jobs, doremi_job, proxy_jobs, swarm_jobs
from mixray.search.problem import SearchProblem, baseline_shares
from mixray.search.rivals import choices_from
from mixray.search.solving import find_mixture
from mixray.search.swarm import MeasuredSwarm, random_prior, without_small_shares
from mixray.store import Artifact, Artifacts, ModelMeta, Storage

Floats = NDArray[np.float64]
Shares = dict[str, float]

WITH_SWARM = "mixmin_with_swarm"
BY_SIZE = ["balanced", "natural", "temperature", "unimax"]
FROM_SWARM = ["random_search", "ridge", "regmix", "mixing_law", "gaussian_process", WITH_SWARM]
FOUND_FOR = "mixmin for "
"""Begins the names of the rows that judge the mixture found for one target on all targets."""
SEGMENT = 16
"""Tokens of a segment in ``mixmin of segments``."""


@dataclass(frozen=True)
class Reached:
    """``loss``: on a target's held-out documents, nats per token; ``models``: cheap models that the search trained."""

    target: str
    method: str
    seed: int
    models: int
    loss: float


def compared(config: RunConfig, swarms: Sequence[int], around: int) -> list[Reached]:
    """Return what every method's mixture reaches under the seed of a run file.

    ``swarms``: how many models of the swarm methods learn from; ``around``: models around every target's optimum.
    """
    lab, reached, found = Lab.of(config), list[Reached](), dict[str, Artifact]()
    prior = random_prior(config, lab.data.available_tokens)
    swarm = lab.measured(random_mixtures(max(swarms), prior, config.seed), lab.data)
    by_doremi = _chosen_by_doremi(lab)
    for target, cache in predictions(lab.artifacts, config, lab.data, lab.proxies, "fit").items():
        mixtures = _mixtures(lab, target, cache, swarm, swarms, around) | by_doremi
        shares = {f"{method}, {models}": mixture for (method, models), mixture in mixtures.items()}
        arms = train(lab.artifacts, arm_jobs(lab.artifacts, config.retrain, lab.training, shares, lab.proxies))
        losses = predictions(lab.artifacts, config, lab.only(target), arms, "held_out")[target].losses()
        reached += [
            Reached(target, method, config.seed, models, losses[f"{method}, {models}"][0])
            for method, models in mixtures
        ]
        found[target] = arms[f"mixmin, {len(lab.proxies)}"]
    for target, cache in predictions(lab.artifacts, config, lab.data, found, "held_out").items():
        losses = cache.losses()
        reached += [
            Reached(target, FOUND_FOR + other, config.seed, len(lab.proxies), losses[other][0]) for other in found
        ]
    return reached


@dataclass(frozen=True, eq=False)
class Lab:
    """What all methods share under one seed: the data and the proxies."""

    config: RunConfig
    artifacts: Artifacts
    data: Prepared
    training: TrainingData
    proxies: dict[str, Artifact]

    @classmethod
    def of(cls, config: RunConfig) -> Lab:
        """Prepare the data and train the proxies of a run file."""
        artifacts = Artifacts(Storage(config.storage), "comparison")
        data = prepare(config, artifacts, run_here, print)
        training = TrainingData(data.sources, data.inputs, config.seed)
        assert config.proxy_tokens is not None, "of boosted trees there are no tokens"
        proxies = train(artifacts, proxy_jobs(artifacts, config.proxy, training, tokens=config.proxy_tokens))
        return cls(config, artifacts, data, training, proxies)

    def only(self, target: str) -> Prepared:
        """Return the data without the other targets."""
        return replace(self.data, targets={target: self.data.targets[target]})

    def measured(self, mixtures: Floats, data: Prepared) -> MeasuredSwarm:
        """Return the losses of cheap models on mixtures, float64 (mixtures, sources), on the fit parts of the data's
        targets."""
        names = list(self.data.sources)
        settled = without_small_shares(mixtures, self.config.row_tokens / self.proxy_tokens)
        shares = {
            f"mixture.{number}": dict(zip(names, row, strict=True)) for number, row in enumerate(settled.tolist())
        }
        cheap = {"tokens": self.proxy_tokens, "model": self.config.proxy.model}
        jobs = arm_jobs(
            self.artifacts, self.config.retrain.model_copy(update=cheap), self.training, shares, self.proxies
        )
        swarm, losses = train(self.artifacts, jobs), {}
        for target, cache in predictions(self.artifacts, self.config, data, swarm, "fit").items():
            reached = cache.losses()
            losses[target] = np.array([[reached[name][0]] for name in shares])
        return MeasuredSwarm(list(shares), names, settled, {"fit": losses})

    @property
    def proxy_tokens(self) -> int:
        """Training tokens of a proxy and of a cheap model."""
        assert self.config.proxy_tokens is not None, "of boosted trees there are no tokens"
        return self.config.proxy_tokens


def _chosen_by_doremi(lab: Lab) -> dict[tuple[str, int], Shares]:
    """Return the shares of DoReMi, the same for all targets: ("doremi", cheap models with as many tokens) -> shares."""
    config, available, tokens = lab.config, lab.data.available_tokens, lab.config.doremi_tokens
    shares = {"reference": baseline_shares(config, available)[config.doremi.reference]}
    jobs = swarm_jobs(lab.artifacts, config.proxy, lab.training, shares, tokens=tokens)
    reference = train(lab.artifacts, jobs)["reference"]
    job = doremi_job(lab.artifacts, config.proxy, lab.training, config.doremi, reference, tokens=tokens)
    chosen = ModelMeta.from_artifact(train(lab.artifacts, {"doremi": job})["doremi"]).mean_group_weights
    assert chosen is not None, "the model is DoReMi's proxy"
    weights = np.array([[chosen[source] for source in lab.data.sources]])
    (settled,) = without_small_shares(weights, config.row_tokens / config.retrain_tokens(available))
    models = round(2 * tokens / lab.proxy_tokens)
    return {("doremi", models): dict(zip(lab.data.sources, settled.tolist(), strict=True))}


def _first(swarm: MeasuredSwarm, models: int) -> MeasuredSwarm:
    losses = {target: values[:models] for target, values in swarm.losses["fit"].items()}
    return MeasuredSwarm(swarm.names[:models], swarm.sources, swarm.shares[:models], {"fit": losses})


def _mixtures(
    lab: Lab, target: str, cache: PredictionCache, swarm: MeasuredSwarm, swarms: Sequence[int], around: int
) -> dict[tuple[str, int], Shares]:
    """Return the shares that every method chooses for a target: (method, cheap models trained) -> shares."""
    config, available, proxies = lab.config, lab.data.available_tokens, len(lab.proxies)
    answer = find_mixture({target: cache}, config, available_tokens=available).mixture
    segments = config.mixture.model_copy(update={"unit": SegmentUnit(segment=SEGMENT)})
    by_segments = config.model_copy(update={"mixture": segments})
    mixtures = {
        ("mixmin", proxies): answer.weights,
        ("mixmin of segments", proxies): find_mixture(
            {target: cache}, by_segments, available_tokens=available
        ).mixture.weights,
    }
    mixtures |= {(method, proxies): rival.weights for method, rival in answer.rivals.items()}
    search = SearchProblem.of({target: cache}, config, available)
    mixtures |= {(method, 0): search.by_source(search.baselines[method]) for method in BY_SIZE}

    def learn(methods: Sequence[str], learned: MeasuredSwarm) -> dict[str, Shares]:
        choices = choices_from(search, answer, methods, learned, available)
        return {
            method: search.by_source(without_small_shares(choice.source_shares[None], search.least_share)[0])
            for method, choice in choices.items()
        }

    for models in swarms:
        for method, shares in learn(FROM_SWARM, _first(swarm, models)).items():
            mixtures[method, models + proxies if method == WITH_SWARM else models] = shares
    if around:
        optimum = np.array([list(answer.weights.values())])
        near = swarm_mixtures("around_answer", around, search.prior, optimum, config.seed)
        nearby = lab.measured(near, lab.only(target))
        mixtures[f"{WITH_SWARM} around it", around + proxies] = learn([WITH_SWARM], nearby)[WITH_SWARM]
    return mixtures


def losses_of(reached: Sequence[Reached]) -> dict[tuple[str, int], Floats]:
    """Return (method, cheap models) -> the losses, float64 (seeds, targets)."""
    seeds, targets = sorted({each.seed for each in reached}), list(dict.fromkeys(each.target for each in reached))
    losses: dict[tuple[str, int], Floats] = {}
    for each in reached:
        values = losses.setdefault((each.method, each.models), np.full((len(seeds), len(targets)), np.nan))
        values[seeds.index(each.seed), targets.index(each.target)] = each.loss
    return losses


def with_interval(values: Floats, digits: int = 4) -> str:
    """Return the mean over the seeds, (seeds,), with its 95 % interval where there are several."""
    mean = f"{values.mean():+.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {_half_width(values):.{digits}f}"


def _half_width(values: Floats) -> float:
    if len(values) == 1:
        return 0.0
    return float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def table(losses: Mapping[tuple[str, int], Floats], targets: Sequence[str]) -> str:
    """Return, for every target, the mean loss of mixmin and how far above it the others' losses are."""
    lines = [f"| method | cheap models | {' | '.join(targets)} | mean, % |", "|---|---|" + "---|" * (len(targets) + 1)]
    reference = _mixmin(losses)
    for (method, models), values in losses.items():
        above = values - reference
        percent = 100 * (values / reference - 1).mean(axis=1)
        cells = [with_interval(column) for column in above.T] + [with_interval(percent, 2)]
        if method == "mixmin":
            cells = [f"{mean:.4f} nats per token" for mean in reference.mean(axis=0)] + ["0"]
        lines.append(f"| {method} | {models} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mixmin(losses: Mapping[tuple[str, int], Floats]) -> Floats:
    return next(values for (method, _), values in losses.items() if method == "mixmin")


def draw(losses: Mapping[tuple[str, int], Floats], path: Path) -> None:
    """Draw every method's loss, in percent of that of balanced and averaged over targets, against its cheap models."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    balanced = losses["balanced", 0]
    drawn = [method for method, _ in losses if method != "balanced" and not method.startswith(FOUND_FOR)]
    for number, method in enumerate(dict.fromkeys(drawn)):
        points = {models: values for (name, models), values in losses.items() if name == method}
        percent = {models: 100 * (values / balanced - 1).mean(axis=1) for models, values in points.items()}
        means, errors = [each.mean() for each in percent.values()], [_half_width(each) for each in percent.values()]
        style = {"color": f"C{number % 10}", "marker": "os^"[number // 10], "markersize": 5, "linewidth": 1.2}
        axes.errorbar(list(percent), means, errors, label=method, capsize=2, **style)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xscale("symlog", linthresh=5)
    ticks: list[int] = []
    for models in sorted({models for _, models in losses}):
        if not ticks or models > 1.2 * ticks[-1]:  # else their numbers overlap
            ticks.append(models)
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.set_xlim(-1, 1.5 * ticks[-1])
    axes.set_xlabel("cheap models that the search trained")
    axes.set_ylabel("held-out loss of the retrained model,\n% above that of balanced")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--swarms", type=int, nargs="+", default=[7, 21, 70], help="cheap models to learn from")
    parser.add_argument(
        "--around", type=int, default=0, help="cheap models around every target's optimum, as swarm.design does"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--figure", type=Path, help="a file to draw losses against search costs in")
    options = parser.parse_args()
    torch.set_num_threads(1)
    arms = ["mixmin", *BY_SIZE, "nearest_to_prior", "mixmin_reference"]
    reached: list[Reached] = []
    for seed in options.seeds:
        settings = [f"seed={seed}", f"cache.segment={SEGMENT}", "mixture.bootstrap=0", f"retrain.arms={arms}"]
        config = load_config(options.run_file, [*options.overrides, *settings])
        reached += compared(config, options.swarms, options.around)
        print(table(losses_of(reached), list(config.targets)), flush=True)
    if options.figure is not None:
        draw(losses_of(reached), options.figure)


if __name__ == "__main__":
    main()
