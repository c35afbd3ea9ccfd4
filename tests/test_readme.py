"""What the README shows as a run file's section is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mixray.config import parse_config

ROOT = Path(__file__).parents[1]
BLOCKS = [block.split("```")[0] for block in (ROOT / "README.md").read_text(encoding="utf-8").split("```yaml\n")[1:]]
REST = """
name: readme
tokenizer: {train: {}}
window: 128
sources: {python: {files: a}, cpp: {files: b}}
targets: {pandas: {files: c}}
proxy: {model: {architecture: gpt_neox}, tokens: 10000}
"""
RETRAIN = "retrain: {model: {architecture: gpt_neox}, tokens: 100000}\n"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.startswith(("mixture:", "retrain:"))])
def test_a_section_of_the_readme_is_accepted(block: str) -> None:
    if block.startswith("retrain:"):
        given = yaml.safe_load(block)["retrain"]
        block = yaml.safe_dump({"retrain": {"model": {"architecture": "gpt_neox"}, "tokens": 100000} | given})
    else:
        block += RETRAIN
    assert parse_config(REST + block).name == "readme"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.startswith("name:")])
def test_a_whole_run_file_of_the_readme_is_accepted(block: str) -> None:
    assert parse_config(block).examples is not None


@pytest.mark.parametrize("start", ["mixture:", "retrain:", "name:"])
def test_there_is_one(start: str) -> None:
    assert any(block.startswith(start) for block in BLOCKS)
