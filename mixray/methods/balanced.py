"""Balanced: the same share for every source."""

from __future__ import annotations

from collections.abc import Sequence

from mixray.errors import InputError
from mixray.mixture import Mixture


def balanced(sources: Sequence[str]) -> Mixture:
    """Every source 1 / sources. Raises InputError for no source or one named twice."""
    if not sources:
        raise InputError("balanced: there are no sources", wanted="at least one")
    if len(set(sources)) != len(sources):
        raise InputError("balanced: a source is named twice", got=", ".join(sources))
    return Mixture.from_weights({source: 1 / len(sources) for source in sources})
