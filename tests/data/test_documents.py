import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixray.data.reading import files
from mixray.data.reading import parts as parts_module
from mixray.data.reading.parts import list_pool
from mixray.data.text.documents import read_documents, split_text

text_strategy = st.text(st.sampled_from("ab\n é"), max_size=60)


@given(text_strategy, st.integers(1, 12), st.lists(st.integers(0, 60), max_size=5))
def test_splitting_loses_nothing_and_does_not_depend_on_chunks(text: str, limit: int, cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(text)]
    chunks = [text[low:high] for low, high in itertools.pairwise(ends)]
    pieces = list(split_text(chunks, limit))
    assert "".join(pieces) == text
    assert pieces == list(split_text([text], limit))
    assert all(len(piece) <= limit for piece in pieces)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("short", ["short"]),
        ("line 1\nline 2\n", ["line 1\n", "line 2\n"]),
        ("a\nb\nc\nd\ne\nf\n", ["a\nb\nc\nd\n", "e\nf\n"]),
        ("0123456789abcdef", ["01234567", "89abcdef"]),
        ("0123456\n9", ["0123456\n", "9"]),
        ("", [""]),
    ],
)
def test_cuts_are_at_line_ends_where_there_are_any(text: str, pieces: list[str]) -> None:
    assert list(split_text([text], 8)) == pieces


def test_a_long_document_becomes_several_and_is_counted_once(tmp_path: Path, source: Any) -> None:
    (tmp_path / "a.txt").write_text("x" * 9 + "\n" + " " * 9 + "\n" + "y" * 5)
    (tmp_path / "b.txt").write_text("z")
    pool = source(files=f"{tmp_path}/*.txt", document_chars=10)
    counts = Counter[str]()
    (part,) = list_pool(pool).parts
    documents = list(read_documents(pool, part, counts))
    assert [document.text for document in documents] == ["x" * 9 + "\n", "y" * 5, "z"]
    assert counts == Counter(documents=3, bytes=16, split=1, skipped_empty=1)


@pytest.mark.parametrize("broken_at", [None, 3, 1000])
def test_a_giant_file_is_read_in_blocks(
    broken_at: int | None, tmp_path: Path, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Characters that straddle blocks survive; one bad byte anywhere skips the whole file."""
    monkeypatch.setattr(files, "BLOCK_BYTES", 7)
    text = "aé𝄞\n" * 150
    data = bytearray(text.encode())
    if broken_at is not None:
        data[broken_at] = 0xFF
    (tmp_path / "a.txt").write_bytes(data)
    pool = source(files=f"{tmp_path}/*.txt", document_chars=50)
    counts = Counter[str]()
    (part,) = list_pool(pool).parts
    documents = "".join(document.text for document in read_documents(pool, part, counts))
    assert documents == (text if broken_at is None else "")
    assert counts["skipped_not_utf8"] == (broken_at is not None)


@pytest.mark.parametrize(("max_tokens", "expected"), [(None, 50), (10, 16), (29, 48), (1000, 50)])
def test_max_tokens_bounds_what_is_read(
    max_tokens: int | None, expected: int, write_jsonl: Any, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 bytes for a wanted token, 10 bytes a document, two parts: the document that crosses the limit is the last."""
    monkeypatch.setattr(parts_module, "LEAST_BYTES", 0)
    monkeypatch.setattr(parts_module, "PART_BYTES", 25 * 23)
    path = write_jsonl("a.jsonl", [f"{number:010d}" for number in range(50)])
    pool = source(jsonl=str(path), max_tokens=max_tokens)
    parts = list_pool(pool).parts
    assert len(parts) == 2
    assert sum(len(list(read_documents(pool, part, Counter()))) for part in parts) == expected


def test_a_giant_file_is_not_read_beyond_what_is_wanted(tmp_path: Path, source: Any) -> None:
    """The limit holds within a document that is cut, too."""
    (tmp_path / "a.txt").write_text("x" * 5_000_000)
    pool = source(files=f"{tmp_path}/a.txt", max_tokens=1)
    counts = Counter[str]()
    (part,) = list_pool(pool).parts
    assert len(list(read_documents(pool, part, counts))) == 11  # a MiB in pieces of 100,000
    assert counts["split"] == 1


def test_the_hash_is_that_of_the_text(tmp_path: Path, source: Any) -> None:
    """Golden: hashlib.blake2b('naïve'.encode(), digest_size=16)."""
    (tmp_path / "a.txt").write_text("naïve", encoding="utf-8")
    pool = source(files=f"{tmp_path}/*.txt")
    (document,) = read_documents(pool, list_pool(pool).parts[0], Counter())
    assert document.content.hex() == "7b633f5f88cb0dd8617039f481fe52e9"
    assert document.bytes == 6
