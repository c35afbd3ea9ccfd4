"""Group DRO: the loss of the worst group, minimised (Sagawa, Koh, Hashimoto & Liang, ICLR 2020, eq. 7).

    min over theta, max over q of  sum_g q_g L_g(theta)

with L_g the mean loss of group g's rows. The weights q climb by mirror ascent (``group_weights``), theta descends on
the weighted loss with any optimiser:

    group_dro = GroupDRO(num_groups)
    for inputs, labels, group_ids in loader:
        losses = cross_entropy(model(inputs), labels, reduction="none")
        group_dro(losses, group_ids).backward()
        optimizer.step(); optimizer.zero_grad()

A call is a whole step: q first, then the loss under the new q, as in Algorithm 1. A step in micro-batches has to weigh
its first losses before it knows the last, so inside ``accumulating`` a step is weighed with the q that it began with,
and its losses make the next one: the order of stochastic mirror descent for saddle points (Nemirovski et al. 2009).
There the number of micro-batches changes nothing, and a row's weight is known before its loss: ``row_weights`` and
``add`` are for losses that make their gradients in the forward pass.

Where it departs from the authors' code, and why (effects measured in the tests):

* Absent groups are not booked as loss 0 (``group_losses``): with shares .73/.22/.04/.01, losses 1/1/1/1.5 and batches
  of 32 that gives the worst group weight 0 and the two largest groups one half each.
* Adjustments of any sign count, and for q only; there C = (0, 1, 1) is ignored, and they leak into the reported loss.
* CVaR works up to alpha = 1; weights, averages and counters are in ``state_dict``; several workers have one q.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from mixray.config.objective import MissingGroups
from mixray.errors import InputError
from mixray.robust.group_losses import DEFAULT_MISSING, GroupLosses
from mixray.robust.group_weights import GroupWeights
from mixray.robust.groups import (
    PerGroup,
    PreciseBuffers,
    checked_ids,
    counts_by_group,
    over_workers,
    per_group,
    sums_by_group,
    training_rows,
)
from mixray.robust.steps import JudgedRows, Step, WeighedStep


class GroupDRO(WeighedStep, PreciseBuffers):
    """Per-row losses and group ids -> the scalar to differentiate.

    step_size: of q per optimiser step and unit of loss. missing: what to do about groups that a batch lacks, see
    ``group_losses``; ``presence`` (groups,): P(group in a step's rows) for inverse_presence, where it is known (see
    ``presence_probability``), else it is estimated on the way; ``smoothing``: weight of the newest loss in the moving
    averages of ema and alpha.
    training_counts: training rows of each group; needed by the next two. adjustment: C, one number or one per group;
    q sees L_g + C_g / sqrt(training_counts_g) (eq. 5). alpha: in (0, 1]; instead of climbing, q is the worst
    distribution with q_g <= share_g / alpha, CVaR over groups, computed from the moving averages; alpha = 1 is ERM.
    tau, prior: pull of q towards the prior (groups,), - tau KL(q || prior); q starts at the prior, uniform where None.
    clip_excess: with reference losses, a row's excess below 0 counts as 0 (DoReMi).

    Settings are checked here, ids, shapes and dtypes in every call; InputError. Losses that are not finite reach the
    returned scalar, where a training loop looks for them, and leave q and everything remembered as it was.
    In evaluation mode q stays, and the scalar is sum_g q_g L_g over the groups that are there.
    Under torch.distributed every worker calls it with its own rows: q is that of the joined batch, and the mean over
    workers of the returned scalars, and of their gradients, is the joined batch's.
    """

    how_to_begin = "no step in parts has begun", "call it inside accumulating(group_ids)"

    def __init__(
        self,
        num_groups: int,
        *,
        step_size: float = 0.01,
        missing: MissingGroups = DEFAULT_MISSING,
        presence: PerGroup | None = None,
        smoothing: float = 0.1,
        training_counts: PerGroup | None = None,
        adjustment: float | PerGroup = 0.0,
        alpha: float | None = None,
        tau: float = 0.0,
        prior: PerGroup | None = None,
        clip_excess: bool = False,
    ) -> None:
        super().__init__()
        counts = None if training_counts is None else training_rows(training_counts, num_groups)
        if alpha is not None:
            _check_alpha(alpha, tau, prior)
            prior = _needed(counts, "alpha")
        self.num_groups, self.alpha, self.clip_excess = num_groups, alpha, clip_excess
        self.weights = GroupWeights(num_groups, step_size=step_size, tau=tau, prior=prior)
        self.group_losses = GroupLosses(num_groups, missing=missing, presence=presence, smoothing=smoothing)
        self.register_buffer("_adjustments", _adjustments(adjustment, counts, num_groups), persistent=False)
        self._adjustments: torch.Tensor
        self._step: Step | None = None

    @property
    def group_weights(self) -> torch.Tensor:
        """q: float64, shape (groups,), sums to 1."""
        return self.weights.log_weights.exp()

    def forward(
        self,
        losses: torch.Tensor,
        group_ids: torch.Tensor | Sequence[int],
        *,
        reference_losses: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the scalar to differentiate.

        losses: (rows,), with their graph; group_ids: integers (rows,); reference_losses: (rows,) or None.

        With reference losses q and the scalar's value are those of the excess losses, the gradient is that of
        ``losses``.
        """
        rows = JudgedRows.of(losses, group_ids, self.num_groups, reference_losses, clip=self.clip_excess)
        if self._step is not None:
            self._step.add(rows)
            return rows.loss(self._weights_of_rows(self._step.counts))
        sums, counts = self._joined(rows)
        presence = self.group_losses.row_presence(counts) if self.training else torch.ones_like(counts)
        if self.training:
            self._climb(sums, counts)
        return rows.loss(self._row_weights(counts, presence))

    @contextmanager
    def accumulating(self, group_ids: torch.Tensor | Sequence[int]) -> Iterator[None]:
        """Calls inside are the micro-batches of one step, whose rows on this worker have these group ids, in any order.

            with group_dro.accumulating(group_ids):
                for part in range(parts):
                    group_dro(losses_of(part), group_ids_of(part)).backward()

        The scalars add up to that of the whole step. q moves once, at the end; not at all where an error ends it.
        """
        if self._step is not None or not self.training:
            raise InputError(
                "a step in parts cannot begin here",
                where="GroupDRO.accumulating",
                got="another step that has not ended" if self._step else "evaluation mode",
                wanted="training mode, one step after the other",
            )
        step = Step.announced(checked_ids(group_ids, self.num_groups).to(self.group_weights.device), self.num_groups)
        self._step = step
        try:
            yield
            self._climb(step.total().to(step.counts.device), step.counts)
        finally:
            self._step = None

    def _joined(self, rows: JudgedRows) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sums and counts of all workers' rows, on the device of the weights."""
        parts = [sums_by_group(rows.judged, rows.ids, self.num_groups), counts_by_group(rows.ids, self.num_groups)]
        sums, counts = over_workers(torch.stack(parts)).to(self.group_weights.device)
        return sums, counts

    def _weights_of_rows(self, counts: torch.Tensor) -> torch.Tensor:
        return self._row_weights(counts, self.group_losses.row_presence(counts))

    def _row_weights(self, counts: torch.Tensor, presence: torch.Tensor) -> torch.Tensor:
        """Return what one row of each group weighs: q_g / (rows of g x P(g in batch))."""
        self.weights.refuse_impossible(counts)
        return self.group_weights / (counts.clamp(min=1) * presence)

    @torch.no_grad()
    def _climb(self, sums: torch.Tensor, counts: torch.Tensor) -> None:
        means, scale, moving = self.group_losses.update(sums, counts)
        if self.alpha is not None:
            # A group not seen yet is in no batch so far: weight on it would be lost.
            losses = (self.group_losses.running + self._adjustments).nan_to_num(nan=-torch.inf)
            log_weights = cvar_weights(losses, self.weights.log_prior.exp(), self.alpha).log()
        else:
            log_weights = self.weights.ascended((means + self._adjustments) * scale, moving)
        self.weights.log_weights.copy_(log_weights)


