"""Tabular examples: columns, the encoding of features and labels, and the splits of grouped rows."""
