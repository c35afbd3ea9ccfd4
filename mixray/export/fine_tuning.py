"""Trainers for fine-tuning, which count examples: TRL, LLaMA-Factory, axolotl, Oumi and open-instruct."""

from __future__ import annotations

import shlex

from mixray.errors import InputError
from mixray.export.recipe import Recipe
from mixray.export.trainer import Sheet, Trainer, several_passes, yaml_text


def _trl(sheet: Sheet) -> str:
    return yaml_text(
        {"datasets": [{"path": line.path, "split": "train", "fraction": line.number} for line in sheet.lines]}
    )


def _warn_of_trl_cap(recipe: Recipe) -> list[str]:
    """TRL takes the largest mixture that repeats nothing, and of each source its first rows."""
    warnings = ["TRL keeps the first rows of each data set: shuffle those whose rows are in an order"]
    if not recipe.has_sizes:
        return warnings
    one_pass = {
        each.name: size.all_tokens / each.share
        for each, size in zip(recipe.ingredients, recipe.require_sizes(), strict=True)
    }
    shortest = min(one_pass, key=lambda name: one_pass[name])
    if recipe.budget is not None and recipe.budget > one_pass[shortest]:
        warnings.append(
            f"TRL repeats no source within an epoch: with these shares {shortest} is used up after "
            f"{one_pass[shortest]:,.0f} tokens, so that {recipe.budget:,} tokens are "
            f"{recipe.budget / one_pass[shortest]:.4g} epochs over the same rows of every source"
        )
    return warnings


def _llama_factory(sheet: Sheet) -> str:
    content = {
        "dataset": ",".join(sheet.paths),
        "mix_strategy": "interleave_over",
        "interleave_probs": ",".join(map(repr, sheet.numbers)),
    }
    return yaml_text(content)


def _require_no_comma(recipe: Recipe) -> list[str]:
    for each in recipe.ingredients:
        if "," in each.path:
            raise InputError(
                "LLaMA-Factory separates data sets by commas",
                where=f"--map {each.name}",
                got=repr(each.path),
                wanted="a name of dataset_info.json without a comma",
            )
    return []


def _axolotl(sheet: Sheet) -> str:
    return yaml_text({"datasets": [{"path": line.path, "split": f"train[:{line.number}]"} for line in sheet.lines]})


def _require_one_pass(recipe: Recipe) -> list[str]:
    """axolotl has no weights: what exists is a part of a split, which cannot be more than the whole."""
    repeated = several_passes(recipe)
    if repeated:
        longest = recipe.require_budget() / max(recipe.require_epochs())
        raise InputError(
            "axolotl has no weights and repeats no data set; it keeps a part of each",
            where="--tokens",
            got=f"{recipe.budget:,} tokens, which read {', '.join(repeated)}",
            wanted=f"at most {int(longest):,} tokens",
            remedy=f"--tokens {int(longest)}, and more epochs over the result",
        )
    return ["axolotl keeps the first rows of each data set, and needs the type of each beside its path"]


def _oumi(sheet: Sheet) -> str:
    datasets = [
        (
            {"dataset_name": "text_sft", "dataset_path": line.path}
            if ".json" in line.path
            else {"dataset_name": line.path}
        )
        | {"mixture_proportion": line.number}
        for line in sheet.lines
    ]
    return yaml_text({"data": {"train": {"mixture_strategy": "all_exhausted", "datasets": datasets}}})


def _open_instruct(sheet: Sheet) -> str:
    mixer = shlex.join([text for line in sheet.lines for text in (line.path, str(line.number))])
    return f"--dataset_mixer_list {mixer} --dataset_mixer_list_splits train\n"


def _warn_of_repetition(recipe: Recipe) -> list[str]:
    repeated = several_passes(recipe)
    return [f"versions of open-instruct that do not repeat rows refuse {', '.join(repeated)}"] if repeated else []


TRAINERS = {
    "trl": Trainer("TRL, dataset mixture", "examples", _trl, check=_warn_of_trl_cap),
    "llama-factory": Trainer(
        "LLaMA-Factory (data sets by their names in dataset_info.json)",
        "examples",
        _llama_factory,
        needs_paths=False,
        check=_require_no_comma,
    ),
    "axolotl": Trainer("axolotl, parts of data sets", "documents", _axolotl, check=_require_one_pass),
    "oumi": Trainer("Oumi", "examples", _oumi),
    "open-instruct": Trainer("open-instruct, command line", "documents", _open_instruct, check=_warn_of_repetition),
}
