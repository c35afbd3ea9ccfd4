"""Solvers: methods that share one loop with a certified stopping rule."""
