"""The prediction cache: per target, one row per window of text and one column of log-probabilities per proxy."""

from mixray.cache.cache_rows import CacheRows
from mixray.cache.row_ranges import NpyRows, RowRanges
from mixray.cache.table import (
    PredictionCache,
    column_id,
    column_table,
    compare,
    read_cache,
    read_file,
    read_labels,
)

__all__ = [
    "CacheRows",
    "NpyRows",
    "PredictionCache",
    "RowRanges",
    "column_id",
    "column_table",
    "compare",
    "read_cache",
    "read_file",
    "read_labels",
]
