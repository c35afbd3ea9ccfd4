"""A finished robust comparison, opened again: its results, and what MLflow lacks of it."""

from __future__ import annotations

from pathlib import Path

from mixray.config import load_config
from mixray.config.robust import RobustConfig
from mixray.robust_result import RobustResult
from mixray.runs import created
from mixray.store import Artifacts, RunIndex
from mixray.tracking import RESULTS_FILE
from tests.report.test_robust_tables import results

META = {
    "arm": "erm",
    "seed": 0,
    "group_names": ["a", "b"],
    "training_curve": [],
    "validation_curve": [],
    "test": {"worst": 0.5, "average_test": 0.75, "accuracy": [0.5, None]},
    "selected": {"step": 10},
}
JOB = Path(__file__).parents[1] / "jobs" / "robust_digits.yaml"


def test_a_run_that_mlflow_lacks_is_published_when_it_is_shown(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:1"
    config = load_config(JOB, {"storage": str(tmp_path), "tracking.uri": nobody}, kind=RobustConfig)
    storage, path = created(config)
    warnings: list[str] = []
    assert RobustResult.find(storage.location(path), warnings.append) is None
    storage.write(f"{path}/{RESULTS_FILE}", results().to_json().encode())
    RunIndex(storage, path).add({"arm/erm-0": Artifacts(storage, "run").draft("classifier", "ab").publish({}, META)})
    found = RobustResult.find(storage.location(path), warnings.append)
    assert found is not None
    assert found.results == results()
    (warning,) = warnings
    assert nobody in warning
    assert "mixray show" in warning
