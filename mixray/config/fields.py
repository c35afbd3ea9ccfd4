"""The reference of the run file: what each key means, read from the schema, and where a key path leads in it."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import annotated_types
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue

from mixray.config import yaml_text
from mixray.config.robust import RobustConfig
from mixray.config.schema import RunConfig
from mixray.config.section import RunFile
from mixray.errors import InputError

KINDS: dict[str, type[RunFile]] = {"mixture": RunConfig, "robust": RobustConfig}
"""What a run file is for -> its schema."""
TYPE_WORDS = {int: "integer", float: "number", str: "text", bool: "true | false", type(None): "null", Any: "any value"}
NAME = "NAME"
"""Stands in a key path for the names that a person chooses, such as those of sources."""


@dataclass(frozen=True)
class KeyReference:
    """What a person needs to know about one key of the run file.

    ``key`` is the dotted path; ``default`` is None where the key is required; ``keys`` are those of a section.
    """

    key: str
    type: str
    default: str | None
    description: str
    keys: tuple[KeyReference, ...] = ()


def key_references(key: str = "") -> dict[str, KeyReference]:
    """Return what a dotted key means in each kind of run file that has it; without a key, the whole run file.

    Raises InputError with the nearest key where no kind has it.
    """
    path = tuple(part for part in key.split(".") if part)
    references = {name: reference for name, kind in KINDS.items() if (reference := _reference(kind, path))}
    if not references:
        keys = sorted({reference.key for kind in KINDS.values() for reference in _all_references({kind}, "")})
        begun = [name for name in keys if name.startswith(key)]
        inside = [name for name in keys if name.endswith(f".{path[-1]}")]
        near = begun or inside or difflib.get_close_matches(key, keys, n=1)
        raise InputError(
            f"unknown key {key!r}",
            wanted="a key of the run file; mixray config lists them",
            remedy=f"did you mean {near[0]!r}?" if near else None,
        )
    return references


def json_schema() -> JsonSchemaValue:
    """Return the JSON schema of a run file of either kind, which editors use to complete and check it."""
    return TypeAdapter(RunConfig | RobustConfig).json_schema() | {"title": "mixray run file"}


def allowed_keys(kind: type[BaseModel], path: Sequence[str]) -> set[str]:
    """Return the keys that the schema allows in the section at ``path``, which holds the names a person chose too."""
    sections = set().union(*(sections_of(annotation) for annotation in annotations_at(kind, path)))
    return {key for section in sections for key in section.model_fields}


def annotations_at(kind: type[BaseModel], path: Sequence[str]) -> list[Any]:
    """Return the types that a value at ``path`` may have; several where branches of a union have its last key."""
    annotations: list[Any] = [kind]
    for part in path:
        if inner := [inner for annotation in annotations for inner in _item_types(annotation)]:
            annotations = inner
            continue
        sections = set().union(*(sections_of(annotation) for annotation in annotations))
        fields = _fields(sections).get(part, [])
        annotations = [typing.Annotated[field.annotation, field] for field in fields]
    return annotations


def all_keys(kind: type[BaseModel]) -> list[str]:
    """Return every dotted key of a kind of run file; ``NAME`` stands for names that a person chooses."""
    return [reference.key for reference in _all_references({kind}, "")]


def _reference(kind: type[RunFile], path: tuple[str, ...]) -> KeyReference | None:
    if not path:
        return KeyReference("", "section", None, _one_line(kind.__doc__), _references_of({kind}, ""))
    # A person may leave a chosen name out (sources.files) or write one (sources.python.files).
    without_names = [part for part in path if part != NAME]
    for reference in _all_references({kind}, ""):
        parts = reference.key.split(".")
        if [part for part in parts if part != NAME] == without_names:
            return reference
        if len(parts) == len(path) and all(part in (NAME, word) for part, word in zip(parts, path, strict=True)):
            return reference
    return None


def _all_references(sections: Set[type[BaseModel]], prefix: str) -> Iterator[KeyReference]:
    for name, fields in _fields(sections).items():
        yield _field_reference(prefix + name, fields)
        inner = _inner_prefix(prefix + name, fields)
        yield from _all_references(set().union(*(sections_of(field.annotation) for field in fields)), inner)


def _references_of(sections: Set[type[BaseModel]], prefix: str) -> tuple[KeyReference, ...]:
    """Return the references of the sections' keys, without those of their own sections."""
    return tuple(_field_reference(prefix + name, fields) for name, fields in _fields(sections).items())


