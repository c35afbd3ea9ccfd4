"""``mixray solve``: a run's mixtures under other settings of ``mixture``, from its prediction caches alone.

One setting may be swept: where an override's value holds a range ``from..to``, alone or in a list such as
``mixture.bounds.python=[0,0.1..0.9]``, the problem is solved for each value of the range. Numbers with an exponent make
a logarithmic range: ``1e-4..1e-2`` has a value per decade, ``1e-4..1e-2:2`` one for every doubling.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from mixray.config import RunConfig, dump_config, parse_config
from mixray.config.loading import Overrides, override_items
from mixray.config.mixture import MixtureConfig
from mixray.errors import InputError
from mixray.mixture import Mixture, SourceSize
from mixray.runs import MixtureRun
from mixray.search.arms import with_files_read
from mixray.search.rivals import with_doremi
from mixray.search.solving import find_mixture, find_reweighted, in_memory, mixture_targets
from mixray.store import Artifact

NUMBER = r"((?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?)"
RANGE = re.compile(rf"\s*{NUMBER}\s*\.\.\s*{NUMBER}\s*(?::\s*{NUMBER}\s*)?")
MOST_STEPS = 1000


@dataclass(frozen=True)
class Sweep:
    """The mixtures for several values of one setting.

    ``key``: the setting; ``values``: what it was, one after another; ``mixtures``: for each value, name -> mixture, or
    None where no mixture satisfies the limits.
    """

    key: str
    values: list[object]
    mixtures: list[dict[str, Mixture] | None]


def solve_again(run: MixtureRun, overrides: Overrides, target: str | None) -> dict[str, Mixture] | Sweep:
    """Return the mixtures of a run, or of one of its targets, under other settings of ``mixture``.

    Without a range, what DoReMi chose stands beside them, as the limits leave it. What other methods learned from a
    swarm does not: under other settings they would choose anew.

    Raises InputError for overrides of other settings, more than one range, an unknown target and a run that has no
    prediction cache yet.
    """
    settings = dict(override_items(overrides))
    _require_mixture_settings(settings)
    ranges = {key: values for key, value in settings.items() if (values := _range_values(key, value)) is not None}
    if not ranges:
        (solved,) = _solve(run, [_config(run, settings)], target)
        if isinstance(solved, InputError):
            raise solved
        return _with_doremi(run, _config(run, settings), solved)
    if len(ranges) > 1:
        raise InputError("one setting can be swept at a time", got=", ".join(ranges), wanted="one range from..to")
    ((key, values),) = ranges.items()
    settings = {"mixture.bootstrap": 0} | settings  # intervals for every value only where they are asked for
    # A value that is not valid is refused, not swept; a limit too tight for any mixture is a result of the sweep.
    solutions = _solve(run, [_config(run, settings | {key: value}) for value in values], target)
    refusals = [solved for solved in solutions if isinstance(solved, InputError)]
    if len(refusals) == len(solutions):
        raise refusals[-1]
    return Sweep(key, values, [None if isinstance(solved, InputError) else solved for solved in solutions])


def _require_mixture_settings(settings: Mapping[str, object]) -> None:
    for key in settings:
        if not key.startswith("mixture."):
            belongs = key.partition(".")[0] in MixtureConfig.model_fields
            raise InputError(
                "only 'mixture' can be changed after a run",
                got=key,
                wanted="mixture.KEY=VALUE",
                remedy=f"did you mean 'mixture.{key}'?" if belongs else "mixray run",
            )
        if key.startswith("mixture.shards"):
            raise InputError(
                "solving again needs no cluster and no shards: all rows are in memory", got=key, remedy="mixray run"
            )


def _config(run: MixtureRun, settings: Mapping[str, object]) -> RunConfig:
    in_memory_settings = {**settings, "mixture.shards": None}
    return with_files_read(
        parse_config(dump_config(run.config), in_memory_settings, name=f"{run.location}/config.yaml")
    )


def _solve(run: MixtureRun, configs: Sequence[RunConfig], target: str | None) -> list[dict[str, Mixture] | InputError]:
    """Return for each configuration its mixtures by name, or why there are none.

    The configurations differ in a number: every prediction cache is read once for all of them, and each problem is
    solved from its neighbour's answer.
    """
    rows, columns = run.load_cache()
    first = configs[0]
    if target is not None and target not in rows:
        raise InputError("unknown target", where="--target", got=target, wanted=f"one of {', '.join(rows)}")
    if target is not None and first.mixture.over != "each":
        raise InputError(
            "one target cannot be picked", where="--target", got=f"mixture.over: {first.mixture.over}", wanted="each"
        )
    available = run.available_tokens()
    solutions: list[dict[str, Mixture] | InputError] = [{} for _ in configs]
    for name, targets in mixture_targets(first, rows if target is None else [target]).items():
        sources = first.sources_for(name)
        caches = {each: (rows[each], {source: columns[each][source] for source in sources}) for each in targets}
        available_here = {source: available[source] for source in sources}
        neighbour: Mapping[str, float] | None = None
        with in_memory(run.storage, caches) as predictions:
            for place, config in enumerate(configs):
                solved = solutions[place]
                if isinstance(solved, InputError):
                    continue
                try:
                    if config.mixture.covariate_shift == "reweight":
                        solved_again = find_reweighted(
                            run.artifacts, predictions, config, caches, available_here, _source_rows(run, sources)
                        )
                    else:
                        solved_again = find_mixture(
                            predictions, config, available_tokens=available_here, run=run.name, start=neighbour
                        )
                except InputError as error:
                    solutions[place] = error
                    continue
                facts = {
                    "run": run.name,
                    "budget": config.retrain_tokens(available_here),
                    "sizes": _sizes(run, sources),
                }
                mixture = solved_again.mixture.model_copy(update=facts)
                solved[name], neighbour = mixture, mixture.weights
    return solutions


def _with_doremi(run: MixtureRun, config: RunConfig, mixtures: Mapping[str, Mixture]) -> dict[str, Mixture]:
    """Return the mixtures with what DoReMi chooses, where the run has trained its proxy."""
    proxy = run.index.artifacts("doremi").get("doremi/proxy")
    if proxy is None:
        return dict(mixtures)
    (rows, columns), available = run.load_cache(), run.available_tokens()
    return {
        name: with_doremi(
            config,
            run.storage,
            in_memory,
            mixture,
            targets={target: (rows[target], columns[target]) for target in mixture.targets},
            proxy=proxy,
            available_tokens=available,
        )
        for name, mixture in mixtures.items()
    }


def _source_rows(run: MixtureRun, sources: Sequence[str]) -> dict[str, Artifact]:
    """Return the training rows of a run's sources: the densities of their inputs are learned from these once."""
    stored = run.index.artifacts("source")
    return {source: stored[f"source/{source}"] for source in sources}


