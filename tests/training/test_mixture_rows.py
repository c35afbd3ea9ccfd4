"""The stream of a mixture as a torch data set: exact shares, disjoint parts, and a state to go on from."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mixray.config import RunConfig
from mixray.data import MixtureStream, open_rows, prepare
from mixray.errors import InputError
from mixray.mixture import Mixture
from mixray.runs import MixtureRun
from mixray.training.mixture_rows import MixtureRows

MIXTURE = Mixture.from_weights({"a": 0.6, "b": 0.3, "c": 0.1, "d": 0.0})
ROWS = {name: np.stack([np.full(700, number), np.arange(700)], axis=1) for number, name in enumerate("abcd")}
"""A row holds the number of its source and its own number."""


def take(stream: MixtureRows, count: int) -> list[tuple[int, int]]:
    return [(int(row[0]), int(row[1])) for row in islice(stream, count)]


def test_every_prefix_has_the_shares_within_a_row_and_a_half() -> None:
    rows = take(MIXTURE.stream(ROWS, seed=3), 60_000)
    assert len(rows) * 2 >= 100_000  # two tokens each
    for count in (7, 100, 1_025, 60_000):
        sources = Counter(source for source, _ in rows[:count])
        for number, share in enumerate(MIXTURE.weights.values()):
            assert abs(sources[number] - share * count) <= 1.5
    drawn = [index for source, index in rows if source == 0]
    assert sorted(drawn[:700]) == sorted(drawn[700:1_400]) == list(range(700))  # an epoch holds every row once
    assert drawn[:700] != drawn[700:1_400]


@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (1, 2), (3, 0), (2, 2)])
def test_ranks_and_workers_share_the_stream(world_size: int, workers: int) -> None:
    whole = take(MIXTURE.stream(ROWS, seed=3), 240)
    parts = []
    for rank in range(world_size):
        stream = MIXTURE.stream(ROWS, seed=3, rank=rank, world_size=world_size)
        batches = islice(DataLoader(stream, batch_size=4, num_workers=workers), 240 // (4 * world_size))
        parts += [tuple(row) for batch in batches for row in batch.tolist()]
    assert sorted(parts) == sorted(whole)


def test_a_stream_goes_on_where_its_state_was_taken() -> None:
    whole = take(MIXTURE.stream(ROWS, seed=3, rank=1, world_size=2), 3_000)
    stream = MIXTURE.stream(ROWS, seed=3, rank=1, world_size=2)
    assert take(stream, 1_300) == whole[:1_300]
    again = MIXTURE.stream(ROWS, seed=3, rank=1, world_size=2)
    again.load_state_dict(stream.state_dict())
    assert take(again, 1_700) == whole[1_300:]
    other = MIXTURE.stream(ROWS, seed=4, rank=1, world_size=2)
    with pytest.raises(InputError, match="state of another stream"):
        other.load_state_dict(stream.state_dict())


class Documents:
    """A map-style data set that counts no axes."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": torch.arange(index)}


def test_documents_are_drawn_by_their_lengths() -> None:
    sizes = {"long": {"documents": 1, "tokens": 2_000}, "short": {"documents": 1, "tokens": 200}}
    mixture = Mixture.from_weights({"long": 0.5, "short": 0.5}, sizes)
    stream = mixture.stream({"long": Documents(), "short": Documents()})
    assert stream.source_shares == {"long": pytest.approx(1 / 11), "short": pytest.approx(10 / 11)}
    assert next(iter(stream))["input_ids"].ndim == 1
    packed = mixture.stream({"long": Documents(), "short": Documents()}, packed=True)
    assert packed.source_shares == {"long": 0.5, "short": 0.5}


def test_a_run_folder_gives_the_windows_that_its_arms_are_trained_on(tmp_path: Path) -> None:
    for name in ("a", "b", "goal"):
        texts = [f"{name} {number} " * 20 for number in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    training = {"model": {"architecture": "gpt_neox"}, "tokens": 10_000}
    config = RunConfig.model_validate(
        {
            "name": "test",
            "storage": str(tmp_path / "runs"),
            "tokenizer": {"train": {"vocab_size": 300}},
            "window": 16,
            "sources": {
                "a": {"jsonl": str(tmp_path / "a.jsonl"), "max_tokens": 480},
                "b": {"jsonl": str(tmp_path / "b.jsonl")},
            },
            "targets": {"goal": {"jsonl": str(tmp_path / "goal.jsonl")}},
            "proxy": training,
            "retrain": training,
        }
    )
    run = MixtureRun.create(config)
    data = prepare(config, run.artifacts, lambda function, items, _: map(function, items), lambda _: None)
    run.index.add_pools(data.sources, data.targets, data.counts)
    sizes = run.source_sizes()
    assert {name: size.tokens for name, size in sizes.items()} == data.available_tokens
    assert sizes["b"].documents == 40
    assert sizes["a"].documents < 20  # those that the limit leaves
    assert sizes["a"].mean_tokens == pytest.approx(sizes["b"].mean_tokens, rel=0.1)
    windows = {name: open_rows(run.storage, artifact) for name, artifact in data.sources.items()}
    shares = {"a": 0.7, "b": 0.3}
    expected = MixtureStream(windows, shares, seed=5).read(0, 50)
    stream = Mixture.from_weights(shares).stream(run.location, seed=5)
    np.testing.assert_array_equal(np.stack(list(islice(stream, 50))), expected)


def test_wrong_rows_and_ranks_are_refused() -> None:
    with pytest.raises(InputError, match="none for b, c"):
        MIXTURE.stream({"a": ROWS["a"]})
    with pytest.raises(InputError, match=r"has no rows[\s\S]*got: c"):
        MIXTURE.stream(ROWS | {"c": ROWS["c"][:0]})
    with pytest.raises(InputError, match="not a valid rank"):
        MIXTURE.stream(ROWS, rank=2, world_size=2)
    with pytest.raises(InputError, match="does not state how long"):
        MIXTURE.stream(dict.fromkeys("abc", Documents()))
