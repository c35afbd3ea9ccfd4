"""A mixture for other trainers, one file per family of trainers; and swarms and mixtures of others, read in."""

from mixray.export.audit import SourceAudit, audit_arm, audit_log, misplaced_share
from mixray.export.exporting import TRAINERS, Export, export_mixture
from mixray.export.interleaving import example_shares, interleave
from mixray.export.published import read_mixture
from mixray.export.swarm import Swarm, read_swarm, store_swarm

__all__ = [
    "TRAINERS",
    "Export",
    "SourceAudit",
    "Swarm",
    "audit_arm",
    "audit_log",
    "example_shares",
    "export_mixture",
    "interleave",
    "misplaced_share",
    "read_mixture",
    "read_swarm",
    "store_swarm",
]
