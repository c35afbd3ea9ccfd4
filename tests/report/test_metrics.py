"""Metrics of examples: values against scikit-learn, intervals against the spread over fresh samples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, roc_auc_score

from mixray.mixture import ArmResult, HeldOutLoss, MetricResult, Mixture
from mixray.numerics import paired_difference_interval
from mixray.report import print_report
from mixray.report.metrics import OF_TWO_CLASSES, _Arm, choice_metrics, example_metrics
from mixray.report.tables import closing_report


def sample(rows: int, seed: int, digits: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and the probabilities of class 1 by a calibrated and by an overconfident arm. Few digits make ties."""
    draws = np.random.default_rng([seed, rows])
    right = draws.beta(1, 4, rows).round(digits).clip(0.001, 0.999)
    labels = (draws.random(rows) < right).astype(np.int64)
    logits = 2 * np.log(right / (1 - right)) + draws.normal(size=rows)
    return labels, right, (1 / (1 + np.exp(-logits))).round(digits).clip(1e-6, 1 - 1e-6)


def log_probs(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.where(labels == 1, probabilities, 1 - probabilities))


@pytest.mark.parametrize("digits", [1, 2, 9])
@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_scikit_learns(digits: int, weighted: bool) -> None:
    labels, right, over = sample(300, 1, digits)
    weights = np.random.default_rng(0).integers(0, 4, 300).astype(float) if weighted else np.ones(300)
    for probabilities in (right, over):
        precision, area, nll, _ = _Arm(log_probs(labels, probabilities), labels, 2).metrics(weights)
        # What was tied before its logarithm was taken is tied again.
        assert precision == pytest.approx(average_precision_score(labels, probabilities, sample_weight=weights))
        assert area == pytest.approx(roc_auc_score(labels, probabilities, sample_weight=weights))
        assert nll == pytest.approx(-np.average(log_probs(labels, probabilities), weights=weights))


def test_the_calibration_error_is_that_of_ten_bins() -> None:
    labels, right, over = sample(1000, 2)
    metrics = example_metrics(
        {"right": log_probs(labels, right), "over": log_probs(labels, over)},
        labels,
        classes=2,
        reference="right",
        seed=0,
    )
    for name, probabilities in (("right", right), ("over", over)):
        bins = np.array_split(np.argsort(-probabilities, kind="stable"), 10)
        expected = sum(abs((labels[rows] - probabilities[rows]).mean()) * len(rows) / 1000 for rows in bins)
        assert metrics[name]["calibration_error"].value == pytest.approx(expected)
    assert metrics["over"]["calibration_error"].value > 0.05 > metrics["right"]["calibration_error"].value
    difference = metrics["over"]["calibration_error"].difference_interval
    assert difference is not None
    assert difference[0] > 0


def test_intervals_are_as_wide_as_values_spread_over_fresh_samples() -> None:
    """The standard deviation over 300 fresh samples, and the mean half width, agree within a fifth."""
    values: dict[str, list[float]] = {name: [] for name in OF_TWO_CLASSES[:3]}
    for seed in range(300):
        labels, _, over = sample(400, seed)
        for name, value in zip(values, _Arm(log_probs(labels, over), labels, 2).metrics(np.ones(400)), strict=False):
            values[name].append(value)
    widths: dict[str, list[float]] = {name: [] for name in values}
    for seed in range(8):
        labels, _, over = sample(400, seed)
        metrics = example_metrics({"a": log_probs(labels, over)}, labels, classes=2, reference="a", seed=seed)["a"]
        for name in values:
            low, high = metrics[name].interval or (0.0, 0.0)
            widths[name].append((high - low) / 2 / 1.96)
    for name in values:
        assert np.mean(widths[name]) == pytest.approx(np.std(values[name]), rel=0.2), name


def test_differences_are_paired_and_the_reference_has_none() -> None:
    labels, right, over = sample(500, 3)
    arms = {"first": log_probs(labels, over), "same": log_probs(labels, over), "other": log_probs(labels, right)}
    metrics = example_metrics(arms, labels, classes=2, reference="first", seed=0)
    assert metrics == example_metrics(arms, labels, classes=2, reference="first", seed=0)
    assert {result.difference for result in metrics["first"].values()} == {None}
    assert {result.difference_interval for result in metrics["same"].values()} == {(0.0, 0.0)}
    for name, result in metrics["other"].items():
        assert result.difference == pytest.approx(result.value - metrics["first"][name].value)
        assert result.interval is not None
        assert result.difference_interval is not None
        assert result.interval[0] < result.value < result.interval[1]
        assert result.difference_interval[0] < result.difference < result.difference_interval[1]  # type: ignore[operator]


def test_what_is_not_defined_is_left_out() -> None:
    labels, right, _ = sample(50, 4)
    one_class = example_metrics({"a": np.log(right)}, 0 * labels + 1, classes=2, reference="a", seed=0)
    assert set(one_class["a"]) == {"nll", "calibration_error"}
    several = example_metrics({"a": np.log(right)}, labels, classes=3, reference="a", seed=0)["a"]
    assert set(several) == {"nll"}
    alone = example_metrics({"a": np.log(right[:1])}, labels[:1], classes=3, reference="a", seed=0)["a"]
    assert alone["nll"].value == pytest.approx(-np.log(right[0]))


