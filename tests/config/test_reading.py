"""What a run file and its overrides mean."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mixray.config import RunConfig, dump_config, load_config, parse_config, yaml_text
from mixray.errors import InputError
from tests.config.conftest import RUN_FILES

MIXTURE_RUN_FILES = [path for path in RUN_FILES if not path.name.startswith("robust_")]


def at(config: RunConfig, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("seed=7", 7),
        ("proxy.tokens=1_000", 1000),
        ("proxy.optimizer.learning_rate=3e-3", 0.003),
        ("proxy.optimizer.learning_rate=1E-4", 0.0001),
        ("mixture.tolerance=2.5e-9", 2.5e-9),
        ("mixture.max_epochs=null", None),
        ("mixture.bounds.python=[0.1, 0.5]", (0.1, 0.5)),
        ("retrain.workers=[1, 4]", (1, 4)),
        ("retrain.workers=2", 2),
        ("retrain.arms=[natural]", ["natural"]),
        ("storage=s3://bucket/prefix?region=eu-west-1", "s3://bucket/prefix?region=eu-west-1"),
        ("sources.python.text='3e-3'", "3e-3"),
        ("tracking.uri=", None),
    ],
)
def test_an_override_sets_the_value_that_yaml_reads(text: str, override: str, value: object) -> None:
    assert at(parse_config(text, [override]), override.partition("=")[0]) == value


@pytest.mark.parametrize(
    ("listed", "mapped"),
    [
        (["seed=1", "proxy.tokens=2_000"], {"seed": 1, "proxy.tokens": 2000}),
        (["mixture.bounds={python: [0, 0.5]}"], {"mixture": {"bounds": {"python": [0, 0.5]}}}),
        (["sources.rust.files='*.rs'"], {"sources.rust": {"files": "*.rs"}}),
        (["seed=1", "seed=2"], {"seed": 2}),
    ],
)
def test_overrides_from_a_list_and_from_a_mapping_agree(text: str, listed: list[str], mapped: dict[str, Any]) -> None:
    assert parse_config(text, listed) == parse_config(text, mapped) != parse_config(text)


def test_overrides_leave_what_they_are_given_alone(text: str) -> None:
    given = {"mixture": {"bounds": {}}, "mixture.bounds.python": [0.0, 0.5]}
    parse_config(text, given)
    assert given == {"mixture": {"bounds": {}}, "mixture.bounds.python": [0.0, 0.5]}


@pytest.mark.parametrize("path", MIXTURE_RUN_FILES, ids=lambda path: path.name)
def test_the_run_files_of_jobs_are_right(path: Path) -> None:
    assert load_config(path).retrain.arms[0] == "mixmin"


@pytest.mark.parametrize("path", MIXTURE_RUN_FILES, ids=lambda path: path.name)
def test_a_dumped_run_file_reads_back_equal(path: Path) -> None:
    config = load_config(path)
    assert parse_config(dump_config(config)) == config


@pytest.mark.parametrize(
    "overrides",
    [
        {"name": "3e-3"},
        {"name": "007"},
        {
            "sources": {
                "1e5": {"jsonl": "x", "where": {"a": "1_000", "b.c": "no", "d": "Grüße: {x}\n- y", "e": "a\x85b\u2028"}}
            }
        },
        {
            "sources": {
                "null": {"dataset": "x", "text": "{q} {answer}", "answer": {"options": ["a", "b"], "label": "c"}}
            }
        },
        {"mixture.tolerance": math.pi * 1e-9, "retrain.workers": [1, 2], "mixture.bounds.python": [0.1, 1 / 3]},
        {"proxy.model": {"architecture": "gpt_neox", "rope": {"theta": 1e4, "scaling": None}, "tie": True}},
    ],
)
def test_text_that_looks_like_a_number_survives_the_round_trip(text: str, overrides: dict[str, Any]) -> None:
    config = parse_config(text, overrides)
    assert parse_config(dump_config(config)) == config


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.from_regex(r"[-+]?[0-9_.]*[eE:]?[-+]?[0-9_.]*", fullmatch=True)
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)))
def test_whatever_is_written_is_read_back_the_same(value: Any) -> None:
    document = {"key": value}
    assert repr(yaml_text.load(yaml_text.dump(document))[0]) == repr(document)


def test_merge_keys_and_anchors_mean_what_yaml_says(text: str) -> None:
    text = text.replace('python: {files: "*.py"}', 'python: &deep {<<: {files: "*.py", text: a}, text: b}')
    config = parse_config(text + "mixture: {bounds: {}}\ncache: {resources: {cpus: 2}}\n")
    assert (config.sources["python"].files, config.sources["python"].text) == ("*.py", "b")


def test_a_key_that_overrides_a_merged_one_does_not_stand_twice(text: str) -> None:
    # the anchor lies deeper than its users, so YAML merges into it before it is read itself
    text = text.replace('{files: "*.py"}', "{jsonl: a, where: &inner {<<: {x: a, y: b}, x: c}}")
    config = parse_config(text.replace("model: {", "model: {<<: *inner, "))
    assert config.sources["python"].where == {"x": "c", "y": "b"}
    assert config.proxy.model.model_dump() == {"x": "c", "y": "b", "architecture": "gpt_neox"}


@pytest.mark.parametrize(
    ("merged", "content"),
    [
        ("[*one, *two]", {"text": 1, "z": 3, "y": 2}),  # of several mappings, the first one's value wins
        ("[*two, *one]", {"text": 9, "y": 2, "z": 3}),
        ("*one", {"text": 1, "y": 2}),
    ],
)
def test_merge_keys_with_long_names_do_not_depend_on_the_yaml_package(merged: str, content: dict[str, int]) -> None:
    text = "a: &one {<<: {text: 0, y: 2}, text: 1}\nb: &two {text: 9, z: 3}\nc: {<<: " + merged + "}\n"
    value = yaml_text.load(text)[0]["c"]
    assert list(value.items()) == list(content.items())


def test_a_merge_key_that_names_no_mapping_is_refused() -> None:
    with pytest.raises(yaml.YAMLError, match="needs a mapping or a list of mappings"):
        yaml_text.load("a: {<<: 3}")


def test_a_config_is_frozen(text: str) -> None:
    config = parse_config(text)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        config.proxy.optimizer.clip = None


@pytest.mark.parametrize(("budget", "tokens"), [("tokens=1_000", 1000), ("fraction=0.25", 500)])
def test_a_proxys_budget_is_given_in_tokens_or_as_a_share_of_retraining(text: str, budget: str, tokens: int) -> None:
    assert parse_config(text.replace("tokens: 1000", budget.replace("=", ": "))).proxy_tokens == tokens


@pytest.mark.parametrize(
    ("content", "what"),
    [(None, "the run file does not exist"), (b"\xff\xfe name: x", "the run file cannot be read")],
    ids=["missing", "not UTF-8"],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, what: str) -> None:
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=what) as caught:
        load_config(path)
    assert caught.value.where == str(path)


def test_problems_are_named_by_the_files_path(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text + "sed: 1\n")
    with pytest.raises(InputError, match="did you mean 'seed'") as caught:
        load_config(path)
    assert caught.value.where == f"{path}, line 16"
