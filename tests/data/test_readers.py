"""Every reader over every compression, and every defect with its message."""

import bz2
import gzip
import json
import lzma
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from mixray.data.pools import Pool
from mixray.data.reading import parts as parts_module
from mixray.data.reading.parts import FilePart, list_pool
from mixray.data.text.documents import read_documents
from mixray.errors import InputError

TEXTS = ["one\n", "zwei é ü\n", "трі\r\n", "\ufeffbom", "four 𝄞"]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.compress,
    ".xz": lzma.compress,
    ".GZ": gzip.compress,
}


def texts_of(pool: Pool, counts: Counter[str] | None = None) -> list[str]:
    gathered = Counter[str]() if counts is None else counts
    parts = list_pool(pool).parts
    return [document.text for part in parts for document in read_documents(pool, part, gathered)]


def lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("reader", ["files", "jsonl"])
def test_text_comes_out_as_it_went_in(reader: str, ending: str, tmp_path: Path, source: Any) -> None:
    contents = [text.encode() for text in TEXTS] if reader == "files" else [lines([{"text": text} for text in TEXTS])]
    for index, content in enumerate(contents):
        (tmp_path / f"{index}.data{ending}").write_bytes(COMPRESS[ending](content))
    assert texts_of(source(**{reader: f"{tmp_path}/*.data{ending}"})) == TEXTS


@pytest.mark.parametrize("ending", [".gz", ".zst", ".bz2", ".xz", ".GZ"])
def test_files_of_several_compressed_streams_are_read_to_the_end(ending: str, tmp_path: Path, source: Any) -> None:
    pieces = [COMPRESS[ending](lines([{"text": text}])) for text in TEXTS]
    (tmp_path / f"a.jsonl{ending}").write_bytes(b"".join(pieces))
    assert texts_of(source(jsonl=f"{tmp_path}/*")) == TEXTS


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_parquet_types_and_compressions(kind: Any, compression: str, tmp_path: Path, source: Any) -> None:
    column = pa.array([*TEXTS, None]).cast(kind)
    pq.write_table(
        pa.table({"body": column, "n": range(6)}), tmp_path / "a.parquet", compression=compression, row_group_size=2
    )
    counts = Counter[str]()
    assert texts_of(source(parquet=str(tmp_path), text="body"), counts) == TEXTS
    assert counts["skipped_empty"] == 1


ROWS = [
    {"text": "keep", "meta": {"set": "C4", "n": 1, "ok": True}},
    {"text": "other", "meta": {"set": "Wiki", "n": 1, "ok": True}},
    {"text": "number", "meta": {"set": "C4", "n": 2, "ok": True}},
    {"text": "null", "meta": None},
]


@pytest.mark.parametrize("reader", ["jsonl", "parquet"])
def test_where_keeps_rows_by_struct_fields(reader: str, tmp_path: Path, source: Any) -> None:
    if reader == "jsonl":
        (tmp_path / "a.jsonl").write_bytes(lines(ROWS))
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    where = {"meta.set": "C4", "meta.n": "1", "meta.ok": "true"}
    counts = Counter[str]()
    assert texts_of(source(**{reader: f"{tmp_path}/*.{reader}"}, where=where), counts) == ["keep"]
    assert counts["filtered"] == 3


