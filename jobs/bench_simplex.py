"""mixray's solvers beside the reference implementation's settings, cvxpy with Clarabel, and the R package mixsqp.

    python jobs/bench_simplex.py                                     # two CPU cores: about ten minutes
    python jobs/bench_simplex.py --cases correlated-100000x7         # one case
    python jobs/bench_simplex.py --one-core                          # processor time: other work does not change it
    python jobs/bench_simplex.py --full                              # every kind at every size, longer limits
    python jobs/bench_simplex.py --run <storage>/runs/<name>-<hash>  # a run's prediction cache too

Every measurement is a process of its own, so that its peak memory is its own. What a time includes:

    mixray   `solve` from log-probabilities: checks, exponentials, all rounds, certificate; a median where short
    alone    the same from a `CrossEntropy`: rounds and certificate only
    Clarabel cvxpy's `solve` from likelihoods; alone: the time that Clarabel itself reports
    mixsqp   the call of `mixsqp` from likelihoods, inside R; the faster of its default and of `tol.svd = 0`
    floor    rounds x (F^T F + F x + F^T y) of the same float64 matrix by numpy, on one core or all,
             as is faster

Gap and loss of every answer are evaluated by mixray at its shares, which are scaled to sum to 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixray.cache import read_cache
from mixray.runs import MixtureRun
from mixray.search.problem import UnitRows
from mixray.simplex import CrossEntropy, Entropic, FeasibleSet, Point, Problem, Solution, solve, solve_problem
from mixray.simplex.objectives.passes import one_blas_thread
from mixray.simplex.solvers.solve import SOLVERS, TOLERANCE

Array = NDArray[np.float64]

FINE = 1e-12
SHORT_SECONDS, VERY_SHORT_SECONDS = 1.0, 0.1
"""What takes less than the first is measured three times; less than the second, nine times."""
SIZES = [
    (1_000, 3),
    (100_000, 7),
    (100_000, 20),
    (100_000, 100),
    (400_000, 50),
    (50_000, 500),
    (20_000, 2_000),
    (1_000_000, 20),
    (10_000_000, 7),
]
DEFAULT = {
    "separated": [(100_000, 7), (100_000, 100)],
    "correlated": SIZES,
    "duplicated": [(100_000, 20)],
    "long": [(100_000, 7), (100_000, 100)],
}
REFERENCE = {"max_rounds": 100, "tolerance": 1e-300}
"""The released code takes all of its 100 steps of 1.0 (its rule for stopping cannot come true)."""
OURS = ["newton", "auto", "working_set", "entropic", "reference"]
MOST_ENTRIES, MOST_WORK = 4e6, 3e10
"""Without ``--full``: of the tables that Clarabel gets, and rows x sources^2 of those that mixsqp gets."""
MIXSQP = """
found <- commandArgs(TRUE); rows <- as.numeric(found[2]); sources <- as.numeric(found[3])
numbers <- function(name, count) {
  source <- file(file.path(found[1], name), "rb"); on.exit(close(source)); readBin(source, "double", count)
}
library(mixsqp)
likelihood <- numbers("likelihood", rows * sources); dim(likelihood) <- c(rows, sources)
weights <- numbers("weights", rows)
control <- list(verbose = FALSE)
if (found[4] == "dense") control$tol.svd <- 0
clock <- function() if (found[5] == "processor") sum(proc.time()[1:2]) else proc.time()[["elapsed"]]
cat("ready\\n"); flush(stdout())
seconds <- c()
repeat {
  before <- clock()
  fit <- mixsqp(likelihood, weights, control = control)
  seconds <- c(seconds, clock() - before)
  if (length(seconds) >= (if (seconds[1] < SHORT) 3 else 1)) break
}
peak <- as.numeric(gsub("[^0-9]", "", grep("VmHWM", readLines("/proc/self/status"), value = TRUE))) / 1024
cat(sprintf('{"seconds": %.4f, "rounds": %d, "peak": %.1f, "shares": [%s]}\\n', median(seconds),
            nrow(fit$progress), peak, paste(sprintf("%.17g", fit$x), collapse = ", ")))
