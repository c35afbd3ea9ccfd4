"""Arms of the user's own: mixtures, files and objectives, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest

from mixray.config import dump_config, parse_config
from mixray.config.objective import ErmConfig, GroupDROConfig
from mixray.errors import InputError

CURRENT = "{name: current, shares: {python: 0.6, cpp: 0.4}}"
DRO = "{name: mixmin_dro, mixture: mixmin, objective: {kind: group_dro, step_size: 0.1}}"


def test_an_arm_has_a_mixture_and_an_objective_of_its_own(text: str) -> None:
    config = parse_config(text, [f"retrain.arms=[mixmin, {CURRENT}, {{name: doremi, file: a.json}}, {DRO}]"])
    arms = config.retrain.named_arms
    assert list(arms) == ["mixmin", "current", "doremi", "mixmin_dro"]
    assert [arm.mixture for arm in arms.values()] == ["mixmin", None, None, "mixmin"]
    assert arms["current"].shares == {"python": 0.6, "cpp": 0.4}
    assert arms["current"].objective == arms["mixmin"].objective == ErmConfig()
    assert arms["mixmin_dro"].objective == GroupDROConfig(step_size=0.1)
    assert parse_config(dump_config(config)) == config


def test_the_sections_objective_is_that_of_arms_without_one(text: str) -> None:
    erm = "{name: plain, mixture: mixmin, objective: {kind: erm}}"
    config = parse_config(text, [f"retrain.arms=[mixmin, {erm}]", "retrain.objective={kind: also}"])
    kinds = {name: arm.objective and arm.objective.kind for name, arm in config.retrain.named_arms.items()}
    assert kinds == {"mixmin": "also", "plain": "erm"}


def test_the_mixture_of_the_search_is_a_model_for_every_target(text: str) -> None:
    arms = parse_config(text, [f"retrain.arms=[{DRO}, {CURRENT}]"]).retrain.named_arms
    assert arms["mixmin_dro"].models(["one", "two"]) == {"one": "mixmin_dro-one", "two": "mixmin_dro-two"}
    assert arms["current"].models(["one", "two"]) == {"one": "current", "two": "current"}


def test_one_replicate_leaves_no_trace_in_what_ids_are_made_from(text: str) -> None:
    assert "replicates" not in parse_config(text, ["retrain.replicates=1"]).retrain.model_dump()
    assert parse_config(text, ["retrain.replicates=3"]).retrain.model_dump()["replicates"] == 3


@pytest.mark.parametrize(
    ("arms", "key", "wanted"),
    [
        ("[{name: current, shares: {python: 0.6}}]", "0.shares", "python, cpp; cpp missing"),
        ("[{name: current, shares: {python: 0.6, c: 0.4}}]", "0.shares", "python, cpp; cpp missing and c unknown"),
        ("[{name: current, shares: {python: 0.6, cpp: 0.3}}]", "0.shares", "shares that sum to 1; they sum to 0.9"),
        ("[{name: current, shares: {python: 1.6, cpp: -0.6}}]", "0.shares.python", "less than or equal to 1"),
        ("[mixmin, {name: current}]", "1.mixture", "exactly one of mixture, shares, file"),
        ("[{name: a, mixture: mixmin, file: a.json}]", "0.mixture", "exactly one of mixture, shares, file"),
        ("[{name: a, mixture: best}]", "0.mixture", "'mixmin', 'balanced', 'natural', "),
        ("[{name: balanced, mixture: natural}]", "0.name", "another name"),
        ("[{name: mixmin, shares: {python: 0.6, cpp: 0.4}}]", "0.name", "another name"),
        ("[{name: my/arm, mixture: natural}]", "0.name", "a name of letters, digits"),
        ("[{mixture: natural}]", "0.name", "a value; it has no default"),
        ("[natural, {name: natural, mixture: natural}]", "", "every arm named once"),
        (
            "[mixmin, {name: mixmin-tests, shares: {python: 0.6, cpp: 0.4}}]",
            "1.name",
            "another name: mixmin-tests is the model of another arm",
        ),
        ("[{name: a, mixture: mixmin, objective: {kind: dro}}]", "0.objective.kind", "erm | group_dro | also"),
        (
            "[{name: a, mixture: mixmin, objective: {kind: also, groups: 'column:x'}}]",
            "0.objective.groups",
            "source; windows of text have no columns",
        ),
        (
            "[{name: a, mixture: mixmin, objective: {kind: group_dro, prior: {python: 1}}}]",
            "0.objective.prior",
            "a weight for every source: python, cpp",
        ),
    ],
)
def test_an_arm_that_is_not_valid_is_refused(text: str, arms: str, key: str, wanted: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_config(text, [f"retrain.arms={arms}"], name="run.yaml")
    dotted = f"retrain.arms.{key}".rstrip(".")
    assert caught.value.what in (f"{dotted} is not valid", f"the key {dotted!r} is missing")
    assert caught.value.where == "the override retrain.arms=..."
    assert wanted in str(caught.value.wanted)


def test_doremi_is_one_arm_of_texts(text: str) -> None:
    """A published mixture may have its name, as in older run files, unless another arm finds one."""
    stated = "{name: doremi, shares: {python: 0.5, cpp: 0.5}}"
    assert not parse_config(text, [f"retrain.arms=[mixmin, {stated}]"]).has_doremi
    found = parse_config(text, ["retrain.arms=[mixmin, doremi]"])
    assert found.has_doremi
    assert found.doremi_tokens == 2 * (found.proxy_tokens or 0)
    assert found.retrain.named_arms["doremi"].models(["one", "two"]) == {"one": "doremi", "two": "doremi"}
    with pytest.raises(InputError, match=r"retrain\.arms is not valid"):
        parse_config(text, [f"retrain.arms=[mixmin, {stated}, {{name: mine, mixture: doremi}}]"])


def test_rows_have_one_column_of_groups() -> None:
    def config(*columns: str) -> Any:
        arms = [f"{{name: a{c}, mixture: natural, objective: {{kind: also, groups: 'column:{c}'}}}}" for c in columns]
        text = """
