"""What the data tests share: pools from keyword arguments, a mapper without Ray, a small run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mixray.config.data import SourceConfig, TargetConfig
from mixray.config.schema import RunConfig
from mixray.data.pools import Pool
from mixray.store import Artifacts, Storage

MakePool = Callable[..., Pool]


class Mapper:
    """``run_tasks`` in this process, one item after another; remembers the labels it was called with."""

    def __init__(self) -> None:
        self.labels: list[str] = []

    def __call__(self, function: Callable[[Any], Any], items: Sequence[Any], label: str) -> Iterator[Any]:
        self.labels.append(label)
        return map(function, items)


@pytest.fixture
def mapper() -> Mapper:
    return Mapper()


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(Storage(str(tmp_path / "store")), "attempt")


@pytest.fixture
def source() -> MakePool:
    return lambda name="code", **settings: Pool("source", name, SourceConfig.model_validate(settings))


@pytest.fixture
def target() -> MakePool:
    return lambda name="goal", **settings: Pool("target", name, TargetConfig.model_validate(settings))


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, texts: Iterable[str]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        return path

    return write


@pytest.fixture
def run_config() -> Callable[..., RunConfig]:
    def make(sources: dict[str, Any], targets: dict[str, Any], **more: Any) -> RunConfig:
        model = {"architecture": "gpt_neox"}
        base = {
            "name": "test",
            "tokenizer": {"train": {"vocab_size": 300}},
            "window": 16,
            "sources": sources,
            "targets": targets,
            "proxy": {"model": model, "tokens": 10_000},
            "retrain": {"model": model, "tokens": 10_000},
        }
        return RunConfig.model_validate(base | more)

    return make
