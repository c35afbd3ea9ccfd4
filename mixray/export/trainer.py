"""What a trainer is to an export: the quantity of its numbers, what its file looks like, and what it cannot express."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from mixray.export.recipe import Quantity, Recipe

Check = Callable[[Recipe], list[str]]
"""Returns warnings of what a trainer does otherwise than the mixture says; raises InputError where it cannot do it."""


@dataclass(frozen=True)
class Line:
    """A source in a trainer's file. ``number``: its share, epochs or count, an int where it is a count."""

    name: str
    path: str
    number: float | int


@dataclass(frozen=True)
class Sheet:
    """What a trainer's file is written from. ``statement``: the lines that say what the numbers are."""

    lines: tuple[Line, ...]
    statement: list[str]
    recipe: Recipe

    @property
    def paths(self) -> list[str]:
        """Where the sources are, in the order of the lines."""
        return [line.path for line in self.lines]

    @property
    def numbers(self) -> list[float | int]:
        """The lines' numbers."""
        return [line.number for line in self.lines]


@dataclass(frozen=True)
class Trainer:
    """A trainer's format.

    ``title``: the trainer and the option or file that the text is for. ``write``: the text. ``needs_paths``: whether
    sources' names are no use to it. ``comments``: whether the statement stands above the text in lines of ``# ``;
    otherwise ``write`` puts it into a field, if there is room for one.
    """

    title: str
    quantity: Quantity
    write: Callable[[Sheet], str]
    needs_paths: bool = True
    comments: bool = True
    check: Check = lambda _: []


def yaml_text(content: object) -> str:
    """Return YAML whose keys keep their order and whose floats every YAML reader takes for floats."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)


def python_list(items: Sequence[Any], *, indent: int = 4) -> str:
    """Return the source of a Python list with one item a line. ``items``: expressions."""
    space = " " * indent
    return "[\n" + "".join(f"{space}{item},\n" for item in items) + space[4:] + "]"


def several_passes(recipe: Recipe) -> list[str]:
    """Return ``name x passes`` of the sources that the budget reads more than once; none where that is unknown."""
    passes = zip(recipe.ingredients, recipe.epochs() or [], strict=False)
    return [f"{each.name} {epochs:.4g} times" for each, epochs in passes if epochs > 1]
