"""What covariate shift between sources does to mixmin, and what the distribution-weighted rule makes of it.

    python jobs/bench_covariate_shift.py [--seeds 20] [--shifts 0,0.5,1,2,3]

Three sources of examples in the plane, Gaussians of variance 1 whose means are a known distance apart, disagree about
the labels: each has its own logistic regression with random slopes. Two targets, whose planted shares are drawn
uniformly:

    mixture   examples of the sources, in the planted shares: inputs are shifted as in the sources
    centre    inputs from a Gaussian in the middle, whatever the shift, and labels from the plain mixture of the
              sources' rules in the planted shares, which is what mixmin assumes

Proxies, the classifier of the source and the retrained models learn from examples, as a user's would. Models are
logistic regressions on polynomials of third degree. Losses are exact expectations over labels at fresh inputs, above
those of the true rule. One process, one thread, without Ray.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from mixray.diagnose import log_densities_at
from mixray.numerics import interval_over_seeds
from mixray.simplex import mixed_log_probs, reweighted_log_probs, solve, solve_reweighted

Floats = NDArray[np.float64]
SOURCES = 3
PROXY_ROWS, TARGET_ROWS, TRAINING_ROWS, TEST_ROWS = 500, 500, 4000, 4000
STEEPNESS = 2.0
ARMS = ("balanced", "plain", "reweighted", "true_densities", "planted", "plain_ensemble", "reweighted_ensemble")


@dataclass(frozen=True)
class World:
    """``means``, ``slopes``: of every source, (sources, 2); ``planted``: the target's shares, (sources,)."""

    means: Floats
    slopes: Floats
    planted: Floats
    is_mixture: bool

    @classmethod
    def draw(cls, distance: float, is_mixture: bool, generator: np.random.Generator) -> World:
        """``distance``: between any two means."""
        angles = generator.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(SOURCES) / SOURCES
        means = distance / np.sqrt(3) * np.column_stack([np.cos(angles), np.sin(angles)])
        slopes = STEEPNESS * generator.normal(size=(SOURCES, 2))
        return cls(means, slopes, generator.dirichlet(np.ones(SOURCES)), is_mixture)

    def log_densities(self, inputs: Floats) -> Floats:
        return -((inputs[:, None] - self.means) ** 2).sum(axis=2) / 2

    def true_rule(self, inputs: Floats) -> Floats:
        """Return the probability of label 1 in the target, (rows,)."""
        weights = np.tile(self.planted, (len(inputs), 1))
        if self.is_mixture:
            weights *= np.exp(self.log_densities(inputs))
        return (weights * expit(inputs @ self.slopes.T)).sum(axis=1) / weights.sum(axis=1)

    def target(self, rows: int, generator: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
        inputs = generator.normal(size=(rows, 2))
        if self.is_mixture:
            inputs += self.means[generator.choice(SOURCES, rows, p=self.planted)]
        return inputs, (generator.random(rows) < self.true_rule(inputs)).astype(np.int64)

    def source(self, number: int, rows: int, generator: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
        inputs = self.means[number] + generator.normal(size=(rows, 2))
        return inputs, (generator.random(rows) < expit(inputs @ self.slopes[number])).astype(np.int64)


def fit(inputs: Floats, labels: NDArray[np.int64]) -> Callable[[Floats], Floats]:
    """Return a function from inputs to the log-probabilities of both labels, (rows, 2)."""
    model = make_pipeline(
        StandardScaler(), PolynomialFeatures(3, include_bias=False), LogisticRegression(max_iter=1000)
    )
    model.fit(inputs, labels)

    def log_probs(rows: Floats) -> Floats:
        margins = model.decision_function(rows)
        return -np.logaddexp(0, np.column_stack([margins, -margins]))

    return log_probs


def losses(distance: float, is_mixture: bool, seed: int) -> dict[str, float]:
    """Return arm -> expected cross entropy above that of the true rule, nats; and how far shares are from planted."""
    generator = np.random.default_rng([seed, round(100 * distance), is_mixture])
    world = World.draw(distance, is_mixture, generator)
    samples = [world.source(number, PROXY_ROWS, generator) for number in range(SOURCES)]
    pools = [world.source(number, TRAINING_ROWS, generator) for number in range(SOURCES)]
    inputs, labels = world.target(TARGET_ROWS, generator)
    tests, _ = world.target(TEST_ROWS, generator)
    proxies = [fit(*sample) for sample in samples]

    def densities_at(rows: Floats) -> Floats:
        return log_densities_at([sample[0] for sample in samples], rows, seed=seed)

    log_probs = np.column_stack([proxy(inputs)[np.arange(len(inputs)), labels] for proxy in proxies])
    shares = {
        "balanced": np.full(SOURCES, 1 / SOURCES),
        "plain": solve(log_probs).weights,
        "reweighted": solve_reweighted(log_probs, densities_at(inputs), draws=2, pieces=1).weights,
        "true_densities": solve_reweighted(log_probs, world.log_densities(inputs), draws=2, pieces=1).weights,
        "planted": world.planted,
    }
    truth = world.true_rule(tests)
    truth = np.column_stack([1 - truth, truth])
    entropy = -float((truth * np.log(truth)).sum(axis=1).mean())

    def excess(predicted: Floats) -> float:
        return -float((truth * predicted).sum(axis=1).mean()) - entropy

    results = {}
    for arm, source_shares in shares.items():
        counts = np.round(source_shares * TRAINING_ROWS).astype(int)
        parts = [(pool[0][:count], pool[1][:count]) for pool, count in zip(pools, counts, strict=True)]
        results[arm] = excess(fit(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))(tests))
    by_label = np.stack([proxy(tests) for proxy in proxies], axis=2)  # (rows, labels, sources)
    plain = [mixed_log_probs(by_label[:, label], shares["plain"]) for label in (0, 1)]
    at_tests = densities_at(tests)
    rule = [reweighted_log_probs(by_label[:, label], at_tests, shares["reweighted"]) for label in (0, 1)]
    results["plain_ensemble"] = excess(np.column_stack(plain))
    results["reweighted_ensemble"] = excess(np.column_stack(rule))
    for arm in ("plain", "reweighted", "true_densities"):
        results[f"shares {arm}"] = float(np.abs(shares[arm] - world.planted).sum() / 2)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--shifts", default="0,0.5,1,2,3", help="distances between means, in standard deviations")
    settings = parser.parse_args()
    for is_mixture in (True, False):
        for distance in map(float, settings.shifts.split(",")):
            results = [losses(distance, is_mixture, seed) for seed in range(settings.seeds)]
            values = {key: np.array([result[key] for result in results]) for key in results[0]}
            print(f"{'mixture' if is_mixture else 'centre'}, means {distance:g} apart, {settings.seeds} seeds")
            print("  thousandths of a nat:", ", ".join(f"{arm} {1000 * values[arm].mean():.1f}" for arm in ARMS))
            for arm, other in (
                ("reweighted", "plain"),
                ("true_densities", "plain"),
                ("plain", "balanced"),
                ("reweighted_ensemble", "plain_ensemble"),
                ("reweighted", "reweighted_ensemble"),
            ):
                difference = 1000 * (values[arm] - values[other])
                low, high = interval_over_seeds(difference.tolist()) or (np.nan, np.nan)
                print(f"  {arm} minus {other}: {difference.mean():+.1f} ({low:+.1f} to {high:+.1f})")
            moved = ", ".join(f"{key[7:]} {values[key].mean():.2f}" for key in values if key.startswith("shares "))
            print(f"  total variation distance from the planted shares: {moved}", flush=True)


if __name__ == "__main__":
    main()
