"""Mixtures that a person brings in files, as arms and as the prior."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixray.config import RobustConfig, RunConfig, dump_config, load_config, parse_config
from mixray.errors import InputError
from mixray.mixture import Mixture
from mixray.search import with_files_read

SHARES = {"python": 0.6, "cpp": 0.4}


def written(folder: Path, content: str) -> Path:
    path = folder / "mixture.json"
    path.write_text(content)
    return path


def config_of(path: Path) -> RunConfig:
    text = f"""
name: demo
tokenizer: {{train: {{}}}}
window: 8
sources: {{python: {{files: "*.py"}}, cpp: {{files: "*.h"}}}}
targets: {{docs: {{files: "*.txt"}}}}
proxy: {{model: {{architecture: gpt_neox}}, tokens: 1_000}}
retrain:
  model: {{architecture: gpt_neox}}
  tokens: 2_000
  arms: [mixmin, {{name: paper, file: {path}, objective: {{kind: also}}}}]
"""
    return parse_config(text)


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"cpp": 0.4, "python": 0.6}),
        json.dumps({"train_domain_weights": SHARES, "eval_domain_weights": {"python": 1.0}}),
        Mixture.from_weights(SHARES).to_json(),
    ],
)
def test_shares_are_read_from_mixture_files_and_plain_json(content: str, tmp_path: Path) -> None:
    arm = with_files_read(config_of(written(tmp_path, content))).retrain.named_arms["paper"]
    assert arm.shares == pytest.approx(SHARES, rel=1e-15)


def test_a_run_means_the_shares_and_not_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps(SHARES))
    config = with_files_read(config_of(path))
    path.unlink()
    arm = config.retrain.named_arms["paper"]
    assert (arm.shares, arm.file, arm.objective and arm.objective.kind) == (SHARES, None, "also")
    assert parse_config(dump_config(config)) == config == with_files_read(config)
    stated = config_of(path).retrain.arms[1]
    assert not isinstance(stated, str)
    assert stated.file == str(path)


def test_a_comparison_of_robust_training_has_no_such_files() -> None:
    robust = load_config(Path(__file__).parents[2] / "jobs" / "robust_digits.yaml", kind=RobustConfig)
    assert with_files_read(robust) is robust


@pytest.mark.parametrize(
    ("content", "what", "got"),
    [
        ("{", "cannot be read", "Expecting"),
        ("[0.6, 0.4]", "not a valid mixture", "list"),
        ('{"python": 0.6}', "does not fit the run file", "cpp missing"),
        ('{"python": 0.6, "cpp": 0.4, "rust": 0}', "does not fit the run file", "rust unknown"),
        ('{"python": 0.6, "cpp": 0.3}', "does not fit the run file", "sum to 0.9 "),
        ('{"python": 1.5, "cpp": -0.5}', "not a number from 0 up", "cpp"),
        ('{"python": NaN, "cpp": 0.4}', "not a number from 0 up", "python"),
        ('{"schema": "other/1", "python": 0.6}', "not a valid mixture file", "other/1"),
    ],
)
def test_a_file_that_holds_no_mixture_of_the_sources_is_refused(
    content: str, what: str, got: str, tmp_path: Path
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(InputError, match=what) as caught:
        with_files_read(config_of(path))
    assert got in str(caught.value)
    assert str(path) in str(caught.value) or "retrain.arms.1.file" in str(caught.value)


def test_a_file_that_is_not_there_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read") as caught:
        with_files_read(config_of(tmp_path / "nowhere.json"))
    assert caught.value.where == str(tmp_path / "nowhere.json")


def with_prior(folder: Path, shares: str) -> RunConfig:
    config = config_of(written(folder, json.dumps(SHARES)))
    (folder / "prior.json").write_text(shares)
    return parse_config(dump_config(config), {"mixture.prior": {"file": str(folder / "prior.json"), "strength": 0.1}})


def test_the_prior_is_read_from_such_a_file_too(tmp_path: Path) -> None:
    prior = with_files_read(
        with_prior(tmp_path, Mixture.from_weights({"cpp": 0.3, "python": 0.7}).to_json())
    ).mixture.prior
    assert prior.shares == pytest.approx({"python": 0.7, "cpp": 0.3}, rel=1e-15)
    assert (prior.file, prior.strength) == (None, 0.1)


@pytest.mark.parametrize(
    ("content", "what", "got"),
    [
        ('{"python": 0.6}', "does not fit the run file", "cpp missing"),
        ('{"python": 1, "cpp": 0}', "the prior excludes sources", "a share of 0 for cpp"),
    ],
)
def test_a_prior_that_holds_no_share_of_a_source_is_refused(content: str, what: str, got: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=what) as caught:
        with_files_read(with_prior(tmp_path, content))
    assert got in str(caught.value)
    assert caught.value.where == "mixture.prior.file"


def test_a_prior_has_shares_or_a_file(tmp_path: Path) -> None:
    config = dump_config(config_of(written(tmp_path, json.dumps(SHARES))))
    with pytest.raises(InputError, match="left out beside file"):
        parse_config(config, {"mixture.prior": {"file": "a.json", "shares": "natural"}})
