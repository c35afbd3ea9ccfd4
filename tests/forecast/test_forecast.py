"""The forecast of a run: rows, features and parameters are counted, times and memory follow from closed forms."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mixray import cli
from mixray.config.schema import RunConfig
from mixray.data.reading import parts as parts_module
from mixray.errors import InputError
from mixray.forecast import Forecast, RobustForecast, check, forecast, plan
from mixray.models import model_size, new_model
from mixray.report import print_report


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


@pytest.mark.parametrize(("segment", "segments"), [(16, 8), (1, 128), (None, 0)])
def test_a_cache_of_texts_has_windows_and_their_segments(segment: int | None, segments: int, tmp_path: Path) -> None:
    for name in ("one", "two", "goal"):
        rows = [json.dumps({"text": f"the {number} words of {name} " * 4}) for number in range(1000)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    model = {"architecture": "gpt_neox", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    training = {"model": model, "tokens": 4096}
    run = RunConfig.model_validate(
        {
            "name": "texts",
            "tokenizer": {"train": {"vocab_size": 300}},
            "window": 128,
            "sources": {name: {"jsonl": str(tmp_path / f"{name}.jsonl")} for name in ("one", "two")},
            "targets": {"goal": {"jsonl": str(tmp_path / "goal.jsonl"), "max_tokens": 12_800}},
            "proxy": training,
            "retrain": training,
            "cache": {"segment": segment},
            "mixture": {"unit": "window"},
        }
    )
    forecast = forecast_of(run)
    assert counted(forecast)["goal"] == 12_800
    windows = round(100 * (1 - run.targets["goal"].held_out))
    assert forecast.cache_bytes == 2 * windows * (28 + 4 * segments)


def test_prompts_and_options_are_scored_too(tmp_path: Path) -> None:
    """Answers of 10 bytes to prompts of 30, among two options: proxies read the prompts, and retrained models read the
    prompts and both options beside the answers."""
    row = {"prompt": "a" * 30, "options": ["b" * 10, "c" * 10], "label": 1}
    (tmp_path / "goal.jsonl").write_text("".join(json.dumps({**row, "prompt": f"{n:030}"}) + "\n" for n in range(400)))
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": "some words"}) + "\n")
    model = {"architecture": "gpt_neox", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    training = {"model": model, "tokens": 4096}
    answer = {"options": "options", "label": "label"}
    goal = {"jsonl": f"{tmp_path}/goal.jsonl", "prompt": "prompt", "completion": "{answer}", "answer": answer}
    run = {
        "name": "answers",
        "tokenizer": {"train": {"vocab_size": 300}},
        "window": 128,
        "sources": {name: {"jsonl": f"{tmp_path}/one.jsonl"} for name in ("one", "two")},
        "targets": {"goal": goal},
        "proxy": training,
        "retrain": training,
    }
    found = forecast_of(RunConfig.model_validate(run))
    tokens, (proxies, arms) = found.targets["goal"].tokens or 0, found.models_to_train
    assert proxies.scored_tokens == pytest.approx(2 * 0.5 * tokens * 4, rel=0.01)
    assert arms.scored_tokens == pytest.approx(arms.models * 0.5 * tokens * 4 * 3, rel=0.01)
    assert found.cost.search_flops > 2 * 2 * found.proxy_parameters * 0.5 * tokens * 4


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


@pytest.mark.parametrize(("is_forecast", "rehearsed"), [(True, 3 * 4), (False, 0)])
def test_a_swarm_is_counted_by_hand(is_forecast: bool, rehearsed: int, tmp_path: Path) -> None:
    """Twelve mixtures with three seeds each; four arms of one target, at 50 rows of a model of 20 parameters each."""
    swarm = {"mixtures": 12, "replicates": 3, "tokens": 50, "forecast": is_forecast}
    retrain = {"model": {"head": "linear"}, "tokens": 400, "arms": ["mixmin", "balanced", "natural", "ridge"]}
    whole = forecast_of(config(tmp_path, swarm=swarm, retrain=retrain))
    _, models, _ = whole.models_to_train
    assert (models.name, models.models, models.tokens) == ("swarm", 36 + rehearsed, 50)
    assert models.scored_tokens == 36 * 30 + (36 + rehearsed) * 10  # a quarter of 40 rows is held out
    found = whole.swarm
    assert found is not None
    assert (found.design, found.arms, found.tokens) == (36, rehearsed, 50)
    assert found.flops == (36 + rehearsed) * 6 * 20 * 50
    assert f"36 models for methods and {rehearsed} for the forecast" in found.line()
    assert forecast_of(config(tmp_path)).swarm is None


def test_every_replicate_of_every_arm_is_a_model(tmp_path: Path) -> None:
    arms = ["balanced", {"name": "own", "shares": {"one": 0.5, "two": 0.5}}]
    arms.append({"name": "dro", "mixture": "mixmin", "objective": {"kind": "also"}})
    model = {"head": "mlp", "hidden": [5, 3]}
    once = forecast_of(config(tmp_path, retrain={"model": model, "tokens": 400, "arms": arms}))
    thrice = forecast_of(config(tmp_path, retrain={"model": model, "tokens": 400, "arms": arms, "replicates": 3}))
    assert (once.models, thrice.models, thrice.replicates) == (3, 9, 3)
    _, retrained = thrice.models_to_train
    assert (retrained.models, retrained.scored_tokens, retrained.is_optimistic) == (9, 9 * 10, True)
    assert thrice.cost.compute() == once.cost.compute()  # the search is measured against one retraining
    text = printed(thrice)
    assert "retraining: 9 models (3 replicates of 3)" in text
    assert f"= {9 * once.cost.retrain_flops:.3g} FLOPs" in text
    assert "replicates" not in printed(once)


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
    settings = base.model_dump(mode="json", exclude_unset=True)
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


@pytest.mark.parametrize(("max_epochs", "warns"), [(3.0, True), (4.0, False), (None, False)])
def test_a_limit_on_passes_that_the_estimated_sizes_do_not_allow_is_warned_of(
    max_epochs: float | None, warns: bool, tmp_path: Path
) -> None:
    base = config(tmp_path, mixture={} if max_epochs is None else {"max_epochs": max_epochs})
    codes = {warning.code for warning in forecast_of(base).warnings} - {"source_smaller_than_budget"}
    assert codes == ({"too_few_tokens"} if warns else set())


# ---------------------------------------------------------------------------------------------- time, memory, disk


def run_file(folder: Path, **changes: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config(folder, **changes).model_dump(mode="json", exclude_unset=True)))
    return path


def test_a_stated_speed_gives_times_by_closed_forms(tmp_path: Path) -> None:
    """4 cores, 10 rows a second of a retraining worker of 59 parameters; a proxy has 20."""
    forecast = plan(run_file(tmp_path), tokens_per_second=10, devices=4, device_memory_gb=1)
    assert isinstance(forecast, Forecast)
    facts = forecast.to_dict()["resources"]
    proxies, retraining = facts["stages"]["proxies"], facts["stages"]["retraining"]
    parameters = forecast.retrain_parameters
    assert proxies["tokens_per_second"] == pytest.approx(10 * parameters / 20)
    assert (proxies["speed_basis"], retraining["speed_basis"]) == ("derived", "stated")
    assert (proxies["at_once"], retraining["at_once"]) == (2, 3)
    assert proxies["training_seconds"] == pytest.approx(100 / proxies["tokens_per_second"])
    assert retraining["training_seconds"] == pytest.approx(400 / 10)
    assert retraining["scoring_seconds"] == pytest.approx(3 * 10 / (3 * 10) / 4)  # 10 rows held out, 3 models
    assert retraining["core_hours"] == pytest.approx((3 * 400 / 10 + 3 * 10 / 30) / 3600)
    assert retraining["memory_bytes"] == 16 * parameters == forecast.worker_bytes
    assert retraining["activation_bytes"] == 4 * 16 * (4 + 5 + 3)  # the inputs of three layers, of 16 rows
    assert facts["disk_bytes"]["models"] == 4 * (3 * parameters + 2 * 20)
    assert facts["disk_bytes"]["data"] == (80 + 50 + 40) * (4 * 4 + 16) + (forecast.cache_bytes or 0)
    assert facts["devices"] == [
        {
            "kind": "core",
            "count": 4,
            "count_basis": "stated",
            "memory_bytes": 1e9,
            "memory_basis": "stated",
        }
    ]
    assert facts["seconds"] == pytest.approx(
        sum(stage[key] for stage in (proxies, retraining) for key in ("training_seconds", "scoring_seconds"))
    )


def test_without_a_stated_speed_it_is_measured(tmp_path: Path) -> None:
    forecast = plan(run_file(tmp_path))
    assert isinstance(forecast, Forecast)
    assert forecast.resources is not None
    assert [stage.speed_basis for stage in forecast.resources.stages] == ["measured", "measured"]
    assert forecast.resources.seconds is not None
    assert {devices.count_basis for devices in forecast.resources.devices} == {"this machine"}


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")
def test_the_speed_on_gpus_that_this_machine_does_not_have_is_unknown(tmp_path: Path) -> None:
    asking = run_file(tmp_path)
    overrides = ["proxy.resources.gpus=1", "retrain.resources_per_worker.gpus=1"]
    forecast = plan(asking, overrides)
    assert isinstance(forecast, Forecast)
    facts = forecast.to_dict()["resources"]
    assert (facts["seconds"], facts["gpu_hours"], facts["devices"][0]["count"]) == (None, None, None)
    assert "state --tokens-per-second" in printed(forecast)
    # A stated speed on GPUs says nothing of proxies on cores, which are measured.
    facts = plan(asking, overrides[1:], tokens_per_second=10).to_dict()["resources"]
    assert facts["stages"]["proxies"]["speed_basis"] == "measured"
    assert facts["stages"]["retraining"]["gpu_hours"] > 0
    assert facts["seconds"] > 0
    # Nor does one on cores of proxies on GPUs.
    forecast = plan(asking, overrides[:1], tokens_per_second=10)
    assert "time: unknown for proxies, whose speed" in printed(forecast)
    assert "state --tokens-per-second" not in printed(forecast)


@pytest.mark.parametrize(
    ("memory_gb", "devices", "warns"),
    [(9e-7, 8, True), (1.0, 8, False), (1.0, 1, True)],
    ids=["memory", "both", "count"],
)
def test_devices_that_are_too_few_or_too_small_are_warned_of(
    memory_gb: float, devices: int, warns: bool, tmp_path: Path
) -> None:
    forecast = plan(
        run_file(tmp_path),
        ["retrain.resources_per_worker.gpus=1", "retrain.workers=2"],
        tokens_per_second=10,
        devices=devices,
        device_memory_gb=memory_gb,
    )
    messages = [warning.message for warning in forecast.warnings if warning.code == "does_not_fit"]
    assert bool(messages) == warns
    assert all(message.startswith("retraining: one ") for message in messages)


def printed(forecast: Forecast | RobustForecast) -> str:
    stream = io.StringIO()
    print_report(forecast.tables(), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    "figures",
    [{"tokens_per_second": 0.0}, {"tokens_per_second": math.nan}, {"devices": 0}, {"device_memory_gb": -1.0}],
    ids=str,
)
def test_stated_figures_are_positive_numbers(figures: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"where: {next(iter(figures))}"):
        plan(run_file(tmp_path), **figures)


def test_every_figure_is_printed_with_its_unit_and_where_it_comes_from(tmp_path: Path) -> None:
    text = printed(plan(run_file(tmp_path), tokens_per_second=10, devices=4, device_memory_gb=1))
    for part in (
        "rows/s a worker",
        "10, stated",
        "derived from the speeds",
        "core-hours",
        "4 cores (stated) with 1.00 GB (stated)",
        "disk, derived:",
        "memory of one worker, derived:",
    ):
        assert part in text, text


def test_the_command_takes_the_stated_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stated = ["--tokens-per-second", "10", "--devices", "4", "--device-memory", "1", "--json"]
    cli.app(["plan", str(run_file(tmp_path)), *stated], standalone_mode=False)
    shown = json.loads(capsys.readouterr().out)
    assert shown["resources"]["stages"]["retraining"]["tokens_per_second"] == 10
    assert shown["resources"]["devices"][0]["memory_bytes"] == 1e9


def test_a_comparison_of_robust_training_is_forecast_too() -> None:
    digits = Path(__file__).parents[2] / "jobs" / "robust_digits.yaml"
    forecast = plan(digits, ["seeds=2", "arms=[erm,also]", "steps=600"], tokens_per_second=1000, devices=4)
    assert isinstance(forecast, RobustForecast)
    facts = forecast.to_dict()["resources"]
    (arms,) = facts["stages"].values()
    rows = 600 * forecast.batch
    assert (arms["models"], arms["at_once"]) == (4, 4)
    assert arms["training_seconds"] == pytest.approx(rows / 1000)
    assert arms["memory_bytes"] == 24 * forecast.parameters
    erm = plan(digits, ["arms=[erm]"], tokens_per_second=1000).to_dict()["resources"]["stages"]["arms"]
    assert erm["memory_bytes"] == 16 * forecast.parameters
    assert "rows/s a worker" in printed(forecast)
    json.dumps(forecast.to_dict(), allow_nan=False)


def test_a_group_without_test_rows_is_warned_of(tmp_path: Path) -> None:
    parts = ["train"] * 40 + ["validation"] * 20 + ["test"] * 20
    numbers = np.arange(80)
    groups = ["a" if number % 4 else "b" for number in numbers]
    settings = {
        "name": "grouped",
        "data": {"parquet": f"{tmp_path}/*.parquet", "numeric": ["x"], "label": "y", "group": ["g"], "split": "part"},
        "steps": 5,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    columns = {"x": numbers * 0.5, "y": numbers % 2, "part": parts}
    pq.write_table(pa.table(columns | {"g": groups}), tmp_path / "rows.parquet")
    assert plan(tmp_path / "run.yaml", tokens_per_second=1.0).warnings == []
    groups[60:] = ["a"] * 20
    pq.write_table(pa.table(columns | {"g": groups}), tmp_path / "rows.parquet")
    (warning,) = plan(tmp_path / "run.yaml", tokens_per_second=1.0).warnings
    assert "test" in warning.message
