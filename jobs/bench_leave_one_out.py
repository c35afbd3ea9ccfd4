"""Every assay of a wide table of molecules in turn as the target, and all others as the sources: what mixmin gains.

    python jobs/bench_leave_one_out.py tox21.parquet results --min-rows 1000 --min-positive 100 --seeds 5

Proxies are boosted trees, trained once for a seed, each on its own assay without the held-out molecules; retrained
models are the same trees on all other assays. Held-out are a fifth of the molecules, drawn by the seed: of all assays
(``--held-out-of all``), or of the target's rows alone, so that other assays' rows of the same molecules are trained on
(``target``, as in the MixMin paper). Arms: mixmin, nearest (to balanced, within a standard error), natural, balanced,
own (the target's proxy), ensemble (the proxies, mixed as mixmin says, not retrained).

Every target's held-out predictions are kept in the second folder, and what is there is not made again: a run that was
cut off continues, and --summary prints the tables of what there is. Other settings need another folder. One process,
one thread, without Ray.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.stats import t

from mixray import solve
from mixray.config.data import FingerprintConfig
from mixray.config.training import TreesConfig
from mixray.data.tabular.molecules import features, fingerprint_table
from mixray.models.boosted_trees import BoostedTrees
from mixray.numerics import splitmix64
from mixray.report import example_metrics
from mixray.simplex import mixed_log_probs, nearest_to_prior

Floats = NDArray[np.float64]
TREES = TreesConfig(rounds=100, depth=6, learning_rate=0.1)
HELD_OUT = 0.2
TOLERANCE = 1e-6
ARMS = ("mixmin", "nearest", "natural", "balanced", "own", "ensemble")


@dataclass(frozen=True)
class Assays:
    """``bits``: (molecules, bits); ``ids``: uint64 (molecules,); ``labels``: (molecules, assays), NaN: not measured."""

    bits: csr_matrix
    ids: NDArray[np.uint64]
    labels: Floats
    names: list[str]


def read_assays(path: Path, min_rows: int, min_positive: int) -> Assays:
    """Read a table with a column ``smiles`` and one of 0, 1 or null for each assay."""
    table = pq.read_table(path)
    molecules = fingerprint_table(table["smiles"].to_pylist(), FingerprintConfig())
    row_of = {text: row for row, text in enumerate(molecules["smiles"].to_pylist())}
    valid = molecules["molecule"].is_valid().to_numpy()
    rows = np.array([row_of[text] for text in table["smiles"].to_pylist()])
    numeric = [name for name in table.column_names if str(table.schema.field(name).type).startswith(("int", "float"))]
    labels = np.full((len(molecules), len(numeric)), np.nan)
    for place, name in enumerate(numeric):
        values = table[name].cast("float64").to_numpy()
        measured = ~np.isnan(values)  # a molecule may be written twice, once without this label
        labels[rows[measured], place] = values[measured]
    counts = [(labels[valid] == value).sum(axis=0) for value in (0, 1)]
    used = (sum(counts) >= min_rows) & (np.minimum(*counts) >= min_positive)
    ids = np.array([int.from_bytes(each[:8], "little") for each in molecules["molecule"].drop_null().to_pylist()])
    names = [name for name, is_used in zip(numeric, used, strict=True) if is_used]
    bits = features([molecules], FingerprintConfig())[valid]
    return Assays(bits, ids.astype(np.uint64), labels[valid][:, used], names)


def held_out(assays: Assays, seed: int, of_all: bool) -> NDArray[np.bool_]:
    """Return which molecules are held out of which assays, (molecules, assays)."""
    salts = splitmix64(np.arange(len(assays.names), dtype=np.uint64) * np.uint64(not of_all))
    salts ^= splitmix64(np.array([seed], np.uint64))
    return splitmix64(assays.ids[:, None] ^ salts) < np.uint64(HELD_OUT * 2**64)


def fit(assays: Assays, weights: Floats) -> BoostedTrees:
    """Return trees that have learned from molecules: ``weights``: (molecules, 2), of their rows with label 0 and 1."""
    rows, labels = np.nonzero(weights)
    return BoostedTrees.fit(TREES, assays.bits[rows], labels, weights[rows, labels], classes=2)


def class_counts(assays: Assays, is_fit: NDArray[np.bool_]) -> Floats:
    """Return how many training rows every molecule has with each label, (assays, molecules, 2)."""
    is_measured = np.stack([assays.labels == 0, assays.labels == 1], axis=-1) & is_fit[..., None]
    return is_measured.transpose(1, 0, 2).astype(np.float64)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that gets its name once it is written, so that one that was cut off is made again."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("wb") as file:
        yield file
    unfinished.replace(path)


def judge(assays: Assays, folder: Path, seed: int, of_all: bool, targets: list[int]) -> None:
    """Write every target's held-out predictions."""
    is_held_out = held_out(assays, seed, of_all)
    counts = class_counts(assays, ~is_held_out)
    store = folder / f"proxies-{seed}.npy"
    if not store.exists():
        table = np.array([fit(assays, each).predictions(assays.bits, batch_tokens=1) for each in counts])
        with whole_file(store) as file:
            np.save(file, table)
    predictions = np.load(store)  # (assays, molecules, 2)
    for target in targets:
        path = folder / f"{assays.names[target]}-{seed}.npz"
        if path.exists():
            continue
        others = np.delete(np.arange(len(assays.names)), target)
        measured = ~np.isnan(assays.labels[:, target])

        def log_probs(molecules: NDArray[np.int64], columns: NDArray[np.int64], target: int = target) -> Floats:
            labels = assays.labels[molecules, target].astype(np.int64)
            table: Floats = predictions[columns[:, None], molecules, labels].T
            return table

        fit_rows = np.flatnonzero(measured & ~is_held_out[:, target])
        test_rows = np.flatnonzero(measured & is_held_out[:, target])
        solution = solve(log_probs(fit_rows, others), tolerance=TOLERANCE)
        balanced = np.full(len(others), 1 / len(others))
        nearest = nearest_to_prior(solution, balanced, within=None, tolerance=TOLERANCE)
        sizes = counts[others].sum(axis=(1, 2))
        mixtures = {
            "mixmin": solution.weights,
            "nearest": nearest.weights,
            "natural": sizes / sizes.sum(),
            "balanced": balanced,
        }
        labels = assays.labels[test_rows, target].astype(np.int64)
        values: dict[str, Floats] = {}
        for arm, shares in mixtures.items():
            row_weights = shares / sizes * sizes.sum()
            model = fit(assays, np.tensordot(row_weights, counts[others], axes=1))
            values[arm] = model.log_probs((assays.bits[test_rows], labels), batch_tokens=1).totals
        values["own"] = log_probs(test_rows, np.array([target]))[:, 0]
        values["ensemble"] = mixed_log_probs(log_probs(test_rows, others), solution.weights)
        with whole_file(path) as file:
            np.savez(file, labels=labels, shares=solution.weights, gap=solution.gap, **values)
        metrics = example_metrics(values, labels, classes=2, reference="mixmin", seed=seed)
        precisions = " ".join(f"{arm} {metrics[arm]['average_precision'].value:.3f}" for arm in ARMS)
        print(f"seed {seed} {assays.names[target]}: {precisions}", flush=True)


