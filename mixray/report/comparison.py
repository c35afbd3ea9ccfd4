"""Which arm won, and by how much: the arithmetic behind the tables.

Losses are in nats per token. *Predicted*: of the proxies' mixture on the target's fit part; *held-out*: of the
retrained model on the target's held-out part. The differences to one of the arms, the anchor, come with a paired 95 %
interval; it covers the choice of documents, not of the training seed.
"""

from __future__ import annotations

from dataclasses import dataclass

from mixray.mixture import Mixture

SEARCHED, PLAIN = "mixmin", "balanced"
"""The arm that the search made, and the one that anybody can have for nothing."""


@dataclass(frozen=True)
class Difference:
    """One arm's held-out loss minus another's, nats per token. ``share``: of the other's loss; ``interval``: 95 %."""

    value: float
    share: float
    interval: tuple[float, float] | None

    @property
    def is_separated(self) -> bool | None:
        """Whether the interval leaves out zero; None where there is no interval."""
        return None if self.interval is None else self.interval[0] > 0 or self.interval[1] < 0


def held_out_losses(mixture: Mixture) -> dict[str, float]:
    """Retrained arm -> held-out loss, nats per token."""
    return {arm: float(result["nll"]) for arm, result in mixture.retrain.items() if result.get("nll") is not None}


def arms_best_first(mixture: Mixture) -> list[str]:
    """By held-out loss, those without one last and by predicted loss."""
    held_out, infinity = held_out_losses(mixture), float("inf")
    arms = dict.fromkeys([*mixture.loss, *mixture.retrain])
    return sorted(arms, key=lambda arm: (held_out.get(arm, infinity), mixture.loss.get(arm, infinity)))


def winner(mixture: Mixture) -> str | None:
    """The arm with the lowest held-out loss; None where nothing was retrained."""
    held_out = held_out_losses(mixture)
    return min(held_out, key=lambda arm: held_out[arm]) if held_out else None


def anchor(mixture: Mixture) -> str | None:
    """The retrained arm that the others are compared with: the one without a difference, else mixmin, else the best."""
    held_out = held_out_losses(mixture)
    without = [arm for arm in held_out if "difference" not in mixture.retrain[arm]]
    if len(without) == 1:
        return without[0]
    return SEARCHED if SEARCHED in held_out else winner(mixture)


def difference(mixture: Mixture, arm: str, other: str) -> Difference:
    """How far ``arm`` is above ``other``; with an interval where one of the two is the anchor and the other has one."""
    held_out = held_out_losses(mixture)
    value = held_out[arm] - held_out[other]
    interval = None
    if other == anchor(mixture):
        interval = _interval(mixture, arm)
    elif arm == anchor(mixture) and (theirs := _interval(mixture, other)):
        interval = (-theirs[1], -theirs[0])
    return Difference(value, value / held_out[other], interval)


def rival(mixture: Mixture) -> str | None:
    """Whom the winner is compared with: balanced, or mixmin where balanced itself won; else the second best."""
    best = winner(mixture)
    others = [arm for arm in arms_best_first(mixture) if arm in held_out_losses(mixture) and arm != best]
    for arm in (PLAIN, SEARCHED):
        if arm in others:
            return arm
    return others[0] if others else None


def _interval(mixture: Mixture, arm: str) -> tuple[float, float] | None:
    result = mixture.retrain[arm]
    if "difference_low" not in result:
        return None
    return float(result["difference_low"]), float(result["difference_high"])