"""


# ------------------------------------------------------------------------------------------------------------ the cases


@dataclass(frozen=True)
class Case:
    """A table of log-probabilities: ``kind``, or a target of a run folder where one is given."""

    kind: str
    rows: int
    sources: int
    table: tuple[Array, Array] | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.rows}x{self.sources}"

    def write(self, folder: Path) -> None:
        """``table.npy`` (nats) and ``row_weights.npy``, made in parts."""
        shape = (self.rows, self.sources)
        table = np.lib.format.open_memmap(folder / "table.npy", "w+", np.float64, shape)
        weights = np.lib.format.open_memmap(folder / "row_weights.npy", "w+", np.float64, (self.rows,))
        if self.table is not None:
            table[:], weights[:] = self.table
            return
        draw, fixed = np.random.default_rng(1), np.random.default_rng(2)
        make = KINDS[self.kind](fixed, self.sources)
        step = max(1, 4_000_000 // self.sources)
        for start in range(0, self.rows, step):
            part = table[start : start + step]
            part[:], weights[start : start + step] = make(draw, len(part))
        weights /= self.rows


Maker = Callable[[np.random.Generator, int], tuple[Array, Array | float]]
"""Log-probabilities ``(rows, sources)`` in nats and row weights times the number of rows."""


def separated(fixed: np.random.Generator, sources: int) -> Maker:
    """Every row has one source under which it is four nats likelier."""
    shares = fixed.dirichlet(np.ones(sources))

    def make(draw: np.random.Generator, rows: int) -> tuple[Array, float]:
        favourite = draw.choice(sources, rows, p=shares)
        return -100 + draw.standard_normal((rows, sources)) + 4 * (favourite[:, None] == np.arange(sources)), 1.0

    return make


def correlated(fixed: np.random.Generator, sources: int) -> Maker:
    """Columns alike as those of real proxies: a common base, six shared factors, noise of 0.05 nats."""
    loadings = 0.3 * fixed.standard_normal((6, sources))

    def make(draw: np.random.Generator, rows: int) -> tuple[Array, float]:
        base = -50 * draw.gamma(4, size=(rows, 1))
        noise = 0.05 * draw.standard_normal((rows, sources))
        return base + draw.standard_normal((rows, 6)) @ loadings + noise, 1.0

    return make


def duplicated(fixed: np.random.Generator, sources: int) -> Maker:
    """The same, with the second half of the columns copies of the first."""
    half = correlated(fixed, (sources + 1) // 2)

    def make(draw: np.random.Generator, rows: int) -> tuple[Array, Array | float]:
        part, weights = half(draw, rows)
        return np.hstack([part, part])[:, :sources], weights

    return make


def long(fixed: np.random.Generator, sources: int) -> Maker:
    """Documents of 200 to 20,000 tokens: columns differ by 0.1 nats a token, thousands a document; nats per token."""
    level = 0.05 * fixed.standard_normal(sources)

    def make(draw: np.random.Generator, rows: int) -> tuple[Array, Array]:
        tokens = np.exp(draw.uniform(np.log(200), np.log(20_000), rows))
        return -tokens[:, None] * (3.5 + level + 0.1 * draw.standard_normal((rows, sources))), 1 / tokens

    return make


KINDS: dict[str, Callable[[np.random.Generator, int], Maker]] = {
    "separated": separated,
    "correlated": correlated,
    "duplicated": duplicated,
    "long": long,
}


def cases_of(run: str) -> Iterator[Case]:
    """One per target of a finished run, its rows as ``mixray solve`` would have them."""
    folder = MixtureRun.open(run)
    rows, columns = folder.load_cache()
    for target, found in rows.items():
        table = UnitRows.of(read_cache(folder.storage, found, "fit", columns[target]), folder.config.mixture)
        yield Case(target, *table.log_probs.shape, (table.log_probs, table.row_weights))


# --------------------------------------------------------------------------------- what one process of its own measures


def one_core() -> bool:
    return len(os.sched_getaffinity(0)) == 1


def clock() -> float:
    """Seconds: of the processor, which other work does not change, where there is one core."""
    return time.process_time() if one_core() else time.perf_counter()


@dataclass(frozen=True)
class Within:
    """A solver that gives up after some seconds, where it is."""

    solver: Any
    seconds: float

    def init(self, point: Point, tolerance: float) -> Any:
        return clock() + self.seconds, self.solver.init(point, tolerance)

    def step(self, point: Point, state: Any) -> tuple[Point, Any]:
        end, inner = state
        if clock() > end:
            return point, state
        moved, inner = self.solver.step(point, inner)
        return moved, (end, inner)


def measure(folder: Path, what: str, tolerance: float, limit: float) -> dict[str, Any]:
    table, weights = np.load(folder / "table.npy"), np.load(folder / "row_weights.npy")
    if what == "clarabel":
        return clarabel(table, weights)
    if what == "reference":
        options: dict[str, Any] = {"solver": Entropic(fixed_step=1.0), **REFERENCE}
    else:
        options = {"solver": Within(SOLVERS[what], limit) if limit else what, "tolerance": tolerance}
    solve(table[:64], row_weights=weights[:64], max_rounds=2)  # what is loaded once is loaded
    seconds, found = timed(lambda: solve(table, row_weights=weights, **options))
    peak = peak_megabytes()
    objective = CrossEntropy.from_log_probs(table, weights)
    problem = Problem((objective,), FeasibleSet.of(objective.sources))
    answer = {"seconds": seconds, "rounds": found.rounds, "gap": found.gap, "loss": found.loss, "peak": peak}
    answer["note"] = note(found, what, 0 < limit < seconds)
    if what in ("newton", "auto", "working_set"):
        answer["alone"] = timed(lambda: solve_problem(problem, **options))[0]
    return answer | ({"round_floor": round_floor(likelihoods(table))} if what == "newton" else {})


def note(found: Solution, what: str, late: bool) -> str:
    if what in ("reference", "auto"):
        return found.solver if what == "auto" else f"{found.rounds} steps of 1.0"
    return "time limit" if late and found.status == "stalled" else found.status.replace("converged", "")


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """The median where one is short, and the last result."""
    times: list[float] = []
    found = None
    while not times or len(times) < (9 if times[0] < VERY_SHORT_SECONDS else 3 if times[0] < SHORT_SECONDS else 1):
        found = None  # its memory is not this run's
        before = clock()
        found = run()
        times.append(clock() - before)
    return statistics.median(times), found


def likelihoods(table: Array) -> Array:
    """Return the likelihoods divided by each row's largest, ``(rows, sources)``, column after column in memory."""
    return np.asfortranarray(np.exp(table - table.max(axis=1, keepdims=True)))


