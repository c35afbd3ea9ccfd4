"""Ways to choose a mixture that others are compared with. Each returns a ``Mixture``."""

from mixray.methods.baselines import balanced, natural

__all__ = ["balanced", "natural"]
