"""The run file of the robust job: what it means, and every way it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mixray.config import dump_config, load_config, parse_config
from mixray.config.robust import RobustConfig
from mixray.errors import InputError

RUN_FILES = sorted((Path(__file__).parents[2] / "jobs").glob("robust_*.yaml"))
TEXT = """\
name: demo
data:
  parquet: rows.parquet
  numeric: [age]
  categorical: [job]
  label: rich
  group: [sex, rich]
  split: part
steps: 100
"""


def refusal(text: str, overrides: list[str]) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_config(text, overrides, name="run.yaml", kind=RobustConfig)
    return caught.value


def test_there_is_a_run_file_with_data_and_one_without() -> None:
    assert [path.name for path in RUN_FILES] == ["robust_adult.yaml", "robust_digits.yaml"]


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.name)
def test_the_run_files_compare_all_arms_and_read_back_equal(path: Path) -> None:
    config = load_config(path, kind=RobustConfig)
    assert config.arms == ("erm", "balanced", "importance", "group_dro", "also")
    assert parse_config(dump_config(config), kind=RobustConfig) == config


def test_a_group_is_a_product_of_columns_or_a_column() -> None:
    assert parse_config(TEXT, kind=RobustConfig).data.group_columns == ["sex", "rich"]
    assert parse_config(TEXT, ["data.group=column:g"], kind=RobustConfig).data.group_columns == ["g"]


def test_seeds_are_counted_up_from_the_first() -> None:
    assert parse_config(TEXT, ["seed=7", "seeds=3"], kind=RobustConfig).all_seeds == [7, 8, 9]


@pytest.mark.parametrize(("budget", "steps"), [("steps=50", 50), ("{epochs: 2}", 20), ("{epochs: 0.001}", 1)])
def test_a_budget_is_in_steps_or_in_passes_over_the_training_rows(budget: str, steps: int) -> None:
    overrides = [budget] if "=" in budget else ["steps=null", f"epochs={budget.split(': ')[1][:-1]}"]
    assert parse_config(TEXT, [*overrides, "batch=100"], kind=RobustConfig).step_count(1000) == steps


def test_an_optimizer_section_keeps_the_other_defaults_of_this_job() -> None:
    found = parse_config(TEXT, ["optimizer.learning_rate=0.5"], kind=RobustConfig).optimizer
    plain = parse_config(TEXT, kind=RobustConfig).optimizer
    assert found == plain.model_copy(update={"learning_rate": 0.5})
    assert (plain.weight_decay, plain.clip) == (0.0, None)


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parse_config(TEXT, kind=RobustConfig).seeds = 9


@pytest.mark.parametrize(
    ("overrides", "key", "wanted"),
    [
        (["data.csv=rows.csv"], "data", "exactly one of parquet, csv, digits; it has parquet, csv"),
        (["data.parquet=null"], "data", "exactly one of parquet, csv, digits; it has none"),
        (["data.parquet=null", "data.digits={}"], "data.numeric", "no column beside digits"),
        (["data.label=null"], "data.label", "a column"),
        (["data.group=null"], "data.group", "a column"),
        (["data.group=sex"], "data.group", "column:sex, or a list: [sex]"),
        (["data.group='column:'"], "data.group", "column:NAME or a list of columns"),
        (["data.features=vector"], "data", "numeric and categorical ones, or features alone"),
        (["data.numeric=[]", "data.categorical=[]"], "data", "numeric and categorical ones, or features alone"),
        (["data.categorical=[job, age]"], "data.categorical", "every column once; 'age' is named twice"),
        (["data.categorical=[rich]"], "data.categorical", "'rich' is the label"),
        (["data.numeric=[part]"], "data.numeric", "'part' is the split"),
        (["data.validation=1"], "data.validation", "less than 1"),
        (["epochs=2"], "run.yaml", "exactly one of epochs, steps"),
        (["steps=null"], "run.yaml", "exactly one of epochs, steps"),
        (["arms=[erm, erm]"], "arms", "every arm named once"),
        (["arms=[]"], "arms", "at least 1 item"),
        (["arms=[dro]"], "arms.0", "'erm', 'balanced', 'importance', 'group_dro' or 'also'"),
        (["optimizer.weight_decay=0.1"], "optimizer.weight_decay", "the penalty of this job is l2"),
        (["l2=-1"], "l2", "greater than or equal to 0"),
        (["group_dro.tau=-0.5"], "group_dro.tau", "greater than or equal to 0"),
        (["also.tau=-0.5"], "also.tau", "greater than or equal to 0"),
        (["group_dro.alpha=2"], "group_dro.alpha", "less than or equal to 1"),
        (["group_dro.alpha=0.5", "group_dro.tau=1"], "group_dro.tau", "left out beside alpha"),
        (["also.missing=uniform_sampling"], "also.missing", "'inverse_presence', 'present_only' or 'ema'"),
        (["select_by=luck"], "select_by", "'worst_group' or 'average'"),
        (["measures.l2=[0]"], "measures.l2.0", "greater than 0"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_wanted(overrides: list[str], key: str, wanted: str) -> None:
    error = refusal(TEXT, overrides)
    assert error.what.startswith(f"{key} is not valid")
    assert wanted in str(error.wanted)


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_one() -> None:
    error = refusal(TEXT.replace("  label:", "  lable: x\n  label:"), [])
    assert (error.what, error.where) == ("unknown key 'data.lable'", "run.yaml, line 6")
    assert error.remedy == "did you mean 'label'?"
