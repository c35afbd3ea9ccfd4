"""How often do 95 % intervals hold the truth? By simulation, where the truth is known.

    python jobs/bench_intervals.py [--problems 100] [--only gain]

Sources are known densities over 200 kinds of documents; a target draws documents from a mixture of them. The gain's
truth is that of the fitted mixture on the target itself, over balanced; the truth of a share and of a source's worth
that of the best mixture for the target. Every line says which part of the intervals held it, with the binomial 95 %
interval of that part, and how often a gain was claimed where there was none.

``choice`` compares what two mixtures gain over balanced on fresh documents: the optimum, and of the mixtures that the
documents cannot tell from it the one nearest to balanced.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixray.errors import InputError
from mixray.numerics import Z95
from mixray.simplex import (
    BestSingle,
    CrossEntropy,
    FeasibleSet,
    Gain,
    Group,
    Problem,
    Worst,
    gains,
    leave_one_out,
    nearest_to_prior,
    profile_intervals,
    solve_problem,
)
from mixray.simplex.objectives.passes import blocks
from mixray.simplex.objectives.shard import Shard, shard_spans

Array = NDArray[np.float64]
KINDS = 200


@dataclass(frozen=True)
class Cell:
    """``truth``: what the target is made of: ``balanced``, or a ``planted`` mixture of a few sources. ``shards``: how
    many hold its rows, in float32 where there is more than one."""

    truth: str
    documents: int
    sources: int
    concentration: float = 1.0
    windows: int = 1
    targets: int = 1
    limited: bool = False
    shards: int = 1

    def __str__(self) -> str:
        extra = [f"windows {self.windows}"] * (self.windows > 1) + [f"worst of {self.targets}"] * (self.targets > 1)
        extra += ["limits"] * self.limited + [f"{self.shards} shards"] * (self.shards > 1)
        return ", ".join([self.truth, f"n {self.documents}", f"p {self.sources}", *extra])


ISSUE = [
    Cell("balanced", 100, 7),
    Cell("balanced", 100, 30),
    Cell("balanced", 400, 30),
    Cell("planted", 400, 7),
    Cell("planted", 400, 30),
]
HARD = [
    Cell("planted", 60, 15, concentration=0.1),  # few documents, most of which one source explains alone
    Cell("planted", 200, 7, windows=5),  # five windows a document, alike
    Cell("planted", 200, 7, limited=True),  # bounds and a group, at which shares end
]
WORST = [Cell("planted", 400, 5, targets=3), Cell("planted", 100, 15, targets=2)]
SHARDED = [Cell("planted", 400, 7, windows=200, shards=3), Cell("planted", 400, 30, windows=50, shards=3)]
SMALL = [Cell("planted", 200, 7), Cell("planted", 800, 7)]


@dataclass(frozen=True, eq=False)
class ShardsInProcess:
    """The float32 shards that actors hold, with the documents cut where the shards are, all in this process."""

    parts: list[Shard]
    rows: int
    sources: int
    documents: int
    dtype = np.dtype(np.float32)

    @classmethod
    def of(cls, table: Array, document_ids: NDArray[np.int64], shards: int) -> ShardsInProcess:
        weights, (rows, sources) = np.full(len(table), 1 / len(table)), table.shape
        per_document = np.bincount(document_ids)
        tokens = (1 / per_document)[document_ids]  # every document counts alike
        spans, parts = blocks(rows, sources), []
        for first, last in shard_spans(rows, sources, shards):
            here = slice(spans[first][0], spans[last - 1][1])
            chunk = (table[here], weights[here], document_ids[here], tokens[here])
            parts.append(Shard.load([chunk], spans[first:last], first, sources, memory=2**30))
        assert len(parts) == shards, "the table has too few rows for so many shards"
        return cls(parts, rows, sources, len(per_document))

    def ask(self, method: str, *arguments: Any) -> Sequence[Any]:
        return [getattr(part, method)(*arguments) for part in self.parts]

    def rescaled(self, allowed: NDArray[np.bool_]) -> ShardsInProcess:
        raise InputError("the log-probabilities are no longer there", got=allowed.tolist(), wanted="all sources")


@dataclass(frozen=True, eq=False)
class Simulated:
    """``densities``: ``(sources, kinds)``; ``populations``: each target's, ``(kinds,)``; ``problem``: a sample's;
    ``truth``: the same problem of the whole populations."""

    densities: Array
    populations: list[Array]
    problem: Problem
    truth: Problem


def simulate(cell: Cell, seed: int) -> Simulated:
    """Return one problem of a cell: the world and the sample depend on the seed alone."""
    draw = np.random.default_rng([seed, cell.documents, cell.sources])
    densities = draw.dirichlet(np.full(KINDS, cell.concentration), cell.sources)
    densities = (densities + 1e-12) / (densities + 1e-12).sum(axis=1, keepdims=True)
    populations, samples = [], []
    for _ in range(cell.targets):
        balanced = np.full(cell.sources, 1 / cell.sources)
        shares = balanced if cell.truth == "balanced" else draw.dirichlet(np.full(cell.sources, 0.3))
        populations.append(shares @ densities)
        kinds = np.repeat(draw.choice(KINDS, cell.documents, p=populations[-1]), cell.windows)
        ids = np.repeat(np.arange(cell.documents), cell.windows)
        table = np.log(densities.T[kinds])
        if cell.shards == 1:
            samples.append(CrossEntropy.from_log_probs(table, document_ids=ids))
        else:
            samples.append(CrossEntropy(ShardsInProcess.of(table, ids, cell.shards), np.ones(cell.sources, bool)))
    whole = [CrossEntropy.from_log_probs(np.log(densities.T), population) for population in populations]
    return Simulated(densities, populations, _problem(cell, samples), _problem(cell, whole))


def _problem(cell: Cell, objectives: list[CrossEntropy]) -> Problem:
    feasible = FeasibleSet.of(cell.sources)
    if cell.limited:
        feasible = FeasibleSet.of(cell.sources, 0.02, 0.4, [Group([0, 1, 2], 0.2, 0.5)])
    if cell.targets == 1:
        return Problem(tuple(objectives), feasible)
    rule = BestSingle(tuple(objectives))
    return Problem(tuple(objectives), feasible, replace(Worst.of(cell.targets, rule.full()), rule=rule))


@dataclass(frozen=True)
class Held:
    """Whether intervals held the truth; ``claims``: a gain claimed where there is none."""

    held: int
    intervals: int
    claims: int = 0

    def __add__(self, other: Held) -> Held:
        return Held(self.held + other.held, self.intervals + other.intervals, self.claims + other.claims)

    def __str__(self) -> str:
        part = self.held / self.intervals
        half = Z95 * math.sqrt(max(part * (1 - part), 0.25 / self.intervals) / self.intervals)
        return f"{100 * part:5.1f} % (+- {100 * half:.1f}) of {self.intervals}, {self.claims} false claims"


@dataclass(frozen=True)
class FreshGains:
    """Gains over balanced on fresh documents, nats per token: of the optimum and of the mixture chosen near it, a pair
    for each problem."""

    pairs: tuple[tuple[float, float], ...]

    def __add__(self, other: FreshGains) -> FreshGains:
        return FreshGains(self.pairs + other.pairs)

    def __str__(self) -> str:
        gains_ = np.array(self.pairs)
        optimum, chosen = gains_.mean(axis=0)
        difference = gains_[:, 1] - gains_[:, 0]
        half = Z95 * difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else math.nan
        harm = (gains_ < 0).sum(axis=0)
        return (
            f"optimum {optimum:+.4f}, chosen {chosen:+.4f}: {difference.mean():+.4f} (+- {half:.4f}); "
            f"worse than balanced {harm[0]} and {harm[1]} of {len(gains_)}"
        )


def gain_held(cell: Cell, seed: int) -> Held:
    """The gain over balanced: the goal's value of the populations, with the fitted mixture."""
    world = simulate(cell, seed)
    optimum, balanced = solve_problem(world.problem).point, np.full(cell.sources, 1 / cell.sources)
    gain: Gain = gains(optimum, {"balanced": balanced}, seed=seed)["balanced"]
    fresh = world.truth.loss(balanced) - world.truth.loss(optimum.shares)
    return Held(int(gain.low <= fresh <= gain.high), 1, int(gain.low > 0 >= fresh))


