"""The prediction cache: per target, one row per window of text and one column of log-probabilities per proxy."""

from mixray.cache.columns import KEY, column_id, column_table
from mixray.cache.comparison import compare
from mixray.cache.row_ranges import CacheRows, NpyRows, RowRanges
from mixray.cache.table import PredictionCache, read_cache, read_file, split_files

__all__ = [
    "KEY",
    "CacheRows",
    "NpyRows",
    "PredictionCache",
    "RowRanges",
    "column_id",
    "column_table",
    "compare",
    "read_cache",
    "read_file",
    "split_files",
]
