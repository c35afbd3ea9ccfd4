"""Tabular examples from the run file to the report: a planted mixture, groups of a column, a second run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from numpy.typing import NDArray

import mixray
from mixray.cli import app
from mixray.cluster import Session
from mixray.result import Result
from tests.end_to_end.conftest import content_of
from tests.end_to_end.conftest import mixray as command

RULES = {"first": [3.0, 0.0, 1.0], "second": [0.0, -3.0, 1.0]}
"""Source -> the logits' slopes."""
PLANTED = {"first": 0.7, "second": 0.3}
TARGET_ROWS = 4000
PLACES = {"first": ["<1 km"], "second": ["<1 km", ">1 km"]}
"""Whatever values a group has; MLflow takes neither of the signs."""


def columns(rule: str, rows: int, seed: int) -> dict[str, NDArray[Any]]:
    """Rows whose label is drawn by the source's rule."""
    draws = np.random.default_rng([seed, rows])
    x = draws.normal(size=(rows, 3))
    sure = 1 / (1 + np.exp(-x @ RULES[rule]))
    place = draws.choice(PLACES[rule], rows)
    return dict(zip("abc", x.T, strict=True)) | {
        "label": np.where(draws.random(rows) < sure, "yes", "no"),
        "place": place,
    }


def write_csv(path: Path, table: dict[str, NDArray[Any]]) -> str:
    rows = [",".join(map(str, row)) for row in zip(*table.values(), strict=True)]
    path.write_text("\n".join([",".join(table), *rows]) + "\n", encoding="utf-8")
    return str(path)


def run_file(folder: Path) -> Path:
    parts = [columns(rule, round(share * TARGET_ROWS), 9) for rule, share in PLANTED.items()]
    goal = {name: np.concatenate([part[name] for part in parts]) for name in "abc"}
    goal |= {"label": np.concatenate([part["label"] for part in parts])}
    steps = {"batch": 50, "optimizer": {"learning_rate": 0.05, "weight_decay": 0.0}}
    content = {
        "name": "planted",
        "storage": str(folder / "runs-here"),
        "examples": {"numeric": ["a", "b", "c"], "label": "label"},
        "sources": {
            rule: {"csv": write_csv(folder / f"{rule}.csv", columns(rule, 5000, seed))}
            for seed, rule in enumerate(RULES)
        },
        "targets": {"goal": {"csv": write_csv(folder / "goal.csv", goal), "held_out": 0.3}},
        "proxy": {"kind": "classifier", "model": {"head": "linear"}, "tokens": 20_000, **steps},
        "mixture": {"bootstrap": 50},
        "retrain": {
            "model": {"head": "mlp", "hidden": [8]},
            "tokens": 10_000,
            "workers": 2,
            "arms": ["mixmin"],
            "objective": {"kind": "group_dro", "groups": "column:place"},
            **steps,
        },
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def planted(ray_session: Session, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The folder of a finished run, and its result."""
    ray_session.connect()
    folder = tmp_path_factory.mktemp("examples")
    return folder, mixray.run(run_file(folder))


def made(folder: Path) -> dict[Path, int]:
    """When every artifact was published."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("runs-here/artifacts/*/*/manifest.json")}


def test_the_planted_proportions_come_back(planted: tuple[Path, Result]) -> None:
    mixture = planted[1].mixtures["goal"]
    distance = sum(abs(mixture.weights[name] - share) for name, share in PLANTED.items()) / 2
    assert distance <= 0.06, mixture.weights
    assert mixture.loss["mixmin"] < mixture.loss["balanced"]
    assert (mixture.share_of, mixture.retrain["mixmin"].tokens) == ("training examples", 10_000)


def test_an_arm_tells_the_weights_of_the_columns_groups(planted: tuple[Path, Result]) -> None:
    folder, result = planted
    weights = result.mixtures["goal"].retrain["mixmin"].group_weights
    assert list(weights) == ["<1 km", ">1 km"]
    assert sum(weights.values()) == pytest.approx(1)
    client = MlflowClient(f"sqlite:///{folder}/runs-here/mlflow.db")
    experiment = client.get_experiment_by_name("planted")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    told = runs["arm/mixmin-goal"].data.metrics
    assert [told[f"group_weight/{number}__1 km"] for number in (0, 1)] == pytest.approx(list(weights.values()))
    assert {"loss", "group_loss/0__1 km", "group_loss/1__1 km"} <= set(told)


def test_a_second_run_trains_nothing_and_tells_the_same(planted: tuple[Path, Result]) -> None:
    folder, result = planted
    before = made(folder)
    assert before
    again = mixray.run(folder / "run.yaml")
    assert made(folder) == before
    assert again.mixtures == result.mixtures


def test_the_search_does_not_hang_on_the_groups(planted: tuple[Path, Result]) -> None:
    """Nor on the order of the sources: another objective trains no proxy again and finds the same mixture."""
    folder, result = planted
    content = yaml.safe_load((folder / "run.yaml").read_text())
    content["sources"] = dict(reversed(content["sources"].items()))
    del content["retrain"]["objective"]
    (folder / "other.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    kinds = ("proxy", "column", "rows")
    before = {kind: content_of(folder / "runs-here", kind) for kind in kinds}
    other = mixray.run(folder / "other.yaml", until="mixture")
    assert {kind: content_of(folder / "runs-here", kind) for kind in kinds} == before
    assert other.mixtures["goal"].weights == pytest.approx(result.mixtures["goal"].weights, abs=1e-6)


def test_the_cache_is_asked_again(planted: tuple[Path, Result], capsys: pytest.CaptureFixture[str]) -> None:
    app(["solve", planted[1].folder, "mixture.bounds={first: [0, 0.4]}", "--json"], standalone_mode=False)
    (mixture,) = json.loads(capsys.readouterr().out)["mixtures"].values()
    assert mixture["weights"]["first"] == pytest.approx(0.4)


def test_a_missing_column_is_refused_with_exit_code_2(planted: tuple[Path, Result]) -> None:
    folder = planted[0]
    before = made(folder)
    done = command("run", folder / "run.yaml", "examples.numeric=[a, height]")
    assert done.returncode == 2
    assert "mixray: a column is missing\n  where: examples.numeric\n" in done.stderr
    assert f"height, but {folder}/first.csv has the columns a, b, c, label, place" in done.stderr
    assert "Traceback" not in done.stderr
    assert made(folder) == before
