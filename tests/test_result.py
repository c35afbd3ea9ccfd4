"""What a run has come to, as ``show`` reads it from the run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixray.config import RobustConfig, load_config
from mixray.errors import InputError
from mixray.progress import SilentProgress
from mixray.result import show
from mixray.runs import RobustRun
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


class Warnings(SilentProgress):
    """Progress that remembers warnings."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def warn(self, message: str) -> None:
        self.messages.append(message)


def test_a_run_that_mlflow_lacks_is_published_when_it_is_shown(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:1"
    run = RobustRun.create(load_config(JOB, {"storage": str(tmp_path), "tracking.uri": nobody}, kind=RobustConfig))
    unfinished = show(run.location)
    assert (unfinished.kind, unfinished.run.next_stage, unfinished.tables()) == ("robust comparison", "arms", [])
    assert unfinished.to_dict() == {"run": run.location, "kind": "robust comparison", "next_stage": "arms"}
    run.save_results(results())
    run.add_artifacts({"arm/erm-0": run.artifacts.draft("classifier", "ab").publish({}, META)})
    progress = Warnings()
    result = show(run.location, progress)
    assert (result.comparison, result.run.next_stage) == (results(), None)
    assert "worst" in result._repr_html_()
    (warning,) = progress.messages
    assert nobody in warning
    assert "mixray show" in warning


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this is not a valid run folder"):
        show(str(tmp_path))
