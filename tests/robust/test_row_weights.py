"""Weights known before the losses, for losses that make their gradients in the forward pass: the same steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mixray.errors import InputError
from mixray.robust import ALSO, GroupDRO

GROUPS, STEPS = 4, 8
REFERENCE = torch.tensor([0.5, 0.0, 1.5, 0.2])


def batches() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(9, 5, generator=generator),
            torch.randn(9, generator=generator),
            torch.randint(0, GROUPS, (9,), generator=generator),
        )
        for _ in range(STEPS)
    ]


def losses_of(model: nn.Module, inputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return (model(inputs).squeeze(1) - wanted) ** 2


def trained(criterion: type, settings: dict[str, Any], *, known: bool, excess: bool) -> tuple[torch.Tensor, ...]:
    """The parameters and the group weights at the end; ``known``: by row_weights and add, else by calls."""
    torch.manual_seed(0)
    model = nn.Linear(5, 1)
    also = criterion is ALSO
    robust = ALSO(model.parameters(), GROUPS, lr=0.05, **settings) if also else GroupDRO(GROUPS, **settings)
    optimizer = robust if also else torch.optim.Adam(model.parameters(), lr=0.05)
    for inputs, wanted, ids in batches():
        optimizer.zero_grad()
        reference = REFERENCE[ids] if excess else None

        def backward(rows=(inputs, wanted), ids=ids, reference=reference) -> None:
            losses = losses_of(model, *rows)
            if known:
                (losses * robust.row_weights(ids).float()).sum().backward()
                robust.add(losses.detach(), ids, reference_losses=reference)
            else:
                (robust.loss if also else robust)(losses, ids, reference_losses=reference).backward()

        if also:
            robust.look_ahead(ids)
            backward()
        else:
            with robust.accumulating(ids):
                backward()
        optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach(), robust.group_weights


@pytest.mark.parametrize("excess", [False, True])
@pytest.mark.parametrize(
    ("criterion", "settings"),
    [
        (GroupDRO, {"step_size": 0.3}),
        (GroupDRO, {"step_size": 0.3, "missing": "ema"}),
        (GroupDRO, {"step_size": 0.3, "clip_excess": True, "tau": 0.1}),
        (ALSO, {"step_size": 0.3}),
        (ALSO, {"step_size": 0.3, "mode": "descent_ascent", "clip_excess": True}),
        (ALSO, {"step_size": 0.3, "weighting": "group_sum"}),
    ],
)
def test_weighed_rows_make_the_steps_of_the_calls(criterion: type, settings: dict[str, Any], excess: bool) -> None:
    ours = trained(criterion, settings, known=True, excess=excess)
    theirs = trained(criterion, settings, known=False, excess=excess)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    assert float((ours[1] - 1 / GROUPS).abs().max()) > 0.01


def test_without_a_step_there_are_no_weights() -> None:
    ids, losses = torch.tensor([0, 1]), torch.ones(2)
    also, group_dro = ALSO([torch.zeros(1, requires_grad=True)], 2), GroupDRO(2)
    for call in (lambda: also.row_weights(ids), lambda: also.add(losses, ids)):
        with pytest.raises(InputError, match="no step has begun") as caught:
            call()
        assert "look_ahead(group_ids)" in str(caught.value.remedy)
    for call in (lambda: group_dro.row_weights(ids), lambda: group_dro.add(losses, ids)):
        with pytest.raises(InputError, match="no step in parts has begun") as caught:
            call()
        assert "accumulating(group_ids)" in str(caught.value.remedy)


def test_rows_that_were_weighed_and_gave_no_loss_are_missed() -> None:
    ids = torch.tensor([0, 1])
    group_dro = GroupDRO(2)
    with pytest.raises(InputError, match="announced"), group_dro.accumulating(ids):
        group_dro.row_weights(ids)
    assert group_dro.group_weights.tolist() == [0.5, 0.5]
