"""The forecast of a run of tabular examples: rows and features are counted, not guessed from bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixray.config.schema import RunConfig
from mixray.data.reading import parts as parts_module
from mixray.errors import InputError
from mixray.forecast import CheckedInputs, Forecast, check, forecast
from mixray.models import model_size, new_model


def rows(count: int, first: int = 0) -> pa.Table:
    numbers = np.arange(first, first + count)
    return pa.table({"x": numbers * 0.5, "place": [f"p{number % 3}" for number in numbers], "label": numbers % 4})


def config(folder: Path, **changes: Any) -> RunConfig:
    pq.write_table(rows(80), folder / "one.parquet", row_group_size=20)
    pq.write_table(rows(50, 1), folder / "two.parquet")
    pq.write_table(rows(40, 7), folder / "goal.parquet")
    one = {"parquet": str(folder / "one.parquet")} | changes.pop("one", {})
    return RunConfig.model_validate(
        {
            "name": "forecast",
            "examples": {"numeric": ["x"], "categorical": ["place"], "label": "label"},
            "sources": {"one": one, "two": {"parquet": str(folder / "two.parquet")}},
            "targets": {"goal": {"parquet": str(folder / "goal.parquet"), "held_out": 0.25}},
            "proxy": {"kind": "classifier", "model": {"head": "linear"}, "tokens": 100},
            "retrain": {"model": {"head": "mlp", "hidden": [5, 3]}, "tokens": 400},
            **changes,
        }
    )


def forecast_of(config: RunConfig) -> Forecast:
    checked = check(config)
    assert isinstance(checked, CheckedInputs)
    return forecast(config, checked)


def counted(found: Forecast) -> dict[str, int | None]:
    return {name: pool.tokens for name, pool in [*found.sources.items(), *found.targets.items()]}


def test_rows_features_and_classes_are_counted(tmp_path: Path) -> None:
    found = forecast_of(config(tmp_path))
    assert counted(found) == {"one": 80, "two": 50, "goal": 40}
    assert found.proxy_parameters == 4 * (4 + 1)
    assert found.retrain_parameters == 5 * (4 + 1) + 3 * (5 + 1) + 4 * (3 + 1)
    assert found.epochs == {"one": 5.0, "two": 8.0}
    assert found.cost.search_flops == 2 * 6 * 20 * 100 + 2 * 2 * 20 * 30
    assert found.window is None
    assert found.cache_bytes == 2 * 30 * 28


@pytest.mark.parametrize(
    ("pool", "wanted"),
    [
        ({}, 80),
        ({"max_tokens": 30}, 30),
        ({"where": {"label": "3"}}, 20),
        ({"where": {"x": "30.0"}}, 1),  # in the last part of four
    ],
)
def test_rows_are_guessed_from_the_first_part_that_has_any(
    pool: dict[str, Any], wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "PART_BYTES", 1)
    found = forecast_of(config(tmp_path, one=pool))
    assert counted(found)["one"] == wanted
    assert found.sources["one"].capped == ("max_tokens" in pool)


@pytest.mark.parametrize("section", ["proxy", "retrain"])
def test_the_size_is_the_models(section: str, tmp_path: Path) -> None:
    import torch

    from mixray.data import ExampleInputs

    training, inputs = getattr(config(tmp_path), section), ExampleInputs(7, ("a", "b", "c"), ())
    model = new_model(training, inputs, seed=0, device=torch.device("cpu")).network
    assert model_size(training, inputs) == sum(parameter.numel() for parameter in model.parameters())


# ------------------------------------------------------------------------------- a source smaller than the budget needs


@pytest.mark.parametrize(
    ("proxy", "retrain", "users"),
    [
        (50, 400, []),
        (60, 400, ["its proxy reads 60 and passes over it 1.2 times"]),
        (50, 402, ["the arm balanced reads 201 and passes over it 4.0 times"]),
    ],
)
def test_a_source_smaller_than_the_budget_is_warned_of(
    proxy: int, retrain: int, users: list[str], tmp_path: Path
) -> None:
    base = config(tmp_path)
    settings = base.model_dump(exclude_unset=True)
    settings["proxy"] |= {"tokens": proxy}
    settings["retrain"] |= {"tokens": retrain}
    warnings = forecast_of(RunConfig.model_validate(settings)).warnings
    assert {warning.code for warning in warnings} <= {"source_smaller_than_budget"}
    assert [warning.message for warning in warnings] == [f"source two has about 50 examples: {user}" for user in users]


def test_a_target_of_one_row_is_refused(tmp_path: Path) -> None:
    settings = config(tmp_path)
    assert check(settings)
    pq.write_table(rows(1), tmp_path / "goal.parquet")
    with pytest.raises(InputError, match="the target goal is too small to split"):
        check(settings)
