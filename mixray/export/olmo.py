"""OLMo-core's source mixture and Olmix: shares of tokens, with a limit on how often a source may repeat."""

from __future__ import annotations

from math import ceil

from mixray.export.recipe import Recipe
from mixray.export.trainer import Sheet, Trainer, yaml_text

SLACK = 1.01
"""OLMo-core rounds to whole sequences, and refuses a source that then lacks a token."""


def _repetition_limits(recipe: Recipe) -> list[float]:
    """Return how often each source must be allowed to repeat, in hundredths, rounded up; 1 where that is unknown."""
    epochs = recipe.epochs() or [0.0] * len(recipe.ingredients)
    return [max(1.0, ceil(100 * passes * SLACK) / 100) for passes in epochs]


def _source_mixture(sheet: Sheet) -> str:
    sources = [
        {
            "source_name": line.name,
            "target_ratio": line.number,
            "paths": [line.path],
            "max_repetition_ratio": limit,
            "max_source_fraction": 1.0,
        }
        for line, limit in zip(sheet.lines, _repetition_limits(sheet.recipe), strict=True)
    ]
    return yaml_text({"sources": sources})


def _olmix(sheet: Sheet) -> str:
    limits = _repetition_limits(sheet.recipe)
    mix = {
        line.name: {"weight": line.number, "repetition_factor": limit}
        for line, limit in zip(sheet.lines, limits, strict=True)
    }
    return yaml_text({"mix": mix})


def _warn_of_unknown_repetition(recipe: Recipe) -> list[str]:
    if recipe.epochs() is not None:
        return []
    return ["no source may repeat: the mixture states no sizes or no budget, so the limits on repetition are 1"]


TRAINERS = {
    "olmo-core": Trainer("OLMo-core, source mixture", "tokens", _source_mixture, check=_warn_of_unknown_repetition),
    "olmix": Trainer("Olmix", "tokens", _olmix, needs_paths=False, check=_warn_of_unknown_repetition),
}
