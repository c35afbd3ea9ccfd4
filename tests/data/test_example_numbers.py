"""Examples whose label is a number: stored as it is, split by its value, refused where it is not a number."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixray.config.schema import RunConfig
from mixray.data import prepare
from mixray.errors import InputError
from tests.data.test_example_rows import Run, table

COLUMNS = {"numeric": ["age", "pay"], "categorical": ["place"], "label": "size", "task": "regression"}


class NumberRun(Run):
    """As ``Run``, with boosted trees, which are the models of numbers."""

    def config(self, sources: dict[str, Any], goal: dict[str, Any], **settings: Any) -> RunConfig:
        trees = {"model": {"boosted_trees": {}}}
        return RunConfig.model_validate(
            {
                "name": "test",
                "examples": COLUMNS | settings,
                "sources": sources,
                "targets": {"goal": goal},
                "proxy": trees,
                "retrain": trees,
            }
        )


@pytest.fixture
def run(tmp_path: Path, mapper: Any) -> NumberRun:
    return NumberRun(tmp_path, mapper)


def numbers(count: int, seed: int) -> dict[str, Any]:
    return table(count, seed, size=np.random.default_rng([seed, count]).normal(5, 2, count))


@pytest.mark.parametrize("reader", ["parquet", "csv"])
def test_numbers_are_kept_as_they_are(reader: str, run: NumberRun) -> None:
    def pool(name: str, columns: dict[str, Any]) -> dict[str, Any]:
        if reader == "parquet":
            return run.write(name, columns)
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        return run.text(f"{name}.csv", "\n".join(lines))

    prepared = run.prepare({"one": pool("one", numbers(40, 1))}, pool("goal", numbers(60, 2)))
    assert prepared.inputs.label_names == ()  # type: ignore[union-attr]
    records = run.records(prepared, "one")
    assert records["label"].dtype == np.float64
    assert records["label"].tolist() == numbers(40, 1)["size"].tolist()
    stored = [row["label"] for part in ("fit", "held_out") for row in run.target(prepared, part)]
    assert Counter(stored) == Counter(numbers(60, 2)["size"].tolist())


def test_another_number_is_another_row_and_changes_every_id(run: NumberRun) -> None:
    source, goal = run.write("one", numbers(40, 1)), run.write("goal", numbers(60, 2))
    before = run.prepare({"one": source}, goal)
    changed = numbers(40, 1)
    changed["size"][3] += 1e-9
    after = run.prepare({"one": run.write("other", changed)}, goal)
    assert before.sources["one"].id != after.sources["one"].id
    assert before.targets == after.targets


def test_numbers_alone_are_enough(run: NumberRun) -> None:
    """Without categories a row has no text."""
    columns = {"numeric": ["age"], "categorical": []}
    source, goal = run.write("one", numbers(40, 1)), run.write("goal", numbers(60, 2))
    prepared = prepare(run.config({"one": source}, goal, **columns), run.artifacts, run.mapper, lambda _: None)
    assert prepared.inputs.features == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("label", "what"),
    [
        (["tall", "small"], "a numeric column does not hold numbers"),
        ([1.0, None], "a number is missing or not finite"),
        ([1.0, float("inf")], "a number is missing or not finite"),
    ],
)
def test_a_label_that_is_not_a_number_is_refused(label: list[Any], what: str, run: NumberRun) -> None:
    source = run.write("one", table(40, 1, size=label * 20))
    with pytest.raises(InputError) as caught:
        run.prepare({"one": source}, run.write("goal", numbers(60, 2)))
    assert caught.value.what == what
    assert str(caught.value.where).startswith("examples.label, column size")
