"""The READMEs: their YAML is accepted as a run file, their Python compiles, and the main one stays short."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mixray.config import parse_config

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", *sorted((ROOT / "mixray").rglob("README.md")), ROOT / "jobs" / "README.md"]
FENCED = re.compile(r"```(yaml|python)\n(.*?)```", re.DOTALL)
BLOCKS = [
    pytest.param(language, block, id=f"{readme.relative_to(ROOT)}-{number}")
    for readme in READMES
    for number, (language, block) in enumerate(FENCED.findall(readme.read_text("utf-8")))
]
REST: dict[str, Any] = {
    "name": "readme",
    "tokenizer": {"train": {}},
    "window": 128,
    "sources": {"python": {"files": "a"}, "cpp": {"files": "b"}},
    "targets": {"pandas": {"files": "c"}},
    "proxy": {"model": {"architecture": "gpt_neox"}, "tokens": 10_000},
    "retrain": {"model": {"architecture": "gpt_neox"}, "tokens": 100_000},
}


@pytest.mark.parametrize(("language", "block"), BLOCKS)
def test_an_example_is_valid(language: str, block: str) -> None:
    if language == "python":
        ast.parse(block)
        return
    example = yaml.safe_load(block)
    if "name" not in example:  # sections of a run file
        example = REST | {section: REST.get(section, {}) | settings for section, settings in example.items()}
    assert parse_config(yaml.safe_dump(example)).name == example["name"]


def test_the_main_readme_shows_a_run_file_and_limits() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert "```yaml\nname:" in text
    assert "```yaml\nmixture:" in text


def test_the_main_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 1500
