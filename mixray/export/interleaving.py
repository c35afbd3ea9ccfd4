"""Hugging Face datasets' way to interleave data sets: as a file, and on data sets at hand."""

from __future__ import annotations

from collections.abc import Mapping
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
}