@pytest.mark.parametrize("reader", ["jsonl", "parquet"])
def test_text_may_lie_in_a_struct_and_a_name_with_dots_wins(reader: str, tmp_path: Path, source: Any) -> None:
    rows = [{"a.b": "flat", "a": {"b": "deep", "c": "other"}}]
    if reader == "jsonl":
        (tmp_path / "a.jsonl").write_bytes(lines(rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    files = {reader: f"{tmp_path}/*.{reader}"}
    assert texts_of(source(**files, text="a.b")) == ["flat"]
    assert texts_of(source(**files, text="a.c")) == ["other"]


BAD_UTF8 = b"\xff\xfe broken"
SKIPPED: dict[str, tuple[str, bytes, dict[str, int]]] = {
    "text, not UTF-8": ("files", BAD_UTF8, {"skipped_not_utf8": 1}),
    "text, cut in a character": ("files", "é".encode()[:1], {"skipped_not_utf8": 1}),
    "text, empty": ("files", b"", {"skipped_empty": 1}),
    "text, blank": ("files", b" \n\t\n", {"skipped_empty": 1}),
    "json, not UTF-8": ("jsonl", b'{"text": "\xff"}\n', {"skipped_not_utf8": 1}),
    "json, lone surrogate": ("jsonl", b'{"text": "\\ud800"}\n', {"skipped_not_utf8": 1}),
    "json, null": ("jsonl", b'{"text": null}\n', {"skipped_empty": 1}),
    "json, blank": ("jsonl", b'{"text": " "}\n', {"skipped_empty": 1}),
    "json, empty lines": ("jsonl", b"\n \n\r\n", {}),
}


@pytest.mark.parametrize("case", SKIPPED)
def test_what_is_no_document_is_skipped_and_counted(case: str, tmp_path: Path, source: Any) -> None:
    reader, content, expected = SKIPPED[case]
    (tmp_path / "a.data").write_bytes(content)
    counts = Counter[str]()
    assert texts_of(source(**{reader: f"{tmp_path}/*.data"}), counts) == []
    assert {name: count for name, count in counts.items() if count} == expected


def test_parquet_text_that_is_not_utf8_is_skipped(tmp_path: Path, source: Any) -> None:
    binary = pa.array([b"good", BAD_UTF8])
    column = pa.Array.from_buffers(pa.string(), 2, binary.buffers())  # a string column that lies
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    counts = Counter[str]()
    assert texts_of(source(parquet=f"{tmp_path}/*.parquet"), counts) == ["good"]
    assert counts["skipped_not_utf8"] == 1


DEFECTS: dict[str, tuple[dict[str, Any], bytes, list[str]]] = {
    "no files": (
        {"files": "{tmp}/*.nothing", "exclude": ["x*"]},
        b"",
        ["the source code has no files", "where: sources.code.files", "/*.nothing, without x*", "remedy: **"],
    ),
    "missing column in JSON": (
        {"jsonl": "{tmp}/a.data", "text": "body"},
        lines([{"text": "a", "id": 1}]),
        [
            "a column is missing",
            "where: sources.code.text",
            "got: body, but",
            "a.data, line 1 has the columns id, text",
        ],
    ),
    "a column that goes missing later": (
        {"jsonl": "{tmp}/a.data"},
        lines([{"text": "a"}, {"text": "b"}, {"id": 1}]),
        ["a column is missing", "a.data, line 3 has the columns id"],
    ),
    "broken JSON": (
        {"jsonl": "{tmp}/a.data"},
        b'{"text": "a"}\n\n{"text": "b"\n{"text": "c"}\n',
        [
            "a line is not a JSON object",
            "where: sources.code.jsonl",
            "a.data, line 3: ",
            "wanted: one JSON object a line",
        ],
    ),
    "JSON that is no object": (
        {"jsonl": "{tmp}/a.data"},
        b'["text"]\n',
        ["a line is not a JSON object", "a.data, line 1: a list"],
    ),
    "JSON that is too deep": (
        {"jsonl": "{tmp}/a.data"},
        b'{"text": "a", "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        ["a line is not a JSON object", "a.data, line 1: ", "wanted: one JSON object a line"],
    ),
    "JSON text that is a number": (
        {"jsonl": "{tmp}/a.data", "text": "n"},
        lines([{"n": 1}]),
        ["a column holds no text", "where: sources.code.text", "got: n: int in", "a.data, line 1", "wanted: text"],
    ),
    "not Parquet": (
        {"parquet": "{tmp}/a.data"},
        b"PAR0",
        ["a file cannot be read", "where: sources.code.parquet", "a.data ("],
    ),
    "missing column in Parquet": (
        {"parquet": "{tmp}/table.parquet", "text": "body"},
        b"",
        ["a column is missing", "where: sources.code.text", "table.parquet has the columns meta, n, text"],
    ),
    "missing column of where": (
        {"parquet": "{tmp}/table.parquet", "where": {"meta.nope": "x"}},
        b"",
        ["a column is missing", "where: sources.code.where", "got: meta.nope, but"],
    ),
    "Parquet column that is no text": (
        {"parquet": "{tmp}/table.parquet", "text": "n"},
        b"",
        ["a column holds no text", "got: n: int64 in", "table.parquet"],
    ),
    "not gzip": (
        {"files": "{tmp}/plain.gz"},
        b"",
        ["a file cannot be read", "where: sources.code.files", "plain.gz ("],
    ),
}


@pytest.mark.parametrize("case", DEFECTS)
def test_defects_say_what_where_got_and_wanted(case: str, tmp_path: Path, source: Any) -> None:
    settings, content, messages = DEFECTS[case]
    (tmp_path / "a.data").write_bytes(content)
    (tmp_path / "plain.gz").write_bytes(b"plain text")
    table = pa.Table.from_pylist([{"text": "a", "n": 1, "meta": {"set": "C4"}}])
    pq.write_table(table, tmp_path / "table.parquet")
    filled = {
        key: value.replace("{tmp}", str(tmp_path)) if isinstance(value, str) else value
        for key, value in settings.items()
    }
    with pytest.raises(InputError) as caught:
        texts_of(source(**filled))
    for message in messages:
        assert message in str(caught.value)


def test_a_line_belongs_to_the_part_it_starts_in(tmp_path: Path, source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of the parts, with and without a last line end: every line once, in order."""
    texts = [f"{number} " + "x" * (number * 7 % 40) for number in range(40)]
    for ending in (b"\n", b""):
        (tmp_path / "a.jsonl").write_bytes(lines([{"text": text} for text in texts]).removesuffix(b"\n") + ending)
        for size in (1, 2, 3, 16, 17, 50, 333, 10**6):
            monkeypatch.setattr(parts_module, "PART_BYTES", size)
            assert texts_of(source(jsonl=f"{tmp_path}/a.jsonl")) == texts


def test_the_line_number_of_an_error_counts_from_the_start_of_the_file(
    tmp_path: Path, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines([{"text": str(number)} for number in range(30)]) + b"broken\n")
    monkeypatch.setattr(parts_module, "PART_BYTES", 64)
    with pytest.raises(InputError, match="line 31"):
        texts_of(source(jsonl=f"{tmp_path}/a.jsonl"))


def test_parts_are_groups_of_files_in_order(tmp_path: Path, source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "PART_BYTES", 100)
    monkeypatch.setattr(parts_module, "FILE_BYTES", 10)
    for index, size in enumerate([60, 30, 20, 1, 500, 99, 1]):
        (tmp_path / f"{index}.txt").write_text("x" * size)
    parts = list_pool(source(files=f"{tmp_path}/*.txt")).parts
    sizes = [[piece.file.size for piece in part.slices] for part in parts if isinstance(part, FilePart)]
    assert sizes == [[60, 30], [20, 1], [500], [99], [1]]


def test_parquet_parts_are_groups_of_row_groups(tmp_path: Path, source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{number:04d}" * 100 for number in range(100)]
    for index in range(2):
        table = pa.table({"text": texts[index * 50 : index * 50 + 50]})
        pq.write_table(table, tmp_path / f"{index}.parquet", row_group_size=7)
    monkeypatch.setattr(parts_module, "PART_BYTES", 9000)
    pool = source(parquet=f"{tmp_path}/*.parquet")
    assert len(list_pool(pool).parts) > 4
    assert texts_of(pool) == texts


def test_the_listing_key_sees_size_and_time_and_nothing_is_read(tmp_path: Path, source: Any) -> None:
    import os

    path = tmp_path / "a.txt"
    path.write_text("one")
    pool = source(files=str(path))
    key = list_pool(pool).key
    os.utime(path, ns=(10**18, 10**18))
    touched = list_pool(pool).key
    path.write_text("three")
    os.utime(path, ns=(10**18, 10**18))
    assert len({key, touched, list_pool(pool).key}) == 3
    assert list_pool(pool).size_bytes == 5
