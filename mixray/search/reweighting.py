"""The mixture of a target of examples where the sources' inputs differ: ``mixture.covariate_shift: reweight``.

The proxies' predictions count at every example of the target in proportion to the density of their source's inputs
there, which a classifier of the source estimates. The loss is not convex: the answer has no gap, and no intervals.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from mixray.cache import PredictionCache
from mixray.data import open_rows
from mixray.data.tabular.molecules import molecule_features
from mixray.data.training_rows import ExampleRows
from mixray.diagnose import log_densities_at
from mixray.diagnose.source_classifier import Features
from mixray.mixture import LocalMinima, Mixture, MixtureWarning
from mixray.search.explanation import document_warnings
from mixray.search.problem import SearchProblem
from mixray.simplex import effective_number, reweighted_log_probs, solve_reweighted
from mixray.store import Artifact, Artifacts, Storage, fingerprint
from mixray.store.tables import read_table
from mixray.store.target_parts import MOLECULE, MOLECULES, part_files

MOST_EXAMPLES = 5000
"""Of each source: the classifier's error falls slowly with more, and its time does not."""
TOLERANCE = 1e-6
"""On the slope at a local minimum, nats per example."""
DENSITIES = "densities"
DENSITIES_FILE = "log_densities.npy"
LITTLE = 0.1
"""A source is thin at a target's examples where, were all sources as frequent, it would have less than this part of an
even part of them."""


def log_densities_once(
    artifacts: Artifacts, target_rows: Artifact, sources: Mapping[str, Artifact], *, seed: int
) -> NDArray[np.float64]:
    """Return the log-densities of the sources' inputs at a target's examples, in the order of ``read_cache``.

    They are stored, and worked out only where they are not stored yet. Float64 (rows, sources), up to a number for each
    row. ``sources``: by name, their training rows; ``seed``: of the examples that the classifier is trained on, at most
    ``MOST_EXAMPLES`` of each, and of its folds. Raises InputError for sources of too few different examples.
    """
    storage, ids = artifacts.storage, [source.id for source in sources.values()]
    draft = artifacts.draft(DENSITIES, fingerprint([DENSITIES, 1, target_rows.id, ids, MOST_EXAMPLES, seed]))
    stored = artifacts.find(draft.kind, draft.id)
    if stored is None:
        features = source_features(storage, sources, most=MOST_EXAMPLES, seed=seed)
        sink = io.BytesIO()
        np.save(sink, log_densities_at(features, target_features(storage, target_rows), seed=seed))
        stored = draft.publish({DENSITIES_FILE: draft.write(DENSITIES_FILE, sink.getvalue())}, {})
    log_densities: NDArray[np.float64] = np.load(storage.fetch(stored.files[DENSITIES_FILE]))
    return log_densities


def source_features(storage: Storage, sources: Mapping[str, Artifact], *, most: int, seed: int) -> list[Features]:
    """Return the inputs of sources' examples, (rows, columns) each; of a source with more than ``most``, so many draws.

    ``sources``: by name, their training rows.
    """
    generator = np.random.default_rng(seed)
    features = []
    for artifact in sources.values():
        rows = open_rows(storage, artifact)
        assert isinstance(rows, ExampleRows), "texts have no inputs apart from what is predicted"
        records = rows.read_stored(np.sort(generator.permutation(len(rows))[:most]))
        features.append(_features(storage, artifact, records))
    return features


def target_features(storage: Storage, rows: Artifact) -> Features:
    """Return the inputs of a target's examples in the fit part, (rows, columns), in the order of ``read_cache``."""
    tables = [read_table(storage, rows.files[name]) for name in part_files(rows, "fit")]
    if MOLECULES in rows.meta:
        return _features(storage, rows, {MOLECULE: np.concatenate([table[MOLECULE].to_numpy() for table in tables])})
    columns = [table["features"].combine_chunks() for table in tables]
    stacked = [column.flatten().to_numpy().reshape(len(column), -1) for column in columns]
    return _features(storage, rows, {"features": np.concatenate(stacked)})


