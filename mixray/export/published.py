"""Mixtures in the formats that others publish, read as mixtures.

mixray's own file; DoReMi's JSON; RegMix's, Olmix's, OLMo-core's and Levanter's YAML; a plain object name -> share.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import fsum, isfinite
from pathlib import Path
from typing import Any

import yaml

from mixray.errors import InputError, first_line
from mixray.mixture import SCHEMA, Mixture, load_mixture

FORMATS = (
    "a mixture file of mixray, DoReMi's train_domain_weights, RegMix's train, Olmix's mix, OLMo-core's sources, "
    "Levanter's data.train_weights, or an object of shares by source"
)
NOTICEABLE = 0.01
"""Shares whose sum is off by more are renormalised with a warning: rounding does less."""


def read_mixture(path: str) -> tuple[Mixture, list[str]]:
    """Return the mixture in a file, and warnings. Raises InputError where it is none of these formats.

    Shares that do not sum to 1 are renormalised.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = json.loads(text) if path.endswith(".json") else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError("the mixture file cannot be read", where=path, got=first_line(error)) from None
    if isinstance(content, dict) and "schema" in content:
        return load_mixture(path), []
    shares = {str(name): _share(weight, f"{path}: {name}") for name, weight in _weights(content, path).items()}
    total = fsum(shares.values())
    if total == 0:
        raise InputError("the file has no shares above 0", where=path, got=f"{len(shares)} sources", wanted=FORMATS)
    warnings = []
    if abs(total - 1) > NOTICEABLE:
        warnings.append(f"{path}: the shares sum to {total:.6g} and are divided by that")
    return Mixture.from_weights({name: share / total for name, share in shares.items()}), warnings


def _share(value: Any, where: str) -> float:
    """Return a share or weight that a file states."""
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = float("nan")
    if not (isfinite(share) and share >= 0):
        raise InputError("a share is not a number from 0 up", where=where, got=repr(value))
    return share


def _weights(content: object, path: str) -> Mapping[Any, Any]:
    """Return source -> weight from the content of a file."""
    if isinstance(content, dict):
        data = content.get("data")
        if isinstance(content.get("mix"), dict):
            return dict(_leaves(content["mix"], 1.0, "", path))
        if isinstance(content.get("sources"), list):
            return _of_entries(content["sources"], path)
        for section in (content.get("train_domain_weights"), content.get("train_weights"), content.get("train"), data):
            if isinstance(section, dict):
                return _weights(section, path)
        phases = content.get("train_weights")
        if isinstance(phases, list):
            raise InputError(
                "the weights change during the training",
                where=f"{path}: train_weights",
                got=f"{len(phases)} phases",
                wanted="one share for each source",
            )
        if content and all(isinstance(value, int | float | str) for value in content.values()):
            return content
    raise InputError(
        "this is not a valid mixture in any format",
        where=path,
        got=type(content).__name__,
        wanted=f"{SCHEMA}: {FORMATS}",
    )


def _of_entries(entries: list[Any], path: str) -> dict[str, object]:
    """Return source -> ratio from OLMo-core's list of sources."""
    try:
        return {entry["source_name"]: entry["target_ratio"] for entry in entries}
    except (TypeError, KeyError) as error:
        raise InputError(
            "a source lacks its name or ratio", where=f"{path}: sources", got=error, wanted="source_name, target_ratio"
        ) from None


def _leaves(section: Mapping[str, Any], outer: float, prefix: str, path: str) -> Iterator[tuple[str, float]]:
    """Yield the leaves of Olmix's tree, ``source:topic:quality``, with the products of the weights on the way."""
    for name, entry in section.items():
        if isinstance(entry, int | float):
            yield f"{prefix}{name}", outer * entry
            continue
        if not isinstance(entry, dict):
            raise InputError(
                "a source of the mix has no weight", where=f"mix: {prefix}{name}", got=repr(entry), wanted="a number"
            )
        weight = outer * _share(entry.get("weight", 1.0), f"{path}: {prefix}{name}")
        children = {key: child for key, child in entry.items() if isinstance(child, dict)}
        if children:
            yield from _leaves(children, weight, f"{prefix}{name}:", path)
        else:
            yield f"{prefix}{name}", weight
