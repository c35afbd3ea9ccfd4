"""Do 95 % intervals hold the truth 95 % of the time? By simulation, where the truth is known."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mixray.simplex import CrossEntropy, FeasibleSet, Problem, profile_intervals, row_weights, solve_problem

Array = NDArray[np.float64]

PROBLEMS, DOCUMENTS, KINDS = 100, 400, 12
TRUTH = np.array([0.5, 0.3, 0.2])


def densities(draw: np.random.Generator) -> Array:
    """Three sources over twelve kinds of documents, each likes some kinds better: the weights are identified."""
    liked = 8.0 * (np.arange(KINDS) % 3 == np.arange(3)[:, None]) + 1.0
    return np.array([draw.dirichlet(alpha) for alpha in 4 * liked / liked.mean()])


@pytest.mark.parametrize("windows", [1, 3], ids=["documents", "windows of documents"])
def test_the_intervals_hold_the_population_optimum_as_often_as_they_say(windows: int) -> None:
    """The target is drawn from the mixture TRUTH of known densities: no other shares have a smaller expected loss.

    With windows, all of a document come from one source, so its windows are alike; they are drawn together.
    """
    held, problems = 0, PROBLEMS if windows == 1 else PROBLEMS // 2
    for seed in range(problems):
        draw = np.random.default_rng(seed)
        density = densities(draw)
        if windows == 1:
            kinds = draw.choice(KINDS, DOCUMENTS, p=TRUTH @ density)
        else:
            kinds = np.repeat(draw.choice(KINDS, DOCUMENTS, p=TRUTH @ density), windows)
        documents, tokens = np.repeat(np.arange(DOCUMENTS), windows), np.full(kinds.size, 5)
        weights = row_weights(tokens, documents, "document")
        objective = CrossEntropy.from_log_probs(
            np.log(density.T[kinds]), weights, document_ids=documents, token_counts=tokens
        )
        problem = Problem((objective,), FeasibleSet.of(3))
        low, high = profile_intervals(solve_problem(problem, tolerance=1e-6).point, seed=seed).T
        held += int(((low <= TRUTH) & (high >= TRUTH)).sum())
    coverage = held / (3 * problems)
    assert 0.93 <= coverage <= 0.99, coverage


bench_intervals = runpy.run_path(str(Path(__file__).parents[2] / "jobs" / "bench_intervals.py"))


@pytest.mark.parametrize(
    ("measure", "cell", "problems", "least"),
    [
        ("gain", {"truth": "balanced", "documents": 100, "sources": 30}, 20, 0.8),
        ("gain", {"truth": "planted", "documents": 60, "sources": 15, "concentration": 0.1}, 40, 0.875),
        ("gain", {"truth": "planted", "documents": 100, "sources": 7, "targets": 2}, 12, 0.75),
        ("gain", {"truth": "planted", "documents": 200, "sources": 20, "windows": 70, "shards": 2}, 8, 0.75),
        ("shares", {"truth": "planted", "documents": 60, "sources": 15, "concentration": 0.1}, 8, 0.93),
        ("shares", {"truth": "planted", "documents": 200, "sources": 7, "windows": 5, "limited": True}, 6, 0.93),
        ("shares", {"truth": "planted", "documents": 100, "sources": 15, "targets": 2}, 4, 0.93),
        ("worth", {"truth": "planted", "documents": 200, "sources": 7}, 4, 0.85),
    ],
)
def test_the_benchmark_of_intervals_in_short(measure: str, cell: dict[str, Any], problems: int, least: float) -> None:
    held = bench_intervals["coverage"](measure, bench_intervals["Cell"](**cell), problems)
    assert held.held >= least * held.intervals, str(held)
    assert held.claims == 0
