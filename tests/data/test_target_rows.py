"""A target's rows: every token predicted once, split by the document's text alone."""

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixray.data import prepare
from mixray.data import target_rows as rows
from mixray.data.pools import Prepared
from mixray.data.reading import parts as parts_module
from mixray.data.target_rows import document_rows, option_rows, part_of
from mixray.data.text.budget import sample
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
        goal = {key: value for key, value in goal.items() if value is not None}
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


@given(st.integers(0, 30), st.integers(1, 30), st.integers(2, 12))
def test_every_token_of_a_completion_is_a_label_once(context: int, scored: int, window: int) -> None:
    ids = list(range(1, context + scored + 1))
    pieces = list(document_rows(b"x", ids, 0, window, context))
    assert [number for _, number, _, _ in pieces] == list(range(len(pieces)))
    assert [label for _, _, tokens, count in pieces for label in tokens[-count:]] == ids[context:]
    assert all(1 <= count < len(tokens) <= window + 1 for _, _, tokens, count in pieces)
    first, count = pieces[0][2:]
    before = len(first) - count
    assert first[:before] == [0, *ids][: context + 1][-before:], "the end of the prompt stands before it"
    if scored <= window:
        assert len(pieces) == 1
        assert before == min(context + 1, window + 1 - scored)
    else:
        assert before == min(context, window // 2) + 1
        assert all(len(tokens) == count + 1 for _, _, tokens, count in pieces[1:])


def options_of(sizes: list[tuple[int, int]], window: int) -> dict[int, list[tuple[list[int], int]]]:
    """The rows of an item's options: option -> (ids, number of labels). ``sizes``: (ids, of which prompt) by option."""
    encoded = [(list(range(1, 1 + length)), context) for length, context in sizes]
    pieces: dict[int, list[tuple[list[int], int]]] = {}
    for number, (_, window_number, tokens, count, option, is_right) in enumerate(
        option_rows(b"x", encoded, 1, end_of_document=0, window=window)
    ):
        assert (window_number, is_right) == (number, option == 1)
        pieces.setdefault(option, []).append((tokens, count))
    return pieces


@pytest.mark.parametrize(("longest", "first_id"), [(5, 5), (8, 6), (9, 2), (30, 2)])
def test_all_options_of_an_item_follow_the_same_piece_of_the_prompt(longest: int, first_id: int) -> None:
    """That which the longest completion leaves room for, in a window of 8: of the prompt 1, ..., 6 from ``first_id``
    on."""
    completions = [1, 7, longest]
    pieces = options_of([(6 + size, 6) for size in completions], 8)
    assert [pieces[option][0][0][0] for option in range(3)] == [first_id] * 3
    for option, size in enumerate(completions):
        labels = [label for tokens, count in pieces[option] for label in tokens[-count:]]
        assert labels == list(range(7, 7 + size))


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=2, max_size=4), st.integers(2, 9))
def test_every_token_of_an_option_is_a_label_once(sizes: list[tuple[int, int]], window: int) -> None:
    """Also where the options' first tokens have swallowed much of the prompt."""
    pieces = options_of([(scored + context, context) for scored, context in sizes], window)
    for option, (scored, context) in enumerate(sizes):
        assert all(1 <= count < len(tokens) <= window + 1 for tokens, count in pieces[option])
        labels = [label for tokens, count in pieces[option] for label in tokens[-count:]]
        assert labels == list(range(context + 1, context + scored + 1))


@pytest.mark.parametrize("sizes", [[(9, 6)], [(9, 6), (6, 6)], [(9, 6), (8, 6), (0, 0)]])
def test_an_item_without_a_choice_has_no_rows(sizes: list[tuple[int, int]]) -> None:
    """One option alone, and one that adds no token to its prompt."""
    assert options_of(sizes, 8) == {}


def test_a_completion_without_tokens_has_no_rows() -> None:
    assert list(document_rows(b"x", [1, 2, 3], 0, 8, context=3)) == []


@pytest.mark.parametrize(("part_bytes", "file_rows"), [(2000, 2048), (1 << 24, 20), (1 << 24, 2048)])
def test_rows_hold_every_document_of_its_part(
    part_bytes: int, file_rows: int, made: Any, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "PART_BYTES", part_bytes)
    monkeypatch.setattr(rows, "FILE_ROWS", file_rows)
    prepared = made()
    artifact = prepared.targets["goal"]
    encoder = Encoder.of(artifacts.storage, prepared.tokenizer)
    expected = {tuple(ids) for _, ids in encoder.encode(Document(text, b"", 0, b"") for text in TEXTS)}
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


