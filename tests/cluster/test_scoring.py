"""A scorer writes a column that every unit can be read from. It runs in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mixray.cache import read_cache
from mixray.cluster.scoring import Scorer, ScoringTask
from mixray.config.mixture import MixtureConfig, SegmentUnit
from mixray.config.training import CacheConfig, ProxyConfig
from mixray.models import CausalLM
from mixray.search.problem import UnitRows
from mixray.store import Artifacts, Storage, encode

MODEL = {"architecture": "gpt_neox", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
WINDOW, VOCABULARY, FILE = 24, 40, "fit-00000.parquet"
LENGTHS = [24, 24, 3, 17, 24, 1]
"""Tokens of each row; the first three rows are one document, the next is another, the last two are a third."""
DOCUMENTS = [0, 0, 0, 1, 2, 2]
NO_PROMPTS, PROMPTS = [0] * 6, [0, 0, 5, 7, 0, 9]
"""Tokens before those of each row."""


@pytest.mark.parametrize(
    ("segment", "prompts"), [(1, NO_PROMPTS), (4, NO_PROMPTS), (16, NO_PROMPTS), (1, PROMPTS), (4, PROMPTS)]
)
def test_a_column_holds_the_sums_of_every_token_by_hand(tmp_path: Path, segment: int, prompts: list[int]) -> None:
    artifacts = Artifacts(Storage(str(tmp_path / "store")), "test")
    proxy = ProxyConfig.model_validate({"model": MODEL, "tokens": 1})
    model: Any = CausalLM.create(proxy.model, vocab_size=VOCABULARY, window=WINDOW, seed=0, device=torch.device("cpu"))
    (tmp_path / "model").mkdir()
    model.save(tmp_path / "model")
    draft = artifacts.draft("proxy", "0" * 64)
    stored = draft.publish(draft.put_folder(tmp_path / "model"), {})
    generator = np.random.default_rng(0)
    lengths = [count + prompt + 1 for count, prompt in zip(LENGTHS, prompts, strict=True)]
    ids = [generator.integers(0, VOCABULARY, length).astype(np.int32) for length in lengths]
    keys = [(document, DOCUMENTS[:row].count(document)) for row, document in enumerate(DOCUMENTS)]
    table = {
        "document": pa.array([document.to_bytes(16, "big") for document, _ in keys], pa.binary(16)),
        "window": pa.array([window for _, window in keys], pa.int32()),
        "tokens": pa.array(ids, pa.list_(pa.int32())),
        "count": pa.array(LENGTHS, pa.int32()),
    }
    draft = artifacts.draft("rows", "0" * 64)
    rows = draft.publish({FILE: draft.write(FILE, encode(pa.table(table)))}, {})

    draft = artifacts.draft("column", "0" * 64)
    record = Scorer(CacheConfig(segment=segment), proxy)(
        ScoringTask("a", stored, "goal", rows.files[FILE], FILE, draft)
    )
    column = draft.publish({FILE: record}, {"segment": segment})
    cache = read_cache(artifacts.storage, rows, "fit", {"a": column})

    whole = model.log_probs(ids, batch_tokens=8192, segment=1).segments
    by_token = [row[-count:] for row, count in zip(whole, LENGTHS, strict=True)]
    for length in {segment, 16, 32}:
        unit_rows = UnitRows.of(cache, MixtureConfig(unit=SegmentUnit(segment=length)))
        by_hand = [row[start : start + length] for row in by_token for start in range(0, len(row), length)]
        np.testing.assert_allclose(unit_rows.log_probs[:, 0], [piece.sum() for piece in by_hand], rtol=1e-5)
        assert unit_rows.token_counts.tolist() == [len(piece) for piece in by_hand]
        mean = np.mean(
            [
                cache.log_probs[np.equal(DOCUMENTS, d), 0].sum() / np.dot(LENGTHS, np.equal(DOCUMENTS, d))
                for d in range(3)
            ]
        )
        assert unit_rows.row_weights @ unit_rows.log_probs[:, 0] == pytest.approx(mean, rel=1e-6)
