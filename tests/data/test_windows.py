"""Windows against a straightforward reimplementation: join, cut, compare."""

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixray.config.schema import RunConfig
from mixray.data import Windows, prepare
from mixray.data.pools import Prepared, pools_of
from mixray.data.reading import parts as parts_module
from mixray.data.reading.parts import list_pool
from mixray.data.text import windows as windows_module
from mixray.data.text.documents import Document, read_documents
from mixray.data.text.tokenizer import Encoder
from mixray.data.text.windows import dtype_of, quotas
from mixray.errors import InputError
from mixray.store import Artifacts

TEXTS = [f"document {number} " + "and so on " * (number * 5 % 23) for number in range(120)]
GOAL = [f"goal {number}" for number in range(12)]


@pytest.fixture
def made(artifacts: Artifacts, run_config: Any, write_jsonl: Callable[..., Path], mapper: Any) -> Callable[..., Any]:
    def make(texts: list[str] = TEXTS, **source: Any) -> tuple[RunConfig, Prepared]:
        sources = {"code": {"jsonl": str(write_jsonl("a.jsonl", texts)), **source}}
        config = run_config(sources, {"goal": {"jsonl": str(write_jsonl("t.jsonl", GOAL))}})
        return config, prepare(config, artifacts, mapper, lambda _: None)

    return make


def expected_windows(config: RunConfig, prepared: Prepared, artifacts: Artifacts) -> list[list[int]]:
    """Part by part: encode every document of the part, put the end of document after each, cut."""
    encoder = Encoder.of(artifacts.storage, prepared.tokenizer)
    pool = pools_of(config)[0]
    windows = []
    for part in list_pool(pool).parts:
        ids = []
        for _, document in encoder.encode(read_documents(pool, part, Counter())):
            ids += [*document, encoder.end_of_document]
        windows += [ids[low : low + config.window] for low in range(0, len(ids) - config.window + 1, config.window)]
    return windows


@pytest.mark.parametrize("part_bytes", [700, 1 << 24])
@pytest.mark.parametrize(("shard_bytes", "block_tokens"), [(2, 50), (200, 1), (200, 1 << 18), (64 << 20, 50)])
def test_windows_are_the_joined_documents_cut(
    part_bytes: int,
    shard_bytes: int,
    block_tokens: int,
    made: Any,
    artifacts: Artifacts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts_module, "PART_BYTES", part_bytes)
    monkeypatch.setattr(windows_module, "SHARD_BYTES", shard_bytes)
    monkeypatch.setattr(windows_module, "BLOCK_TOKENS", block_tokens)
    config, prepared = made()
    artifact = prepared.sources["code"]
    windows = Windows(artifacts.storage, artifact)
    expected = expected_windows(config, prepared, artifacts)
    assert windows.read(np.arange(len(windows))).tolist() == expected
    assert all(record.bytes <= max(shard_bytes, 36) for record in artifact.files.values())
    meta = artifact.meta
    assert (meta["windows"], meta["tokens"], meta["documents"]) == (len(expected), len(expected) * 16, len(TEXTS))
    assert sum(meta["shards"].values()) == len(expected)


def test_nothing_is_lost_but_the_tail(made: Any, artifacts: Artifacts) -> None:
    config, prepared = made()
    encoder = Encoder.of(artifacts.storage, prepared.tokenizer)
    total = sum(len(ids) + 1 for _, ids in encoder.encode(Document(text, b"", 0, b"") for text in TEXTS))
    meta = prepared.sources["code"].meta
    assert meta["tokens"] + meta["tail_tokens"] == total
    assert 0 <= meta["tail_tokens"] < config.window


def test_random_access_and_pickling(made: Any, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows_module, "SHARD_BYTES", 36 * 5)
    _, prepared = made()
    windows = Windows(artifacts.storage, prepared.sources["code"])
    whole = windows.read(np.arange(len(windows)))
    indices = np.random.default_rng(0).integers(0, len(windows), 200)
    copy = pickle.loads(pickle.dumps(windows))
    assert (copy.read(indices) == whole[indices]).all()
    assert copy.read(np.array([], np.int64)).shape == (0, 16)
    assert copy.read(indices).dtype == np.int64


@pytest.mark.parametrize("part_bytes", [700, 1 << 24])
@pytest.mark.parametrize("max_tokens", [16, 100, 500, 10**6])
def test_max_tokens_is_shared_by_the_parts(
    max_tokens: int, part_bytes: int, made: Any, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "PART_BYTES", part_bytes)
    config, prepared = made(max_tokens=max_tokens)
    everything = expected_windows(config, prepared, artifacts)
    windows = Windows(artifacts.storage, prepared.sources["code"])
    wanted = min(max_tokens // 16, len(everything))
    assert wanted - (part_bytes == 700) * 2 <= len(windows) <= wanted  # the last part may be shorter than its share
    assert all(window in everything for window in windows.read(np.arange(len(windows))).tolist())


def test_quotas_are_equal_and_add_up() -> None:
    for max_tokens, window, parts in ((1000, 16, 7), (15, 16, 3), (10**9, 128, 1000), (160, 16, 100)):
        numbers = [quota for quota in quotas(max_tokens // window, parts) if quota is not None]
        assert len(numbers) == parts
        assert sum(numbers) == max_tokens // window
        assert max(numbers) - min(numbers) <= 1


@pytest.mark.parametrize(("vocab_size", "dtype"), [(300, "<u2"), (65_536, "<u2"), (65_537, "<u4"), (250_000, "<u4")])
def test_tokens_take_two_bytes_where_they_fit(vocab_size: int, dtype: str) -> None:
    assert dtype_of(vocab_size).str == dtype


def test_a_source_shorter_than_one_window(made: Any) -> None:
    with pytest.raises(InputError) as caught:
        made(["a", "b"])
    assert "the source code is shorter than one window\n  where: sources.code.jsonl" in str(caught.value)
    assert "4 tokens in 2 documents\n  wanted: at least 16 tokens in one part" in str(caught.value)


def test_less_than_a_window_wanted(made: Any) -> None:
    with pytest.raises(InputError, match=r"shorter than one window(?s:.*)max_tokens 15"):
        made(max_tokens=15)
