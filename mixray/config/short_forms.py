"""The right form of what a person wrote too short: ``tokenizer: gpt2``, ``bounds.python=0.3``, ``arms=mixmin,natural``.

Nothing is accepted here that the schema refuses. The result is the remedy in an error's message.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from mixray.config import yaml_text
from mixray.config.fields import NAME, all_keys, allowed_keys, annotations_at, is_mapping, sections_of
from mixray.config.yaml_text import KeyPath

MOST_FORMS = 4
"""How many right forms a message lists at most."""
BOUNDS = ("mixture", "bounds")
COMPRESSED = (".gz", ".zst")


def right_forms(kind: type[BaseModel], path: KeyPath, value: Any, *, on_command_line: bool) -> str | None:
    """Return what to write in place of ``value`` at a key path of a run file; None where nothing is near.

    ``on_command_line``: as overrides, quoted for a shell, or else as lines of the file.
    """
    if path[:2] == BOUNDS and len(path) <= 3 and isinstance(value, int | float) and 0 <= value <= 1:
        key = ".".join(BOUNDS) + "." + (path[2] if len(path) == 3 else NAME)
        return (
            f"write {_written(tuple(key.split('.')), [0, value], on_command_line)} for at most {value:g}, "
            f"[{value:g}, 1] for at least {value:g}, [{value:g}, {value:g}] for exactly {value:g}"
        )
    candidates = [((*path, *inner), content) for inner, content in _candidates(kind, path, value)]
    forms = list(dict.fromkeys(_written(*candidate, on_command_line) for candidate in candidates))
    return f"write {' or '.join(forms[:MOST_FORMS])}" if forms else None


def right_key(kind: type[BaseModel], path: KeyPath, value: Any, *, on_command_line: bool) -> str | None:
    """Return what a person may mean by an unknown key: one of the same name elsewhere, or nearly so; None if none is.

    ``value``: what stands there. Where it does not fit the other key, the right form follows.
    """
    elsewhere = [key for key in all_keys(kind) if key.rpartition(".")[2] == path[-1]][:MOST_FORMS]
    if len(elsewhere) == 1:
        right = tuple(elsewhere[0].split("."))
        while isinstance(value, Mapping) and len(value) == 1 and annotations_at(kind, (*right, *value)):
            ((name, value),) = value.items()
            right = (*right, name)
        form = right_forms(kind, right, value, on_command_line=on_command_line)
        is_valid = any(_accepts(annotation, value) for annotation in annotations_at(kind, right))
        return f"did you mean {'.'.join(right)!r}?" + (f" {form}" if form and not is_valid else "")
    near = elsewhere or difflib.get_close_matches(path[-1], sorted(allowed_keys(kind, path[:-1])), n=1)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else None


def _candidates(kind: type[BaseModel], path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, Any]]:
    """Yield (keys below ``path``, content) for each way to write the value that the schema accepts there."""
    if isinstance(value, Mapping):
        return
    for annotation in annotations_at(kind, path):
        # Of a section that is one of several kinds, the other kinds' keys must go.
        is_whole = not _accepts(annotation, {})
        if isinstance(value, str):
            parts = [part.strip() for part in value.split(",")]
            if _accepts(annotation, parts):
                yield (), parts
            if is_whole and _accepts(annotation, {value: {}}):
                yield (), {value: {}}
                continue
        if is_mapping(annotation):
            yield from (((NAME, *inner), content) for inner, content in _candidates(kind, (*path, NAME), value))
            continue
        sections = sorted(sections_of(annotation), key=lambda section: section.__name__)
        keys = [key for section in sections for key in section.model_fields if _accepts(annotation, {key: value})]
        for key in [key for key in keys if _is_file_of(key, value)] or keys:
            yield ((), {key: value}) if is_whole else ((key,), value)


def _is_file_of(key: str, value: Any) -> bool:
    """Return whether a file, or the first of a list, ends as the key is called: ``jsonl`` for ``a.jsonl.gz``."""
    first = value[0] if isinstance(value, Sequence) and not isinstance(value, str) and value else value
    text = str(first)
    for ending in COMPRESSED:
        text = text.removesuffix(ending)
    return text.endswith(f".{key}")


def _accepts(annotation: Any, value: Any) -> bool:
    try:
        TypeAdapter(annotation).validate_python(value)
    except ValidationError:
        return False
    return True


def _written(path: KeyPath, content: Any, on_command_line: bool) -> str:
    if on_command_line:
        return shlex.quote(f"{'.'.join(path)}={_flow(content)}")
    *_, section, key = ("", *path)
    return f"{key}: {_flow(content)}" + (f" in {section}" if section else "")


def _flow(content: Any) -> str:
    """Write a value on one line, as it stands in a run file."""
    if isinstance(content, str) and yaml_text.load(content)[0] == content and "," not in content:
        return content
    return yaml_text.dump([content], flow=True).strip()[1:-1]
