"""A distribution over groups that climbs towards the groups with the higher losses.

One step of mirror ascent with the entropy as its geometry, from weights q and losses L:

    argmax over q' of  <q', L> - tau KL(q' || prior) - KL(q' || q) / step_size
        =  softmax((log q + step_size L + step_size tau log prior) / (1 + step_size tau))

With tau = 0 it is Group DRO's q_g exp(step_size L_g), normalised (Sagawa et al. 2020, Algorithm 1). With tau > 0 it is
ALSO's step (arXiv 2508.16734), and for losses that stay the same it ends at prior exp(L / tau), normalised: the prior
for tau -> infinity, the worst group for tau -> 0. Weights are kept as logarithms, with no epsilon anywhere: a group
that fell to e^-1000 comes back as fast as it fell.
"""

from __future__ import annotations

import math

import torch

from mixray.errors import InputError
from mixray.robust.groups import PerGroup, PreciseBuffers, distribution, non_negative


class GroupWeights(PreciseBuffers):
    """The weights and the prior that they start from, as buffers in ``state_dict``: float64, shape (groups,)."""

    log_weights: torch.Tensor
    log_prior: torch.Tensor

    def __init__(self, num_groups: int, *, step_size: float, tau: float, prior: PerGroup | None) -> None:
        super().__init__()
        if num_groups < 1:
            raise InputError("there must be at least one group", where="num_groups", got=num_groups)
        self.num_groups = num_groups
        self.step_size = non_negative(step_size, "step_size")
        self.tau = non_negative(tau, "tau", infinite=True)
        log_prior = distribution(prior, num_groups, "prior").log()
        self.register_buffer("log_prior", log_prior)
        self.register_buffer("log_weights", log_prior.clone())
        self._has_impossible_groups = bool(log_prior.isneginf().any())

    def refuse_impossible(self, counts: torch.Tensor) -> None:
        """Raises InputError where a group whose prior is 0 has rows: its weight could never leave 0."""
        if not self._has_impossible_groups:
            return
        impossible = self.log_prior.isneginf() & (counts.to(self.log_prior.device) > 0)
        if bool(impossible.any()):
            raise InputError(
                "the prior is 0 for a group that has rows",
                where=f"prior, group {', '.join(map(str, impossible.nonzero().flatten().tolist()))}",
                got=self.log_prior.exp().tolist(),
                wanted="a positive number for every group that occurs",
            )

    def ascended(self, losses: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """Return the log-weights after a step; groups that are not ``moving`` (bool, (groups,)) have theirs as before.

        The moving groups share what weight they had together.
        """
        pull = self.step_size * self.tau if self.step_size else 0.0
        moved = self.log_weights + self.step_size * losses
        if math.isinf(pull):
            moved = self.log_prior
        elif pull:
            moved = (moved + pull * self.log_prior) / (1 + pull)
        moved = torch.where(moving, moved, -math.inf).log_softmax(0)
        mass = torch.where(moving, self.log_weights, -math.inf).logsumexp(0)
        return torch.where(moving, moved + mass, self.log_weights)
