"""Mixtures to compare with: each takes the sources and returns a ``Mixture``."""

from mixray.methods.balanced import balanced
from mixray.methods.natural import natural

__all__ = ["balanced", "natural"]
