"""What ``mixray config`` prints: a page for each kind of run file that has the key."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mixray.config.fields import KeyReference

TITLES = {
    "mixture": "Run file that searches for a mixture",
    "robust": "Run file that compares robust training methods",
}
"""The kind of run file -> how pages name it."""


def key_pages(references: Mapping[str, KeyReference]) -> list[RenderableType]:
    """Return the pages on a key, by kind of run file. Kinds in which it means the same share a page."""
    kinds: dict[KeyReference, list[str]] = {}
    for kind, reference in references.items():
        kinds.setdefault(reference, []).append(kind)
    return [_page(reference, [TITLES[kind] for kind in names]) for reference, names in kinds.items()]


def _page(reference: KeyReference, titles: list[str]) -> RenderableType:
    lines: list[RenderableType] = [Text(reference.key or titles[0], style="bold")]
    if reference.key:
        default = "required" if reference.default is None else f"default: {reference.default}"
        lines += [_indented(line) for line in (f"in: {'; '.join(titles)}", f"type: {reference.type}", default)]
    return Group(*lines, _indented(reference.description), *([_keys_table(reference)] if reference.keys else []), "")


def _indented(line: str) -> RenderableType:
    return Padding(Text(line), (0, 0, 0, 2), expand=False)


def _keys_table(reference: KeyReference) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("key", no_wrap=True)
    table.add_column("default", overflow="fold", max_width=24)
    table.add_column("meaning", overflow="fold")
    for entry in reference.keys:
        short = entry.key.removeprefix(f"{reference.key}.") if reference.key else entry.key
        default = "required" if entry.default is None else "" if entry.keys else entry.default
        table.add_row(Text(short), Text(default), Text(entry.description))
    return Padding(table, (1, 0, 0, 2), expand=False)
