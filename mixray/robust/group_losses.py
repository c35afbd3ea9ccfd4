"""Each group's loss, from batches that lack some of the groups.

A group that is absent from a batch has no loss there. Published code books it as 0, and after normalisation the
weights end at the largest loss times P(group in batch): the rarer the group, the less it can win. What to do instead
is a named choice:

ema               A group's loss is an exponential moving average over the batches that had it; all groups move in
                  every step. Smooth, and late by a few of the group's appearances. Groups not seen yet keep theirs.
inverse_presence  A present group's loss is divided by P(group in batch), an absent one's is 0: right on average over
                  batches, in the weights and in the gradient. A group that is rarely there moves in rare large jumps,
                  so weights climb on losses divided by at least 0.01, and rows count at most ten times.
present_only      Present groups exchange weight, absent ones keep theirs. Every exchange goes the right way, but only
                  between groups that meet in a batch, and rare ones seldom meet. With shares .73/.22/.04/.01, losses
                  1/1/1/1.5 and batches of 8 the worst group has .60 after 5,000 steps and .99 after 38,000.
uniform_sampling  The plain rule, for a sampler that draws every row's group uniformly, where P(group in batch) is the
                  same for all. Checked: the rows drawn so far are compared with uniform draws.
"""

from __future__ import annotations

import math
from typing import get_args

import torch

from mixray.config.objective import MissingGroups
from mixray.errors import InputError
from mixray.robust.groups import PerGroup, PreciseBuffers, per_group

DEFAULT_MISSING: MissingGroups = "ema"
"""In ``jobs/bench_missing_groups.py`` it never diverges, and in seven of eight settings its worst group ends with the
lowest loss or within 0.03 nats of it."""
SMALLEST_PRESENCE, SMALLEST_ROW_PRESENCE = 0.01, 0.1
"""What losses and what rows are divided by at least: unlimited, a row of a group that first appears in step 1,000 would
count 1,000 times."""
FALSE_ALARM = 1e-6
"""A uniform sampler is refused with at most this probability, over a run of any length."""


def presence_probability(group_shares: PerGroup, batch: int) -> torch.Tensor:
    """Return P(group in batch) = 1 - (1 - share)^batch, float64 (groups,), for rows drawn independently.

    ``group_shares``: of the rows, (groups,). ``batch``: rows of an optimizer step, over all micro-batches and workers.
    """
    shares = torch.as_tensor(group_shares, dtype=torch.float64)
    return -torch.expm1(batch * torch.log1p(-shares))


