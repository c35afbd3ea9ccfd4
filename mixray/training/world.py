"""The workers of one training run and how they share a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """This worker's ``rank`` among ``size`` workers. More than one need an initialised torch process group."""

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.size, f"rank {self.rank} of {self.size} workers"

    def slice(self, batch: int) -> tuple[int, int]:
        """This worker's part [start, stop) of a batch of windows: contiguous, sizes differ by at most one."""
        return self.rank * batch // self.size, (self.rank + 1) * batch // self.size

    def mean(self, value: torch.Tensor) -> float:
        """The mean of a float64 scalar over the workers; waits for the device."""
        return float(self.sum(value)) / self.size

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sums of float64 numbers over the workers, on the CPU; waits for the device."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values.cpu()