def _fields(sections: Set[type[BaseModel]]) -> dict[str, list[FieldInfo]]:
    """Return each key of a section, or of the branches of a union of sections, with its field in each of them."""
    fields: dict[str, list[FieldInfo]] = {}
    for section in sorted(sections, key=lambda section: section.__name__):
        for name, field in section.model_fields.items():
            fields.setdefault(name, []).append(field)
    return fields


def _inner_prefix(key: str, fields: Sequence[FieldInfo]) -> str:
    return f"{key}.{NAME}." if any(is_mapping(field.annotation) for field in fields) else f"{key}."


def _field_reference(key: str, fields: Sequence[FieldInfo]) -> KeyReference:
    """Return the reference of a key that each branch of a union may define differently."""
    # A key that names the branch itself, such as kind, has to be written wherever the section is.
    names_branch = len(fields) > 1 and all(len(typing.get_args(field.annotation)) == 1 for field in fields)
    defaults = [] if names_branch else [_default(field) for field in fields if not field.is_required()]
    sections = set().union(*(sections_of(field.annotation) for field in fields))
    return KeyReference(
        key,
        _alternatives(_type_text(field.annotation, field.metadata) for field in fields),
        " or ".join(dict.fromkeys(defaults)) if defaults else None,
        " ".join(dict.fromkeys(_one_line(field.description) for field in fields)),
        _references_of(sections, _inner_prefix(key, fields)),
    )


def _default(field: FieldInfo) -> str:
    """Write a default as one would write it in a run file."""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel) and not value.model_fields_set:
        return "the defaults of its keys"
    plain = TypeAdapter(Any).dump_python(value, mode="json")
    return yaml_text.dump([plain], flow=True).strip()[1:-1]


def _alternatives(types: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(types))


def _type_text(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Write a field's type in words, with the limits of a number: ``integer > 0 | null``."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    limits = "".join(f" {limit}" for entry in metadata for limit in _limits(entry))
    if origin is typing.Annotated:
        return _type_text(arguments[0], [*metadata, *arguments[1:]])
    if origin in (typing.Union, types.UnionType):
        return _alternatives(_type_text(argument) for argument in arguments)
    if origin is typing.Literal:
        return " | ".join(map(str, arguments))
    if origin is dict:
        return f"name -> {_type_text(arguments[1])}"
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return f"list of {_type_text(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(_type_text(argument) for argument in arguments)}]"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return TYPE_WORDS[annotation] + limits


def _limits(entry: Any) -> list[str]:
    if isinstance(entry, FieldInfo):
        return [limit for inner in entry.metadata for limit in _limits(inner)]
    signs = {annotated_types.Gt: ">", annotated_types.Ge: ">=", annotated_types.Lt: "<", annotated_types.Le: "<="}
    sign = signs.get(type(entry))
    return [] if sign is None else [f"{sign} {getattr(entry, type(entry).__name__.lower())}"]


def _one_line(text: str | None) -> str:
    return " ".join((text or "").replace("``", "`").split())


def sections_of(annotation: Any) -> set[type[BaseModel]]:
    """Return the sections that a field of this type may hold, directly or in a list or mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return set().union(*(sections_of(argument) for argument in typing.get_args(annotation)), set())


def is_mapping(annotation: Any) -> bool:
    """Return whether a field of this type may hold names that a person chooses, each with a value."""
    return any(typing.get_origin(branch) is dict for branch in _branches(annotation))


def _item_types(annotation: Any) -> list[Any]:
    """Return the types of what a mapping or list of this type holds; none for other types."""
    arguments = {branch: typing.get_args(branch) for branch in _branches(annotation)}
    items = [arguments[branch] for branch in arguments if typing.get_origin(branch) in (dict, list, tuple)]
    return [each[-1] if each[-1] is not Ellipsis else each[0] for each in items]


def _branches(annotation: Any) -> list[Any]:
    """Return the types that a union consists of; a type that is no union alone."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _branches(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return [branch for argument in arguments for branch in _branches(argument)]
    return [annotation]
