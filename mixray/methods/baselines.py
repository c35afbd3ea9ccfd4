"""The mixtures that need no search: equal shares, and shares from the sources' sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mixray.errors import InputError
from mixray.mixture import Mixture

POWER = 0.5
"""Of the sizes, for ``temperature``: half way from natural to balanced. RegMix and others draw their mixtures around
this one."""
MOST_EPOCHS = 4.0
"""Of ``unimax``, where nothing else is stated: data that is repeated more often is worth little (Muennighoff et al.
2023, arXiv 2305.16264)."""


def balanced(sources: Sequence[str]) -> Mixture:
    """Return the mixture that gives every source the same share.

    Raises InputError where there is no source or one is named twice.
    """
    if not sources:
        raise InputError("balanced: there are no sources", wanted="at least one")
    if len(set(sources)) != len(sources):
        raise InputError("balanced: a source is named twice", got=", ".join(sources))
    return Mixture.from_weights({source: 1 / len(sources) for source in sources})


def natural(available_tokens: Mapping[str, int]) -> Mixture:
    """Return the mixture in proportion to the tokens of each source, as if all sources were poured together.

    ``available_tokens``: source -> its tokens, >= 0. Raises InputError for a negative number or where all are zero.
    """
    _require_tokens("natural", available_tokens)
    return _in_proportion(available_tokens)


def temperature(available_tokens: Mapping[str, int], power: float = POWER) -> Mixture:
    """Return the mixture in proportion to a power of each source's tokens: 1 is natural, 0 balanced.

    The power is the inverse of what multilingual training calls the temperature (Arivazhagan et al. 2019, arXiv
    1907.05019). ``available_tokens``: see ``natural``. Raises InputError also for a power outside of [0, 1].
    """
    _require_tokens("temperature", available_tokens)
    if not 0 <= power <= 1:
        raise InputError("temperature: the power is not valid", got=power, wanted="0 to 1")
    return _in_proportion({source: tokens**power if tokens else 0.0 for source, tokens in available_tokens.items()})


def unimax(available_tokens: Mapping[str, int], budget: int, max_epochs: float = MOST_EPOCHS) -> Mixture:
    """Return the most even mixture that passes over no source more often than ``max_epochs`` times.

    UniMax (Chung et al. 2023, arXiv 2304.09151, Algorithm 1): from the smallest source on, each gets an equal part of
    what is left of the budget, or all its epochs if that is less. Where the budget is larger than all epochs of all
    sources, every source gets all of its epochs.

    ``available_tokens``: see ``natural``; ``budget``: tokens of the training. Raises InputError also for a budget or a
    number of epochs that is not positive.
    """
    _require_tokens("unimax", available_tokens)
    if budget <= 0 or max_epochs <= 0:
        raise InputError(
            "unimax: the budget is not valid", got=f"{budget} tokens, {max_epochs} epochs", wanted="both > 0"
        )
    parts, left = {}, float(budget)
    ascending = sorted(available_tokens, key=lambda source: available_tokens[source])
    for number, source in enumerate(ascending):
        parts[source] = min(left / (len(ascending) - number), max_epochs * available_tokens[source])
        left -= parts[source]
    return _in_proportion({source: parts[source] for source in available_tokens})


def _require_tokens(method: str, available_tokens: Mapping[str, int]) -> None:
    negative = [source for source, tokens in available_tokens.items() if tokens < 0]
    if negative:
        raise InputError(f"{method}: negative tokens for {', '.join(negative)}", wanted=">= 0")
    if not any(available_tokens.values()):
        raise InputError(f"{method}: no source has a token", got=dict(available_tokens))


def _in_proportion(amounts: Mapping[str, float]) -> Mixture:
    total = sum(amounts.values())
    return Mixture.from_weights({source: amount / total for source, amount in amounts.items()})
