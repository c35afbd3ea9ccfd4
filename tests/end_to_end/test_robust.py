"""jobs/train_robust.py as a user runs it: digits without a file, rows from Parquet, wrong input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mixray.config import load_config
from mixray.config.robust import RobustConfig
from mixray.data.tabular.grouped import load_task, store_rows
from mixray.errors import InputError
from mixray.pipeline import run
from mixray.store import Artifacts, Storage
from mixray.study import train_arm
from mixray.study.arm import accuracy
from tests.end_to_end.conftest import content_of, kill_at, mixray

ROOT = Path(__file__).parents[2]
ADULT = ROOT.parent / "shared" / "data" / "groups" / "adult.parquet"
SMALL = [
    "seeds=2",
    "steps=20",
    "evaluations=2",
    "arms=[erm, group_dro]",
    "measures.l2=[0.1]",
    "measures.rows=300",
    "l2=0.03",
]


def job(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "jobs/train_robust.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The storage of a small run of the default task, and what it printed."""
    storage = tmp_path_factory.mktemp("robust")
    done = job(*SMALL, f"storage={storage}")
    assert done.returncode == 0, done.stderr
    return storage, done.stdout


def results(storage: Path) -> dict[str, Any]:
    (path,) = storage.glob("runs/*/results.json")
    return dict(json.loads(path.read_text()))


def test_the_job_prints_worst_groups_with_intervals_and_no_mechanisms(digits: tuple[Path, str]) -> None:
    text = " ".join(digits[1].split())
    for wanted in (
        "Worst group: accuracy on the test part",
        "models selected by the worst group of the validation part, n = 300",
        "n = 497 test rows, 2 seeds",
        "Worst group: difference in points",
        "train and test rows: 0-4|no patch",
        "run folder: ",
    ):
        assert wanted in text
    assert "Claims" not in text
    assert re.search(r" group_dro( \*)? \d+\.\d \d+\.\d to \d+\.\d ", text)


def test_show_prints_the_comparison_again(digits: tuple[Path, str]) -> None:
    (folder,) = (digits[0] / "runs").iterdir()
    shown = mixray("show", folder)
    assert shown.returncode == 0, shown.stderr
    tables, _, _ = digits[1].partition("run folder: ")
    assert shown.stdout.partition("open it in MLflow: ")[0] == f"robust comparison: {folder}\n\n{tables}"
    assert json.loads(mixray("show", folder, "--json").stdout)["arms"] == results(digits[0])["arms"]


