"""Reading a run file: YAML with line numbers, strict dotted overrides, every problem reported at once."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import BaseModel, ValidationError

from mixray.config.schema import RunConfig
from mixray.errors import InputError

Overrides = Sequence[str] | Mapping[str, Any]
KeyPath = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, except that ``3e-3`` is a number and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(  # type: ignore[no-untyped-call]
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_config(path: str | Path, overrides: Overrides = ()) -> RunConfig:
    """The checked config of a run file. Raises InputError with the line of every problem."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the run file cannot be read", where=str(path), got=str(error), wanted="a YAML file") from error
    return parse_config(text, overrides, name=str(path))


def parse_config(text: str, overrides: Overrides = (), *, name: str = "run file") -> RunConfig:
    """Like ``load_config`` for text already read; ``name`` stands for the file in messages."""
    raw, lines = _read_yaml(text, name)
    merged = with_overrides(raw, overrides)
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        _explain(error, name, lines, overrides)


def with_overrides(raw: Mapping[str, Any], overrides: Overrides) -> dict[str, Any]:
    """A copy of the mapping with ``dotted.key=value`` set; values are YAML. Raises InputError for what is not that."""
    merged = _copy(raw)
    for key, value in _override_items(overrides):
        *parents, last = key.split(".")
        section = merged
        for depth, parent in enumerate(parents):
            child = section.get(parent)
            if child is None:
                child = section[parent] = {}
            if not isinstance(child, dict):
                raise InputError(
                    f"the override {key!r} goes through a value that has no keys",
                    where=".".join(parents[: depth + 1]),
                    got=repr(child),
                    wanted="a section",
                )
            section = child
        section[last] = value
    return merged


def overridden_keys(overrides: Overrides) -> list[str]:
    """The dotted keys that the overrides set."""
    return [key for key, _ in _override_items(overrides)]


def _override_items(overrides: Overrides) -> list[tuple[str, Any]]:
    if isinstance(overrides, Mapping):
        return list(overrides.items())
    items = []
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not all(key.split(".")):
            raise InputError("an override is not understood", got=repr(text), wanted="dotted.key=value, e.g. seed=1")
        try:
            items.append((key, yaml.load(value, _Loader)))
        except yaml.YAMLError as error:
            raise InputError("an override's value is not YAML", where=key, got=repr(value), wanted=str(error)) from error
    return items


def _copy(value: Any) -> Any:
    return {key: _copy(child) for key, child in value.items()} if isinstance(value, Mapping) else value


def _read_yaml(text: str, name: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """The document and the line (from 1) of every key path in it."""
    try:
        raw = yaml.load(text, _Loader)
        node = yaml.compose(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}, line {mark.line + 1}" if mark else name
        raise InputError("the run file is not valid YAML", where=where, got=getattr(error, "problem", error)) from error
    if not isinstance(raw, dict):
        raise InputError("the run file is not a mapping", where=name, got=type(raw).__name__, wanted="keys and values")
    return raw, dict(_lines(node, ()))


def _lines(node: yaml.Node | None, path: KeyPath) -> typing.Iterator[tuple[KeyPath, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, key.value), key.start_mark.line + 1
            yield from _lines(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, index), value.start_mark.line + 1
            yield from _lines(value, (*path, index))


_UNION_TAG = re.compile(r"\[key\]$|constrained-|(tuple|list|dict)\[")
"""Parts of pydantic's locations that name a branch of a union and not a key."""


def _explain(error: ValidationError, name: str, lines: Mapping[KeyPath, int], overrides: Overrides) -> NoReturn:
    overridden = set(overridden_keys(overrides))
    problems = [_problem(dict(item), name, lines, overridden) for item in error.errors()]
    first, *others = problems
    if others:
        first.args = ("\n".join([str(first), *(f"also: {other}" for other in others)]),)
    raise first from None


def _problem(item: dict[str, Any], name: str, lines: Mapping[KeyPath, int], overridden: set[str]) -> InputError:
    loc: KeyPath = tuple(part for part in item["loc"] if not _UNION_TAG.match(str(part)))
    dotted = ".".join(str(part) for part in loc)
    where = _where(loc, dotted, name, lines, overridden)
    if item["type"] == "extra_forbidden":
        known = sorted(_known_keys(loc[:-1]))
        near = difflib.get_close_matches(str(loc[-1]), known, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else None
        return InputError(f"unknown key {dotted!r}", where=where, wanted=f"one of {', '.join(known)}", remedy=remedy)
    if item["type"] == "missing":
        return InputError(f"the key {dotted!r} is missing", where=where, wanted="a value; it has no default")
    message = item["msg"].removeprefix("Value error, ")
    got = repr(item["input"]) if not isinstance(item["input"], dict) else None
    return InputError(f"{dotted or 'the run file'} is wrong", where=where, got=got, wanted=message)


def _where(loc: KeyPath, dotted: str, name: str, lines: Mapping[KeyPath, int], overridden: set[str]) -> str:
    for key in overridden:
        if dotted == key or dotted.startswith(f"{key}.") or (key.startswith(f"{dotted}.") and loc not in lines):
            return f"the override {key}=..."
    for depth in range(len(loc), 0, -1):
        if line := lines.get(loc[:depth]):
            return f"{name}, line {line}"
    return name


def _known_keys(path: KeyPath) -> set[str]:
    """The keys that the schema allows in the section at ``path``."""
    found: set[type[BaseModel]] = {RunConfig}
    inside_mapping = False
    for part in path:
        if inside_mapping:
            inside_mapping = False
            continue
        annotations = [model.model_fields[str(part)].annotation for model in found if str(part) in model.model_fields]
        found = set().union(*(_sections(annotation) for annotation in annotations))
        inside_mapping = any(_is_mapping(annotation) for annotation in annotations)
    return {key for model in found for key in model.model_fields}


def _sections(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return set().union(*(_sections(argument) for argument in typing.get_args(annotation)), set())


def _is_mapping(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return any(_is_mapping(argument) for argument in typing.get_args(annotation))
    return origin is dict
