"""A run: one execution of a run file, and its folder."""

from mixray.runs.kinds import (
    MixtureRun,
    RobustRun,
    create_run,
    is_finished,
    latest_run_folder,
    list_runs,
    open_run,
    verify_stored,
)
from mixray.runs.run import DEFAULT_STORAGE, Run

__all__ = [
    "DEFAULT_STORAGE",
    "MixtureRun",
    "RobustRun",
    "Run",
    "create_run",
    "is_finished",
    "latest_run_folder",
    "list_runs",
    "open_run",
    "verify_stored",
]
