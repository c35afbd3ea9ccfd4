"""How well arms predict held-out examples: metrics beside the loss, each with an interval over the examples.

Of multiple-choice items there is the accuracy, of which both the interval and the difference are about the items. Of
two classes there are the average precision, the area under the ROC curve, the negative log-likelihood and the
calibration error; of more classes the negative log-likelihood; of numbers the root of the mean squared error. The
second class in the order of the names is the one to be found. An interval is the estimate plus and minus 1.96 standard
errors, which come from bootstrap samples of the examples; differences between arms are taken on the same samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import RenderableType

from mixray.mixture import Interval, MetricResult, Mixture
from mixray.numerics import interval95, paired_difference_interval, wilson_interval
from mixray.report.layout import difference_text, new_table, number_text, titled

Floats = NDArray[np.float64]
REPLICATES = 400
BINS = 10
"""Of equally many examples, over which the calibration error is summed."""
TITLES = {
    "average_precision": "average precision",
    "auroc": "AUROC",
    "nll": "NLL, nats",
    "calibration_error": "calibration error",
    "rmse": "RMSE",
    "accuracy": "accuracy",
    "accuracy_per_token": "accuracy, per token",
}
OF_TWO_CLASSES = ("average_precision", "auroc", "nll", "calibration_error")
LARGER_IS_BETTER = ("average_precision", "auroc", "accuracy", "accuracy_per_token")
LARGEST = {"average_precision": 1.0, "auroc": 1.0, "calibration_error": 1.0}


def example_metrics(
    values: Mapping[str, Floats], labels: NDArray[Any], *, classes: int, reference: str, seed: int
) -> dict[str, dict[str, MetricResult]]:
    """Return arm -> metric -> its value. Metrics that are not defined, as where a class is absent, are left out.

    Args:
        values: arm -> log-probability of the true class in nats, or predicted minus true number, float64 ``(rows,)``.
        labels: the true classes, from 0, or numbers, ``(rows,)``.
        classes: how many there are; 0 for numbers.
        reference: the arm that the others are compared with.
        seed: of the bootstrap; the same seed gives the same bits.
    """
    names = OF_TWO_CLASSES if classes == 2 else ("nll",) if classes else ("rmse",)
    arms = {arm: _Arm(each, labels, classes) for arm, each in values.items()}
    draws, rows = np.random.default_rng([seed, len(labels)]), len(labels)
    samples: dict[str, list[list[float]]] = {arm: [] for arm in arms}
    for _ in range(REPLICATES):
        weights = np.bincount(draws.integers(0, rows, rows), minlength=rows).astype(np.float64)
        for arm, judged in arms.items():
            samples[arm].append(judged.metrics(weights))
    whole = {arm: judged.metrics(np.ones(rows)) for arm, judged in arms.items()}
    results: dict[str, dict[str, MetricResult]] = {}
    for arm in arms:
        results[arm] = {}
        for place, name in enumerate(names):
            value, base = whole[arm][place], whole[reference][place]
            if np.isfinite([value, base]).all():
                column, base_column = (np.array(samples[one])[:, place] for one in (arm, reference))
                interval = _interval(value, column)
                if interval is not None:
                    interval = max(0.0, interval[0]), min(interval[1], LARGEST.get(name, np.inf))
                result = MetricResult(value=value, interval=interval)
                if arm != reference:
                    ends = _interval(value - base, column - base_column)
                    compared = {"difference": value - base, "difference_interval": ends}
                    result = result.model_copy(update=compared)
                results[arm][name] = result
    return results


def choice_metrics(
    finds: Mapping[str, Mapping[str, NDArray[np.bool_]]], reference: str
) -> dict[str, dict[str, MetricResult]]:
    """Return arm -> metric -> how often the arm finds the right option, with 95 % intervals over the items.

    ``finds``: metric -> arm -> whether it finds the option of each item, bool (items,); ``reference``: the arm that the
    others are compared with.
    """
    results: dict[str, dict[str, MetricResult]] = {}
    for name, by_arm in finds.items():
        base = by_arm[reference]
        for arm, found in by_arm.items():
            result = MetricResult(value=float(found.mean()), interval=wilson_interval(int(found.sum()), len(found)))
            if arm != reference:
                alone, base_alone = int((found & ~base).sum()), int((base & ~found).sum())
                ends = paired_difference_interval(alone, base_alone, len(found))
                compared = {"difference": (alone - base_alone) / len(found), "difference_interval": ends}
                result = result.model_copy(update=compared)
            results.setdefault(arm, {})[name] = result
    return results


def _interval(value: float, samples: Floats) -> Interval | None:
    """Return the 95 % interval; None where fewer than two samples have a value."""
    defined = samples[np.isfinite(samples)]
    return None if len(defined) < 2 else interval95(value, float(defined.std(ddof=1)))


EQUAL = 1e-7
"""Probabilities that differ by no more are equal, but for the rounding of their logarithms to float32."""


class _Arm:
    """The metrics of one arm as functions of the examples' weights; the examples are ranked once."""

    def __init__(self, values: Floats, labels: NDArray[Any], classes: int) -> None:
        self.values, self.classes = values, classes
        if classes != 2:
            return
        positive = labels == 1
        probabilities = np.where(positive, np.exp(values), -np.expm1(values))
        self.order = np.argsort(-probabilities, kind="stable")
        ranked = probabilities[self.order]
        self.positive = positive[self.order].astype(np.float64)
        self.excess = self.positive - ranked
        # Examples of equal probability are found together. Its rounding differs with the label.
        self.ends = np.flatnonzero(np.append(np.diff(ranked) < -EQUAL, True))
        self.bin_starts = np.unique(np.arange(BINS) * len(ranked) // BINS)

    def metrics(self, weights: Floats) -> list[float]:
        """Return the metrics under weights, float64 ``(rows,)``; NaN where one is not defined."""
        if not self.classes:
            return [float(np.sqrt(np.average(self.values**2, weights=weights)))]
        nll = -float(np.average(self.values, weights=weights))
        if self.classes > 2:
            return [nll]
        ranked = weights[self.order]
        true = np.cumsum(ranked * self.positive)[self.ends]
        false = np.cumsum(ranked * (1 - self.positive))[self.ends]
        calibration = np.abs(np.add.reduceat(ranked * self.excess, self.bin_starts)).sum() / weights.sum()
        if not true[-1] or not false[-1]:
            return [np.nan, np.nan, nll, float(calibration)]
        step, false_step = np.diff(true, prepend=0.0), np.diff(false, prepend=0.0)
        precision = np.divide(true, true + false, out=np.zeros_like(true), where=true + false > 0)
        area = (false_step * (true - step / 2)).sum() / (true[-1] * false[-1])
        return [float((step * precision).sum() / true[-1]), float(area), nll, float(calibration)]


def metrics_tables(mixture: Mixture) -> list[RenderableType]:
    """Return a table of every arm's metrics on the held-out examples of each of the mixture's targets that has some."""
    by_target: dict[str, dict[str, Mapping[str, MetricResult]]] = {}
    for arm, result in mixture.retrain.items():
        losses = result.targets or dict.fromkeys(mixture.targets[:1], result)
        for target, loss in losses.items():
            if loss.metrics:
                by_target.setdefault(target, {})[arm] = loss.metrics
    return [_metrics_table(target, arms) for target, arms in by_target.items()]


def _metrics_table(target: str, arms: Mapping[str, Mapping[str, MetricResult]]) -> RenderableType:
    table = new_table("metric", "arm", "held-out", "95 % interval", "difference", "95 % interval")
    for name in next(iter(arms.values())):
        for place, (arm, metrics) in enumerate(arms.items()):
            result = metrics[name]
            cells = ["" if place else TITLES[name], arm, number_text(result.value)]
            cells.append("" if result.interval is None else " to ".join(map(number_text, result.interval)))
            if result.difference is not None:
                ends = result.difference_interval
                interval = "" if ends is None else " to ".join(map(difference_text, ends))
                cells += [difference_text(result.difference), interval]
            table.add_row(*cells)
    reference = next((arm for arm, metrics in arms.items() if next(iter(metrics.values())).difference is None), "")
    caption = f"difference: to {reference}; intervals: over held-out examples"
    return titled(f"Metrics on {target}", table, caption)


LEAST_TARGETS = 5
"""Targets from which on the median over them is told."""


def gains_over_targets(mixtures: Mapping[str, Mixture]) -> list[str]:
    """Return in words, for every arm, what the first arm gains over it: the median over targets with its interval, and
    on how many targets more, or less, than examples explain. Empty below LEAST_TARGETS targets.

    Intervals of the median: 2.5 and 97.5 % quantiles of bootstrap samples of the targets.
    """
    metrics = {name: mixture.retrain for name, mixture in mixtures.items() if mixture.retrain}
    lines = []
    for name, title in TITLES.items():
        sign = -1 if name in LARGER_IS_BETTER else 1
        for arm in dict.fromkeys(arm for arms in metrics.values() for arm in arms):
            results = [arms[arm].metrics.get(name) for arms in metrics.values() if arm in arms]
            compared = [each for each in results if each is not None and each.difference is not None]
            if len(compared) < LEAST_TARGETS:
                continue
            gains = np.array([sign * (each.difference or 0.0) for each in compared])
            draws = np.random.default_rng(len(gains)).integers(0, len(gains), (REPLICATES, len(gains)))
            low, high = np.quantile(np.median(gains[draws], axis=1), [0.025, 0.975])
            ends = [sorted(sign * end for end in each.difference_interval or (0.0, 0.0)) for each in compared]
            better, worse = sum(end[0] > 0 for end in ends), sum(end[1] < 0 for end in ends)
            lines.append(
                f"{title}: gain over {arm}: median {np.median(gains):+.3f} (95 % interval {low:+.3f} to {high:+.3f}, "
                f"n = {len(gains)} targets); {better} better and {worse} worse beyond their intervals"
            )
    return lines
