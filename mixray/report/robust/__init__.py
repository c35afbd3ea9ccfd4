"""A comparison of robust training: its results file, and the tables that are made of it."""
