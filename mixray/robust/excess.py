"""The loss above a reference model's: what is left to learn, rather than what no model can.

DoReMi (arXiv 2305.10429) judges a group by the mean of max(loss - reference loss, 0) over its rows. A group that is
hard for every model then gets no weight for being hard. The reference is a constant: gradients never see it.
"""

from __future__ import annotations

import torch

from mixray.errors import InputError


def excess(losses: torch.Tensor, reference_losses: torch.Tensor | None, *, clip: bool) -> torch.Tensor:
    """What a row is judged by: its loss, less its reference loss, with ``clip`` not below 0; detached, shape (rows,).

    Raises InputError where the reference losses are not one number per row.
    """
    if reference_losses is None:
        return losses.detach()
    reference = reference_losses.detach().to(losses.device, losses.dtype)
    if reference.shape != losses.shape:
        raise InputError(
            "reference losses must be one number per row",
            where="reference_losses",
            got=f"shape {tuple(reference.shape)}",
            wanted=f"shape {tuple(losses.shape)}",
            remedy="for one number per group pass per_group_losses[group_ids]",
        )
    above = losses.detach() - reference
    return above.clamp(min=0) if clip else above


def reported(loss: torch.Tensor, judged: torch.Tensor) -> torch.Tensor:
    """The value of ``judged`` with the gradient of ``loss``."""
    return loss + (judged - loss).detach()
