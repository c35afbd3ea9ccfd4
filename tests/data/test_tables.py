"""Columns of tables by what their role needs."""

import pyarrow as pa
import pytest

from mixray.data.tabular.tables import texts
from mixray.errors import InputError


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.int64()])
def test_whole_numbers_are_the_same_classes_in_whatever_type(kind: pa.DataType) -> None:
    table = pa.table({"label": pa.array([1, 0, None, -2, 1], kind)})
    assert texts(table, "label", "examples.label", missing="none").tolist() == ["1", "0", "none", "-2", "1"]


@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf"), 1e300])
def test_other_floating_point_numbers_are_not_classes(value: float) -> None:
    with pytest.raises(InputError, match="does not hold classes") as caught:
        texts(pa.table({"label": [1.0, value]}), "label", "examples.label")
    assert "whole floating-point numbers" in str(caught.value)
