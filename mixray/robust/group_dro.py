"""Group DRO minimises the loss of the worst group (Sagawa, Koh, Hashimoto & Liang, ICLR 2020, eq. 7).

    min over theta, max over q of  sum_g q_g L_g(theta)

theta are the model's parameters, L_g is the mean loss of group g's rows and q_g the weight of the group. Each step
moves q towards the groups of high loss by mirror ascent (``group_weights.py``), and theta down the weighted loss with
any optimizer:

    group_dro = GroupDRO(num_groups)
    for inputs, labels, group_ids in loader:
        losses = cross_entropy(model(inputs), labels, reduction="none")
        group_dro(losses, group_ids).backward()
        optimizer.step(); optimizer.zero_grad()

A call is a whole step: it first updates q and then returns the loss under the new q, as in Algorithm 1.

Inside ``accumulating`` a step comes in micro-batches. The first of them must be weighed before the losses of the last
are known, so the whole step uses the q that it began with, and its losses give the q of the next step. This is the
order of stochastic mirror descent for saddle points (Nemirovski et al. 2009). The number of micro-batches changes
nothing, and the weight of a row is known before its loss. A training loop that computes gradients during the forward
pass needs that: it calls ``row_weights`` before the pass and ``add`` after it (both from ``WeighedStep``).

Where it departs from the authors' code, and why (effects measured in the tests):

* A group without rows in a batch does not count as a group with loss 0 (``group_losses.py``). In the authors' code it
  does: with shares .73/.22/.04/.01, losses 1/1/1/1.5 and batches of 32 the worst group gets weight 0 and the two
  largest groups one half each.
* Adjustments may have any sign and change only q. The authors' code ignores all of them unless every one is above 0, as
  with C = (0, 1, 1), and adds them to the loss that it reports.
* CVaR works up to alpha = 1. The weights, moving averages and counters are in ``state_dict``. All workers of a
  distributed run share one q.
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
    """A module that turns the losses and group ids of rows into the scalar to differentiate.

    step_size: of q per optimizer step and unit of loss. missing: what to do about groups that a batch lacks, see
    ``group_losses.py``. presence, (groups,): the probability that a step has a row of the group, for inverse_presence
    only (see ``presence_probability``); estimated during training where None. smoothing: weight of the newest loss in
    the moving averages, which ema and alpha use.
    training_counts, (groups,): training rows of each group; adjustment and alpha need them. adjustment: C, one number
    or one per group;
    q sees L_g + C_g / sqrt(training_counts_g) (eq. 5). alpha: in (0, 1]; instead of climbing, q is the worst
    distribution with q_g <= share_g / alpha, CVaR over groups, computed from the moving averages; alpha = 1 is ERM.
    tau, prior: pull of q towards the prior (groups,), - tau KL(q || prior); q starts at the prior, uniform where None.
    clip_excess: with reference losses, a row's excess below 0 counts as 0 (DoReMi).

    Raises InputError for settings that are not valid, and in every call for ids, shapes and dtypes that are not. Losses
    that are not finite reach the returned scalar, where a training loop looks for them. They change neither q nor the
    moving averages.
    In evaluation mode q does not change, and the scalar is sum_g q_g L_g over the groups that have rows.
    Under torch.distributed every worker calls it with its own rows. q is computed from the rows of all workers, and the
    mean over workers of the scalars, and of their gradients, is that of one process with all rows.
    """

    # The message and the remedy where ``row_weights`` or ``add`` is called outside ``accumulating``.
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
            prior = _required(counts, "alpha")
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

        With reference losses, q and the scalar's value come from the excess, loss - reference loss; the gradient is
        still that of ``losses``.
        """
        rows = JudgedRows.of(losses, group_ids, self.num_groups, reference_losses, clip=self.clip_excess)
        if self._step is not None:  # a micro-batch inside ``accumulating``
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

        The scalars add up to that of the whole step. q moves once, at the end, and not at all if an exception is raised
        inside.

        Raises InputError inside another step, in evaluation mode, and at the end if the rows are not those announced.
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
        """Return each group's sum of losses and number of rows over all workers, on the device of the weights."""
        parts = [sums_by_group(rows.judged, rows.ids, self.num_groups), counts_by_group(rows.ids, self.num_groups)]
        sums, counts = over_workers(torch.stack(parts)).to(self.group_weights.device)
        return sums, counts

    def _weights_of_rows(self, counts: torch.Tensor) -> torch.Tensor:
        return self._row_weights(counts, self.group_losses.row_presence(counts))

    def _row_weights(self, counts: torch.Tensor, presence: torch.Tensor) -> torch.Tensor:
        """Return the weight of one row of each group, (groups,): q_g / (rows of g x presence of g). The presence is 1
        except for inverse_presence."""
        self.weights.refuse_impossible(counts)
        return self.group_weights / (counts.clamp(min=1) * presence)

    @torch.no_grad()
    def _climb(self, sums: torch.Tensor, counts: torch.Tensor) -> None:
        means, scale, moving = self.group_losses.update(sums, counts)
        if self.alpha is not None:
            # A group that no batch has had yet gets no weight: there would be no rows to carry it.
            losses = (self.group_losses.running + self._adjustments).nan_to_num(nan=-torch.inf)
            log_weights = cvar_weights(losses, self.weights.log_prior.exp(), self.alpha).log()
        else:
            log_weights = self.weights.ascended((means + self._adjustments) * scale, moving)
        self.weights.log_weights.copy_(log_weights)


def cvar_weights(losses: torch.Tensor, group_shares: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return the q that maximises <q, losses> with q_g <= share_g / alpha: it fills groups up to their limits, those
    with the highest losses first.

    losses, group_shares, result: float64, shape (groups,). If all rows of a group had the same loss, <q, losses> would
    be the mean loss of the worst ``alpha`` (a share) of all rows.
    """
    order = losses.argsort(descending=True, stable=True)
    limits = group_shares[order] / alpha
    remaining = (1 - (limits.cumsum(0) - limits)).clamp(min=0)
    return torch.empty_like(losses).index_copy_(0, order, limits.minimum(remaining))


def _adjustments(adjustment: float | PerGroup, counts: torch.Tensor | None, num_groups: int) -> torch.Tensor:
    """Return C_g / sqrt(training rows of g), float64 (groups,)."""
    size = [float(adjustment)] * num_groups if isinstance(adjustment, int | float) else adjustment
    vector = per_group(size, num_groups, "adjustment")
    return vector / _required(counts, "adjustment").sqrt() if bool(vector.any()) else vector


def _required(counts: torch.Tensor | None, setting: str) -> torch.Tensor:
    if counts is None:
        raise InputError(f"{setting} needs the training rows of each group", where="training_counts", got=None)
    return counts


def _check_alpha(alpha: float, tau: float, prior: PerGroup | None) -> None:
    if not 0 < alpha <= 1:
        raise InputError("alpha is out of range", where="alpha", got=alpha, wanted="above 0, at most 1")
    if tau or prior is not None:
        raise InputError(
            "CVaR over groups has no pull towards a prior: its weights are limited by the groups' shares",
            where="alpha",
            got=f"alpha={alpha}, tau={tau}, prior={prior}",
            remedy="leave out alpha, or tau and prior",
        )
