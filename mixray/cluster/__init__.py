"""The only home of Ray: placing what computes on a cluster, one file per use of it."""

from mixray.cluster.session import Session, count_gpus

__all__ = ["Session", "count_gpus"]
