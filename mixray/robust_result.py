"""What the robust job has come to, and the tables that say it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from rich.console import Console

from mixray.config import parse_config
from mixray.config.robust import RobustConfig
from mixray.report.robust_results import RobustResults
from mixray.report.robust_tables import robust_report
from mixray.runs import located
from mixray.tracking import RESULTS_FILE, publish_folder


@dataclass(frozen=True)
class RobustResult:
    """``folder``: the run folder, where ``results.json`` is ``results``; ``view_command``: opens the run in MLflow."""

    folder: str
    results: RobustResults
    view_command: str = ""

    @classmethod
    def find(cls, location: str, warn: Callable[[str], None]) -> Self | None:
        """Of an existing run folder; None where it is that of another kind of run, or has no results yet.

        Publishes what MLflow lacks of it. Raises InputError where it is no run folder."""
        storage, path, text = located(location)
        if not storage.exists(f"{path}/{RESULTS_FILE}"):
            return None
        config = parse_config(text, name=storage.location(f"{path}/config.yaml"), kind=RobustConfig)
        publish_folder(config, storage, path, warn)
        return cls(storage.location(path), RobustResults.from_json(storage.read(f"{path}/{RESULTS_FILE}")))

    def print(self) -> None:
        Console().print(robust_report(self.results))
        print(f"run folder: {self.folder}")
        if self.view_command:
            print(f"open it in MLflow: {self.view_command}")
