"""Rows, the groups they belong to, and sums by group over all workers of a step.

Everything robust here starts from two vectors: how many rows of each group a step has, and the sum of their losses.
Both are sums, so parts of a batch and workers simply add up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
import torch.distributed as dist
from torch import nn

from mixray.errors import InputError

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
NAMED_ROWS = 5
"""At most so many rows are named in an error."""

PerGroup = torch.Tensor | Sequence[float]


class PreciseBuffers(nn.Module):
    """A module whose buffers keep their dtypes when it is cast, as part of a model that becomes bfloat16, for example.

    In bfloat16 a weight of 0.25 cannot move by less than 0.001. Devices without float64 hold float32.
    """

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        def moved(tensor: torch.Tensor) -> torch.Tensor:
            device = fn(torch.empty(0, dtype=torch.float32, device=tensor.device)).device
            no_float64 = device.type == "mps" and tensor.dtype == torch.float64
            return tensor.to(device, torch.float32 if no_float64 else tensor.dtype)

        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return self


def checked_ids(group_ids: torch.Tensor | Sequence[int], num_groups: int) -> torch.Tensor:
    """Return group ids as int64, shape (rows,).

    Raises InputError for another shape or dtype, and for ids that belong to no group.

    Ids on the CPU are checked there; ids on a GPU make this process wait for it.
    """
    ids = torch.as_tensor(group_ids)
    if ids.numel() == 0:
        ids = ids.to(torch.int64)
    if ids.ndim != 1 or ids.dtype not in INTEGERS:
        raise InputError(
            "group ids must be a vector of integers",
            where="group_ids",
            got=f"{ids.dtype} of shape {tuple(ids.shape)}",
            wanted="an integer dtype, shape (rows,)",
        )
    unknown = ((ids < 0) | (ids >= num_groups)).nonzero().flatten()
    if len(unknown):
        rows = unknown[:NAMED_ROWS].tolist()
        raise InputError(
            f"{len(unknown)} of {len(ids)} rows belong to no group",
            where="group_ids, rows " + ", ".join(map(str, rows)) + (", ..." if len(unknown) > NAMED_ROWS else ""),
            got=[int(ids[row]) for row in rows],
            wanted=f"ids from 0 to {num_groups - 1}: there are {num_groups} groups",
        )
    return ids.to(torch.int64)


def per_group(values: PerGroup, num_groups: int, where: str) -> torch.Tensor:
    """Return finite numbers, one per group, as float64 on the CPU. Raises InputError for anything else."""
    vector = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    if vector.shape != (num_groups,) or not bool(vector.isfinite().all()):
        raise InputError(
            "a setting per group must be one finite number for each group",
            where=where,
            got=vector.tolist(),
            wanted=f"{num_groups} finite numbers",
        )
    return vector


def distribution(values: PerGroup | None, num_groups: int, where: str) -> torch.Tensor:
    """Return non-negative numbers scaled to sum to 1, float64 (groups,); uniform ones where ``values`` is None."""
    if values is None:
        return torch.full((num_groups,), 1 / num_groups, dtype=torch.float64)
    vector = per_group(values, num_groups, where)
    if bool((vector < 0).any()) or float(vector.sum()) <= 0:
        raise InputError(
            "a distribution over groups must not be negative and must have a positive sum",
            where=where,
            got=vector.tolist(),
        )
    return vector / vector.sum()


def training_rows(counts: PerGroup, num_groups: int) -> torch.Tensor:
    """Return the training rows of each group, float64. Raises InputError, naming the group, where one has none."""
    vector = per_group(counts, num_groups, "training_counts")
    empty = (vector <= 0).nonzero().flatten().tolist()
    if empty:
        raise InputError(
            "a group has no training rows",
            where=f"training_counts, group {', '.join(map(str, empty))}",
            got=vector.tolist(),
            wanted="at least one row in every group",
            remedy="leave the group out, or merge it with another one",
        )
    return vector


def non_negative(value: float, where: str, *, infinite: bool = False) -> float:
    """Return ``value``. Raises InputError unless it is a number >= 0; ``infinite``: whether infinity is one."""
    if not (value >= 0 and (infinite or value != float("inf"))):
        raise InputError("a setting is not a number that it can be", where=where, got=value, wanted="a number >= 0")
    return float(value)


def sums_by_group(values: torch.Tensor, ids: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Return the sum of the values, (rows,), of each group's rows, float64 (groups,)."""
    sums = torch.zeros(num_groups, dtype=torch.float64, device=values.device)
    return sums.index_add_(0, ids, values.detach().to(torch.float64))


def counts_by_group(ids: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Return the number of rows of each group, float64 (groups,)."""
    return sums_by_group(torch.ones(len(ids), device=ids.device), ids, num_groups)


def workers() -> int:
    """Return how many workers share a step: those of the default torch process group, where there is one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def over_workers(sums: torch.Tensor) -> torch.Tensor:
    """Return the sums over all workers, the same bits on every one of them."""
    if workers() > 1:
        sums = sums.clone()
        dist.all_reduce(sums)
    return sums
