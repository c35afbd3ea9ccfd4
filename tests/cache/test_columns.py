"""A column is named by what decides its numbers, and holds finite numbers only."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixray.cache import column_id, column_table
from mixray.errors import InputError
from mixray.store import encode, fingerprint

DOCUMENTS = [b"\x00" * 16, b"\xab" * 16, b"\xab" * 16]
ROWS = pa.table({"document": pa.array(DOCUMENTS, pa.binary(16)), "window": pa.array([0, 0, 1], pa.int32())})
SETTINGS: dict[str, Any] = {
    "model_id": "m",
    "rows_id": "r",
    "part": "fit",
    "precision": "auto",
    "on_gpu": False,
    "batch_tokens": 8192,
    "segment": None,
}


@pytest.mark.parametrize(
    "change",
    [
        {"model_id": "n"},
        {"rows_id": "s"},
        {"part": "held_out"},
        {"precision": "bfloat16"},
        {"on_gpu": True},
        {"batch_tokens": 1},
        {"segment": 1},
        {"segment": 16},
        {"threads": 2},
    ],
    ids=str,
)
def test_a_columns_identity_is_all_that_decides_its_numbers(change: dict[str, Any]) -> None:
    assert column_id(**SETTINGS) == column_id(**SETTINGS) != column_id(**{**SETTINGS, **change})


def test_a_column_without_segments_keeps_the_identity_that_it_had_before_there_were_any() -> None:
    facts = ["column", 1, "m", "r", "fit", "auto", False, 8192, False]
    assert column_id(**SETTINGS) == fingerprint(facts)


def test_a_column_holds_the_keys_and_the_values_in_full_precision() -> None:
    values = np.array([-1 / 3, -1e-300, -1e300])
    segments = [np.array([-1.0, -2.0]), np.array([-0.5]), np.array([-0.1], np.float32)]
    table = pq.read_table(io.BytesIO(encode(column_table(ROWS, values, segments, model="python", target="docs"))))
    assert table["document"].to_pylist() == DOCUMENTS
    assert table["window"].to_pylist() == [0, 0, 1]
    assert table["log_prob"].to_pylist() == values.tolist()
    assert table["segment_log_probs"].to_pylist() == [row.astype(np.float32).tolist() for row in segments]


def test_equal_tables_give_equal_bytes() -> None:
    one, other = (column_table(ROWS, np.arange(3.0), None, model="m", target="t") for _ in range(2))
    assert encode(one) == encode(other)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_with_model_and_document(value: float) -> None:
    with pytest.raises(InputError) as caught:
        column_table(ROWS, np.array([-1.0, -2.0, value]), None, model="python", target="docs")
    assert caught.value.what == "python gives the target 'docs' a log-probability that is not a finite number"
    assert caught.value.where == f"document {'ab' * 16}, window 1 (1 such rows in this file)"
    assert str(caught.value.got) == str(value)
    assert "learning rate" in str(caught.value.remedy)