def _range_values(key: str, value: object) -> list[object] | None:
    """Return what a setting's value is for each step of the range in it; None where there is no range."""
    if isinstance(value, list | dict):
        items: dict[object, object] = value if isinstance(value, dict) else dict(enumerate(value))
        ranges = {place: steps for place, item in items.items() if (steps := _range_values(key, item)) is not None}
        if not ranges:
            return None
        if len(ranges) > 1:
            raise InputError("one range at a time", where=key, got=value, wanted="[low, from..to] or [from..to, high]")
        ((place, steps),) = ranges.items()
        swept = [items | {place: step} for step in steps]
        return list(swept) if isinstance(value, dict) else [list(each.values()) for each in swept]
    match = RANGE.fullmatch(value) if isinstance(value, str) else None
    if match is None or not isinstance(value, str):
        return None
    if "e" in value.lower():
        return _logarithmic(key, value, float(match[1]), float(match[2]), float(match[3] or 10))
    start, stop = Decimal(match[1]), Decimal(match[2])
    # By default the step is one unit of the last digit written.
    step = Decimal(match[3]) if match[3] else Decimal(1).scaleb(min(_exponent(start), _exponent(stop)))
    if step <= 0 or stop < start or (stop - start) / step > MOST_STEPS:
        raise InputError("this is not a valid range", where=key, got=value, wanted="from..to or from..to:step")
    return [float(start + number * step) for number in range(math.floor((stop - start) / step) + 1)]


def _logarithmic(key: str, text: str, start: float, stop: float, factor: float) -> list[object]:
    """Return ``start``, ``start * factor`` and so on up to ``stop``."""
    steps = math.log(stop / start, factor) if 0 < start <= stop and factor > 1 else -1.0
    if not 0 <= steps <= MOST_STEPS:
        raise InputError("this is not a valid range", where=key, got=text, wanted="from..to or from..to:factor")
    return [float(f"{start * factor**number:.12g}") for number in range(math.floor(steps + 1e-9) + 1)]


def _exponent(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    return exponent


def _sizes(run: MixtureRun, sources: Sequence[str]) -> dict[str, SourceSize]:
    return {source: size for source, size in run.source_sizes().items() if source in sources}
