"""A pool: one source or one target as the run file describes it, with the words an error needs to name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mixray.config.data import PoolConfig
from mixray.config.schema import RunConfig


@dataclass(frozen=True)
class Pool:
    role: Literal["source", "target"]
    name: str
    config: PoolConfig

    @property
    def label(self) -> str:
        return f"{self.role} {self.name}"

    def key(self, field: str) -> str:
        """The dotted key of a field in the run file."""
        return f"{self.role}s.{self.name}.{field}"

    @property
    def files_key(self) -> str:
        """The dotted key of the field that says where the data is."""
        return self.key(self.config.reader)


def source_pools(config: RunConfig) -> list[Pool]:
    return [Pool("source", name, pool) for name, pool in config.sources.items()]


def target_pools(config: RunConfig) -> list[Pool]:
    return [Pool("target", name, pool) for name, pool in config.targets.items()]
