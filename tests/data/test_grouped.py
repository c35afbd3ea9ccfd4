"""Tables of grouped rows: reading them, and every way a column is not what the run file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from mixray.config.robust import GroupedConfig
from mixray.data.tabular.grouped import read_rows, typed_rows
from mixray.data.tabular.tables import Table
from mixray.errors import InputError

COLUMNS: dict[str, Any] = {
    "age": [30, 40, 50, 60],
    "job": ["cook", None, "cook", "smith"],
    "rich": [0, 1, 0, 1],
    "sex": ["f", "m", "m", "f"],
    "part": ["train", "train", "validation", "test"],
    "vector": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]],
}
SETTINGS: dict[str, Any] = {
    "numeric": ["age"],
    "categorical": ["job"],
    "label": "rich",
    "group": ["sex", "rich"],
    "split": "part",
}


def config(**changes: Any) -> GroupedConfig:
    return GroupedConfig.model_validate({"parquet": "rows.parquet", **SETTINGS, **changes})


def examples(columns: dict[str, Any] = COLUMNS, **changes: Any) -> Table:
    return typed_rows(pa.table(columns), config(**changes))


def test_columns_are_read_in_their_roles() -> None:
    found = examples(spurious="sex")
    assert found.numeric.tolist() == [[30.0], [40.0], [50.0], [60.0]]
    assert found.categorical["job"].tolist() == ["cook", "(missing)", "cook", "smith"]
    assert found.labels.tolist() == ["0", "1", "0", "1"]
    assert found.roles["group"].tolist() == ["f|0", "m|1", "m|0", "f|1"]
    assert found.roles["spurious"].tolist() == COLUMNS["sex"]
    assert found.roles["split"].tolist() == COLUMNS["part"]


def test_a_group_column_is_taken_as_it_is() -> None:
    assert examples(group="column:sex").roles["group"].tolist() == ["f", "m", "m", "f"]


@pytest.mark.parametrize("kind", [pa.list_(pa.float64(), 2), pa.list_(pa.float32()), pa.large_list(pa.int64())])
def test_frozen_features_are_lists_of_one_length(kind: Any) -> None:
    columns = COLUMNS | {"vector": pa.array([[1, 2], [3, 4], [5, 6], [7, 8]], kind)}
    found = examples(columns, numeric=[], categorical=[], features="vector")
    assert found.numeric.tolist() == COLUMNS["vector"]


def test_files_of_both_kinds_hold_the_same_rows(tmp_path: Path) -> None:
    table = pa.table(COLUMNS).drop_columns(["vector"])
    pq.write_table(table.slice(0, 2), tmp_path / "a.parquet")
    pq.write_table(table.slice(2), tmp_path / "b.parquet")
    pyarrow.csv.write_csv(table, tmp_path / "rows.csv")
    parquet = config(parquet=str(tmp_path))
    csv = config(parquet=None, csv=str(tmp_path / "*.csv"))
    one, other = (typed_rows(read_rows(settings), settings) for settings in (parquet, csv))
    assert one.numeric.tolist() == other.numeric.tolist()
    assert one.categorical["job"].tolist() == other.categorical["job"].tolist()
    assert one.roles["group"].tolist() == other.roles["group"].tolist() == ["f|0", "m|1", "m|0", "f|1"]


def test_a_missing_column_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    pq.write_table(pa.table({"age": [1], "rich": [0]}), tmp_path / "a.parquet")
    with pytest.raises(InputError) as caught:
        read_rows(config(parquet=str(tmp_path), numeric=["height"]))
    assert (caught.value.what, caught.value.where) == ("a column is missing", "data.numeric")
    assert str(caught.value.got).startswith("height, but ")
    assert str(caught.value.got).endswith("has the columns age, rich")


@pytest.mark.parametrize(("name", "data", "what"), [("a.parquet", b"no", "cannot be read"), (None, b"", "no file")])
def test_files_that_cannot_be_read_are_refused(tmp_path: Path, name: str | None, data: bytes, what: str) -> None:
    if name:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=what):
        read_rows(config(parquet=str(tmp_path / "*.parquet")))


@pytest.mark.parametrize(
    ("columns", "settings", "what", "where", "got"),
    [
        ({"age": ["a", "b", "c", "d"]}, {}, "does not hold numbers", "data.numeric, column age", "'a'"),
        ({"age": [1.0, None, 3.0, 4.0]}, {}, "missing or not finite", "column age, row 1", "1 of 4 rows"),
        ({"age": [1.0, 2.0, float("nan"), 4.0]}, {}, "missing or not finite", "column age, row 2", "1 of 4 rows"),
        ({"age": [float("inf"), 2.0, 3.0, 4.0]}, {}, "missing or not finite", "column age, row 0", "1 of 4 rows"),
        ({"job": [0.5, 1.5, 2.5, 3.5]}, {}, "does not hold classes", "data.categorical, column job", "double"),
        ({"rich": [0, None, 0, 1]}, {}, "a value is missing", "data.label, column rich, row 1", "1 of 4"),
        ({"sex": ["f", "m", None, "f"]}, {}, "a value is missing", "data.group, column sex, row 2", "1 of 4"),
        ({"part": ["train", "eval", "test", "test"]}, {}, "belongs to no part", "data.split, column part", "'eval'"),
        ({"part": ["test"] * 4}, {}, "no row belongs to the part 'train'", "data.split", "test"),
        ({"part": ["train"] * 4}, {}, "no row belongs to the part 'test'", "data.split", "train"),
        (
            {"vector": [[1.0], [2.0], [3.0, 4.0], [5.0]]},
            {"numeric": [], "categorical": [], "features": "vector"},
            "differ in length",
            "data.features, column vector",
            "[1, 2]",
        ),
        (
            {"vector": [[1.0], None, [3.0], [5.0]]},
            {"numeric": [], "categorical": [], "features": "vector"},
            "a row has no features",
            "data.features, column vector",
            "1 missing",
        ),
        (
            {"vector": [[1.0], [None], [3.0], [5.0]]},
            {"numeric": [], "categorical": [], "features": "vector"},
            "missing or not finite",
            "column vector, row 1",
            "1 of 4",
        ),
        (
            {},
            {"numeric": [], "categorical": [], "features": "sex"},
            "not lists of numbers",
            "data.features, column sex",
            "string",
        ),
    ],
)
def test_a_column_that_is_not_what_its_role_needs_is_refused(
    columns: dict[str, Any], settings: dict[str, Any], what: str, where: str, got: str
) -> None:
    with pytest.raises(InputError) as caught:
        examples(COLUMNS | columns, **settings)
    assert what in caught.value.what
    assert where in str(caught.value.where)
    assert got in str(caught.value.got)
    assert caught.value.wanted


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(InputError, match="there are no rows"):
        typed_rows(pa.table(COLUMNS).slice(0, 0), config())


def test_large_integers_are_rounded_not_refused() -> None:
    found = examples(COLUMNS | {"age": [2**60 + 1, 1, 2, 3]})
    assert np.isclose(found.numeric[0, 0], 2.0**60)


def test_classes_of_csv_are_text_and_only_an_empty_one_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("number,colour,y,s\n1,01,NA,f\n2,1,no,f\n3,,no,m\n")
    settings = {"numeric": ["number"], "categorical": ["colour"], "label": "y", "group": ["y", "s"]}
    read = GroupedConfig.model_validate({"csv": str(path), **settings})
    found = typed_rows(read_rows(read), read)
    assert found.categorical["colour"].tolist() == ["01", "1", "(missing)"]
    assert found.roles["group"].tolist() == ["NA|f", "no|f", "no|m"]
