"""A target's rows: every token predicted once, split by the document's text alone."""

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixray.data import prepare
from mixray.data import target_rows as rows
from mixray.data.pools import Prepared
from mixray.data.reading import parts as parts_module
from mixray.data.target_rows import document_rows, part_of
from mixray.data.text.documents import Document
from mixray.data.text.tokenizer import Encoder
from mixray.errors import InputError
from mixray.store import Artifact, Artifacts

TEXTS = [f"goal {number} " + "and so on " * (number * 5 % 23) for number in range(80)]


@pytest.fixture
def made(
    artifacts: Artifacts, run_config: Any, write_jsonl: Callable[..., Path], mapper: Any
) -> Callable[..., Prepared]:
    sources = {"code": {"jsonl": str(write_jsonl("a.jsonl", [f"source {number}" for number in range(50)]))}}

    def make(texts: list[str] = TEXTS, *, seed: int = 0, **target: Any) -> Prepared:
        goal = {"jsonl": str(write_jsonl("t.jsonl", texts)), **target}
        train = {"train": {"vocab_size": 300}}
        return prepare(
            run_config(sources, {"goal": goal}, seed=seed, tokenizer=train), artifacts, mapper, lambda _: None
        )

    return make


def read(artifacts: Artifacts, artifact: Artifact, part: str) -> list[dict[str, Any]]:
    names = artifact.meta[part]["files"]
    paths = [artifacts.storage.full(artifact.files[name].path) for name in names]
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(1, 12))
def test_every_token_is_a_label_once_and_inputs_are_one_behind(ids: list[int], window: int) -> None:
    pieces = list(document_rows(b"x", ids, 0, window))
    assert [number for _, number, _, _ in pieces] == list(range(len(pieces)))
    assert [label for _, _, tokens, count in pieces for label in tokens[1:]] == ids
    inputs = [token for _, _, tokens, count in pieces for token in tokens[:count]]
    assert inputs == [0, *ids][: len(ids)]
    assert all(len(tokens) == count + 1 <= window + 1 for _, _, tokens, count in pieces)


@pytest.mark.parametrize(("part_bytes", "file_rows"), [(2000, 2048), (1 << 24, 20), (1 << 24, 2048)])
def test_rows_hold_every_document_of_its_part(
    part_bytes: int, file_rows: int, made: Any, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "PART_BYTES", part_bytes)
    monkeypatch.setattr(rows, "FILE_ROWS", file_rows)
    prepared = made()
    artifact = prepared.targets["goal"]
    encoder = Encoder.of(artifacts.storage, prepared.tokenizer)
    expected = {tuple(ids) for _, ids in encoder.encode(Document(text, b"", 0) for text in TEXTS)}
    found = []
    for part in ("fit", "held_out"):
        table = read(artifacts, artifact, part)
        documents: dict[bytes, list[int]] = {}
        for row in table:
            assert part_of(row["document"], 0.5) == part
            assert row["window"] == len(documents.setdefault(row["document"], [])) // 16
            assert row["tokens"][0] == (documents[row["document"]] or [encoder.end_of_document])[-1]
            documents[row["document"]] += row["tokens"][1:]
        found += [tuple(ids) for ids in documents.values()]
        meta = artifact.meta[part]
        assert (meta["rows"], meta["documents"]) == (len(table), len(documents))
        assert meta["tokens"] == sum(row["count"] for row in table)
        assert meta["files"] == [f"{part}-{number:05d}.parquet" for number in range(len(meta["files"]))]
    assert set(found) == expected
    assert len(found) == len(expected)
    sizes = [pq.read_metadata(artifacts.storage.full(record.path)).num_rows for record in artifact.files.values()]
    assert max(sizes) <= file_rows


def parts_of(artifacts: Artifacts, prepared: Prepared) -> dict[bytes, str]:
    artifact = prepared.targets["goal"]
    return {row["document"]: part for part in ("fit", "held_out") for row in read(artifacts, artifact, part)}


def test_a_document_keeps_its_part(made: Any, artifacts: Artifacts) -> None:
    """Whatever the seed and the other documents; more held out only moves documents that way."""
    first = parts_of(artifacts, made())
    assert parts_of(artifacts, made(seed=1)) == first
    fewer = parts_of(artifacts, made(TEXTS[30:]))
    assert fewer.items() <= first.items()
    more = parts_of(artifacts, made(held_out=0.7))
    assert all(more[document] == "held_out" for document, part in first.items() if part == "held_out")


def test_the_split_has_the_wanted_size() -> None:
    """Of 4000 random hashes; five standard errors."""
    hashes = [hashlib.blake2b(str(number).encode(), digest_size=16).digest() for number in range(4000)]
    for held_out in (0.1, 0.5, 0.8):
        share = Counter(part_of(each, held_out) for each in hashes)["held_out"] / 4000
        assert abs(share - held_out) < 5 * (held_out * (1 - held_out) / 4000) ** 0.5


def test_golden_part() -> None:
    """The first eight bytes as a little-endian number, against held_out x 2^64."""
    assert part_of(bytes(7) + b"\x7f" + bytes(8), 0.5) == "held_out"
    assert part_of(bytes(7) + b"\x80" + bytes(8), 0.5) == "fit"


def test_duplicates_in_a_target_count_once(made: Any) -> None:
    once, twice = made(TEXTS), made(TEXTS + TEXTS[:9])
    assert twice.counts["target goal"]["duplicates"] == 9
    assert twice.targets["goal"].id == once.targets["goal"].id


def test_max_tokens_takes_whole_documents(made: Any, artifacts: Artifacts) -> None:
    everything = made()
    some = made(max_tokens=600)
    assert 400 < some.counts["target goal"]["tokens"] <= 600
    assert parts_of(artifacts, some).items() <= parts_of(artifacts, everything).items()
    assert some.targets["goal"].id != everything.targets["goal"].id


def test_a_target_too_small_to_split(made: Any) -> None:
    with pytest.raises(InputError) as caught:
        made(["only one"])
    message = str(caught.value)
    assert "the target goal is too small to split\n  where: targets.goal.held_out\n  got: " in message
    assert "documents to fit on and" in message
