from __future__ import annotations

from pathlib import Path

import pytest

JOBS = Path(__file__).parents[2] / "jobs"
RUN_FILES = sorted(path for path in JOBS.glob("*.yaml") if path.name != "kuberay.yaml")
"""Of both kinds; kuberay.yaml is a cluster on Kubernetes."""


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
