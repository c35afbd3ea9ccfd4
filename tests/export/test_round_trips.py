"""Exports read by the library that they are for: the tokens that it really draws have the mixture's shares."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from mixray.errors import InputError
from mixray.mixture import Mixture

SHARES = {"long": 0.5, "short": 0.3, "packed rows": 0.2, "none": 0.0}
MEAN_LENGTHS = {"long": 200, "short": 20, "packed rows": 64, "none": 10}
DOCUMENTS = {"long": 1_000, "short": 6_000, "packed rows": 2_000, "none": 5}


@pytest.fixture(scope="module")
def documents() -> dict[str, pa.Table]:
    """Documents of random lengths, each with the number of its tokens and its source."""
    generator = np.random.default_rng(0)
    tables = {}
    for name, mean in MEAN_LENGTHS.items():
        lengths = generator.integers(mean // 2, mean * 3 // 2 + 1, DOCUMENTS[name])
        tables[name] = pa.table({"source": [name] * len(lengths), "tokens": lengths})
    return tables


@pytest.fixture(scope="module")
def mixture(documents: dict[str, pa.Table]) -> Mixture:
    sizes = {
        name: {"documents": table.num_rows, "tokens": int(np.sum(table["tokens"].to_numpy()))}
        for name, table in documents.items()
    }
    return Mixture.from_weights(SHARES, sizes)


@pytest.fixture
def paths(documents: dict[str, pa.Table], tmp_path: Path) -> dict[str, str]:
    """A folder of Parquet for every source."""
    for name, table in documents.items():
        (tmp_path / name).mkdir()
        parquet.write_table(table, tmp_path / name / "train.parquet")
    return {name: str(tmp_path / name) for name in documents}


def assert_shares(rows: Any, count: int | None = None) -> None:
    """Assert that the rows, or the first ``count``, have at least 100,000 tokens in these shares, within 1 %."""
    tokens: Counter[str] = Counter()
    for number, row in enumerate(rows):
        if number == count:
            break
        tokens[row["source"]] += row["tokens"]
    assert tokens.total() >= 100_000
    for name, share in SHARES.items():
        assert tokens[name] / tokens.total() == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("streaming", [False, True])
def test_data_sets_are_interleaved(mixture: Mixture, documents: dict[str, pa.Table], streaming: bool) -> None:
    loaded: dict[str, Any] = {name: datasets.Dataset(table) for name, table in documents.items()}
    if streaming:
        loaded = {name: dataset.to_iterable_dataset() for name, dataset in loaded.items()}
    assert_shares(mixture.interleave(loaded, seed=1))


def test_the_exported_python_interleaves(mixture: Mixture, paths: dict[str, str]) -> None:
    exported: dict[str, Any] = {}
    exec(mixture.export("interleave", paths=paths).text, exported)
    assert_shares(exported["dataset"])


@pytest.mark.parametrize("trainer", ["llama-factory", "oumi"])
def test_probabilities_for_trainers_that_interleave(trainer: str, mixture: Mixture, paths: dict[str, str]) -> None:
    """Both hand their numbers to ``interleave_datasets``, LLaMA-Factory after splitting at commas."""
    content = yaml.safe_load(mixture.export(trainer, paths=paths).text)
    if trainer == "oumi":
        entries = content["data"]["train"]["datasets"]
        folders = [entry["dataset_name"] for entry in entries]
        probabilities = [entry["mixture_proportion"] for entry in entries]
        strategy = content["data"]["train"]["mixture_strategy"]
    else:
        folders, probabilities = content["dataset"].split(","), list(map(float, content["interleave_probs"].split(",")))
        strategy = {"interleave_over": "all_exhausted"}[content["mix_strategy"]]
    loaded = [datasets.load_dataset(folder, split="train") for folder in folders]
    assert_shares(datasets.interleave_datasets(loaded, probabilities, seed=42, stopping_strategy=strategy))


def test_parts_of_splits_are_read(mixture: Mixture, paths: dict[str, str]) -> None:
    """axolotl passes path and split to ``load_dataset``."""
    entries = yaml.safe_load(mixture.export("axolotl", paths=paths, tokens=200_000).text)["datasets"]
    assert_shares(row for entry in entries for row in datasets.load_dataset(entry["path"], split=entry["split"]))


def test_packed_rows_are_drawn_in_the_shares_themselves(mixture: Mixture) -> None:
    rows = {name: datasets.Dataset.from_dict({"source": [name] * 4_000, "tokens": [32] * 4_000}) for name in SHARES}
    assert_shares(mixture.interleave(rows, packed=True))


def test_a_missing_data_set_is_refused(mixture: Mixture, documents: dict[str, pa.Table]) -> None:
    loaded = {name: datasets.Dataset(table) for name, table in documents.items() if name != "short"}
    with pytest.raises(InputError, match=r"has no data set[\s\S]*none for short"):
        mixture.interleave(loaded)
    with pytest.raises(InputError, match="no source shirt"):
        mixture.interleave(loaded | {"shirt": loaded["long"]})