def shares_held(cell: Cell, seed: int) -> Held:
    """The shares of the best mixture for the populations."""
    world = simulate(cell, seed)
    truth = solve_problem(world.truth, tolerance=1e-9).weights
    low, high = profile_intervals(solve_problem(world.problem).point, seed=seed).T
    inside = (low - 1e-4 <= truth) & (truth <= high + 1e-4)
    return Held(int(inside.sum()), len(inside))


def worth_held(cell: Cell, seed: int) -> Held:
    """What every source is worth to the best mixtures for the populations."""
    world = simulate(cell, seed)
    held = Held(0, 0)
    truths = leave_one_out(solve_problem(world.truth, tolerance=1e-9), tolerance=1e-9, replicates=2)
    worths = leave_one_out(solve_problem(world.problem), tolerance=1e-8, seed=seed)
    for truth, worth in zip(truths, worths, strict=True):
        if truth is not None and worth is not None:
            low, high = worth.interval
            held += Held(int(low - 1e-8 <= truth.worth <= high + 1e-8), 1)
    return held


def fresh_gains(cell: Cell, seed: int) -> FreshGains:
    """What the optimum gains and what the mixture nearest to balanced within one standard error does."""
    world = simulate(cell, seed)
    optimum, balanced = solve_problem(world.problem), np.full(cell.sources, 1 / cell.sources)
    chosen = nearest_to_prior(optimum, balanced, within=None, tolerance=1e-8)
    base = world.truth.loss(balanced)
    return FreshGains(((base - world.truth.loss(optimum.weights), base - world.truth.loss(chosen.weights)),))


MEASURES: dict[str, tuple[Callable[[Cell, int], Any], list[Cell]]] = {
    "gain": (gain_held, [*ISSUE, *HARD, *WORST, *SHARDED]),
    "shares": (shares_held, [ISSUE[3], ISSUE[4], *HARD, WORST[0], SHARDED[0]]),
    "worth": (worth_held, [*SMALL, ISSUE[4], *HARD[:2], SHARDED[0]]),
    "choice": (fresh_gains, [*ISSUE, *HARD]),
}


def coverage(measure: str, cell: Cell, problems: int) -> Any:
    """Return what a measure says of a cell over ``problems`` seeds: how many intervals held the truth, for most."""
    total = MEASURES[measure][0](cell, 0)
    for seed in range(1, problems):
        total += MEASURES[measure][0](cell, seed)
    return total


def lines(problems: int, only: str | None) -> Iterator[str]:
    for measure, (_, cells) in MEASURES.items():
        for cell in cells if only in (None, measure) else []:
            yield f"{measure:7} {cell!s:45} {coverage(measure, cell, problems)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--only", choices=list(MEASURES))
    arguments = parser.parse_args()
    for line in lines(arguments.problems, arguments.only):
        print(line, flush=True)
