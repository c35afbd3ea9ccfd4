"""Analysis of a solution: intervals, near-optimal mixtures, the worth of sources and the prices of limits."""
