"""What is wrong with a run file, key by key: pydantic's errors in the words of the document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError

from mixray.config.fields import allowed_keys
from mixray.config.section import Misfit
from mixray.config.short_forms import right_forms, right_key
from mixray.config.yaml_text import KeyPath, Lines
from mixray.errors import InputError, without_credentials


def explain(
    error: ValidationError, merged: Any, name: str, lines: Lines, overridden: Iterable[str], kind: type[BaseModel]
) -> NoReturn:
    """Raise the InputError that tells every problem of the document ``merged``, each with its line or its override."""
    faults = [_Fault.of(item, merged) for item in error.errors()]
    best = [fault for fault in faults if not any(fault.is_other_branch_of(other) for other in faults)]
    problems = []
    for loc in dict.fromkeys(fault.loc for fault in best):
        same = [fault for fault in best if fault.loc == loc]
        problems.append(_problem(same, name, _where(loc, name, lines, overridden), kind))
    first, *others = problems
    if others:
        first.args = ("\n".join([str(first), *(f"also: {other}" for other in others)]),)
    raise first from None


_PLAINER = {
    "model_type": "a section of keys and values",
    "dict_type": "a section of keys and values",
    "list_type": "a list [first, second]",
    "tuple_type": "a list [first, second]",
    "string_pattern_mismatch": "a name of letters, digits, - and _ that begins with a letter or a digit",
}
"""What was wanted, by pydantic's error type, where its own words speak of Python."""
_SHAPES = ("model_type", "model_attributes_type", "dict_type", "list_type", "tuple_type", "kind_of_model")
"""Pydantic's error types of a value that has another shape than the schema: a word for a section or list."""
OVERRIDE = "the override"


@dataclass(frozen=True)
class _Fault:
    """One of pydantic's errors. ``loc``: the key path; ``branch``: it tells why one branch of a union does not fit."""

    kind: str
    loc: KeyPath
    branch: bool
    value: Any
    got: str | None
    expected: str

    @classmethod
    def of(cls, item: Any, merged: Any) -> _Fault:
        loc, branch = _in_document(item["loc"], merged, missing=item["type"] == "missing")
        got = item["input"]
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, Misfit):
            loc = (*loc, *cause.key.split("."))
            got = _value_at(merged, loc)
        expected = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        expected = _PLAINER.get(item["type"], expected.partition(", unable to parse")[0])
        hidden = isinstance(cause, ValueError) and isinstance(got, Mapping | None)
        return cls(item["type"], loc, branch, got, None if hidden else _short(got), expected)

    def is_other_branch_of(self, other: _Fault) -> bool:
        """Whether the other one comes from a branch of the same union that the value fits better."""
        return self.branch and len(other.loc) > len(self.loc) and other.loc[: len(self.loc)] == self.loc


def _in_document(loc: Sequence[str | int], merged: Any, *, missing: bool) -> tuple[KeyPath, bool]:
    """Return the parts of pydantic's location that are keys of the document, and whether it ends in one that is not.

    The others name a branch of a union (``tuple[...]``), or say that the key itself is meant (``[key]``).
    """
    path: list[str] = []
    for depth, part in enumerate(loc):
        if isinstance(merged, Mapping):
            exists = part in merged
        else:
            exists = isinstance(part, int) and isinstance(merged, list | tuple)
        if exists or (missing and depth == len(loc) - 1):
            path.append(str(part))
            merged = _value_at(merged, (str(part),))
    branch = bool(loc) and not missing and loc[-1] != "[key]" and [str(loc[-1])] != path[-1:]
    return tuple(path), branch


def _value_at(value: Any, path: KeyPath) -> Any:
    """Return what stands at a key path; None where nothing does."""
    for part in path:
        if isinstance(value, Mapping):
            value = next((child for key, child in value.items() if str(key) == part), None)
        else:
            value = value[int(part)] if isinstance(value, list | tuple) and int(part) < len(value) else None
    return value


def _short(value: Any) -> str:
    text = without_credentials(repr(value))
    return text if len(text) <= 100 else f"{text[:97]}..."


def _problem(same: Sequence[_Fault], name: str, where: str, kind: type[BaseModel]) -> InputError:
    """Return one error for all that is wrong at one key."""
    fault, dotted = same[0], ".".join(same[0].loc)
    on_command_line = where.startswith(OVERRIDE)
    if fault.kind == "extra_forbidden":
        remedy = right_key(kind, fault.loc, fault.value, on_command_line=on_command_line)
        allowed = ", ".join(sorted(allowed_keys(kind, fault.loc[:-1])))
        return InputError(f"unknown key {dotted!r}", where=where, wanted=f"one of {allowed}", remedy=remedy)
    if fault.kind == "missing":
        return InputError(f"the key {dotted!r} is missing", where=where, wanted="a value; it has no default")
    expected = " or ".join(dict.fromkeys(other.expected for other in same))
    forms = [
        right_forms(kind, other.loc, other.value, on_command_line=on_command_line)
        for other in same
        if other.kind in _SHAPES and not isinstance(other.value, Mapping)
    ]
    remedy = next(filter(None, forms), None)
    return InputError(f"{dotted or name} is not valid", where=where, got=fault.got, wanted=expected, remedy=remedy)


def _where(loc: KeyPath, name: str, lines: Lines, overridden: Iterable[str]) -> str:
    dotted = ".".join(loc)
    for key in overridden:
        if dotted == key or dotted.startswith(f"{key}.") or (key.startswith(f"{dotted}.") and loc not in lines):
            return f"{OVERRIDE} {key}=..."
    for depth in range(len(loc), 0, -1):
        if line := lines.get(loc[:depth]):
            return f"{name}, line {line}"
    return name
