"""Which arm has the lowest held-out loss, and by how much: the arithmetic behind the tables.

Losses are in nats per token. The *predicted* loss is that of the proxies' mixture on the target's fit part, the
*held-out* loss that of the retrained model on the target's held-out part. Differences to one of the arms, the
reference, come with a paired 95 % interval, which covers the choice of documents and, where every arm has replicates,
that of the training seed.
"""

from __future__ import annotations

from dataclasses import dataclass

from mixray.mixture import Interval, Mixture

SEARCHED, PLAIN = "mixmin", "balanced"
"""The arm of the search, and the arm that costs nothing."""
WITH_PROXIES = ("mixmin_with_swarm", "nearest_to_prior", "mixmin_reference")
"""The other methods that need the proxies."""


@dataclass(frozen=True)
class Difference:
    """One arm's held-out loss minus another's, nats per token, with its 95 % interval; ``ratio``: to the other's."""

    value: float
    ratio: float
    interval: Interval | None

    @property
    def is_separated(self) -> bool | None:
        """Whether the interval excludes zero; None where there is no interval."""
        return None if self.interval is None else self.interval[0] > 0 or self.interval[1] < 0


def held_out_losses(mixture: Mixture) -> dict[str, float]:
    """Return the held-out loss of every retrained arm, nats per token."""
    return {arm: result.nll for arm, result in mixture.retrain.items() if result.nll is not None}


def arm_on(mixture: Mixture, method: str) -> str | None:
    """Return the retrained arm on a method's mixture: that of its name or, of those that have another name, the first;
    None where there is none."""
    held_out = held_out_losses(mixture)
    if method in held_out:
        return method
    return next((arm for arm in held_out if mixture.retrain[arm].mixture == method), None)


def arms_best_first(mixture: Mixture) -> list[str]:
    """Return the arms by held-out loss; those without one come last, by predicted loss."""
    held_out, infinity = held_out_losses(mixture), float("inf")
    arms = dict.fromkeys([*mixture.loss, *mixture.retrain])
    return sorted(arms, key=lambda arm: (held_out.get(arm, infinity), mixture.loss.get(arm, infinity)))


def winner(mixture: Mixture) -> str | None:
    """Return the arm with the lowest held-out loss; None where nothing was retrained."""
    held_out = held_out_losses(mixture)
    return min(held_out, key=lambda arm: held_out[arm]) if held_out else None


def reference_arm(mixture: Mixture) -> str | None:
    """Return the retrained arm that the others are compared with.

    It is the one without a difference, else ``mixmin``, else the best.
    """
    held_out = held_out_losses(mixture)
    references = [arm for arm in held_out if mixture.retrain[arm].difference is None]
    if len(references) == 1:
        return references[0]
    return SEARCHED if SEARCHED in held_out else winner(mixture)


def search_overhead(mixture: Mixture, arm: str) -> float | None:
    """Return the operations of an arm's search per operation of one retraining; None where they are not counted.

    mixmin needs the proxies, methods that learn from a swarm the swarm, mixmin_with_swarm both.
    """
    compute, method = mixture.compute, mixture.retrain[arm].mixture or arm
    if compute is None:
        return None
    if method not in mixture.rivals:
        return compute.overhead if method == SEARCHED else 0.0
    proxies = compute.search_flops if method in WITH_PROXIES else 0.0
    return (mixture.rivals[method].search_flops + proxies) / compute.retrain_flops


def difference(mixture: Mixture, arm: str, other: str) -> Difference:
    """Return how far ``arm`` is above ``other``, with an interval where one of them is the reference arm."""
    held_out = held_out_losses(mixture)
    value = held_out[arm] - held_out[other]
    interval, reference = None, reference_arm(mixture)
    if other == reference:
        interval = mixture.retrain[arm].difference_interval
    elif arm == reference and (reverse := mixture.retrain[other].difference_interval):
        interval = (-reverse[1], -reverse[0])
    return Difference(value, value / held_out[other], interval)


def compared_with_winner(mixture: Mixture) -> str | None:
    """Return the arm to name beside the winner: ``balanced``, else ``mixmin``, else the second best."""
    held_out, best = held_out_losses(mixture), winner(mixture)
    others = [arm for arm in arms_best_first(mixture) if arm in held_out and arm != best]
    for arm in (PLAIN, SEARCHED):
        if arm in others:
            return arm
    return others[0] if others else None
