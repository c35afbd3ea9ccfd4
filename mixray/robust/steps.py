"""The rows of an optimizer step: what they are judged by, what they weigh, and their sums where they come in parts.

A row is judged by its loss or, with reference losses, by its excess over what a reference model reaches on it: by what
is left to learn, rather than by what no model can. A group that is hard for every model then gets no weight for being
hard. DoReMi (arXiv 2305.10429) takes the mean of max(loss - reference loss, 0). Gradients never see the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from mixray.errors import InputError
from mixray.robust.groups import checked_ids, counts_by_group, over_workers, sums_by_group, workers


@dataclass(frozen=True, eq=False)
class JudgedRows:
    """Rows with their group ids, int64, their losses with a graph, and what they are ``judged`` by; all (rows,).

    ``judged`` has no graph; losses and it are float32 or wider. ``is_excess``: whether there are reference losses.
    """

    ids: torch.Tensor
    losses: torch.Tensor
    judged: torch.Tensor
    is_excess: bool

    @classmethod
    def of(
        cls,
        losses: torch.Tensor,
        group_ids: torch.Tensor | Sequence[int],
        num_groups: int,
        reference_losses: torch.Tensor | None,
        *,
        clip: bool,
    ) -> Self:
        """Check a worker's rows and judge them.

        ``reference_losses``: (rows,) or None; ``clip``: an excess below 0 counts as 0.

        Raises InputError where ids or losses are not one valid number per row.
        """
        ids = checked_ids(group_ids, num_groups).to(losses.device)
        losses = _checked_losses(losses, ids)
        judged = losses.detach()
        if reference_losses is not None:
            judged = judged - _checked_references(reference_losses, losses)
            judged = judged.clamp(min=0) if clip else judged
        return cls(ids, losses, judged, reference_losses is not None)

    def loss(self, row_weights: torch.Tensor) -> torch.Tensor:
        """Return the scalar to differentiate, with what one row of each group weighs, (groups,).

        Its gradient is that of the losses; its value is that of ``judged``, times the number of workers:
        DistributedDataParallel takes the mean of the workers' gradients, so it finds that of the joined batch.
        """
        weights = row_weights.to(self.losses.device, self.losses.dtype)[self.ids]
        loss = (weights * self.losses).sum() * workers()
        if not self.is_excess:
            return loss
        return loss + ((weights * self.judged).sum() * workers() - loss).detach()


def _checked_references(reference_losses: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    reference = reference_losses.detach().to(losses.device, losses.dtype)
    if reference.shape != losses.shape:
        raise InputError(
            "reference losses must be one number per row",
            where="reference_losses",
            got=f"shape {tuple(reference.shape)}",
            wanted=f"shape {tuple(losses.shape)}",
            remedy="for one number per group pass per_group_losses[group_ids]",
        )
    return reference


def _checked_losses(losses: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return the losses as float32 or wider."""
    if losses.ndim != 1 or not losses.is_floating_point():
        raise InputError(
            "losses must be one number per row",
            where="losses",
            got=f"{losses.dtype} of shape {tuple(losses.shape)}",
            wanted="a floating-point dtype, shape (rows,)",
            remedy='ask the loss function for reduction="none"',
        )
    if len(losses) != len(ids):
        raise InputError(
            "losses and group ids must have the same length",
            where="group_ids",
            got=f"{len(ids)} ids for {len(losses)} losses",
            wanted="one id per loss",
        )
    return losses.to(torch.promote_types(losses.dtype, torch.float32))


@dataclass
class Step:
    """An optimizer step that comes in parts: the ``counts`` of all of it, known first, and the ``sums`` so far.

    counts: rows of each group, over all workers; sums: of their losses, on this worker; both float64, shape (groups,).
    rows: rows that this worker announced; added: rows whose losses it has added.
    """

    counts: torch.Tensor
    sums: torch.Tensor
    rows: int
    added: int = 0

    @classmethod
    def announced(cls, ids: torch.Tensor, num_groups: int) -> Step:
        """Begin a step. ``ids``: the groups of this worker's rows in the whole step."""
        counts = over_workers(counts_by_group(ids, num_groups))
        return cls(counts, torch.zeros_like(counts), len(ids))

    def add(self, rows: JudgedRows) -> None:
        self.sums = self.sums.to(rows.judged.device) + sums_by_group(rows.judged, rows.ids, len(self.counts))
        self.added += len(rows.ids)

    def total(self) -> torch.Tensor:
        """Return the sums over all workers.

        Raises InputError where rows were announced and did not come, or the reverse.
        """
        if self.added != self.rows:
            raise InputError(
                "a step's parts are not the rows that were announced for it",
                where="group_ids",
                got=f"losses of {self.added} rows",
                wanted=f"losses of {self.rows} rows",
                remedy="begin each step with the group ids of all its micro-batches on this worker",
            )
        return over_workers(self.sums)


class WeighedStep:
    """What ``GroupDRO`` and ``ALSO`` have in common: steps that weigh rows before their losses are known.

    It is for losses that make their gradients in the forward pass: the scalar of a micro-batch is the sum of weight x
    loss. ``how_to_begin``: the message and the remedy where no step has begun whose rows are known.
    """

    how_to_begin: ClassVar[tuple[str, str]]
    num_groups: int
    clip_excess: bool
    _step: Step | None

    def row_weights(self, group_ids: torch.Tensor | Sequence[int]) -> torch.Tensor:
        """Return what rows of these groups weigh in the step's loss, float64 (rows,).

        The number of workers is a factor of the weights. Raises InputError before the step has begun.
        """
        weights = self._weights_of_rows(self._begun("row_weights").counts) * workers()
        return weights[checked_ids(group_ids, self.num_groups).to(weights.device)]

    def add(
        self,
        losses: torch.Tensor,
        group_ids: torch.Tensor | Sequence[int],
        *,
        reference_losses: torch.Tensor | None = None,
    ) -> None:
        """Take in the losses of rows that ``row_weights`` has weighed; all are (rows,).

        Raises InputError before the step has begun.
        """
        rows = JudgedRows.of(losses, group_ids, self.num_groups, reference_losses, clip=self.clip_excess)
        self._add(self._begun("add"), rows)

    def _begun(self, what: str) -> Step:
        if self._step is None:
            message, remedy = self.how_to_begin
            raise InputError(message, where=f"{type(self).__name__}.{what}", remedy=remedy)
        return self._step

    def _add(self, step: Step, rows: JudgedRows) -> None:
        step.add(rows)

    def _weights_of_rows(self, counts: torch.Tensor) -> torch.Tensor:
        """Return what one row of each group weighs in a step with these counts, float64 (groups,)."""
        raise NotImplementedError
