"""Natural: every source in proportion to the tokens it has, as if all were poured together."""

from __future__ import annotations

from collections.abc import Mapping

from mixray.errors import InputError
from mixray.mixture import Mixture


def natural(available_tokens: Mapping[str, int]) -> Mixture:
    """``available_tokens``: source -> its tokens, >= 0. Raises InputError for a negative number or none at all."""
    negative = [source for source, tokens in available_tokens.items() if tokens < 0]
    if negative:
        raise InputError(f"natural: negative tokens for {', '.join(negative)}", wanted=">= 0")
    total = sum(available_tokens.values())
    if total == 0:
        raise InputError("natural: no source has a token", got=dict(available_tokens))
    return Mixture.from_weights({source: tokens / total for source, tokens in available_tokens.items()})
