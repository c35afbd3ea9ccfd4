"""Reading and writing run files: YAML with line numbers, strict dotted overrides, every problem reported at once."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import yaml
from pydantic import ValidationError

from mixray.config import yaml_text
from mixray.config.data import READERS
from mixray.config.explain import explain
from mixray.config.robust import RobustConfig
from mixray.config.schema import RunConfig
from mixray.config.section import RunFile
from mixray.errors import InputError

Overrides = Sequence[str] | Mapping[str, object]
Document = dict[str, object]
"""A run file as YAML reads it: key -> value or section. No value is checked yet."""
Kind = TypeVar("Kind", bound=RunFile)


@overload
def load_config(path: str | Path, overrides: Overrides = ()) -> RunConfig: ...
@overload
def load_config(path: str | Path, overrides: Overrides = (), *, kind: type[Kind]) -> Kind: ...
def load_config(path: str | Path, overrides: Overrides = (), *, kind: type[RunFile] = RunConfig) -> RunFile:
    """Read and check a run file of one ``kind``, or of either kind where ``kind`` is ``RunFile``.

    Raises InputError with the line of every problem.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(
            "the run file does not exist",
            where=str(path),
            remedy="check its path, or write a new one with mixray init FILE",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "the run file cannot be read", where=str(path), got=str(error), wanted="a YAML file"
        ) from error
    return parse_config(text, overrides, name=str(path), kind=kind)


@overload
def parse_config(text: str, overrides: Overrides = (), *, name: str = "run file") -> RunConfig: ...
@overload
def parse_config(text: str, overrides: Overrides = (), *, name: str = "run file", kind: type[Kind]) -> Kind: ...
def parse_config(
    text: str, overrides: Overrides = (), *, name: str = "run file", kind: type[RunFile] = RunConfig
) -> RunFile:
    """Check the text of a run file as ``load_config`` does; ``name`` stands for the file in messages."""
    raw, lines = _read_yaml(text, name)
    merged = _with_overrides(raw, overrides)
    if kind is RunFile:
        kind = _kind_of(merged, name)
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        explain(error, merged, name, lines, [key for key, _ in override_items(overrides)], kind)


def _kind_of(document: Document, name: str) -> type[RunFile]:
    """Return the kind of run file that has more of the document's keys to itself."""
    shared = set(RunFile.model_fields)
    matches = {kind: len((set(kind.model_fields) - shared) & set(document)) for kind in (RunConfig, RobustConfig)}
    if not any(matches.values()):
        raise InputError(
            "this is not a valid run file",
            where=name,
            got=f"the keys {', '.join(map(str, document)) or 'of an empty file'}",
            wanted="'sources' and 'targets' to search for a mixture, or 'data' and 'arms' to compare robust training",
        )
    return RobustConfig if matches[RobustConfig] > matches[RunConfig] else RunConfig


def dump_config(config: RunFile) -> str:
    """Return the whole config as a run file, defaults included: ``parse_config`` of it is equal to ``config``."""
    return yaml_text.dump(config.model_dump(mode="json"))


def write_starter(path: str | Path, kind: Literal["mixture", "robust"]) -> None:
    """Write a commented run file of a kind, which runs as it is, for ``mixray init``.

    Raises InputError where the file exists or its folder cannot be written.
    """
    text = (files("mixray.config") / f"starter_{kind}.yaml").read_text(encoding="utf-8")
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError(
            "the file already exists", where=str(path), remedy="choose another name: mixray init NAME.yaml"
        ) from error
    except OSError as error:
        raise InputError("the run file cannot be written", where=str(path), got=error) from error


# ----------------------------------------------------------------------------------------------------------- overrides


def _with_overrides(document: Document, overrides: Overrides) -> Document:
    """Return a copy of the document with ``dotted.key=value`` set.

    Raises InputError where a key leads through a value that is no section.
    """
    merged: Document = _copy(document)
    for key, value in override_items(overrides):
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
        section[last] = _copy(value)
    return merged


def override_items(overrides: Overrides) -> list[tuple[str, object]]:
    """Return the dotted key and the value of every override; text is read as YAML.

    Raises InputError for text that is not ``dotted.key=value``, and for a value that is not valid YAML.
    """
    if isinstance(overrides, Mapping):
        for key in overrides:
            if not isinstance(key, str) or not all(key.split(".")):
                raise InputError(
                    "an override is not understood", got=repr(key), wanted="a dotted key, e.g. 'proxy.tokens'"
                )
        return list(overrides.items())
    items: Document = {}
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not all(key.split(".")):
            raise InputError(
                "an override is not understood",
                got=repr(text),
                wanted="dotted.key=value, e.g. seed=1",
                remedy=None if separator else _FILE_REMEDY if _is_file_name(text) else _QUOTES_REMEDY,
            )
        try:
            content = yaml_text.load(value)[0]
        except yaml.YAMLError as error:
            got = f"{value!r}: {yaml_text.fault(error)}"
            where = f"the override {key}=..."
            raise InputError("an override's value is not YAML", where=where, got=got, remedy=_QUOTES_REMEDY) from error
        if key.rpartition(".")[2] in READERS and items.get(key, content) != content:
            both = yaml_text.dump([items[key], content], flow=True).strip()
            raise InputError(
                f"the override {key!r} stands twice; a shell makes two of {{a,b}}",
                got=both[1:-1],
                wanted="the files of a pool in one override",
                remedy=f"write {shlex.quote(f'{key}={both}')}",
            )
        items[key] = content
    return list(items.items())


_FILE_REMEDY = (
    "name one run file; put a pattern of data files in quotes, or the shell replaces it by their names: "
    "'sources.NAME.jsonl=/data/*.jsonl'"
)
_QUOTES_REMEDY = "put quotes around an override with spaces, brackets or *: 'mixture.bounds.NAME=[0, 0.3]'"


def _is_file_name(text: str) -> bool:
    return os.sep in text or bool(Path(text).suffix)


def _copy(value: Any) -> Any:
    return {key: _copy(child) for key, child in value.items()} if isinstance(value, Mapping) else value


def _read_yaml(text: str, name: str) -> tuple[Document, yaml_text.Lines]:
    try:
        raw, lines = yaml_text.load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}, line {mark.line + 1}" if mark else name
        raise InputError("the run file is not valid YAML", where=where, got=yaml_text.fault(error)) from error
    if not isinstance(raw, dict):
        got = "an empty file" if raw is None else "a list" if isinstance(raw, list) else "a single value"
        raise InputError("the run file is not a mapping", where=name, got=got, wanted="keys and values")
    return raw, lines
