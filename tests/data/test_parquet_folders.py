"""Folders of Parquet files as other programs write them."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from mixray.data.pools import Pool
from mixray.data.reading.parts import list_pool
from mixray.data.text.documents import read_documents
from mixray.errors import InputError

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, *texts: str, **columns: list[Any]) -> None:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": list(texts), **columns}), path)

    return write_file


def texts_of(pool: Pool) -> list[str]:
    parts = list_pool(pool).parts
    return sorted(document.text for part in parts for document in read_documents(pool, part, Counter()))


@pytest.mark.parametrize(
    "name", ["part-0.parquet", "a/b/part-0.parquet", "part-0.parq", "part-0.pq", "part-00000", "_k=1/x"]
)
def test_what_is_data(name: str, write: Write, tmp_path: Path, source: Any) -> None:
    write(name, "one", "two")
    for left_out in ("_temporary/0/part-0.parquet", ".hidden/part-0.parquet", "_metadata", ".part-0.parquet.crc"):
        write(left_out, "not yet")
    (tmp_path / "data" / "_SUCCESS").write_text("")
    (tmp_path / "data" / "readme.md").write_text("about")
    assert texts_of(source(parquet=f"{tmp_path}/data")) == ["one", "two"]


def test_files_without_an_ending_are_not_data_beside_those_with_one(write: Write, tmp_path: Path, source: Any) -> None:
    write("part-0.parquet", "one")
    (tmp_path / "data" / "LICENCE").write_text("free")
    assert texts_of(source(parquet=f"{tmp_path}/data")) == ["one"]


def test_a_pattern_names_hidden_files_too(write: Write, tmp_path: Path, source: Any) -> None:
    write("_temporary/part-0", "one")
    assert texts_of(source(parquet=f"{tmp_path}/data/_temporary/*")) == ["one"]


def test_partitions_are_columns(tmp_path: Path, source: Any) -> None:
    """Written by pyarrow; a value with a slash and a null among them."""
    languages, years = ["en", "de", "a/b", None, "en"], [2023, 2023, 2024, 2024, 2024]
    table = pa.table({"text": ["t0", "t1", "t2", "t3", "t4"], "lang": languages, "year": years})
    schema = pa.schema([table.schema.field("lang"), table.schema.field("year")])
    pa.dataset.write_dataset(
        table, tmp_path / "data", format="parquet", partitioning=pa.dataset.partitioning(schema, flavor="hive")
    )
    place = f"{tmp_path}/data"
    assert texts_of(source(parquet=place)) == ["t0", "t1", "t2", "t3", "t4"]
    assert texts_of(source(parquet=place, where={"lang": "en"})) == ["t0", "t4"]
    assert texts_of(source(parquet=place, where={"lang": "a/b", "year": 2024})) == ["t2"]
    assert texts_of(source(parquet=place, where={"year": 2023}, text="{lang} {text}")) == ["de t1", "en t0"]
    with pytest.raises(InputError, match="columns lang, text, year"):
        texts_of(source(parquet=place, text="body"))


def test_a_column_of_the_file_wins(write: Write, tmp_path: Path, source: Any) -> None:
    write("kind=outer/part-0.parquet", "one", "two", kind=["outer", "inner"])
    assert texts_of(source(parquet=f"{tmp_path}/data", text="{kind} {text}")) == ["inner two", "outer one"]
    write("kind=outer/part-1.parquet", "three", kind=["inner"])
    assert texts_of(source(parquet=f"{tmp_path}/data", where={"kind": "inner"})) == ["three", "two"]


@pytest.mark.parametrize(("log", "kind"), [("_delta_log/00000000000000000000.json", "Delta"), (".hoodie/x", "Hudi")])
def test_tables_with_a_log_are_refused(log: str, kind: str, write: Write, tmp_path: Path, source: Any) -> None:
    write("part-0.parquet", "one")
    path = tmp_path / "data" / log
    path.parent.mkdir()
    path.write_text("{}")
    with pytest.raises(InputError, match=f"a folder is a {kind} table") as caught:
        list_pool(source(parquet=f"{tmp_path}/data"))
    assert "where: sources.code.parquet" in str(caught.value)
    folder = log.partition("/")[0]
    assert f"exclude '**/{folder}/**'" in str(caught.value)
    assert texts_of(source(parquet=f"{tmp_path}/data", exclude=[f"**/{folder}/**"])) == ["one"]


@pytest.mark.parametrize(
    ("value", "required"),
    [
        (datetime.date(2024, 1, 31), datetime.date(2024, 1, 31)),
        (datetime.date(2024, 1, 31), "2024-01-31"),
        (datetime.datetime(2024, 1, 31, 12, 30), "2024-01-31 12:30:00"),
        (datetime.datetime(2024, 1, 31, 12, 30), datetime.datetime(2024, 1, 31, 12, 30)),
        (7, 7),
        (True, True),
        (0.5, 0.5),
        ("7", 7),
    ],
)
def test_where_compares_dates_and_numbers(value: Any, required: Any, write: Write, tmp_path: Path, source: Any) -> None:
    write("a.parquet", "one", "two", column=[None, value])
    assert texts_of(source(parquet=f"{tmp_path}/data", where={"column": required})) == ["two"]
