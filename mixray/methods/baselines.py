"""The mixtures that need no search: ``balanced`` and ``natural``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mixray.errors import InputError
from mixray.mixture import Mixture


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
    negative = [source for source, tokens in available_tokens.items() if tokens < 0]
    if negative:
        raise InputError(f"natural: negative tokens for {', '.join(negative)}", wanted=">= 0")
    total = sum(available_tokens.values())
    if total == 0:
        raise InputError("natural: no source has a token", got=dict(available_tokens))
    return Mixture.from_weights({source: tokens / total for source, tokens in available_tokens.items()})
