"""Ray Datasets mixed in the shares of a mixture, by its method and by the exported Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from pyarrow import parquet

from mixray.cluster import Session
from mixray.errors import InputError
from mixray.mixture import Mixture

MEAN_LENGTHS = {"long": 200, "short": 20, "none": 10}
DOCUMENTS = {"long": 500, "short": 6_000, "none": 5}
SHARES = {"long": 0.6, "short": 0.4, "none": 0.0}
BUDGET = 150_000


@pytest.fixture(scope="module")
def tables() -> dict[str, pa.Table]:
    generator = np.random.default_rng(0)
    return {
        name: pa.table(
            {
                "source": [name] * DOCUMENTS[name],
                "tokens": generator.integers(mean // 2, mean * 3 // 2 + 1, DOCUMENTS[name]),
            }
        )
        for name, mean in MEAN_LENGTHS.items()
    }


@pytest.fixture(scope="module")
def mixture(tables: dict[str, pa.Table]) -> Mixture:
    sizes = {
        name: {"documents": table.num_rows, "tokens": int(np.sum(table["tokens"].to_numpy()))}
        for name, table in tables.items()
    }
    return Mixture.from_weights(SHARES, sizes)


@pytest.fixture(scope="module")
def _session() -> Iterator[None]:
    with Session(None, None):
        yield


def realised(dataset: ray.data.Dataset) -> dict[str, float]:
    tokens: Counter[str] = Counter()
    for row in dataset.iter_rows():
        tokens[row["source"]] += row["tokens"]
    assert tokens.total() >= 100_000
    return {name: tokens[name] / tokens.total() for name in SHARES}


@pytest.mark.usefixtures("_session")
def test_data_sets_are_mixed(mixture: Mixture, tables: dict[str, pa.Table]) -> None:
    """150,000 tokens read the long source 0.9 times and the short one 0.5 times."""
    sources = {name: ray.data.from_arrow(table).repartition(50) for name, table in tables.items()}
    mixed = mixture.ray_dataset(sources, tokens=BUDGET)
    assert realised(mixed) == pytest.approx(SHARES, abs=0.01)
    twice = mixture.ray_dataset(sources, tokens=2 * BUDGET)
    assert realised(twice) == pytest.approx(SHARES, abs=0.01)
    assert twice.count() > 1.2 * mixed.count()  # a source that is used up in between is repeated
    other = sources | {"short": sources["short"].drop_columns(["tokens"])}
    with pytest.raises(InputError, match=r"different columns[\s\S]*where: short[\s\S]*got: source string"):
        mixture.ray_dataset(other)


@pytest.mark.usefixtures("_session")
def test_the_exported_python_mixes(mixture: Mixture, tables: dict[str, pa.Table], tmp_path: Path) -> None:
    for name, table in tables.items():
        (tmp_path / name).mkdir()
        for part in range(25):
            rows = table.num_rows // 25
            parquet.write_table(table.slice(part * rows, rows), tmp_path / name / f"{part}.parquet")
    paths = {name: str(tmp_path / name) for name in tables}
    exported: dict[str, Any] = {}
    exec(mixture.export("ray-data", paths=paths, tokens=BUDGET).text, exported)
    assert realised(exported["dataset"]) == pytest.approx(SHARES, abs=0.01)
