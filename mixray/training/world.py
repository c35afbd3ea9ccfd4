"""The workers of one training run and how they share a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from mixray.errors import StageError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This worker's ``rank`` among ``size`` workers. More than one need an initialised torch process group."""

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.size, f"rank {self.rank} of {self.size} workers"

    def slice(self, batch: int) -> tuple[int, int]:
        """Return this worker's part [start, stop) of a batch: contiguous, sizes differ by at most one."""
        return self.rank * batch // self.size, (self.rank + 1) * batch // self.size

    def mean(self, value: torch.Tensor) -> float:
        """Return the mean of a float64 scalar over the workers; waits for the device."""
        return float(self.sum(value)) / self.size

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sums of float64 numbers over the workers, on the CPU; waits for the device."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values.cpu()

    def from_rank_0(self, compute: Callable[[], T]) -> T:
        """Return on every worker what ``compute`` returns on rank 0, so that no two of them can disagree.

        The result travels pickled, by way of the CPUs. A StageError of rank 0 is raised on every worker.
        """
        if self.size == 1:
            return compute()
        outcome: list[T | StageError | None] = [None]
        if self.rank == 0:
            try:
                outcome = [compute()]
            except StageError as error:
                outcome = [error]
        # Not the default group: on GPUs it would move the result through their memory.
        group = dist.new_group(backend="gloo")
        dist.broadcast_object_list(outcome, src=0, group=group)
        dist.destroy_process_group(group)
        (result,) = outcome
        if isinstance(result, StageError):
            raise result
        return result  # type: ignore[return-value]
