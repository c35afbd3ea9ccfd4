"""The kinds of model that a run file can describe, and that their types change no artifact's id."""

from __future__ import annotations

from typing import Any

import pytest

from mixray.config.training import CacheConfig, HeadConfig, NewModel, PretrainedModel, ProxyConfig, TreesModel
from mixray.store import fingerprint

MODELS: list[tuple[dict[str, Any], type]] = [
    ({"architecture": "gpt_neox", "hidden_size": 64, "rope": {"theta": 1e4, "scaling": None}}, NewModel),
    ({"hidden_act": "gelu", "architecture": "gpt2", "n_embd": 8}, NewModel),
    ({"pretrained": "gpt2"}, PretrainedModel),
    ({"pretrained": "gpt2", "revision": None}, PretrainedModel),
    ({"pretrained": "gpt2", "revision": "main"}, PretrainedModel),
    ({"head": "linear"}, HeadConfig),
    ({"head": "mlp", "hidden": [8, 4]}, HeadConfig),
]


@pytest.mark.parametrize(("section", "kind"), MODELS)
def test_a_model_is_dumped_with_the_keys_that_the_run_file_states(section: dict[str, Any], kind: type) -> None:
    config = ProxyConfig.model_validate({"model": section, "tokens": 5})
    dumped = config.model_dump(mode="json")
    assert isinstance(config.model, kind)
    assert dumped["model"] == section
    assert ProxyConfig.model_validate(dumped) == config


def test_boosted_trees_are_dumped_whole_and_have_no_budget() -> None:
    config = ProxyConfig.model_validate({"model": {"boosted_trees": {"rounds": 9}}})
    dumped = config.model_dump(mode="json")
    assert isinstance(config.model, TreesModel)
    trees = {"library": "xgboost", "rounds": 9, "depth": 6, "learning_rate": 0.1}
    assert (dumped["model"], dumped["kind"]) == ({"boosted_trees": trees}, "boosted_trees")
    assert ProxyConfig.model_validate(dumped) == config


# The first 16 digits of what the line below gave while the model was a plain dictionary.
@pytest.mark.parametrize(
    ("section", "digest"),
    [
        (
            {"model": {"architecture": "gpt2", "n_embd": 8}, "tokens": 5},
            "6359a24dcd892c1b",
        ),
        (
            {"model": {"pretrained": "gpt2"}, "tokens": 5},
            "0c12cede28fe71a2",
        ),
        (
            {"model": {"head": "linear"}, "kind": "classifier", "fraction": 0.5},
            "157cab813d1cde0e",
        ),
    ],
)
def test_the_settings_that_make_an_id_have_not_changed(section: dict[str, Any], digest: str) -> None:
    assert fingerprint(ProxyConfig.model_validate(section).model_dump(mode="json"))[:16] == digest


@pytest.mark.parametrize(
    ("section", "segment"),
    [({}, 16), ({"token_log_probs": True}, 1), ({"token_log_probs": False}, None), ({"segment": 4}, 4)],
    ids=str,
)
def test_a_run_folder_of_an_earlier_version_says_which_segments_its_cache_holds(
    section: dict[str, Any], segment: int | None
) -> None:
    assert CacheConfig.model_validate(section).segment == segment
