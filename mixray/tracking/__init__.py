"""A run in MLflow: a projection of the run folder, which stays the truth. The only folder that imports mlflow.

``records_of_run`` turns stored results into records; ``MlflowRuns`` writes what MLflow lacks of them; ``RunTracking``
does so while a run works, and ``publish_folder`` at any later time. Nothing is written twice.
"""

from mixray.tracking.connection import default_uri, resolve_uri, view_command
from mixray.tracking.run_tracking import RESULTS_FILE, SUMMARY_FILE, RunTracking, publish_folder
from mixray.tracking.sweep_runs import publish_sweep

__all__ = [
    "RESULTS_FILE",
    "SUMMARY_FILE",
    "RunTracking",
    "default_uri",
    "publish_folder",
    "publish_sweep",
    "resolve_uri",
    "view_command",
]