def round_floor(likelihood: NDArray[np.floating]) -> float:
    """Seconds of what no round of Newton's method can do without: each product by one core or all, as is faster."""
    shares, rows = np.ones(likelihood.shape[1]), np.ones(len(likelihood))
    seconds = 0.0
    for product in (lambda: likelihood.T @ likelihood, lambda: likelihood @ shares, lambda: likelihood.T @ rows):
        product()
        everywhere = timed(product)[0]
        with one_blas_thread():
            seconds += min(everywhere, timed(product)[0])
    return seconds


def peak_megabytes() -> float:
    """Of this process alone: what getrusage reports starts at the parent's peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def clarabel(table: Array, weights: Array) -> dict[str, Any]:
    import cvxpy  # of the test extra

    likelihood = likelihoods(table)
    shares = cvxpy.Variable(table.shape[1], nonneg=True)
    mean_log = cvxpy.sum(cvxpy.multiply(weights / weights.sum(), cvxpy.log(likelihood @ shares)))
    problem = cvxpy.Problem(cvxpy.Minimize(-mean_log), [cvxpy.sum(shares) == 1])
    print("ready", flush=True)
    before = clock()
    try:
        problem.solve(solver=cvxpy.CLARABEL)
    except cvxpy.error.SolverError:  # as on large tables of columns that are much alike
        return {"seconds": clock() - before, "peak": peak_megabytes(), "note": "Clarabel gave up without an answer"}
    answer: dict[str, Any] = {"seconds": clock() - before, "peak": peak_megabytes()}
    if not one_core():  # it tells the time on the wall alone
        answer["alone"] = problem.solver_stats.solve_time
    return answer | {"rounds": problem.solver_stats.num_iters} | evaluate(table, weights, shares.value)


def evaluate(table: Array, weights: Array, shares: Array) -> dict[str, float]:
    """The certified gap and the loss at another solver's shares."""
    problem = Problem((CrossEntropy.from_log_probs(table, weights),), FeasibleSet.of(table.shape[1]))
    point = problem.at(np.maximum(shares, 0) / np.maximum(shares, 0).sum())
    return {"gap": point.gap, "loss": point.loss}