def cvar_weights(losses: torch.Tensor, group_shares: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return the q of largest <q, losses> with q_g <= share_g / alpha: highest losses first, each to its limit.

    losses, group_shares, result: float64, shape (groups,). <q, losses> is then the mean loss of the worst share
    ``alpha`` of the rows, were all rows of a group alike.
    """
    order = losses.argsort(descending=True, stable=True)
    limits = group_shares[order] / alpha
    left = (1 - (limits.cumsum(0) - limits)).clamp(min=0)
    return torch.empty_like(losses).index_copy_(0, order, limits.minimum(left))


def _adjustments(adjustment: float | PerGroup, counts: torch.Tensor | None, num_groups: int) -> torch.Tensor:
    """Return C_g / sqrt(training rows of g), float64 (groups,)."""
    size = [float(adjustment)] * num_groups if isinstance(adjustment, int | float) else adjustment
    vector = per_group(size, num_groups, "adjustment")
    return vector / _needed(counts, "adjustment").sqrt() if bool(vector.any()) else vector


def _needed(counts: torch.Tensor | None, what: str) -> torch.Tensor:
    if counts is None:
        raise InputError(f"{what} needs the training rows of each group", where="training_counts", got=None)
    return counts


def _check_alpha(alpha: float, tau: float, prior: PerGroup | None) -> None:
    if not 0 < alpha <= 1:
        raise InputError("alpha is out of range", where="alpha", got=alpha, wanted="above 0, at most 1")
    if tau or prior is not None:
        raise InputError(
            "CVaR over groups knows no pull towards a prior: its weights are limited by the groups' shares",
            where="alpha",
            got=f"alpha={alpha}, tau={tau}, prior={prior}",
            remedy="leave out alpha, or tau and prior",
        )