def test_a_job_that_is_killed_goes_on_where_it_was(digits: tuple[Path, str], tmp_path: Path) -> None:
    program = [sys.executable, str(ROOT / "jobs" / "train_robust.py")]
    kill_at("[arms] erm-0", *SMALL, f"storage={tmp_path}", program=program)
    kept = content_of(tmp_path, "classifier")
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("artifacts/*/*/manifest.json")}
    assert kept
    done = job(*SMALL, f"storage={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in written} == written  # nothing finished was done again
    assert content_of(tmp_path, "classifier") == content_of(digits[0], "classifier")
    assert told(results(tmp_path)) == told(results(digits[0]))


def told(found: dict[str, Any]) -> dict[str, Any]:
    """All but how long it took."""
    for arm in found["arms"].values():
        for seed in arm["seeds"]:
            del seed["seconds"]
    return found


def test_the_results_file_has_every_seed_of_every_arm(digits: tuple[Path, str]) -> None:
    found = results(digits[0])
    assert (found["schema"], found["seeds"], found["select_by"]) == ("mixray.robust/1", [0, 1], "worst_group")
    for arm in ("erm", "group_dro"):
        seeds = found["arms"][arm]["seeds"]
        assert [one["seed"] for one in seeds] == [0, 1]
        assert {one["steps"] for one in seeds} == {20}
        assert all((one["training_curve"][-1]["group_weights"] is None) == (arm == "erm") for one in seeds)
    assert sum(found["counts"]["test"].values()) == 497
    assert found["heads"][0]["holds"] == 2


def test_mlflow_has_curves_of_groups_and_their_weights(digits: tuple[Path, str]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{digits[0]}/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name == "robust_digits"]
    runs = client.search_runs([experiment.experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    (arm,) = [run for name, run in by_name.items() if name.endswith("group_dro-1")]
    weights = client.get_metric_history(arm.info.run_id, "group_weight/1_0-4_patch")
    assert [point.step for point in weights] == list(range(1, 21))
    accuracy = client.get_metric_history(arm.info.run_id, "validation_accuracy/2_5-9_no patch")
    assert [point.step for point in accuracy] == [10, 20]
    assert len(runs) == 1 + 4


def test_a_second_run_trains_nothing_and_tells_the_same(digits: tuple[Path, str]) -> None:
    storage = digits[0]
    before = results(storage)
    made = {path: path.stat().st_mtime_ns for path in storage.glob("artifacts/*/*/manifest.json")}
    assert len(made) == 2 * 2 + 2
    again = run(ROOT / "jobs" / "robust_digits.yaml", [*SMALL, f"storage={storage}"])
    assert again.comparison is not None
    assert json.loads(again.comparison.to_json()) == before
    assert made == {path: path.stat().st_mtime_ns for path in storage.glob("artifacts/*/*/manifest.json")}


def rows(**changes: Any) -> pa.Table:
    """Frozen features of two numbers: the label's, noisily, and the shortcut's, which tells it in 9 rows of 10."""
    draws = np.random.default_rng(0)
    labels = draws.integers(2, size=400)
    shortcut = np.where(draws.random(400) < 0.9, labels, 1 - labels)
    features = np.column_stack([2 * labels - 1, 3 * shortcut]) + draws.normal(size=(400, 2))
    columns = {
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), 2),
        "y": labels,
        "shortcut": shortcut,
        "place": [f"{label}{value}" for label, value in zip(labels, shortcut, strict=True)],
    }
    return pa.table(columns | changes)


def run_file(folder: Path, table: pa.Table, **changes: Any) -> Path:
    pq.write_table(table, folder / "rows.parquet")
    content = {
        "name": "frozen",
        "seeds": 1,
        "storage": str(folder / "runs-here"),
        "data": {
            "parquet": str(folder / "rows.parquet"),
            "features": "vector",
            "label": "y",
            "group": "column:place",
            "spurious": "shortcut",
        },
        "epochs": 2,
        "evaluations": 2,
        "arms": ["erm", "importance"],
        "measures": {"l2": []},
        **changes,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.usefixtures("ray_session")
def test_a_head_on_frozen_features_from_parquet(tmp_path: Path) -> None:
    results = run(run_file(tmp_path, rows())).comparison
    assert results is not None
    assert results.group_names == ("00", "01", "10", "11")
    assert sum(sum(part.values()) for part in results.counts.values()) == 400
    assert results.steps == round(2 * sum(results.counts["train"].values()) / 64)
    assert all(compared.summary.measures["alignment_spurious"] for compared in results.arms.values())


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"y": np.zeros(400, dtype=np.int64)}, [], "the label has one class only in the training rows"),
        ({"place": ["one"] * 399 + ["other"]}, [], "a group has too few training rows to set some aside"),
        ({}, ["data.group=[colour]"], "a column is missing"),
        ({}, ["storage=/dev/null/x"], "the storage cannot be written"),
    ],
)
def test_wrong_input_is_refused_before_anything_starts(
    tmp_path: Path, changes: dict[str, Any], overrides: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(run_file(tmp_path, rows(**changes)), overrides)
    assert not list(tmp_path.glob("runs-here/*.db"))


def test_the_job_ends_with_code_2_and_no_traceback(tmp_path: Path) -> None:
    done = job(str(run_file(tmp_path, rows())), "sed=1")
    assert done.returncode == 2
    assert "mixray: unknown key 'sed'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not ADULT.exists(), reason=f"no {ADULT.name}")
def test_on_adult_group_dro_lifts_the_worst_group(tmp_path: Path) -> None:
    """The run file of jobs/ with a fifth of its budget, in this process."""
    overrides = {"data.parquet": str(ADULT), "epochs": 1, "evaluations": 5, "model.head": "linear"}
    config = load_config(ROOT / "jobs" / "robust_adult.yaml", overrides, kind=RobustConfig)
    storage = Storage(str(tmp_path))
    task = load_task(config.data, store_rows(config.data, Artifacts(storage, "test")), storage, 0)
    counts = np.bincount(task.test.group_ids).tolist()
    assert dict(zip(task.group_names, counts, strict=True)) == {
        "Female|0": 4831,
        "Female|1": 590,
        "Male|0": 7604,
        "Male|1": 3256,
    }
    arms = {arm: train_arm(task, config, arm, 0).model for arm in ("erm", "group_dro")}
    worst = {arm: accuracy(model, task.test, len(task.group_names)).worst for arm, model in arms.items()}
    assert worst["group_dro"] >= worst["erm"] + 0.15, worst
