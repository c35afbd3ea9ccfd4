"""Objectives: the convex losses that a mixture is chosen by, and how their rows are read."""