def results_of(folder: Path, name: str | None = None) -> list[Path]:
    """Return the files of one target, one for each seed, or of all targets. Names may begin with other names."""
    return sorted(path for path in folder.glob("*.npz") if name in (None, target_of(path)))


def target_of(path: Path) -> str:
    """Return the target whose predictions a file holds."""
    return path.stem.rpartition("-")[0]


def require_same_settings(folder: Path, settings: dict[str, object]) -> None:
    """Note what decides the results in a folder. Exits where the results there are of other settings."""
    path = folder / "settings.json"
    if path.exists() and (stored := json.loads(path.read_text())) != settings:
        raise SystemExit(f"{folder} holds results of other settings: {stored}; these are {settings}")
    if not path.exists() and results_of(folder):
        raise SystemExit(f"{folder} holds results, but no settings.json that says of which settings")
    path.write_text(json.dumps(settings))


def gains(folder: Path, name: str, other: str, arm: str) -> tuple[float, float, float, int]:
    """Return the mean over seeds of a target's gain in average precision, its 95 % interval, and how many seeds.

    With one seed the interval is over the examples. With more it has the variance between seeds too: the half width
    is t (seeds - 1 degrees) x the standard error of the mean, or that over examples where it is larger.
    """
    differences, errors = [], []
    for path in results_of(folder, name):
        stored = np.load(path)
        values = {each: stored[each] for each in (arm, other)}
        metrics = example_metrics(values, stored["labels"], classes=2, reference=other, seed=0)
        result = metrics[arm]["average_precision"]
        assert result.difference is not None
        assert result.difference_interval is not None
        differences.append(result.difference)
        errors.append((result.difference_interval[1] - result.difference_interval[0]) / 2)
    mean, reach = float(np.mean(differences)), float(np.mean(errors))
    if len(differences) > 1:
        spread = float(np.std(differences, ddof=1) / np.sqrt(len(differences)))
        # Fifths of the same molecules overlap, so that seeds do not divide the error over examples.
        reach = max(reach, float(t.ppf(0.975, len(differences) - 1)) * spread)
    return mean, mean - reach, mean + reach, len(differences)


