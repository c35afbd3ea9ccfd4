"""Boosted trees from the run file to the report: a planted mixture, whatever the number of actors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import mixray
from mixray.cluster import Session
from tests.end_to_end.conftest import content_of
from tests.end_to_end.conftest import mixray as command
from tests.end_to_end.test_examples import PLANTED, run_file
from tests.end_to_end.test_leave_one_out import content_of_run


def tree_run(folder: Path, cpus: int) -> Path:
    """The run file of the planted mixture, with trees of one library as proxies and of the other as arms."""
    folder.mkdir()
    content: dict[str, Any] = yaml.safe_load(run_file(folder).read_text())
    trees = {"rounds": 60, "depth": 3}
    resources = {"cpus": cpus}
    content["proxy"] = {"model": {"boosted_trees": trees | {"library": "lightgbm"}}, "resources": resources}
    content["retrain"] = {"model": {"boosted_trees": trees | {"library": "xgboost"}}, "resources_per_worker": resources}
    content["cache"] = {"actors": 3 - cpus}
    path = folder / "trees.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(ray_session: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    ray_session.connect()
    return tmp_path_factory.mktemp("trees")


def test_the_planted_proportions_come_back_and_the_number_of_actors_changes_no_bit(folder: Path) -> None:
    """Two actors of one thread each, or one of two threads."""
    one, two = (mixray.run(tree_run(folder / f"cpus-{cpus}", cpus)) for cpus in (2, 1))
    mixture = one.mixtures["goal"]
    distance = sum(abs(mixture.weights[name] - share) for name, share in PLANTED.items()) / 2
    assert distance <= 0.08, mixture.weights
    assert set(mixture.retrain) == {"mixmin", "balanced", "natural"}
    assert mixture.retrain["mixmin"].tokens == 10_000
    assert mixture.epochs == pytest.approx({name: 2 * share for name, share in mixture.weights.items()})
    assert mixture.compute is None
    assert two.mixtures["goal"].weights == mixture.weights
    for kind in ("proxy", "model", "column"):
        contents = [content_of(folder / f"cpus-{cpus}" / "runs-here", kind) for cpus in (1, 2)]
        assert contents[0] == contents[1]
        assert contents[0]


def test_leaving_one_out_has_the_same_bits_on_one_two_and_four_actors(folder: Path) -> None:
    """Of molecules. Actors train the proxies and cache their predictions."""
    contents = []
    for actors in (1, 2, 4):
        content = content_of_run(
            folder,
            storage=str(folder / f"actors-{actors}"),
            proxy={"model": {"boosted_trees": {"rounds": 10, "depth": 3}}, "resources": {"cpus": 4 // actors}},
            cache={"actors": actors},
        )
        content["sources"]["from_labels"]["labels"] = ["oxygen", "oxygen_2", "nitrogen", "nitrogen_2"]
        path = folder / f"actors-{actors}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        mixray.run(path, until="cache")
        contents.append([content_of(folder / f"actors-{actors}", kind) for kind in ("proxy", "column")])
    assert [len(ids) for ids in contents[0]] == [4, 4]
    assert contents[0] == contents[1] == contents[2]


def test_a_second_run_trains_nothing(folder: Path) -> None:
    def published() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.glob("*/runs-here/artifacts/*/*/manifest.json")}

    before = published()
    mixray.run(folder / "cpus-1" / "trees.yaml")
    assert published() == before
    assert before


def test_a_plan_counts_examples_and_leaves_out_what_it_does_not_know(folder: Path) -> None:
    done = command("plan", folder / "cpus-1" / "trees.yaml", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["proxy_tokens"], plan["retrain_tokens"], plan["models"]) == (5000, 10_000, 3)
    assert (plan["resources"], plan["compute"]) == (None, None)
    assert plan["epochs"] == {"first": 2.0, "second": 2.0}
