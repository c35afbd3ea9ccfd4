"""What a run did, told to MLflow and to the person watching. The only folder that imports mlflow.

``Tracker`` takes records (params, metrics, figures, data sets) keyed by run key; ``MlflowTracker`` delivers them from
one background thread and keeps what cannot be delivered in the run folder until ``replay``.
"""

from mixray.tracking.address import default_uri, view_command
from mixray.tracking.delivery import MlflowTracker
from mixray.tracking.opening import open_tracker, replay
from mixray.tracking.records import Context, Status, flatten, metric_names, numbered_name
from mixray.tracking.tracker import NoTracker, Tracker

__all__ = [
    "Context",
    "MlflowTracker",
    "NoTracker",
    "Status",
    "Tracker",
    "default_uri",
    "flatten",
    "metric_names",
    "numbered_name",
    "open_tracker",
    "replay",
    "view_command",
]
