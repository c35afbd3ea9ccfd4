"""What MLflow shows of a search: the settings, metrics, tables and arms that answer which mixture won."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from mixray.config import RunConfig
from mixray.mixture import Mixture
from mixray.store import Artifact, ModelMeta
from mixray.tracking.mixture_records import arm_facts, key_metrics, key_settings, tables
from mixray.tracking.projection import RunContents, records_of_run

MIXMIN = {"nll": 4.0, "documents": 9, "nll_by_seed": [3.9, 4.1]}
BALANCED = {
    "nll": 4.5,
    "documents": 9,
    "nll_by_seed": [4.4, 4.6],
    "difference": 0.5,
    "difference_low": 0.4,
    "difference_high": 0.6,
}


@pytest.fixture
def config(make_config: Callable[..., RunConfig]) -> RunConfig:
    """Two arms of two replicates on one target; the settings' other values are the defaults."""
    config = make_config()
    retrain = config.retrain.model_copy(update={"arms": ["mixmin", "balanced"], "replicates": 2})
    return config.model_copy(update={"retrain": retrain})


def mixture(**retrain: Any) -> Mixture:
    return Mixture.model_validate(
        {
            "schema": "mixray.mixture/1",
            "targets": ["sklearn"],
            "sources": ["python"],
            "weights": {"python": 1.0},
            "interval": {"python": [1.0, 1.0]},
            "gap": 1e-9,
            "loss": {"mixmin": 6.0, "balanced": 6.1},
            "retrain": retrain,
        }
    )


def model(seed: int) -> Artifact:
    meta = {"parameters": 7, "tokens": 64, "seconds": 1.0, "curve": [[64, 2.0]], "source_shares": {"python": 1.0}}
    return Artifact("model", f"{seed}" * 64, {}, meta)


def test_every_replicate_of_an_arm_has_its_own_held_out_loss(config: RunConfig) -> None:
    facts = arm_facts(config, {"sklearn": mixture(mixmin=MIXMIN, balanced=BALANCED)})
    assert {key: arm.held_out for key, arm in facts.items()} == {
        "arm/mixmin-sklearn": {"sklearn": 3.9},
        "arm/mixmin-sklearn.seed1": {"sklearn": 4.1},
        "arm/balanced": {"sklearn": 4.4},
        "arm/balanced.seed1": {"sklearn": 4.6},
    }
    assert facts["arm/mixmin-sklearn.seed1"].tags == {
        "role": "arm",
        "method": "mixmin",
        "objective": "erm",
        "target": "sklearn",
        "seed": "1",
    }


def test_the_run_itself_says_what_was_gained(config: RunConfig) -> None:
    before = key_metrics({"sklearn": mixture()})
    assert before == {"gap/sklearn": 1e-9}
    after = key_metrics({"sklearn": mixture(mixmin=MIXMIN, balanced=BALANCED)})
    assert (after["held_out/sklearn"], after["gain/sklearn/balanced"]) == (4.0, 0.5)
    assert len(key_settings(config)) <= 12


def test_an_arm_on_the_searched_mixture_counts_under_any_name() -> None:
    named = mixture(dro={**MIXMIN, "mixture": "mixmin"}, balanced={**BALANCED, "mixture": "balanced"})
    metrics = key_metrics({"sklearn": named})
    assert (metrics["held_out/sklearn"], metrics["gain/sklearn/balanced"]) == (4.0, 0.5)
    assert key_metrics({"sklearn": mixture(balanced=BALANCED)}) == {"gap/sklearn": 1e-9}


def test_shares_and_arms_are_tables(config: RunConfig) -> None:
    content = tables(config, {"sklearn": mixture(mixmin=MIXMIN, balanced=BALANCED)}, {})
    shares, arms = (json.loads(content[name]) for name in ("shares.json", "comparison.json"))
    assert [dict(zip(shares["columns"], row, strict=True)) for row in shares["data"]] == [
        {"mixture": "sklearn", "source": "python", "mixmin": 1.0, "low": 1.0, "high": 1.0, "epochs": None}
    ]
    rows = [dict(zip(arms["columns"], row, strict=True)) for row in arms["data"]]
    assert [(row["arm"], row["held_out"], row["difference"]) for row in rows] == [
        ("mixmin", 4.0, None),
        ("balanced", 4.5, 0.5),
    ]


def test_a_mixture_without_retrained_arms_has_empty_cells_for_theirs(config: RunConfig) -> None:
    trained = ModelMeta(parameters=7, tokens=64, seconds=1.0, curve=[(64, 2.0)], source_shares={"python": 1.0})
    other = mixture().model_copy(update={"sources": ["c"], "weights": {"c": 1.0}, "interval": {}})
    content = tables(config, {"other": other, "sklearn": mixture()}, {"arm/balanced": trained})
    shares = json.loads(content["shares.json"])
    assert {len(row) for row in shares["data"]} == {len(shares["columns"])}
    assert [row[shares["columns"].index("balanced")] for row in shares["data"]] == [None, 1.0]


def test_an_arm_names_its_data_its_shares_and_its_model(config: RunConfig) -> None:
    counts = {"documents": 3, "tokens": 64}
    contents = RunContents(
        "/store/runs/x",
        pools={"source/python": ("a" * 64, counts), "target/sklearn": ("b" * 64, counts)},
        models={"proxy/python": model(0), "arm/balanced": model(1)},
        model_places={"arm/balanced": "/store/artifacts/model/1"},
        mixtures={"sklearn": mixture(mixmin=MIXMIN, balanced=BALANCED)},
    )
    run, proxy, arm = records_of_run(config, contents)
    assert run.tables == ("shares.json", "comparison.json")
    assert (proxy.tags["role"], proxy.tags["source"]) == ("proxy", "python")
    assert [(dataset.name, dataset.context) for dataset in arm.datasets] == [
        ("python", "training"),
        ("sklearn", "evaluation"),
    ]
    assert arm.params["share.python"] == "1.0"
    assert arm.model is not None
    assert (arm.model.name, arm.model.location) == ("arm-balanced", "/store/artifacts/model/1")
    assert [(point.value, point.step) for point in arm.points if point.metric == "held_out/sklearn"] == [(4.4, 64)]


def test_where_every_source_is_a_target_each_arm_is_of_one_target(config: RunConfig) -> None:
    target = config.targets["sklearn"]
    targets = {name: target.model_copy(update={"leave_out": name}) for name in ("a", "b")}
    apart = config.model_copy(update={"targets": targets})
    facts = arm_facts(apart, {})
    assert {key: arm.tags["target"] for key, arm in facts.items() if "seed1" not in key} == {
        "arm/mixmin-a": "a",
        "arm/mixmin-b": "b",
        "arm/balanced-a": "a",
        "arm/balanced-b": "b",
    }
