"""The prediction cache: per target, one row per window of text and one column of log-probabilities per proxy."""

from mixray.cache.cache_rows import CacheRows
from mixray.cache.choices import read_choices
from mixray.cache.comparison import ArmLoss, compare, mean_over_targets
from mixray.cache.row_ranges import NpyRows, RowRanges
from mixray.cache.table import (
    PREDICTIONS_FILE,
    PredictionCache,
    column_id,
    column_table,
    read_cache,
    read_file,
    read_labels,
)

__all__ = [
    "PREDICTIONS_FILE",
    "ArmLoss",
    "CacheRows",
    "NpyRows",
    "PredictionCache",
    "RowRanges",
    "column_id",
    "column_table",
    "compare",
    "mean_over_targets",
    "read_cache",
    "read_choices",
    "read_file",
    "read_labels",
]