def reweighted_mixture(
    cache: PredictionCache,
    log_densities: NDArray[np.float64],
    search: SearchProblem,
    *,
    target: str,
    available_tokens: Mapping[str, int],
) -> Mixture:
    """Return the best mixture that steps from several starts reach, with what each of them reached.

    ``log_densities``: of ``log_densities_of``; ``search``: the problem without covariate shift, for its budget, its
    baselines and its sources; ``available_tokens``: source -> its training examples.
    """
    log_probs = np.asarray(cache.log_probs, np.float64)

    def loss(shares: NDArray[np.float64]) -> float:
        return -float(reweighted_log_probs(log_probs, log_densities, shares).mean())

    parts = density_parts(log_densities)
    is_thin = parts * len(parts) < LITTLE
    # The rule of a source alone is its model, however far the target's inputs are from its own: it would be a guess.
    is_left_out = is_thin & (parts * len(log_probs) < 1)
    best = solve_reweighted(
        log_probs[:, ~is_left_out], log_densities[:, ~is_left_out], seed=search.config.seed, tolerance=TOLERANCE
    )
    shares = np.zeros(len(parts))
    # A share that is too small to train on is none.
    shares[~is_left_out] = np.where(best.weights < search.least_share, 0.0, best.weights)
    shares /= shares.sum()
    weights = search.by_source(shares)
    return Mixture(
        targets=[target],
        unit=search.config.mixture.unit,
        loss_unit=search.config.loss_unit,
        share_of=search.config.share_of,
        sources=search.sources,
        weights=weights,
        loss={"mixmin": loss(shares)} | {arm: loss(baseline) for arm, baseline in search.baselines.items()},
        solver="reweighted",
        tolerance=TOLERANCE,
        status="local_minimum" if best.status == "local_minimum" else "round_limit",
        local_minima=LocalMinima(
            losses=sorted(best.start_losses.tolist()), slope=best.slope, lower_bound=best.lower_bound
        ),
        epochs={name: share * search.budget / available_tokens[name] for name, share in weights.items()},
        effective_sources=effective_number(shares),
        warnings=[*document_warnings(search), *_thin_sources(search, shares, parts, is_thin, is_left_out)],
    )


def density_parts(log_densities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return which part of a target's examples each source would have, were all as frequent, ``(sources,)``, sum 1: the
    mean over the examples of p_k(x) / sum_j p_j(x)."""
    parts: NDArray[np.float64] = softmax(log_densities, axis=1).mean(axis=0)
    return parts


def _thin_sources(
    search: SearchProblem,
    shares: NDArray[np.float64],
    parts: NDArray[np.float64],
    is_thin: NDArray[np.bool_],
    is_left_out: NDArray[np.bool_],
) -> list[MixtureWarning]:
    """Return a warning about sources that hardly have inputs like the target's: those that were left out for it, and
    those that have a share all the same."""
    warnings = []
    if is_left_out.any():
        named = ", ".join(search.sources[place] for place in np.flatnonzero(is_left_out))
        message = (
            "by the densities of the classifier, less than one of the target's examples would be of these sources, "
            f"were all as frequent, so they have no share: {named}"
        )
        warnings.append(MixtureWarning(code="source_without_density", message=message))
    if (is_used := is_thin & (shares > 0)).any():
        named = ", ".join(
            f"{search.sources[place]}, share {shares[place]:.0%}, {parts[place]:.2%} of the examples"
            for place in np.flatnonzero(is_used)
        )
        message = (
            "some sources have a share although they have hardly any inputs like the target's (by the densities of the "
            f"classifier, were all sources as frequent): {named}"
        )
        warnings.append(MixtureWarning(code="thin_source", message=message))
    return warnings


def _features(storage: Storage, artifact: Artifact, records: Any) -> Features:
    """Return the inputs of stored examples. ``records``: by column."""
    if MOLECULES in artifact.meta:
        return molecule_features(storage, artifact.meta[MOLECULES])[records[MOLECULE]]
    return np.asarray(records["features"], np.float64)
