"""Counts of how the code reads. ``python tests/counts.py`` prints them; tests/test_structure.py holds the limits.

Generic names are those that say how a value came about rather than what it is, such as ``found``. All names that are
bound count: variables, parameters, functions and classes. ``wanted`` is a part of every error and does not count in
``errors.py``.
"""

from __future__ import annotations

import ast
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "mixray"
GENERIC = {
    "found",
    "wanted",
    "told",
    "made",
    "known",
    "own",
    "asked",
    "kept",
    "seen",
    "given",
    "some",
    "mine",
    "theirs",
}
ANY = re.compile(r"(?:dict|Mapping)\[str, Any\]")


@dataclass(frozen=True)
class Counts:
    """``names``: how many names are bound; ``generic``: those of GENERIC by file; ``lines``: per file; ``files``: per
    folder; ``any_dicts``: occurrences of ``dict[str, Any]`` and ``Mapping[str, Any]`` by file."""

    names: int
    generic: Counter[str]
    lines: dict[str, int]
    files: Counter[str]
    any_dicts: Counter[str]

    @property
    def generic_share(self) -> float:
        return self.generic.total() / self.names

    @property
    def median_lines(self) -> float:
        """Over the files that are not an ``__init__.py``."""
        return statistics.median(count for name, count in self.lines.items() if not name.endswith("__init__.py"))


def count() -> Counts:
    """Count over all files of the package."""
    names, generic, lines, files, any_dicts = 0, Counter[str](), dict[str, int](), Counter[str](), Counter[str]()
    for path in sorted(PACKAGE.rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix()
        bound = list(_bound_names(ast.parse(text)))
        names += len(bound)
        generic[name] += 0 if name == "errors.py" else sum(each.strip("_") in GENERIC for each in bound)
        lines[name] = len(text.splitlines())
        files[str(path.parent.relative_to(PACKAGE))] += path.name != "__init__.py"
        any_dicts[name] += len(ANY.findall(text))
    return Counts(names, +generic, lines, files, +any_dicts)


def _bound_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def main() -> None:
    counts = count()
    print(f"generic names: {counts.generic.total()} of {counts.names}, {counts.generic_share:.2%}")
    for name, number in counts.generic.most_common(10):
        print(f"  {name}: {number}")
    print(f"lines: {sum(counts.lines.values())} in {len(counts.lines)} files, median {counts.median_lines:g}")
    print(f"largest folders: {dict(counts.files.most_common(5))}")
    print(f"dict[str, Any]: {counts.any_dicts.total()}")
    for name, number in counts.any_dicts.most_common(10):
        print(f"  {name}: {number}")


if __name__ == "__main__":
    main()
