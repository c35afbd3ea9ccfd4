"""The family of Megatron: Megatron-LM, NeMo, Megatron-Bridge, GPT-NeoX and Megatron-Energon.

A blend of Megatron counts samples of one sequence length, so its weights are shares of tokens. Energon draws documents.
"""

from __future__ import annotations

import json
import shlex

from mixray.errors import InputError
from mixray.export.recipe import Recipe
from mixray.export.trainer import Sheet, Trainer, python_list, yaml_text


def _blend(sheet: Sheet) -> list[str]:
    """Return weight, path, weight, path, ..."""
    return [text for line in sheet.lines for text in (repr(line.number), line.path)]


def _command_line(sheet: Sheet) -> str:
    return f"--data-path {shlex.join(_blend(sheet))}\n"


def _file(sheet: Sheet) -> str:
    return " ".join(_blend(sheet)) + "\n"


def _require_no_space(recipe: Recipe) -> list[str]:
    """The file is split at white space: a path with a space would turn every weight into a path, without an error."""
    for each in recipe.ingredients:
        if each.path.split() != [each.path]:
            raise InputError(
                "this file cannot hold a path with white space",
                where=f"--map {each.name}",
                got=repr(each.path),
                wanted="a path without",
                remedy="--to megatron-json",
            )
    return []


def _per_split(sheet: Sheet) -> str:
    content = {"train": _blend(sheet), "valid": None, "test": None, "comment": sheet.statement}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _automodel(sheet: Sheet) -> str:
    target = "nemo_automodel.components.datasets.llm.megatron_dataset.MegatronPretraining"
    return yaml_text({"dataset": {"_target_": target, "paths": _blend(sheet)}})


def _bridge(sheet: Sheet) -> str:
    paths, weights = python_list([repr(path) for path in sheet.paths]), python_list([repr(n) for n in sheet.numbers])
    return f"blend = (\n{paths},\n{weights},\n)\n"


def _neox(sheet: Sheet) -> str:
    content = {"train-data-paths": sheet.paths, "train-data-weights": sheet.numbers, "weight-by-num-documents": False}
    return yaml_text(content)


def _energon(sheet: Sheet, blend: str, number: str) -> str:
    entries = [{number: line.number, "path": line.path} for line in sheet.lines]
    kind = {"__module__": "megatron.energon", "__class__": "MetadatasetV2"}
    return yaml_text({**kind, "splits": {"train": {blend: entries}}})


TRAINERS = {
    "megatron": Trainer("Megatron-LM, command line", "tokens", _command_line),
    "megatron-file": Trainer(
        "Megatron-LM, file of --data-args-path", "tokens", _file, comments=False, check=_require_no_space
    ),
    "megatron-json": Trainer("Megatron-LM, file of --per-split-data-args-path", "tokens", _per_split, comments=False),
    "nemo-automodel": Trainer("NeMo Automodel", "tokens", _automodel),
    "megatron-bridge": Trainer("Megatron-Bridge, blend", "tokens", _bridge),
    "gpt-neox": Trainer("GPT-NeoX", "tokens", _neox),
    "energon": Trainer("Megatron-Energon, blend", "examples", lambda sheet: _energon(sheet, "blend", "weight")),
    "energon-epochs": Trainer(
        "Megatron-Energon, epochised blend (needs repeat=False)",
        "epochs",
        lambda sheet: _energon(sheet, "blend_epochized", "repetitions"),
    ),
}
