"""Where a model trains: the device and the precision of a worker, and how several workers share a batch.

The caller states the device; the machine is only asked to have it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from mixray.config.training import Precision, Resources
from mixray.errors import InputError, StageError

T = TypeVar("T")


class Preempted(Exception):
    """Training stopped with its state saved, because a machine of its workers is about to be taken away."""


@dataclass(frozen=True)
class World:
    """This worker's ``rank`` among ``size`` workers. More than one need an initialised torch process group.

    ``must_leave`` is called by every worker after every step, and gives all of them the same answer: whether a machine
    of theirs is about to be taken away.
    """

    rank: int = 0
    size: int = 1
    must_leave: Callable[[], bool] = lambda: False

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
        return self.sum_on_device(values).cpu()

    def sum_on_device(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sums of float64 numbers over the workers, where the numbers are; the device goes on meanwhile."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

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


def device_for(gpus: float) -> torch.device:
    """Return the GPU where one (or a fraction) was asked for, else the CPU.

    Ray shows a worker only its own GPUs, so the first visible one is right. Raises InputError where torch sees none.
    """
    if gpus <= 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(
            "a GPU was asked for and torch sees none",
            where="resources",
            got=f"gpus: {gpus}; torch {torch.__version__}, CUDA_VISIBLE_DEVICES as this process sees it",
            wanted="a CUDA device and a torch build for it",
            remedy="set gpus: 0, or install torch with CUDA on the machines that have one",
        )
    return torch.device("cuda")


def use_resources(resources: Resources) -> torch.device:
    """Set the number of threads that torch uses in this process, and return the device that it has been given."""
    torch.set_num_threads(resources.threads)
    return device_for(resources.gpus)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return a fresh autocast context; weights stay float32. ``auto``: bfloat16 on a GPU that has it, else float32."""
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    enabled = precision == "bfloat16" or (precision == "auto" and has_bfloat16)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
