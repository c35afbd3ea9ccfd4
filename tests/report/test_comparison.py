from pathlib import Path
from typing import Any

import pytest

from mixray.mixture import ArmResult, Mixture, RivalMixture
from mixray.report.comparison import (
    arms_best_first,
    compared_with_winner,
    difference,
    reference_arm,
    search_overhead,
    winner,
)
from mixray.report.layout import print_report
from mixray.report.tables import ArmShares, arms_table, closing_report


def with_arms(mixture: Mixture, **changes: dict[str, Any]) -> Mixture:
    retrain = {arm: mixture.retrain[arm].model_copy(update=change) for arm, change in changes.items()}
    return mixture.model_copy(update={"retrain": {**mixture.retrain, **retrain}})


def test_the_winner_has_the_lowest_held_out_loss(mixture: Mixture) -> None:
    assert winner(mixture) == "mixmin"
    assert winner(with_arms(mixture, natural={"nll": 2.9})) == "natural"
    assert winner(mixture.model_copy(update={"retrain": {}})) is None


def test_arms_are_ordered_by_held_out_then_by_predicted_loss(mixture: Mixture) -> None:
    assert arms_best_first(mixture) == ["mixmin", "balanced", "natural"]
    only_natural = mixture.model_copy(update={"retrain": {"natural": ArmResult(nll=3.3)}})
    assert arms_best_first(only_natural) == ["natural", "mixmin", "balanced"]


def test_a_difference_has_its_interval_in_both_directions(mixture: Mixture) -> None:
    above, below = difference(mixture, "balanced", "mixmin"), difference(mixture, "mixmin", "balanced")
    assert above.value == pytest.approx(0.1391)
    assert above.ratio == pytest.approx(0.1391 / 3.0112)
    assert above.interval == (0.12, 0.158)
    assert below.value == pytest.approx(-0.1391)
    assert below.ratio == pytest.approx(-0.1391 / 3.1503)
    assert below.interval == (-0.158, -0.12)
    assert above.is_separated
    assert below.is_separated


def test_between_two_arms_without_the_reference_there_is_no_interval(mixture: Mixture) -> None:
    assert difference(mixture, "natural", "balanced").interval is None
    assert difference(mixture, "natural", "balanced").is_separated is None


def test_an_interval_over_zero_separates_nothing(mixture: Mixture) -> None:
    close = with_arms(mixture, balanced={"difference_low": -0.01})
    assert difference(close, "mixmin", "balanced").is_separated is False


def test_the_reference_is_the_arm_without_a_difference(mixture: Mixture) -> None:
    assert reference_arm(mixture) == "mixmin"
    other = mixture.model_copy(
        update={"retrain": {"natural": ArmResult(nll=3.0), "mixmin": ArmResult(nll=2.9, difference=-0.1)}}
    )
    assert reference_arm(other) == "natural"
    bare = mixture.model_copy(update={"retrain": {"natural": ArmResult(nll=3.0), "mixmin": ArmResult(nll=3.1)}})
    assert reference_arm(bare) == "mixmin"


def test_the_winner_is_compared_with_balanced_or_with_mixmin(mixture: Mixture) -> None:
    assert compared_with_winner(mixture) == "balanced"
    assert compared_with_winner(with_arms(mixture, balanced={"nll": 2.9})) == "mixmin"
    assert compared_with_winner(mixture.model_copy(update={"retrain": {"mixmin": ArmResult(nll=3.0)}})) is None


# ----------------------------------------------------------------------------------------------- what a search costs


@pytest.fixture
def with_rivals(mixture: Mixture) -> Mixture:
    """Two methods learned from a swarm that cost a third of one retraining; the proxies cost 3.33e-4 of one."""
    swarm = RivalMixture(
        weights=mixture.weights, expected=5.0, rank_correlation=0.8, models=12, search_flops=6 * 100_000 * 30_000
    )
    reference = swarm.model_copy(update={"models": 0, "search_flops": 0.0})
    rivals = {"regmix": swarm, "mixmin_with_swarm": swarm, "mixmin_reference": reference}
    retrain = mixture.retrain | {arm: ArmResult(nll=3.2, difference=0.2) for arm in rivals}
    retrain["again"] = ArmResult(nll=3.3, difference=0.3, mixture="regmix")
    return mixture.model_copy(update={"rivals": rivals, "retrain": retrain})


def test_every_arm_has_the_compute_of_its_own_search(with_rivals: Mixture) -> None:
    proxies = 6 * (6 * 1000 * 500 + 2 * 1000 * 100) / (6 * 100_000 * 90_000)
    expected = {"mixmin": proxies, "balanced": 0.0, "natural": 0.0, "regmix": 1 / 3, "again": 1 / 3}
    expected |= {"mixmin_with_swarm": proxies + 1 / 3, "mixmin_reference": proxies}
    assert {arm: search_overhead(with_rivals, arm) for arm in with_rivals.retrain} == pytest.approx(expected)
    assert search_overhead(with_rivals.model_copy(update={"compute": None}), "regmix") is None


def test_the_comparison_prints_the_searches_only_where_methods_differ_in_them(
    mixture: Mixture, with_rivals: Mixture, arm_shares: ArmShares, tmp_path: Path
) -> None:
    path = tmp_path / "table.txt"

    def printed(*parts: Any) -> str:
        with path.open("w") as file:
            print_report(parts, file)
        return path.read_text()

    assert "search" not in printed(arms_table(mixture))
    rows = {line.split()[0]: line for line in printed(arms_table(with_rivals)).splitlines() if line.strip()}
    assert "33.3 %" in rows["regmix"]
    assert "33.3 %" not in rows["balanced"]
    assert rows["balanced"].split()[1:3] == ["0", "%"]
    assert "FLOPs in % of those of one retraining" in printed(arms_table(with_rivals))
    assert "regmix" in printed(closing_report(with_rivals, arm_shares)).split("Arms on")[0]
