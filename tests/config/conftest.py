from __future__ import annotations

import pytest


@pytest.fixture
def text() -> str:
    """A small right run file; the refusals name its lines."""
    return """\
name: demo
tokenizer: {train: {}}
window: 8
sources:
  python: {files: "*.py"}
  cpp:
    files: "*.h"
targets:
  tests: {files: "*.txt"}
proxy:
  model: {architecture: gpt_neox}
  tokens: 1000
retrain:
  model: {architecture: gpt_neox}
  tokens: 2000
"""