name: demo
examples: {numeric: [x], label: y}
sources: {one: {csv: one.csv}}
targets: {goal: {csv: goal.csv}}
proxy: {model: {head: linear}, tokens: 100}
retrain: {model: {head: linear}, tokens: 100}
"""
        return parse_config(text, [f"retrain.arms=[mixmin, {', '.join(arms)}]"])

    assert config("side").retrain.group_column == "side"
    with pytest.raises(InputError) as caught:
        config("side", "place")
    assert caught.value.what == "retrain.arms.2.objective.groups is not valid"
    assert "column:side" in str(caught.value.wanted)


@pytest.mark.parametrize(
    ("override", "key", "wanted"),
    [
        ("retrain.replicates=2", "retrain.replicates", "1 beside boosted_trees, whose training draws nothing"),
        (
            "retrain.arms=[mixmin, {name: dro, mixture: mixmin, objective: {kind: group_dro}}]",
            "retrain.arms.1.objective.kind",
            "erm beside boosted_trees",
        ),
    ],
)
def test_boosted_trees_have_neither_seeds_nor_robust_objectives(override: str, key: str, wanted: str) -> None:
    text = """
name: demo
examples: {numeric: [x], label: y}
sources: {one: {csv: one.csv}}
targets: {goal: {csv: goal.csv}}
proxy: {model: {boosted_trees: {}}}
retrain: {model: {boosted_trees: {}}}
"""
    assert parse_config(text).retrain.replicates == 1
    with pytest.raises(InputError) as caught:
        parse_config(text, [override])
    assert caught.value.what == f"{key} is not valid"
    assert wanted in str(caught.value.wanted)