@pytest.mark.parametrize("part_bytes", [300, 1 << 24])
@pytest.mark.parametrize("reader", ["files", "jsonl"])
def test_pieces_of_a_text_stay_in_one_part(
    reader: str, part_bytes: int, made: Any, artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their ids begin with their parent's, so that intervals know that they belong together."""
    monkeypatch.setattr(parts_module, "PART_BYTES", part_bytes)
    texts = ["".join(f"text {number}, line {line}\n" for line in range(20)) for number in range(30)]
    places = {}
    if reader == "files":
        for number, text in enumerate(texts):
            (tmp_path / f"text-{number}.txt").write_text(text)
        places = {"files": f"{tmp_path}/text-*.txt", "jsonl": None}
    whole = parts_of(artifacts, made(texts, **places))
    pieces = parts_of(artifacts, made(texts, document_chars=100, **places))
    assert len(whole) == 30
    assert len(pieces) > 90
    by_parent = {document[:8]: part for document, part in whole.items()}
    assert {document[:8]: part for document, part in pieces.items()} == by_parent
    assert all(by_parent[document[:8]] == part for document, part in pieces.items())


def test_pieces_of_other_texts_are_another_target(made: Any) -> None:
    """The same pieces, but cut from one text more."""
    lines = [f"line {number} of ten letters\n" for number in range(40)]
    pairs = ["".join(lines[index : index + 2]) for index in range(0, 40, 2)]
    cut, whole = made(pairs, document_chars=30), made(lines, document_chars=30)
    assert cut.counts["target goal"]["documents"] == whole.counts["target goal"]["documents"] == 40
    assert cut.targets["goal"].id != whole.targets["goal"].id


@pytest.mark.parametrize("part_bytes", [500, 1 << 24])
@pytest.mark.parametrize("max_tokens", [1000, 4000])
def test_max_tokens_takes_documents_from_the_whole_pool(
    max_tokens: int, part_bytes: int, made: Any, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that reaches the number is the last; another seed, and more of the same texts, change nothing."""
    monkeypatch.setattr(parts_module, "PART_BYTES", part_bytes)
    texts = [f"goal {number} " + "and so on " * (number * 5 % 23) for number in range(400)]
    whole, sample = made(texts), made(texts, max_tokens=max_tokens)
    documents = parts_of(artifacts, sample)
    assert documents.items() <= parts_of(artifacts, whole).items()
    rows = [row for part in ("fit", "held_out") for row in read(artifacts, sample.targets["goal"], part)]
    tokens = Counter[bytes]()
    for row in rows:
        tokens[row["document"]] += row["count"]
    last = max(documents, key=lambda document: int.from_bytes(document[8:], "little"))
    assert tokens.total() - tokens[last] < max_tokens <= tokens.total() == sample.counts["target goal"]["tokens"]
    assert sample.warnings == []
    assert parts_of(artifacts, made(texts + texts[:50], max_tokens=max_tokens)) == documents
    assert sample.targets["goal"].id != whole.targets["goal"].id
    counts = sample.counts["target goal"]
    assert counts["documents"] == len(documents) < counts["documents_read"] == 400


def test_a_sample_has_as_many_long_documents_as_the_pool() -> None:
    """Of 100 documents of a pool 10 have 50 tokens and 90 have 5; on average of 4000 samples of 200 tokens half the
    tokens are theirs, within five standard errors."""
    draw = np.random.default_rng(0)
    sizes = np.array([50] + [5] * 9)
    long = total = 0
    for _ in range(4000):
        chosen = [size for _, size in sample(enumerate(draw.choice(sizes, 200).tolist()), 200)]
        assert sum(chosen[:-1]) < 200 <= sum(chosen)
        long, total = long + 50 * chosen.count(50), total + sum(chosen)
    assert abs(long / total - 10 / 19) < 0.012


def test_a_target_that_has_less_than_its_max_tokens(made: Any) -> None:
    prepared = made(max_tokens=10**6)
    (warning,) = prepared.warnings
    tokens = prepared.counts["target goal"]["tokens"]
    assert warning["code"] == "short_target"
    assert f"max_tokens is 1,000,000, but {tokens:,} are used: its 80 different documents" in warning["message"]


def test_a_target_too_small_to_split(made: Any) -> None:
    with pytest.raises(InputError) as caught:
        made(["only one"])
    message = str(caught.value)
    assert "the target goal is too small to split\n  where: targets.goal.held_out\n  got: " in message
    assert "documents to fit on and" in message
