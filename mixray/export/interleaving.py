"""Libraries that interleave data sets: Hugging Face datasets and Ray Data, as files and on data sets at hand."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from mixray.errors import InputError
from mixray.export.recipe import Recipe
from mixray.export.trainer import Sheet, Trainer
from mixray.mixture import Mixture


def _dictionary(entries: Mapping[str, str]) -> str:
    """Return the source of a Python dictionary with one entry a line. Values are expressions."""
    return "{\n" + "".join(f"    {name!r}: {value},\n" for name, value in entries.items()) + "}"


def _interleave(sheet: Sheet) -> str:
    loaded = {line.name: f"load_dataset({line.path!r}, split='train')" for line in sheet.lines}
    return (
        "from datasets import interleave_datasets, load_dataset\n\n"
        f"sources = {_dictionary(loaded)}\n"
        f"probabilities = {_dictionary({line.name: repr(line.number) for line in sheet.lines})}\n"
        "dataset = interleave_datasets(\n"
        "    [sources[name] for name in probabilities],\n"
        "    probabilities=list(probabilities.values()),\n"
        "    seed=0,\n"
        "    stopping_strategy='all_exhausted',\n"
        ")\n"
    )


def _ray_data(sheet: Sheet) -> str:
    read = {line.name: f"ray.data.read_parquet({line.path!r})" for line in sheet.lines}
    repeats = _repetitions(sheet.recipe)
    return (
        "import ray\n\n"
        f"sources = {_dictionary(read)}\n"
        "# How often each source is repeated, so that none is used up before the training ends.\n"
        f"repeats = {_dictionary({name: repr(number) for name, number in repeats.items()})}\n"
        f"weights = {_dictionary({line.name: repr(line.number) for line in sheet.lines})}\n"
        "for name, number in repeats.items():\n"
        "    if number > 1:\n"
        "        sources[name] = sources[name].union(*[sources[name]] * (number - 1))\n"
        "first, *others = [sources[name] for name in weights]\n"
        "dataset = first.mix(\n"
        "    *others,\n"
        "    weights=list(weights.values()),\n"
        "    stopping_condition=ray.data.MixStoppingCondition.STOP_ON_SHORTEST,\n"
        ")\n"
    )


def _repetitions(recipe: Recipe) -> dict[str, int]:
    passes = recipe.epochs() or [1.0] * len(recipe.ingredients)
    return {each.name: max(1, ceil(number)) for each, number in zip(recipe.ingredients, passes, strict=True)}


def repetitions(mixture: Mixture, tokens: int | None) -> dict[str, int]:
    """Return source -> how often it must be repeated to last through a training; 1 where that is unknown."""
    return _repetitions(Recipe.of(mixture, tokens=tokens, paths={}, packed=False, needs_paths=False))


def _warn_of_ends(recipe: Recipe) -> list[str]:
    if recipe.budget is not None and all(each.size is not None for each in recipe.ingredients):
        return []
    return [
        "Ray Data repeats no source, and ends with the first that is used up; the mixture states no sizes or budget"
    ]


def example_shares(mixture: Mixture, datasets: Mapping[str, object], *, packed: bool) -> dict[str, float]:
    """Return source -> share of examples, of the sources that have a share.

    Raises InputError where one of them has no data set, or a data set no source.
    """
    recipe = Recipe.of(mixture, tokens=None, paths={name: name for name in datasets}, packed=packed, needs_paths=False)
    names = [each.name for each in recipe.ingredients]
    lacking = [name for name in names if name not in datasets]
    if lacking:
        raise InputError(
            "a source with a share has no data set",
            where="datasets",
            got=f"none for {', '.join(lacking)}",
            wanted=f"one for each of {', '.join(names)}",
        )
    return dict(zip(names, recipe.numbers("examples"), strict=True))


def interleave(mixture: Mixture, datasets: Mapping[str, Any], *, seed: int, packed: bool) -> Any:
    """See ``Mixture.interleave``."""
    from datasets import interleave_datasets

    shares = example_shares(mixture, datasets, packed=packed)
    return interleave_datasets(
        [datasets[name] for name in shares],
        probabilities=list(shares.values()),
        seed=seed,
        stopping_strategy="all_exhausted",
    )


TRAINERS = {
    "interleave": Trainer("Hugging Face datasets, interleave_datasets", "examples", _interleave),
    "ray-data": Trainer("Ray Data, Dataset.mix", "examples", _ray_data, check=_warn_of_ends),
}
