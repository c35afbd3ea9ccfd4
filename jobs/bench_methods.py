"""How well surrogates learned from a swarm rank mixtures that they have not seen, on RegMix's published runs.

    python jobs/bench_methods.py FOLDER [--runs 32,64,128,512] [--draws 5]

FOLDER holds the CSV files of https://github.com/sail-sg/regmix/tree/main/data. A surrogate learns from n of the 512
mixtures of the models of 1 M parameters; its predictions are ranked against 256 other mixtures at 1 M and at 60 M
parameters, and against 64 at 1 B. Printed are Spearman's rank correlations, means over draws of the n runs with the
standard error over the draws. Targets: the loss on Pile-CC, and the mean of all 13 losses, each learned by itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from mixray.export import read_swarm
from mixray.export.swarm import Swarm
from mixray.methods import boosted_trees, gaussian_process, mixing_law, ridge
from mixray.methods.surrogates import Fit

SURROGATES: dict[str, Fit] = {
    "gaussian_process": gaussian_process,
    "ridge": ridge,
    "boosted_trees (RegMix)": boosted_trees,
    "mixing_law": mixing_law,
}
SIZES = ("1m", "60m", "1B")


def swarm(folder: Path, part: str, size: str) -> Swarm:
    return read_swarm(str(folder / f"{part}_mixture_{size}.csv"), str(folder / f"{part}_pile_loss_{size}.csv"))[0]


def correlations(
    fit: Fit, runs: Swarm, judged: Mapping[str, Swarm], places: list[int], count: int, draw: int
) -> list[float]:
    """Return for every swarm to judge by the correlation of the mean loss over some metrics, ``places``."""
    chosen = np.random.default_rng(draw).permutation(len(runs.runs))[:count]
    predictions = [fit(runs.shares[chosen], runs.values[chosen, place]) for place in places]

    def predicted(shares: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.mean([predict(shares) for predict in predictions], axis=0)

    return [
        float(spearmanr(predicted(other.shares), other.values[:, places].mean(axis=1)).statistic)
        for other in judged.values()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", default="32,64,128,512")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--mean", action="store_true", help="of all 13 losses, too")
    options = parser.parse_args()
    runs = swarm(options.folder, "train", "1m")
    judged = {size: swarm(options.folder, "test", size) for size in SIZES}
    targets = {"Pile-CC": [place for place, name in enumerate(runs.metrics) if "pile_cc" in name]}
    if options.mean:
        targets["mean of 13"] = list(range(len(runs.metrics)))
    for target, places in targets.items():
        for count in map(int, options.runs.split(",")):
            for name, fit in SURROGATES.items():
                draws = 1 if count >= len(runs.runs) else options.draws
                values = np.array([correlations(fit, runs, judged, places, count, draw) for draw in range(draws)])
                errors = values.std(axis=0, ddof=1) / draws**0.5 if draws > 1 else np.full(len(SIZES), np.nan)
                cells = [
                    f"{size} {mean:.3f} ± {error:.3f}"
                    for size, mean, error in zip(SIZES, values.mean(axis=0), errors, strict=True)
                ]
                print(f"{target}, n = {count}, {draws} draws, {name}: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