# ----------------------------------------------------------------------------------------------------------- the parent


class Bench:
    """Measures one case after another in ``folder``, and prints as it goes. ``found``: case name -> what -> numbers."""

    def __init__(self, folder: Path, solvers: list[str], *, limit: float, full: bool) -> None:
        self.folder, self.solvers, self.limit, self.full = folder, solvers, limit, full
        self.found: dict[str, dict[str, dict[str, Any]]] = {}

    def run(self, case: Case) -> None:
        case.write(self.folder)
        size = 8 * case.rows * case.sources / 1e6
        print(f"\n{case.name}: {size:,.1f} MB of log-probabilities, load {os.getloadavg()[0]:.1f}")
        print(HEADER, flush=True)
        found = self.found[case.name] = {}
        for what in self.solvers:
            limit = 0 if what in ("newton", "auto") else self.limit / 20
            self._add(found, what, self._ours(what, TOLERANCE, limit))
        self._add(found, f"newton {FINE:.0e}", self._ours("newton", FINE))
        self._add(found, "clarabel", self._clarabel(case))
        self._add(found, "mixsqp", self._mixsqp(case))
        if "gap" in found["mixsqp"]:
            # No finer than what rounding may hide; where mixsqp is below that, so are we.
            tolerance = max(min(TOLERANCE, found["mixsqp"]["gap"]), 1e-15)
            self._add(found, "newton as mixsqp", self._ours("newton", tolerance))

    def _add(self, found: dict[str, dict[str, Any]], what: str, numbers: dict[str, Any]) -> None:
        found[what] = numbers
        print(line(what, numbers, found["newton"]), flush=True)

    def _ours(self, what: str, tolerance: float, limit: float = 0) -> dict[str, Any]:
        return self._ask([*self._python(what), str(tolerance), str(limit)], limit=None)

    def _clarabel(self, case: Case) -> dict[str, Any]:
        if find_spec("cvxpy") is None or find_spec("clarabel") is None:
            return {"note": "skipped: no cvxpy with Clarabel"}
        if not self.full and case.rows * case.sources > MOST_ENTRIES:
            return {"note": f"skipped: would take > {self.limit:g} s"}
        return self._ask([*self._python("clarabel"), "0", "0"], limit=self.limit)

    def _mixsqp(self, case: Case) -> dict[str, Any]:
        if not has_mixsqp():
            return {"note": "skipped: no Rscript with mixsqp"}
        if not self.full and case.rows * case.sources**2 > MOST_WORK:
            return {"note": f"skipped: would take > {self.limit:g} s"}
        subprocess.run([*self._python("likelihood"), "0", "0"], check=True)
        script = self.folder / "mixsqp.R"
        script.write_text(MIXSQP.replace("SHORT", str(SHORT_SECONDS)))
        best: dict[str, Any] = {}
        for setting in ("dense", "default"):  # the second need not go on when it has become the slower one
            command = ["Rscript", str(script), str(self.folder), str(case.rows), str(case.sources)]
            command += [setting, "processor" if one_core() else "wall"]
            numbers = self._ask(command, limit=3 * max(1.0, best["seconds"]) if "seconds" in best else self.limit)
            if "seconds" not in best or numbers.get("seconds", np.inf) < best["seconds"]:
                best = numbers | {"note": " ".join([setting, numbers.get("note", "")])}
        if "shares" not in best:
            return best
        (self.folder / "shares.json").write_text(json.dumps(best.pop("shares")))
        return best | self._ask([*self._python("shares"), "0", "0"], limit=None)

    def _python(self, what: str) -> list[str]:
        return [sys.executable, __file__, "--measure", str(self.folder), what]

    def _ask(self, command: list[str], limit: float | None) -> dict[str, Any]:
        """The JSON line that a process prints; it may work for ``limit`` seconds after it has said that it is ready."""
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            if limit is not None:
                process.stdout.readline()
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                process.kill()
                return {"over": limit, "note": f"stopped at {limit:.0f} s"}
            if process.returncode:
                return {"note": f"failed with {process.returncode}"}
            return dict(json.loads(process.stdout.read()))


