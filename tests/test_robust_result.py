"""A finished robust job, found again: what it has come to, and the records that MLflow has not got yet."""

from __future__ import annotations

from pathlib import Path

from mixray.config import load_config
from mixray.config.robust import RobustConfig
from mixray.robust_result import RESULTS, RobustResult
from mixray.runs import created
from mixray.tracking.records import Finish
from mixray.tracking.spool import Spool
from tests.report.test_robust_tables import results

JOB = Path(__file__).parents[1] / "jobs" / "robust_digits.yaml"


def test_records_that_wait_in_the_folder_are_sent_when_it_is_shown(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:1"
    config = load_config(JOB, {"storage": str(tmp_path), "tracking.uri": nobody}, kind=RobustConfig)
    storage, path = created(config)
    warnings: list[str] = []
    assert RobustResult.find(storage.location(path), warnings.append) is None
    storage.write(f"{path}/{RESULTS}", results().to_json().encode())
    Spool(storage, path).write([Finish("erm-0")])
    found = RobustResult.find(storage.location(path), warnings.append)
    assert found is not None
    assert found.results == results()
    (warning,) = warnings
    assert nobody in warning
    assert "records stay in" in warning