class GroupLosses(PreciseBuffers):
    """Turns a step's sums and counts into the losses that weights climb on. Everything it remembers is a buffer.

    steps: int64, scalar; present_steps: int64 (groups,), the steps that had the group; rows: float64 (groups,), drawn
    so far; running: float64 (groups,), moving averages of the losses, NaN for groups not seen yet.
    """

    steps: torch.Tensor
    present_steps: torch.Tensor
    rows: torch.Tensor
    running: torch.Tensor
    known_presence: torch.Tensor | None

    def __init__(self, num_groups: int, *, missing: MissingGroups, presence: PerGroup | None, smoothing: float) -> None:
        super().__init__()
        if missing not in get_args(MissingGroups):
            raise InputError(
                "no such way to treat missing groups",
                where="missing",
                got=missing,
                wanted=" | ".join(get_args(MissingGroups)),
            )
        if not 0 < smoothing <= 1:
            raise InputError(
                "the weight of the newest loss is out of range",
                where="smoothing",
                got=smoothing,
                wanted="above 0, at most 1",
            )
        self.missing, self.smoothing = missing, smoothing
        checked = None if presence is None else _checked_presence(presence, num_groups, missing)
        self.register_buffer("known_presence", checked, persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("present_steps", torch.zeros(num_groups, dtype=torch.int64))
        self.register_buffer("rows", torch.zeros(num_groups, dtype=torch.float64))
        self.register_buffer("running", torch.full((num_groups,), math.nan, dtype=torch.float64))

    def presence(self, counts: torch.Tensor) -> torch.Tensor:
        """Return what a present group's loss is divided by, float64 (groups,), in a step with these counts.

        Estimated, it is the share of the steps so far, this one among them, that had the group: at its k-th appearance,
        in step t, k / t. Step t then adds 1 - (1 - P)^t of the group's loss on average, so a group that is there with
        probability P falls behind by fewer than 1 / P steps, once, while it waits for its first appearance.
        """
        if self.missing != "inverse_presence":
            return torch.ones_like(self.running)
        if self.known_presence is not None:
            return self.known_presence.clamp(min=SMALLEST_PRESENCE)
        appearances = self.present_steps + (counts > 0)
        return (appearances / (self.steps + 1).to(torch.float64)).clamp(min=SMALLEST_PRESENCE)

    def row_presence(self, counts: torch.Tensor) -> torch.Tensor:
        """Return what the weight of a present group's rows is divided by, float64 (groups,)."""
        return self.presence(counts).clamp(min=SMALLEST_ROW_PRESENCE)

    @torch.no_grad()
    def update(self, sums: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Take a step's sums and counts in; return (losses float64, scale float64, moving bool), each (groups,).

        ``losses`` are the groups' own, ``scale`` what they (with anything added to them) are multiplied by, and only
        ``moving`` groups exchange weight. A loss that is not finite is remembered nowhere, and nothing moves.
        Raises InputError where the policy is uniform_sampling and the rows so far do not look like it.
        """
        present, finite = counts > 0, sums.isfinite().all()
        presence = self.presence(counts)
        means = sums / counts.clamp(min=1)
        running = torch.where(self.running.isnan(), means, self.running + self.smoothing * (means - self.running))
        self.running.copy_(torch.where(present & finite, running, self.running))
        self.steps += 1
        self.present_steps += present
        self.rows += counts
        if self.missing == "ema":
            return self.running, torch.ones_like(means), ~self.running.isnan() & finite
        if self.missing == "present_only":
            return means, torch.ones_like(means), present & finite
        if self.missing == "uniform_sampling":
            refuse_other_than_uniform(self.rows)
        return means, torch.where(present, 1 / presence, 0.0), finite.expand_as(present)


def refuse_other_than_uniform(rows: torch.Tensor) -> None:
    """Raises InputError where rows (groups,) drawn so far are all but impossible under uniform draws of groups.

    The statistic is the likelihood of the draws under shares that are uniform on the simplex, over their likelihood
    under equal shares. If the sampler is uniform it is a martingale with mean 1, so that by Ville's inequality it ever
    exceeds 1 / FALSE_ALARM with probability FALSE_ALARM at most, however often one looks.
    """
    groups, total = len(rows), float(rows.sum())
    evidence = math.lgamma(groups) - math.lgamma(groups + total) + float(torch.lgamma(rows + 1).sum())
    evidence += total * math.log(groups)
    if evidence > -math.log(FALSE_ALARM):
        raise InputError(
            "the sampler does not draw groups uniformly",
            where='missing="uniform_sampling"',
            got=f"rows drawn so far {[int(count) for count in rows.tolist()]}, odds against uniform e^{evidence:.1f}",
            wanted="every group equally likely in every row",
            remedy='sample groups uniformly, or choose missing="inverse_presence"',
        )


def _checked_presence(presence: PerGroup, num_groups: int, missing: MissingGroups) -> torch.Tensor:
    vector = per_group(presence, num_groups, "presence")
    if missing != "inverse_presence":
        raise InputError(
            "only inverse_presence uses probabilities of presence",
            where="presence",
            got=f'missing="{missing}"',
            remedy='leave presence out, or choose missing="inverse_presence"',
        )
    if bool(((vector <= 0) | (vector > 1)).any()):
        raise InputError(
            "the probability that a batch has a group is out of range",
            where="presence",
            got=vector.tolist(),
            wanted="above 0, at most 1",
        )
    return vector
