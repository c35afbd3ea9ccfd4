"""``mixray export``: a mixture in a trainer's own format, with a statement of what its numbers are."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mixray.errors import InputError
from mixray.export import fine_tuning, interleaving, megatron, olmo, pretraining
from mixray.export.recipe import Quantity, Recipe
from mixray.export.trainer import Line, Sheet, Trainer
from mixray.mixture import Mixture


def _columns(recipe: Recipe) -> dict[str, list[float]]:
    """Return unit -> number of each source, for every unit that the mixture can be converted to."""
    columns: dict[str, list[float]] = {"share_of_tokens": recipe.shares}
    if recipe.has_sizes and not recipe.packed:
        columns["share_of_documents"] = recipe.numbers("examples")
    if (epochs := recipe.epochs()) is not None:
        columns["epochs"] = epochs
    return columns


def _json(sheet: Sheet) -> str:
    columns = _columns(sheet.recipe)
    sources = {
        line.name: {"path": line.path, **{unit: values[place] for unit, values in columns.items()}}
        for place, line in enumerate(sheet.lines)
    }
    content = {
        "comment": sheet.statement,
        "budget_tokens": sheet.recipe.budget,
        "sources": sources,
        "left_out": list(sheet.recipe.dropped),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _csv(sheet: Sheet) -> str:
    columns, text = _columns(sheet.recipe), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "path", *columns])
    for place, line in enumerate(sheet.lines):
        writer.writerow([line.name, line.path, *(values[place] for values in columns.values())])
    return text.getvalue()


TRAINERS: dict[str, Trainer] = {
    **megatron.TRAINERS,
    **olmo.TRAINERS,
    **pretraining.TRAINERS,
    **interleaving.TRAINERS,
    **fine_tuning.TRAINERS,
    "json": Trainer("JSON", "named", _json, needs_paths=False, comments=False),
    "csv": Trainer("CSV", "named", _csv, needs_paths=False, comments=False),
}
"""Name, as ``--to`` takes it -> format."""


@dataclass(frozen=True)
class Export:
    """A mixture for a trainer.

    ``text``: what the trainer reads. ``numbers``: source -> its number there. ``statement``: what the numbers are, and
    what they are of; also in ``text`` where the format has room. ``warnings``: what the trainer will do otherwise.
    """

    trainer: str
    text: str
    numbers: dict[str, float | int]
    statement: list[str]
    warnings: list[str]

    def save(self, path: str | Path) -> None:
        """Write the text to a file."""
        Path(path).write_text(self.text, encoding="utf-8")


def export_mixture(
    mixture: Mixture, trainer: str, *, tokens: int | None, paths: Mapping[str, str], packed: bool
) -> Export:
    """Return a mixture in a trainer's format. See ``Mixture.export``."""
    kind = TRAINERS.get(trainer)
    if kind is None:
        near = get_close_matches(trainer, TRAINERS, 1, 0.5)
        raise InputError(
            "unknown trainer",
            where="--to",
            got=trainer,
            wanted=f"one of {', '.join(TRAINERS)}",
            remedy=f"did you mean '{near[0]}'?" if near else None,
        )
    recipe = Recipe.of(mixture, tokens=tokens, paths=paths, packed=packed, needs_paths=kind.needs_paths)
    warnings = kind.check(recipe)
    numbers = [int(n) if kind.quantity == "documents" else n for n in recipe.numbers(kind.quantity)]
    lines = tuple(Line(each.name, each.path, number) for each, number in zip(recipe.ingredients, numbers, strict=True))
    statement = _statement(recipe, kind)
    text = kind.write(Sheet(lines, statement, recipe))
    if kind.comments:
        text = "".join(f"# {line}\n" for line in statement) + text
    return Export(trainer, text, {line.name: line.number for line in lines}, statement, warnings)


def _statement(recipe: Recipe, kind: Trainer) -> list[str]:
    """Return the lines that say what the numbers are."""
    lines = [f"{recipe.title}, for {kind.title}", f"each number is {_meaning(recipe, kind.quantity)}"]
    shares = ", ".join(f"{each.name} {each.share:.6g}" for each in recipe.ingredients)
    lines.append(f"shares of {recipe.share_of}, in the order of the sources: {shares}")
    if (epochs := recipe.epochs()) is not None:
        names = [each.name for each in recipe.ingredients]
        passes = ", ".join(f"{name} {number:.4g}" for name, number in zip(names, epochs, strict=True))
        lines.append(f"epochs in {recipe.budget:,} tokens: {passes}")
    if recipe.dropped:
        lines.append(f"left out, their share is 0: {', '.join(recipe.dropped)}")
    # A name or path may hold a line break, which would end a comment.
    return [" ".join(line.splitlines()) for line in lines]


def _meaning(recipe: Recipe, quantity: Quantity) -> str:
    if quantity == "tokens":
        return f"a share of {recipe.share_of}, drawn as sequences of one length"
    if quantity == "examples" and recipe.packed:
        return f"a share of rows, which have one length and so are shares of {recipe.share_of}"
    if quantity == "examples":
        return "a share of documents: the share of tokens divided by the source's mean tokens per document"
    if quantity == "named":
        return "in the unit that it is named by"
    if quantity == "epochs":
        return f"the passes over the source in {recipe.budget:,} tokens"
    return f"a number of documents, which make up {recipe.budget:,} tokens"
