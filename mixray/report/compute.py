"""What the search costs, in floating point operations, beside the training that it improves.

A transformer of N parameters spends about 6 N operations on a training token and 2 N on a scored one (Kaplan et al.
2020, section 2.1): 2 N forward, 2 N for the gradients of what flows through it and 2 for each parameter that is
trained. All parameters are counted, embeddings too; attention over the window is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mixray.mixture import SearchCompute
from mixray.report.layout import percent

TRAINING_OPERATIONS, SCORING_OPERATIONS = 6, 2
"""Per parameter and token."""


@dataclass(frozen=True)
class Work:
    """A number of tokens that pass through a model of a number of parameters, of which ``trained`` are; None: all."""

    parameters: int
    tokens: int
    trained: int | None = None

    @property
    def training_flops(self) -> float:
        untrained = 0 if self.trained is None else self.parameters - self.trained
        return (float(TRAINING_OPERATIONS) * self.parameters - 2 * untrained) * self.tokens

    @property
    def scoring_flops(self) -> float:
        return float(SCORING_OPERATIONS) * self.parameters * self.tokens


@dataclass(frozen=True)
class SearchCost:
    """The work of a search and of one retraining.

    ``proxies``: the training of each proxy; ``scored``: the target tokens that each scores; ``retrained``: one arm.
    """

    proxies: Sequence[Work]
    scored: Sequence[Work]
    retrained: Work

    @property
    def search_flops(self) -> float:
        return sum(work.training_flops for work in self.proxies) + sum(work.scoring_flops for work in self.scored)

    @property
    def retrain_flops(self) -> float:
        return self.retrained.training_flops

    @property
    def overhead(self) -> float:
        """The search as a share of one arm's training."""
        return self.search_flops / self.retrain_flops

    def compute(self) -> SearchCompute:
        """Return the section ``compute`` of a mixture file."""
        return SearchCompute(search_flops=self.search_flops, retrain_flops=self.retrain_flops, overhead=self.overhead)

    def formula(self) -> str:
        """Return in one sentence how the numbers come about, for a person to check."""
        trained = sum(work.training_flops for work in self.proxies)
        scored = sum(work.scoring_flops for work in self.scored)
        return (
            f"search {self.search_flops:.3g} FLOPs = {len(self.proxies)} proxies, 6 x parameters x training tokens "
            f"({trained:.3g}) + 2 x parameters x scored tokens ({scored:.3g}); retraining {self.retrain_flops:.3g} "
            f"FLOPs = {_operations(self.retrained)} x {self.retrained.tokens:,} tokens; "
            f"search / retraining = {percent(self.overhead)}"
        )


def _operations(work: Work) -> str:
    """Return how the operations of a training token come about."""
    if work.trained is None:
        return f"6 x {work.parameters:,} parameters"
    return f"(4 x {work.parameters:,} parameters + 2 x {work.trained:,} that are trained)"