def has_mixsqp() -> bool:
    if shutil.which("Rscript") is None:
        return False
    command = ["Rscript", "-e", "quit(status = !requireNamespace('mixsqp', quietly = TRUE))"]
    return subprocess.run(command, check=False).returncode == 0


COLUMNS = ["solver", "seconds", "alone", "rounds", "gap", "loss diff.", "peak MB", "/ newton", "/ floor", "alone / fl."]
HEADER = f"{COLUMNS[0]:18s}" + "".join(f"{name:>{max(9, len(name) + 1)}s}" for name in COLUMNS[1:])


def line(what: str, numbers: dict[str, Any], newton: dict[str, Any]) -> str:
    def cell(text: str, place: int) -> str:
        return f"{text:>{max(9, len(COLUMNS[place]) + 1)}s}"

    def ratio(value: float | None, base: float | None, place: int) -> str:
        return cell("" if not value or not base else f"{value / base:.2f}", place)

    seconds, alone, over = numbers.get("seconds"), numbers.get("alone"), numbers.get("over")
    floor = newton["round_floor"] * numbers["rounds"] if what.startswith("newton") else None
    text = f"{what:18s}"
    text += cell(f"{seconds:.4f}" if seconds is not None else f">{over:.0f}" if over else "-", 1)
    text += cell(f"{alone:.4f}" if alone else "", 2)
    text += cell(f"{numbers['rounds']}" if "rounds" in numbers else "", 3)
    text += cell(f"{numbers['gap']:.1e}" if "gap" in numbers else "", 4)
    text += cell(f"{numbers['loss'] - newton['loss']:+.1e}" if "loss" in numbers else "", 5)
    text += cell(f"{numbers['peak']:.0f}" if "peak" in numbers else "", 6)
    text += cell(f">{over / newton['seconds']:.0f}", 7) if over else ratio(seconds, newton["seconds"], 7)
    text += ratio(seconds, floor, 8) + ratio(alone, floor, 9)
    return f"{text}  {numbers.get('note', '')}".rstrip()


# ----------------------------------------------------------------------------------------------------------- the claims


def claims(found: dict[str, dict[str, dict[str, Any]]]) -> Iterator[tuple[str, bool | None, str]]:
    """What is claimed, whether it holds (None: not measured), and the numbers."""
    runs = [(f"{case}, {what}", by[what]) for case, by in found.items() for what in ("newton", "auto")]
    name, most = max(runs, key=lambda item: item[1]["rounds"])
    failed = [where for where, numbers in runs if numbers["gap"] > TOLERANCE or numbers["rounds"] > 10]
    text = f"at most {most['rounds']} ({name})" + (f"; not: {', '.join(failed)}" if failed else "")
    yield "newton, auto: 1e-8 nats in at most 10 rounds", not failed, text

    fine = {case: by[f"newton {FINE:.0e}"] for case, by in found.items()}
    failed = [f"{case} ({numbers['gap']:.0e})" for case, numbers in fine.items() if numbers["gap"] > FINE]
    text = f"{len(fine) - len(failed)} of {len(fine)} cases, largest gap {max(by['gap'] for by in fine.values()):.1e}"
    yield "newton: a gap of 1e-12 is reached", not failed, text + (f"; not: {', '.join(failed)}" if failed else "")

    for sources, wanted in ((100, 10), (7, 3)):
        ratios = {}
        for case, by in found.items():
            if case.endswith(f"-100000x{sources}") and "newton as mixsqp" in by:
                ratios[case] = by["mixsqp"]["seconds"] / by["newton as mixsqp"]["seconds"]
        yield f"mixsqp, n=1e5 p={sources}: {wanted} times, to its gap", *_least(ratios, wanted)

    worst: dict[str, float] = {}
    for key, name in (("seconds", "whole"), ("alone", "alone")):
        floors = {
            case: by["newton"][key] / (by["newton"]["rounds"] * by["newton"]["round_floor"])
            for case, by in found.items()
            if by["newton"]["rounds"]
        }
        worst = {case: ratio for case, ratio in sorted(floors.items(), key=lambda item: -item[1]) if ratio > 2}
        text = "; ".join(f"{case} {ratio:.2f}" for case, ratio in worst.items())
        held = f"largest {max(floors.values()):.2f}" if floors else ""
        text = f"not: {text}" if worst else held
        yield f"newton, {name}: at most twice the floor", not worst if floors else None, text

    ratios, off = {}, {}
    for case, by in found.items():
        numbers, rows = by["clarabel"], int(case.rpartition("-")[2].partition("x")[0])
        if rows >= 100_000 and ("seconds" in numbers or "over" in numbers):
            ratios[case] = numbers.get("seconds", numbers.get("over")) / by["newton"]["seconds"]
        if rows >= 100_000 and "loss" in numbers:
            off[case] = numbers["loss"] - by["newton"]["loss"]
    yield "cvxpy with Clarabel, n>=1e5: 10 times", *_least(ratios, 10)
    text = "; ".join(f"{case} {difference:+.1e}" for case, difference in off.items())
    yield "Clarabel's loss: the same to 1e-9", all(abs(d) <= 1e-9 for d in off.values()) if off else None, text