def test_numbers_have_the_root_of_their_mean_squared_error() -> None:
    errors = np.random.default_rng(0).normal(0, 3, 400)
    metrics = example_metrics({"a": errors, "b": 2 * errors}, errors, classes=0, reference="a", seed=0)
    assert metrics["a"]["rmse"].value == pytest.approx(np.sqrt((errors**2).mean()))
    assert metrics["b"]["rmse"].difference == pytest.approx(metrics["a"]["rmse"].value)
    widths = []
    for seed in range(10):
        (result,) = example_metrics({"a": errors}, errors, classes=0, reference="a", seed=seed)["a"].values()
        low, high = result.interval or (0.0, 0.0)
        widths.append((high - low) / 2 / 1.96)
    by_delta_method = (errors**2).std() / np.sqrt(400) / (2 * metrics["a"]["rmse"].value)
    assert np.mean(widths) == pytest.approx(by_delta_method, rel=0.07)


def test_the_report_shows_the_metrics_of_every_arm(capsys: pytest.CaptureFixture[str]) -> None:
    value = MetricResult(value=0.349, interval=(0.31, 0.39))
    other = MetricResult(value=0.286, interval=(0.25, 0.32), difference=-0.063, difference_interval=(-0.09, -0.03))
    arms = {
        "mixmin": ArmResult(nll=0.2, metrics={"auroc": value}),
        "natural": ArmResult(nll=0.3, metrics={"auroc": other}),
    }
    mixture = Mixture(targets=["goal"], sources=["a"], weights={"a": 1.0}, retrain=arms)
    again = Mixture.from_json(mixture.to_json())
    assert again == mixture
    print_report([closing_report(again, {})])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "Metrics on goal" in lines
    assert "AUROC mixmin 0.3490 0.3100 to 0.3900" in lines
    assert "natural 0.2860 0.2500 to 0.3200 -0.0630 -0.0900 to -0.0300" in lines


def test_a_mixture_for_several_targets_shows_the_metrics_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    losses = {
        target: HeldOutLoss(nll=0.2, metrics={"accuracy": MetricResult(value=value, interval=(0.1, 0.9))})
        for target, value in (("quiz", 0.25), ("riddles", 0.75))
    }
    arms = {"mixmin": ArmResult(nll=0.2, targets={**losses, "prose": HeldOutLoss(nll=0.2)})}
    targets = ["quiz", "riddles", "prose"]
    print_report([closing_report(Mixture(targets=targets, sources=["a"], weights={"a": 1.0}, retrain=arms), {})])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line.startswith("Metrics on")] == ["Metrics on quiz", "Metrics on riddles"]
    assert "accuracy mixmin 0.7500 0.1000 to 0.9000" in lines


@pytest.mark.parametrize(("negatives", "positives"), [(30, 70), (55, 45), (25, 35), (3, 97), (40, 60)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_model_that_predicts_the_same_for_all_ranks_nothing(negatives: int, positives: int, dtype: type) -> None:
    labels = np.repeat([0, 1], [negatives, positives])
    frequencies = np.array([negatives, positives]) / len(labels)
    values = np.log(frequencies).astype(dtype)[labels].astype(np.float64)
    metrics = example_metrics({"constant": values}, labels, classes=2, reference="constant", seed=0)["constant"]
    assert metrics["auroc"].value == pytest.approx(0.5)
    assert metrics["average_precision"].value == pytest.approx(positives / len(labels))


def test_accuracies_have_wilsons_interval_and_paired_differences() -> None:
    """Intervals against scipy's; the second arm finds 6 items that the first does not, and misses 2."""
    first, second = np.arange(40) < 20, (np.arange(40) >= 2) & (np.arange(40) < 26)
    metrics = choice_metrics({"accuracy": {"first": first, "second": second, "same": first}}, "first")
    for arm, found in (("first", first), ("second", second)):
        result = metrics[arm]["accuracy"]
        expected = binomtest(int(found.sum()), 40).proportion_ci(method="wilson")
        assert result.value == found.mean()
        assert result.interval == pytest.approx((expected.low, expected.high))
    assert metrics["first"]["accuracy"].difference is None
    assert metrics["second"]["accuracy"].difference == pytest.approx(0.1)
    low, high = metrics["second"]["accuracy"].difference_interval or (0.0, 0.0)
    assert low < 0 < 0.1 < high
    same = metrics["same"]["accuracy"]
    assert same.difference == 0
    assert same.difference_interval is not None
    assert same.difference_interval[0] == -same.difference_interval[1] < 0, "forty equal answers leave a doubt"


@pytest.mark.parametrize(("items", "one", "other"), [(30, 0.1, 0.1), (30, 0.3, 0.05), (200, 0.02, 0.05)])
def test_intervals_of_paired_differences_cover(items: int, one: float, other: float) -> None:
    """Of 4,000 samples in which so many items are found by one arm alone: nominal 95 %."""
    outcomes = np.random.default_rng(0).multinomial(items, [one, other, 1 - one - other], 4000)
    ends = np.array([paired_difference_interval(int(b), int(c), items) for b, c, _ in outcomes])
    covered = ((ends[:, 0] <= one - other) & (one - other <= ends[:, 1])).mean()
    assert 0.935 <= covered <= 0.99
