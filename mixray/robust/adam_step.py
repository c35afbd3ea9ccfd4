"""One Adam step on a list of tensors, and where the next one would lead: torch's own arithmetic for both.

Adam (arXiv 1412.6980) with the penalty in the gradient (coupled L2) or outside of it (decoupled, arXiv 1711.05101).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

import torch
from torch.optim.adam import adam


class ParameterGroup(TypedDict):
    """Parameters and Adam's settings for them. ``decoupled``: whether the decay stays out of the gradient."""

    params: list[torch.Tensor]
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    decoupled: bool


Moments = dict[str, torch.Tensor]
"""``step``, float32 scalar; ``exp_avg`` and ``exp_avg_sq``, of the parameter's shape."""


def has_fused(parameters: list[torch.Tensor]) -> bool:
    """Return whether torch has a one-pass kernel for these parameters."""
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)


def new_moments(parameter: torch.Tensor, *, fused: bool) -> Moments:
    """Return a parameter's moments before its first step. ``fused``: see ``has_fused``, of its whole group."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device if fused else "cpu"),
        "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
    }


def local_parts(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return what this worker holds of tensors that may be sharded (``fully_shard``), as views.

    Adam works element by element, so that each worker can do its part alone.
    """
    # Not by isinstance: importing DTensor takes as long as starting a small run.
    return [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]


def advance(
    parameters: list[torch.Tensor],
    gradients: list[torch.Tensor],
    moments: list[Moments],
    group: ParameterGroup,
    *,
    fused: bool,
) -> None:
    """Move the parameters and their moments, in place, by the settings of their parameter group."""
    adam(
        local_parts(parameters),
        local_parts(gradients),
        local_parts(state["exp_avg"] for state in moments),
        local_parts(state["exp_avg_sq"] for state in moments),
        [],
        [state["step"] for state in moments],
        fused=fused,
        foreach=not fused,
        decoupled_weight_decay=group["decoupled"],
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def peek(
    parameters: list[torch.Tensor],
    gradients: list[torch.Tensor],
    moments: list[Moments],
    group: ParameterGroup,
    *,
    fused: bool,
) -> None:
    """Move the parameters, in place, to where a step with these gradients would; the moments stay as they are.

    On a CPU one by one: the copied moments of a single parameter mostly stay in the cache.
    """
    one_by_one = bool(parameters) and parameters[0].device.type == "cpu"
    size = 1 if one_by_one else max(1, len(parameters))
    for start in range(0, len(parameters), size):
        part = slice(start, start + size)
        copies = [{name: state[name].clone() for name in ("step", "exp_avg", "exp_avg_sq")} for state in moments[part]]
        advance(parameters[part], gradients[part], copies, group, fused=fused)
