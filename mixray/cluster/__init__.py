"""The only home of Ray: placing what computes on a cluster, one file per use of it."""

from mixray.cluster.session import Session

__all__ = ["Session"]