def summary(folder: Path, *, every_target: bool) -> Iterator[str]:
    """Yield the lines of the tables: gains of mixmin and of nearest over the other arms, over all targets."""
    names = sorted(set(map(target_of, results_of(folder))))
    for arm in ("mixmin", "nearest"):
        for other in ("natural", "balanced", "own", "ensemble", "mixmin"):
            if arm == other:
                continue
            rows = {name: gains(folder, name, other, arm) for name in names}
            means = np.array([row[0] for row in rows.values()])
            draws = np.random.default_rng(0).integers(0, len(means), (4000, len(means)))
            low, high = np.quantile(np.median(means[draws], axis=1), [0.025, 0.975])
            counts = [row[3] for row in rows.values()]
            better, worse = (sum(test(row) for row in rows.values()) for test in (_is_better, _is_worse))
            yield (
                f"{arm} over {other}: median {np.median(means):+.3f} ({low:+.3f} to {high:+.3f}), "
                f"quartiles {np.quantile(means, 0.25):+.3f} {np.quantile(means, 0.75):+.3f}, "
                f"range {means.min():+.3f} {means.max():+.3f}; of {len(means)} targets {better} better, {worse} worse "
                f"beyond the interval; {min(counts)} to {max(counts)} seeds each"
            )
            if every_target:
                for name, (mean, low, high, seeds) in rows.items():
                    yield f"  {name}: {mean:+.3f} ({low:+.3f} to {high:+.3f}), {seeds} seeds"
    for arm in ARMS:
        values = [
            example_metrics({arm: stored[arm]}, stored["labels"], classes=2, reference=arm, seed=0)
            for stored in map(np.load, results_of(folder))
        ]
        yield f"{arm}: mean average precision {np.mean([each[arm]['average_precision'].value for each in values]):.3f}"


def _is_better(row: tuple[float, float, float, int]) -> bool:
    return row[1] > 0


def _is_worse(row: tuple[float, float, float, int]) -> bool:
    return row[2] < 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--min-rows", type=int, default=1000)
    parser.add_argument("--min-positive", type=int, default=100, help="rows of either class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--targets", type=int, help="how many, drawn at random; all by default")
    parser.add_argument("--held-out-of", choices=["all", "target"], default="all")
    parser.add_argument("--summary", action="store_true", help="compute nothing, print what there is")
    settings = parser.parse_args()
    if not settings.summary:
        settings.folder.mkdir(parents=True, exist_ok=True)
        assays = read_assays(settings.table, settings.min_rows, settings.min_positive)
        print(f"{len(assays.names)} assays, {len(assays.ids)} molecules", flush=True)
        facts = (settings.table.name, len(assays.ids), assays.names, settings.held_out_of)
        require_same_settings(
            settings.folder, dict(zip(("table", "molecules", "assays", "held_out_of"), facts, strict=True))
        )
        order = np.random.default_rng(0).permutation(len(assays.names))[: settings.targets].tolist()
        for seed in settings.seeds:
            judge(assays, settings.folder, seed, settings.held_out_of == "all", order)
    for line in summary(settings.folder, every_target=settings.summary):
        print(line)


if __name__ == "__main__":
    main()
