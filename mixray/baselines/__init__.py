"""Mixtures to compare with: each takes the sources and returns a ``Mixture``."""

from mixray.baselines.balanced import balanced
from mixray.baselines.natural import natural

__all__ = ["balanced", "natural"]
