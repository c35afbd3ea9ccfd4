"""Supervised fine-tuning from end to end: sources and targets of prompts with completions, from a pretrained model.

Proxies train all of it, arms adapters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import mixray
from mixray.config.training import NewModel
from mixray.data.text.tokenizer import END_OF_DOCUMENT, train_bpe
from mixray.models import build_model

WORDS = {
    "animals": ["cat", "dog", "horse", "cow", "sheep", "goat", "hen", "duck", "pig", "frog"],
    "numbers": ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
    "colours": ["red", "blue", "green", "pink", "grey", "teal", "gold", "lime", "plum", "jade"],
}
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_pairs(path: Path, words: list[str], count: int, seed: int) -> None:
    """The same prompts everywhere: only the completions tell the sources apart."""
    draw = np.random.default_rng([seed, count])
    every = [word for each in WORDS.values() for word in each]
    rows = [
        {"q": " ".join(draw.choice(every, 8)), "a": " " + " ".join(draw.choice(words, draw.integers(2, 12)))}
        for _ in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and its tokenizer, which has a chat template."""
    folder = tmp_path_factory.mktemp("pretrained")
    bpe = train_bpe([" ".join(words) for words in WORDS.values()] * 3, 320)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END_OF_DOCUMENT)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = NewModel.model_validate({"architecture": "llama", **shape})
    build_model(config, vocab_size=len(AutoTokenizer.from_pretrained(folder)), window=48, seed=5).save_pretrained(
        folder
    )
    return folder


def fine_tuning_run(folder: Path, pretrained: Path, **changes: Any) -> Path:
    for seed, (name, words) in enumerate(WORDS.items()):
        write_pairs(folder / f"{name}.jsonl", words, 200, seed)
    write_pairs(folder / "zoo.jsonl", WORDS["animals"], 60, 11)
    pair = {"prompt": "q", "completion": "a"}
    training = {"model": {"pretrained": str(pretrained)}, "batch": 8, "attention": "document"}
    adapters = {"model": {"pretrained": str(pretrained), "lora": {}}, "optimizer": {"learning_rate": 0.02}}
    content: dict[str, Any] = {
        "name": "fine-tuning",
        "storage": str(folder / "runs-here"),
        "tokenizer": {"path": str(pretrained)},
        "window": 48,
        "sources": {name: {"jsonl": str(folder / f"{name}.jsonl"), **pair} for name in WORDS},
        "targets": {"zoo": {"jsonl": str(folder / "zoo.jsonl"), **pair}},
        "proxy": {**training, "tokens": 30_000},
        "cache": {"batch_tokens": 2048, "actors": 1},
        "mixture": {"bootstrap": 50},
        "retrain": {**training, **adapters, "tokens": 20_000, "arms": ["mixmin", "balanced", "doremi"]},
        **changes,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.usefixtures("ray_session")
def test_completions_decide_the_mixture_of_a_fine_tuning(pretrained: Path, tmp_path: Path) -> None:
    path = fine_tuning_run(tmp_path, pretrained)
    done = mixray.run(path)
    zoo = done.mixtures["zoo"]
    assert zoo.weights["animals"] > 0.9
    assert zoo.retrain["balanced"].difference is not None
    assert zoo.retrain["balanced"].difference > 0.1, "nats per token of the completions"
    store = tmp_path / "runs-here/artifacts"
    proxy, arm = (json.loads(next((store / kind).glob("*/manifest.json")).read_text()) for kind in ("proxy", "model"))
    assert proxy["meta"]["parameters"] == arm["meta"]["parameters"] - arm["meta"]["trained_parameters"]
    assert "adapter_model.safetensors" in arm["files"]
    assert "model.safetensors" not in arm["files"]
    balanced = AutoModelForCausalLM.from_pretrained(zoo.retrain["balanced"].model)
    assert sum(each.numel() for each in balanced.parameters()) == arm["meta"]["parameters"], "loaded as it lies there"
    doremi = zoo.rivals["doremi"]
    assert sum(doremi.weights.values()) == pytest.approx(1)
    assert doremi.expected == zoo.loss["doremi"] > zoo.loss["mixmin"], "it looks at no target"
    # Two trainings on the tokens of three proxies, in whole steps, and one pass over them: 2 x 6 + 2 a parameter.
    tokens = 90_000 // (8 * 48) * (8 * 48)
    assert doremi.search_flops == 14 * proxy["meta"]["parameters"] * tokens
    assert zoo.retrain["doremi"].nll is not None
    resolved = yaml.safe_load((Path(done.folder) / "config.yaml").read_text())
    assert resolved["sources"]["animals"]["completion"] == "a"
    meta = json.loads(next((store / "tokens").glob("*/manifest.json")).read_text())["meta"]
    assert 0 < meta["trained_tokens"] < meta["tokens"]
