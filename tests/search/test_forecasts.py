"""The forecast of the arms' differences, from stored columns of cheap models whose losses are made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mixray.config import RunConfig, parse_config
from mixray.mixture import ArmResult, Mixture
from mixray.report import forecast_lines, print_report
from mixray.report.realised import forecast_table
from mixray.search import MeasuredSwarm, rehearsed_mixtures, with_forecast
from mixray.store import Artifact, Artifacts, Storage, encode

AVAILABLE = {"python": 6_000, "cpp": 2_000}
DOCUMENTS, TOKENS = 60, 10
DRO = "{name: dro, mixture: mixmin, objective: {kind: group_dro}}"
Configure = Callable[..., RunConfig]
Forecast = Callable[..., Mixture]


@pytest.fixture
def configure() -> Configure:
    text = """
name: demo
tokenizer: {train: {}}
window: 8
sources: {python: {files: "*.py"}, cpp: {files: "*.h"}}
targets: {one: {files: "*.txt"}}
proxy: {model: {architecture: gpt_neox}, tokens: 1_000}
swarm: {mixtures: 0}
retrain: {model: {architecture: gpt_neox}, tokens: 1_000}
"""
    return lambda *overrides: parse_config(text, overrides)


@pytest.fixture
def forecast(configure: Configure, tmp_path: Path) -> Forecast:
    """``forecast(above, noise, overrides)``: arms whose loss is so far above mixmin's, and how far seeds scatter."""

    def make(above: dict[str, float], noise: float = 0.01, overrides: tuple[str, ...] = ()) -> Mixture:
        config = configure(f"retrain.arms=[mixmin, {', '.join(above)}]", *overrides)
        artifacts = Artifacts(Storage(str(tmp_path)), "test")
        draw = np.random.default_rng(0)
        keys = {
            "document": pa.array([(number << 64).to_bytes(16, "big") for number in range(DOCUMENTS)], pa.binary(16)),
            "window": pa.array(np.zeros(DOCUMENTS, np.int32)),
        }

        def publish(kind: str, id: str, **values: object) -> Artifact:
            draft, name = artifacts.draft(kind, id), "held_out-00000.parquet"
            return draft.publish({name: draft.write(name, encode(pa.table(keys | values)))}, {})

        rows = publish("rows", "rows", count=pa.array(np.full(DOCUMENTS, TOKENS, np.int32)))
        common = draw.normal(5, 1, DOCUMENTS)  # what a document adds to the losses of all
        held_out = {}
        for arm, rise in {"mixmin-one": 0.0, **above}.items():
            for seed in ("", ".seed1"):
                losses = common + rise + draw.normal(0, noise) + draw.normal(0, 0.02, DOCUMENTS)
                held_out[arm + seed] = publish("column", arm + seed[1:], log_prob=pa.array(-TOKENS * losses))
        mixture = Mixture(sources=list(AVAILABLE), weights={"python": 0.5, "cpp": 0.5}, targets=["one"])
        assert config.swarm is not None
        losses = np.empty((0, config.swarm.replicates))
        swarm = MeasuredSwarm([], list(AVAILABLE), np.empty((0, 2)), {"held_out": {"one": losses}})
        return with_forecast(
            config,
            artifacts.storage,
            "one",
            mixture,
            available_tokens=AVAILABLE,
            rows={"one": rows},
            held_out={"one": held_out},
            swarm=swarm,
        )

    return make


def test_every_arm_is_forecast_from_its_difference_to_the_first(forecast: Forecast) -> None:
    mixture = forecast({"balanced": 0.3, "natural": 0.1, "unimax": 0.3})
    assert list(mixture.forecast) == ["balanced", "natural", "unimax"]
    for arm, rise in (("balanced", 0.3), ("natural", 0.1)):
        facts = mixture.forecast[arm]
        assert (facts.reference, facts.documents, facts.seeds, facts.tokens) == ("mixmin", DOCUMENTS, 2, 1_000)
        assert facts.measured == pytest.approx(rise, abs=0.03)
        assert facts.measured_interval[0] < rise < facts.measured_interval[1]
        assert facts.interval[0] < facts.measured < facts.interval[1]  # the retraining is as long as the cheap training
        assert facts.expected == pytest.approx(facts.measured, abs=0.005)
    assert mixture.forecast["balanced"].probability > 0.99
    assert not mixture.forecast["balanced"].covers_zero
    assert Mixture.from_json(mixture.to_json()) == mixture


def test_a_longer_retraining_is_less_certain(forecast: Forecast) -> None:
    above = {"balanced": 0.3, "natural": 0.1}
    short, long = forecast(above), forecast(above, overrides=("retrain.tokens=20_000",))
    width = {name: np.ptp(each.forecast["balanced"].interval) for name, each in (("short", short), ("long", long))}
    assert width["long"] > 3 * width["short"]
    assert long.forecast["balanced"].measured == short.forecast["balanced"].measured


def test_arms_that_noise_hides_are_not_worth_retraining_for(forecast: Forecast) -> None:
    mixture = forecast({"balanced": 0.002, "natural": 0.5}, noise=0.05)
    hidden, clear = forecast_lines(mixture)
    assert "not worth retraining for: documents and seeds vary as much" in hidden
    assert "balanced minus mixmin" in hidden
    assert "n = 60 documents, 2 seeds" in hidden
    assert "not worth" not in clear


def test_what_came_out_stands_beside_the_forecast(forecast: Forecast, tmp_path: Path) -> None:
    mixture = forecast({"balanced": 0.3, "natural": 0.1})
    path = tmp_path / "table.txt"

    def printed(**losses: float) -> str:
        retrain = {arm: ArmResult(nll=loss) for arm, loss in losses.items()}
        with path.open("w") as file:
            print_report([forecast_table(mixture.model_copy(update={"retrain": retrain}))], file)
        return path.read_text()

    assert "came out" not in printed()
    after = printed(mixmin=5.0, balanced=5.3, natural=9.0)
    rows = {line.split()[0]: line.split() for line in after.splitlines() if "%" in line and "+" in line}
    assert (rows["balanced"][-2:], rows["natural"][-2:]) == (["+0.3000", "yes"], ["+4.0000", "no"])


@pytest.mark.parametrize("overrides", [("mixture.over=worst",), ("retrain.objective={kind: group_dro}",)])
def test_there_is_no_forecast_of_what_the_swarm_does_not_train(forecast: Forecast, overrides: tuple[str, ...]) -> None:
    assert forecast({"balanced": 0.3, "natural": 0.1}, overrides=overrides).forecast == {}


def test_two_mixtures_of_one_seed_tell_no_noise(forecast: Forecast) -> None:
    assert forecast({"balanced": 0.3}, overrides=("swarm.replicates=1",)).forecast == {}


def test_arms_with_a_robust_objective_are_not_rehearsed(configure: Configure) -> None:
    mixture = Mixture(sources=list(AVAILABLE), weights={"python": 0.9, "cpp": 0.1}, targets=["one"])
    rehearsed = rehearsed_mixtures(configure(f"retrain.arms=[mixmin, {DRO}, natural]"), AVAILABLE, {"one": mixture})
    for override in ("swarm.replicates=1", "mixture.over=worst", "retrain.objective={kind: also}"):
        config = configure("retrain.arms=[mixmin, natural]", override)
        assert rehearsed_mixtures(config, AVAILABLE, {config.mixture_names[0]: mixture}) == {}
    assert rehearsed == {"mixmin-one": {"python": 0.9, "cpp": 0.1}, "natural": {"python": 0.75, "cpp": 0.25}}
