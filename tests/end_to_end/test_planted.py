"""A planted mixture is found again: a target made of the sources' own unseen documents in known proportions."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch

import mixray
from tests.end_to_end.conftest import small_run

PLANTED = {"python": 0.5, "headers": 0.3, "metadata": 0.2}
DOCUMENTS, CHARACTERS = 300, 600


def real_documents(name: str) -> Iterator[str]:
    """Pieces of real text that every installation of mixray has."""
    packages = Path(torch.__file__).parents[1]
    files = {
        "python": sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")),
        "headers": sorted((packages / "torch" / "include" / "c10").rglob("*.h")),
        "metadata": sorted(packages.glob("*.dist-info/METADATA")),
    }[name]
    for path in files:
        text = path.read_text(encoding="utf-8", errors="replace")
        yield from (text[start : start + CHARACTERS] for start in range(0, len(text) - CHARACTERS, CHARACTERS))


def test_the_planted_proportions_come_back(tmp_path: Path) -> None:
    target: list[str] = []
    for name, share in PLANTED.items():
        documents = sorted(set(real_documents(name)))
        count = round(share * DOCUMENTS)
        step = len(documents) // count
        unseen = documents[::step][:count]
        target += unseen
        seen = [text for text in documents if text not in set(unseen)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in seen))
    (tmp_path / "planted.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in target))
    run_file = small_run(
        tmp_path,
        tokenizer={"train": {"vocab_size": 1024, "sample_bytes": 600_000}},
        window=64,
        sources={name: {"jsonl": str(tmp_path / f"{name}.jsonl")} for name in PLANTED},
        targets={"planted": {"jsonl": str(tmp_path / "planted.jsonl"), "held_out": 0.02}},
        proxy={
            "model": {"architecture": "gpt_neox", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
            "tokens": 60_000,
            "batch": 8,
        },
    )
    result = mixray.run(run_file, until="mixture")
    weights = result.mixtures["planted"].weights
    distance = sum(abs(weights[name] - share) for name, share in PLANTED.items()) / 2
    assert distance <= 0.1, weights
