"""Where bytes live: one folder or object store, artifacts published once with the manifest last."""

from mixray.store.artifacts import Artifact, Artifacts, Draft, fingerprint, fingerprint_each
from mixray.store.index import RunIndex, Status
from mixray.store.lease import Lease
from mixray.store.step import RunTasks, Step, find_or_make
from mixray.store.storage import FileRecord, Storage
from mixray.store.tables import encode
from mixray.store.trained import HeldOutCurve, ModelMeta, SourceLoss

__all__ = [
    "Artifact",
    "Artifacts",
    "Draft",
    "FileRecord",
    "HeldOutCurve",
    "Lease",
    "ModelMeta",
    "RunIndex",
    "RunTasks",
    "SourceLoss",
    "Status",
    "Step",
    "Storage",
    "encode",
    "find_or_make",
    "fingerprint",
    "fingerprint_each",
]
