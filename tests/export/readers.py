"""Readers of the trainers' files, written from the trainers' documentation: text -> path or name -> number."""

from __future__ import annotations

import ast
import csv
import io
import json
import shlex
from collections.abc import Callable
from typing import Any

import yaml

Numbers = dict[str, float]


def pairs(items: list[str], *, number_first: bool) -> Numbers:
    """Read weight, path, weight, path, ... or path, weight, ..."""
    firsts, seconds = items[::2], items[1::2]
    numbers, paths = (firsts, seconds) if number_first else (seconds, firsts)
    return dict(zip(paths, map(float, numbers), strict=True))


def option(text: str, name: str) -> list[str]:
    """Return the values of an option of a command line, with the shell's comments and quotes taken away."""
    words = shlex.split(text, comments=True)
    start = words.index(name) + 1
    stop = next((place for place in range(start, len(words)) if words[place].startswith("--")), len(words))
    return words[start:stop]


def calls(text: str, function: str) -> list[dict[str, Any]]:
    """Return the literal keyword arguments of every call of a function in Python source."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    named = [node for node in nodes if isinstance(node.func, ast.Name) and node.func.id == function]
    return [
        {keyword.arg: value for keyword in node.keywords if (value := literal(keyword.value)) is not None}
        for node in sorted(named, key=lambda node: node.lineno)
    ]


def literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Subscript):  # packed['data/web']
        return ast.literal_eval(node.slice)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def assigned(text: str, name: str) -> Any:
    """Return the literal that Python source assigns to a name."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise KeyError(name)


def megatron_json(text: str) -> Numbers:
    content = json.loads(text)
    assert content["valid"] is content["test"] is None
    return pairs(content["train"], number_first=True)


def megatron_bridge(text: str) -> Numbers:
    paths, weights = assigned(text, "blend")
    return dict(zip(paths, weights, strict=True))


def gpt_neox(text: str) -> Numbers:
    content = yaml.safe_load(text)
    assert content["weight-by-num-documents"] is False  # or the weights would be computed from the data sets
    return dict(zip(content["train-data-paths"], content["train-data-weights"], strict=True))


def energon(blend: str, number: str) -> Callable[[str], Numbers]:
    def read(text: str) -> Numbers:
        content = yaml.safe_load(text)
        assert (content["__module__"], content["__class__"]) == ("megatron.energon", "MetadatasetV2")
        return {entry["path"]: entry[number] for entry in content["splits"]["train"][blend]}

    return read


def olmo_core(text: str) -> Numbers:
    sources = yaml.safe_load(text)["sources"]
    assert all(source["max_repetition_ratio"] >= 1 and 0 < source["max_source_fraction"] <= 1 for source in sources)
    return {source["source_name"]: source["target_ratio"] for source in sources}


def nanotron(text: str) -> Numbers:
    (stage,) = yaml.safe_load(text)["data_stages"]
    dataset = stage["data"]["dataset"]
    return dict(zip(dataset["dataset_folder"], dataset["dataset_weights"], strict=True))


def litgpt(text: str) -> Numbers:
    return dict(zip(assigned(text, "paths"), assigned(text, "weights"), strict=True))


def streaming(text: str) -> Numbers:
    return {call.get("remote") or call["local"]: call["proportion"] for call in calls(text, "Stream")}


def llm_foundry(text: str) -> Numbers:
    streams = yaml.safe_load(text)["train_loader"]["dataset"]["streams"]
    return {name: stream["proportion"] for name, stream in streams.items()}


def llama_factory(text: str) -> Numbers:
    content = yaml.safe_load(text)
    assert content["mix_strategy"] in ("interleave_under", "interleave_over", "interleave_once")
    return dict(
        zip(content["dataset"].split(","), map(float, str(content["interleave_probs"]).split(",")), strict=True)
    )


def axolotl(text: str) -> Numbers:
    slices = {entry["path"]: entry["split"] for entry in yaml.safe_load(text)["datasets"]}
    return {path: int(split.removeprefix("train[:").removesuffix("]")) for path, split in slices.items()}


def oumi(text: str) -> Numbers:
    datasets = yaml.safe_load(text)["data"]["train"]["datasets"]
    return {entry.get("dataset_path", entry["dataset_name"]): entry["mixture_proportion"] for entry in datasets}


READERS: dict[str, Callable[[str], Numbers]] = {
    "megatron": lambda text: pairs(option(text, "--data-path"), number_first=True),
    "megatron-file": lambda text: pairs(text.split(), number_first=True),
    "megatron-json": megatron_json,
    "nemo-automodel": lambda text: pairs(yaml.safe_load(text)["dataset"]["paths"], number_first=True),
    "megatron-bridge": megatron_bridge,
    "gpt-neox": gpt_neox,
    "energon": energon("blend", "weight"),
    "energon-epochs": energon("blend_epochized", "repetitions"),
    "olmo-core": olmo_core,
    "olmix": lambda text: {name: entry["weight"] for name, entry in yaml.safe_load(text)["mix"].items()},
    "torchtitan": lambda text: {call["dataset_path"]: call["weight"] for call in calls(text, "HFDataSource")},
    "torchtitan-grain": lambda text: {call["dataset"]: call["weight"] for call in calls(text, "WeightedDataset")},
    "nanotron": nanotron,
    "lingua": lambda text: yaml.safe_load(text)["data"]["sources"],
    "levanter": lambda text: yaml.safe_load(text)["data"]["train_weights"],
    "litgpt": litgpt,
    "streaming": streaming,
    "llm-foundry": llm_foundry,
    "interleave": lambda text: assigned(text, "probabilities"),
    "trl": lambda text: {entry["path"]: entry["fraction"] for entry in yaml.safe_load(text)["datasets"]},
    "llama-factory": llama_factory,
    "axolotl": axolotl,
    "oumi": oumi,
    "open-instruct": lambda text: pairs(option(text, "--dataset_mixer_list"), number_first=False),
    "json": lambda text: {name: row["share_of_tokens"] for name, row in json.loads(text)["sources"].items()},
    "csv": lambda text: {row["source"]: float(row["share_of_tokens"]) for row in csv.DictReader(io.StringIO(text))},
}