def _least(ratios: dict[str, float], wanted: float) -> tuple[bool | None, str]:
    held = min(ratios.values()) >= wanted if ratios else None
    return held, "; ".join(f"{case} {ratio:.1f}" for case, ratio in ratios.items())


def surroundings() -> str:
    text = "one core, processor time" if one_core() else f"{len(os.sched_getaffinity(0))} cores"
    for name in ("numpy", "cvxpy", "clarabel"):
        text += f", {name} {import_module(name).__version__}" if find_spec(name) else ""
    if has_mixsqp():
        ask = "cat('mixsqp', format(packageVersion('mixsqp')), 'with BLAS', extSoftVersion()['BLAS'])"
        text += ", " + subprocess.run(["Rscript", "-e", ask], capture_output=True, text=True, check=True).stdout
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", metavar="KIND-ROWSxSOURCES", help=f"kinds: {', '.join(KINDS)}")
    parser.add_argument("--full", action="store_true", help="every kind at every size; rivals may take ten minutes")
    parser.add_argument("--solvers", nargs="+", choices=OURS, default=OURS, help="of ours; newton and auto always")
    parser.add_argument("--one-core", action="store_true", help="everything on one core, in processor time")
    parser.add_argument("--limit", type=float, help="seconds that a rival may take: 60, with --full 600")
    parser.add_argument("--run", metavar="RUN_FOLDER", help="<storage>/runs/<name>-<hash>: its cache's targets too")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measured(*options.measure)
        return
    if options.one_core:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    solvers = [what for what in OURS if what in ("newton", "auto", *options.solvers)]
    grid = dict.fromkeys(KINDS, SIZES) if options.full else DEFAULT
    cases = [Case(kind, *size) for kind, sizes in grid.items() for size in sizes]
    if options.cases:
        cases = [parsed(name) for name in options.cases]
    cases += cases_of(options.run) if options.run else []
    print(surroundings())
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), solvers, limit=options.limit or (600 if options.full else 60), full=options.full)
        for case in cases:
            bench.run(case)
    print(f"\nafter {time.perf_counter() - started:.0f} s, load {os.getloadavg()[0]:.1f}\n")
    for claim, held, text in claims(bench.found):
        print(f"{claim:48s} {'not measured' if held is None else 'holds' if held else 'DOES NOT HOLD':14s} {text}")


def parsed(name: str) -> Case:
    kind, _, size = name.partition("-")
    rows, _, sources = size.partition("x")
    if kind not in KINDS or not (rows.isdigit() and sources.isdigit()):
        sys.exit(f"no case {name!r}: KIND-ROWSxSOURCES is wanted, kinds {', '.join(KINDS)}")
    return Case(kind, int(rows), int(sources))


def measured(folder: str, what: str, tolerance: str, limit: str) -> None:
    """What a process of its own does: one JSON line."""
    path = Path(folder)
    if what == "likelihood":  # for R: column after column
        likelihoods(np.load(path / "table.npy")).T.tofile(path / "likelihood")
        np.load(path / "row_weights.npy").tofile(path / "weights")
    elif what == "shares":
        shares = np.array(json.loads((path / "shares.json").read_text()))
        print(json.dumps(evaluate(np.load(path / "table.npy"), np.load(path / "row_weights.npy"), shares)))
    else:
        print(json.dumps(measure(path, what, float(tolerance), float(limit))))


if __name__ == "__main__":
    main()
