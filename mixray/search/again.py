"""A finished run's mixtures under other settings, from its prediction cache alone: ``mixray solve``.

One setting may be swept: where an override's value holds a list of numbers with a range ``from..to`` in it, as in
``mixture.bounds.python=[0,0.1..0.9]``, the problem is solved for each of the range's values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from mixray.config import RunConfig, dump_config, parse_config
from mixray.config.loading import Overrides, override_items
from mixray.errors import InputError
from mixray.mixture import Mixture
from mixray.runs import RunFolder
from mixray.search.answer import find_mixture
from mixray.search.constraints import natural_tokens
from mixray.search.stored import in_memory, mixture_targets

NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
RANGE = re.compile(rf"\s*{NUMBER}\s*\.\.\s*{NUMBER}\s*(?::\s*{NUMBER}\s*)?")
MOST_STEPS = 1000


@dataclass(frozen=True)
class Sweep:
    """``key``: the setting that was swept; ``values``: what it was, one after another; ``mixtures``: per value, name ->
    mixture, None where no mixture satisfies the constraints."""

    key: str
    values: list[Any]
    mixtures: list[dict[str, Mixture] | None]


def solve_again(folder: RunFolder, overrides: Overrides, target: str | None) -> dict[str, Mixture] | Sweep:
    """The mixtures of a run (or of one target) under other settings of ``mixture``.

    ``overrides``: of ``mixture`` alone. Raises InputError for other keys, more than one range, an unknown target, a run
    without a cache.
    """
    items = dict(override_items(overrides))
    for key in items:
        if not key.startswith("mixture."):
            raise InputError(
                "only 'mixture' can be changed after the fact", got=key, wanted="mixture.KEY=VALUE", remedy="mixray run"
            )
        if key.startswith("mixture.shards"):
            raise InputError("to solve again needs no cluster: all rows are in memory", got=key, remedy="mixray run")
    ranges = {key: values for key, value in items.items() if (values := _steps(key, value)) is not None}
    if not ranges:
        return _solve(folder, items, target)
    if len(ranges) > 1:
        raise InputError("one setting can be swept at a time", got=", ".join(ranges), wanted="one range from..to")
    ((key, values),) = ranges.items()
    for value in values:
        _config(folder, items | {key: value})  # what is no setting is refused, not swept
    found: list[dict[str, Mixture] | None] = []
    refused: InputError | None = None
    for value in values:
        try:
            found.append(_solve(folder, items | {key: value}, target))
        except InputError as error:  # a cap too tight for any mixture is a result of the sweep
            refused = error
            found.append(None)
    if refused is not None and not any(found):
        raise refused
    return Sweep(key, values, found)


def _config(folder: RunFolder, overrides: Mapping[str, Any]) -> RunConfig:
    alone = {**overrides, "mixture.shards": None}
    return parse_config(dump_config(folder.config), alone, name=f"{folder.location}/config.yaml")


def _solve(folder: RunFolder, overrides: Mapping[str, Any], target: str | None) -> dict[str, Mixture]:
    config = _config(folder, overrides)
    rows, columns = folder.load_cache(folder.artifacts())
    if target is not None and target not in rows:
        raise InputError("the run has no such target", where="--target", got=target, wanted=f"one of {', '.join(rows)}")
    if target is not None and config.mixture.over != "each":
        raise InputError(
            "one target cannot be picked", where="--target", got=f"mixture.over: {config.mixture.over}", wanted="each"
        )
    available = folder.available_tokens()
    found = {}
    for name, targets in mixture_targets(config, rows if target is None else [target]).items():
        cached = {each: (rows[each], columns[each]) for each in targets}
        assert all(list(columns[each]) == list(available) for each in targets), "other columns than sources"
        sizes = natural_tokens(config, available)
        with in_memory(folder.storage, cached) as caches:
            answer = find_mixture(caches, config, available_tokens=available, sizes=sizes, run=folder.name)
        found[name] = answer.mixture
    return found


def _steps(key: str, value: Any) -> list[Any] | None:
    """The values that a range in ``value`` stands for; None where there is none."""
    if isinstance(value, list | dict):
        parts: dict[Any, Any] = value if isinstance(value, dict) else dict(enumerate(value))
        ranges = {place: steps for place, part in parts.items() if (steps := _steps(key, part)) is not None}
        if not ranges:
            return None
        if len(ranges) > 1:
            raise InputError("one range at a time", where=key, got=value, wanted="[low, from..to] or [from..to, high]")
        ((place, steps),) = ranges.items()
        swept = [parts | {place: step} for step in steps]
        return swept if isinstance(value, dict) else [list(each.values()) for each in swept]
    matched = RANGE.fullmatch(value) if isinstance(value, str) else None
    if matched is None:
        return None
    start, stop = Decimal(matched[1]), Decimal(matched[2])
    # Unless given, the step is one unit of the last digit written.
    step = Decimal(matched[3]) if matched[3] else Decimal(1).scaleb(min(_exponent(start), _exponent(stop)))
    if step <= 0 or stop < start or (stop - start) / step > MOST_STEPS:
        raise InputError("the range is not understood", where=key, got=value, wanted="from..to or from..to:step")
    return [float(start + number * step) for number in range(math.floor((stop - start) / step) + 1)]


def _exponent(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    return exponent
