"""What reweighting for covariate shift gains on census rows: each occupation in turn the target, all others sources.

    python jobs/bench_covariate_shift_adult.py adult.parquet [--targets 12] [--seed 0]

The table is that of ``robust_adult.yaml``. Inputs are the columns beside the occupation, so sources differ in them as
occupations do. Half of the target's rows decide the shares, the other half judges: boosted trees on the others' rows in
these shares, by the loss in nats. One process, one thread, without Ray.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mixray.config.training import TreesConfig
from mixray.diagnose import input_shift, log_densities_at
from mixray.models.boosted_trees import BoostedTrees
from mixray.numerics import interval95, sum_standard_error
from mixray.simplex import mixed_log_probs, reweighted_log_probs, solve, solve_reweighted

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
NUMERIC = ("age", "education-num", "capital-gain", "capital-loss", "hours-per-week")
CATEGORICAL = ("workclass", "marital-status", "relationship", "race", "sex")
TREES = TreesConfig(rounds=60, depth=3, learning_rate=0.15)
LEAST_ROWS, MOST_ROWS = 300, 1000
ARMS = ("plain", "reweighted", "balanced", "natural", "plain_ensemble", "reweighted_ensemble")


def read_sources(path: Path) -> dict[str, tuple[Floats, Labels]]:
    """Return occupation -> inputs, (rows, columns), and labels, (rows,)."""
    table = pq.read_table(path)
    columns = [np.log1p(table[name].to_numpy().astype(np.float64)) for name in NUMERIC]
    for name in CATEGORICAL:
        values = np.array(table[name].to_pylist(), dtype=str)
        columns += [(values == value).astype(np.float64) for value in np.unique(values)]
    inputs, labels = np.column_stack(columns), table["y"].to_numpy().astype(np.int64)
    occupations = np.array(table["occupation"].to_pylist(), dtype=str)
    names, counts = np.unique(occupations, return_counts=True)
    return {
        str(name): (inputs[occupations == name], labels[occupations == name])
        for name, count in zip(names, counts, strict=True)
        if count >= LEAST_ROWS and name not in ("?", "nan", "None")
    }


def fit(inputs: Floats, labels: Labels, row_weights: Floats) -> BoostedTrees:
    weights = row_weights / row_weights.mean()
    return BoostedTrees.fit(TREES, inputs.astype(np.float32), labels, weights, classes=2)


def log_probs_of(model: BoostedTrees, inputs: Floats, labels: Labels) -> Floats:
    return model.predictions(inputs.astype(np.float32), batch_tokens=1)[np.arange(len(labels)), labels]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--targets", type=int, help="the first so many of the occupations; all by default")
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    generator = np.random.default_rng(settings.seed)
    sources = {}
    for name, (inputs, labels) in read_sources(settings.table).items():
        order = generator.permutation(len(labels))
        sources[name] = inputs[order], labels[order]
    proxies = {
        name: fit(inputs[:MOST_ROWS], labels[:MOST_ROWS], np.ones(len(labels[:MOST_ROWS])))
        for name, (inputs, labels) in sources.items()
    }
    gains: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for target in list(sources)[: settings.targets]:
        others = [name for name in sources if name != target]
        inputs, labels = sources[target]
        half = len(labels) // 2
        fit_inputs, fit_labels = inputs[:half][:MOST_ROWS], labels[:half][:MOST_ROWS]
        tests, test_labels = inputs[half:], labels[half:]
        taught = [sources[name][0][:MOST_ROWS] for name in others]
        shift = input_shift(taught, fit_inputs, seed=settings.seed)
        table = np.column_stack([log_probs_of(proxies[name], fit_inputs, fit_labels) for name in others])
        densities = log_densities_at(taught, fit_inputs, seed=settings.seed)
        sizes = np.array([len(sources[name][1]) for name in others], np.float64)
        best = solve_reweighted(table, densities, pieces=1, seed=settings.seed)
        shares = {
            "plain": solve(table).weights,
            "reweighted": best.weights,
            "balanced": np.full(len(others), 1 / len(others)),
            "natural": sizes / sizes.sum(),
        }
        pooled, pooled_labels = (np.concatenate([sources[name][part] for name in others]) for part in (0, 1))
        losses = {}
        for arm, source_shares in shares.items():
            row_weights = np.repeat(source_shares / sizes, sizes.astype(int))
            counts = row_weights > 0
            model = fit(pooled[counts], pooled_labels[counts], row_weights[counts])
            losses[arm] = -log_probs_of(model, tests, test_labels)
        by_source = np.column_stack([log_probs_of(proxies[name], tests, test_labels) for name in others])
        at_tests = log_densities_at(taught, tests, seed=settings.seed)
        losses["plain_ensemble"] = -mixed_log_probs(by_source, shares["plain"])
        losses["reweighted_ensemble"] = -reweighted_log_probs(by_source, at_tests, shares["reweighted"])
        difference = losses["plain"] - losses["reweighted"]
        low, high = interval95(float(difference.mean()), sum_standard_error(difference) / len(difference))
        for arm in ARMS:
            gains[arm].append(1000 * float(losses["plain"].mean() - losses[arm].mean()))
        aucs = [each.auc for each in shift.against_rest]
        support = shift.unsupported_by_all[0]
        cells = " ".join(f"{arm} {losses[arm].mean():.4f}" for arm in ARMS)
        print(
            f"{target}, {len(test_labels)} held-out rows: {cells}; reweighted below plain by "
            f"{1000 * difference.mean():+.1f} ({1000 * low:+.1f} to {1000 * high:+.1f}) thousandths; AUC of sources "
            f"{min(aucs):.2f} to {max(aucs):.2f}, unsupported by all {support:.2f}; {best.status}, starts "
            f"{np.ptp(best.start_losses):.1e} apart",
            flush=True,
        )
    for arm in ARMS[1:]:
        values = np.array(gains[arm])
        draws = np.random.default_rng(0).integers(0, len(values), (4000, len(values)))
        low, high = np.quantile(np.median(values[draws], axis=1), [0.025, 0.975])
        median = f"median {np.median(values):+.1f} thousandths ({low:+.1f} to {high:+.1f})"
        print(f"{arm} below plain: {median}, n = {len(values)} targets")


if __name__ == "__main__":
    main()
