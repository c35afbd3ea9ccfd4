"""Sources and targets that a run file names in one line: a source for each column of labels, a target for each source.

The tables are looked at once, before anything starts. From then on the run's config names every source and target, so
that what a run means does not depend on what is read later.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from pydantic import ValidationError

from mixray.config import RunConfig, parse_config, yaml_text
from mixray.config.data import SourceConfig, TargetConfig
from mixray.data.pools import Pool
from mixray.data.reading.files import open_file, reading
from mixray.data.reading.locations import SourceFile
from mixray.data.reading.parquet import open_parquet
from mixray.data.reading.parts import list_pool
from mixray.errors import InputError

NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")


def with_tables_read(config: RunConfig) -> RunConfig:
    """Return the config with every source and target by its name. Raises InputError where a table has no such columns
    of labels, and for what ``parse_config`` refuses."""
    if not config.is_open:
        return config
    sources: dict[str, SourceConfig] = {}
    for name, source in config.sources.items():
        named = {name: source} if source.labels is None else _by_label(Pool("source", name, source), config)
        for each, one in named.items():
            if each in sources:
                raise InputError("two sources have one name", where=f"sources.{name}", got=each, wanted="other names")
            sources[each] = one
    targets: dict[str, TargetConfig] = {}
    for name, target in config.targets.items():
        if not target.is_each_source:
            targets[name] = target
            continue
        if clash := [each for each in sources if each in config.targets]:
            raise InputError(
                "a target has the name of a source, which each_source needs",
                where=f"targets.{clash[0]}",
                got=clash[0],
                wanted="a name that no source has",
            )
        if taken := [each for each, source in sources.items() if source.without_held_out_of is not None]:
            raise InputError(
                "a source is kept from the held-out rows of a target of your own, and each_source needs that key",
                where=f"sources.{taken[0]}.without_held_out_of",
                got=sources[taken[0]].without_held_out_of,
                wanted="sources without it",
            )
        targets |= _of_sources(target, sources, config.seed)
        sources = {each: source.model_copy(update={"without_held_out_of": each}) for each, source in sources.items()}
    pools = {"sources": _written(sources), "targets": _written(targets)}
    document = config.model_dump(mode="json") | pools
    try:
        return RunConfig.model_validate(document)
    except ValidationError:
        parse_config(yaml_text.dump(document), name="the run file, with the sources of its tables")
        raise


def _written(pools: Mapping[str, SourceConfig] | Mapping[str, TargetConfig]) -> dict[str, object]:
    return {name: pool.model_dump(mode="json", exclude_defaults=True) for name, pool in pools.items()}


def _of_sources(target: TargetConfig, sources: Mapping[str, SourceConfig], seed: int) -> dict[str, TargetConfig]:
    """Return a target for every source, which has the source's rows and leaves the source out."""
    places = np.random.default_rng(seed).permutation(len(sources))[: target.sample or len(sources)].tolist()
    targets = {}
    for place, (name, source) in enumerate(sources.items()):
        pool: dict[str, object] = {source.reader: source.locations, "where": source.where, "exclude": source.exclude}
        pool |= {"label": source.label, "max_tokens": source.max_tokens, "is_retrained": place in places}
        split: dict[str, object] = {key: getattr(target, key) for key in ("held_out", "held_out_of", "held_out_by")}
        split["leave_out"] = name
        targets[name] = TargetConfig.model_validate(pool | split)
    return targets


def _by_label(pool: Pool, config: RunConfig) -> dict[str, SourceConfig]:
    """Return a source for each column of labels, under the column's name."""
    source, examples = pool.config, config.examples
    assert isinstance(source, SourceConfig)
    assert examples is not None, "only a run file with examples has labels"
    inputs = {column for columns in examples.inputs.values() for column in columns}
    counts = _label_counts(pool, source, inputs)
    is_class = examples.task == "classification"
    enough = [
        column
        for column, values in counts.items()
        if values.total() >= source.min_rows
        and (not is_class or len([count for count in values.values() if count >= source.min_positive]) > 1)
    ]
    if not enough:
        raise InputError(
            f"the {pool.label} has no column with enough labels",
            where=pool.key("labels"),
            got=f"{len(counts)} columns, the fullest with {max(each.total() for each in counts.values())} labels",
            wanted=f"{source.min_rows} labels or more"
            + (f", and two classes with {source.min_positive} or more each" if is_class else ""),
            remedy=f"lower {pool.key('min_rows')} or {pool.key('min_positive')}",
        )
    if is_class:
        _require_equal_classes(pool, {column: counts[column] for column in enough})
    named: dict[str, SourceConfig] = {}
    stands_alone = {"labels": None, "min_rows": 1, "min_positive": 1}
    for column in enough:
        name = NOT_IN_NAMES.sub("_", column).strip("_-") or "label"
        if name in named:
            got = f"{named[name].label} and {column}, both {name}"
            raise InputError(
                "two columns of labels have one name", where=pool.key("labels"), got=got, wanted="one of them"
            )
        named[name] = source.model_copy(update={**stands_alone, "label": column})
    return named


def _require_equal_classes(pool: Pool, counts: Mapping[str, Counter[object]]) -> None:
    """Raise InputError where columns differ in their classes: every model would have those of all columns."""
    columns_of: dict[frozenset[object], list[str]] = {}
    for column, values in counts.items():
        columns_of.setdefault(frozenset(values), []).append(column)
    if len(columns_of) > 1:
        most, *others = sorted(columns_of.items(), key=lambda item: -len(item[1]))
        classes = {", ".join(sorted(map(str, values)))[:200]: names for values, names in (most, others[0])}
        groups = [f"{names[0]} ({len(names)} such columns): {values}" for values, names in classes.items()]
        raise InputError(
            "columns of labels have different classes",
            where=pool.key("labels"),
            got="; ".join(groups),
            wanted="columns with the same classes, such as 0 and 1",
            remedy=f"name the columns to take: {pool.key('labels')}: [{most[1][0]}, ...]",
        )


def _label_counts(pool: Pool, source: SourceConfig, inputs: set[str]) -> dict[str, Counter[object]]:
    """Return how often each column of labels has each value, over all files."""
    patterns = [source.labels] if isinstance(source.labels, str) else list(source.labels or [])
    counts: dict[str, Counter[object]] = {}
    skipped: list[str] = []
    for file in list_pool(pool).files:
        for name, column in _columns(file, pool, patterns, inputs):
            kind = column.type
            is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
            if not is_number and not pa.types.is_null(kind):
                if name not in patterns:  # that "*" means columns of text too is not likely
                    skipped.append(name)
                    continue
                raise InputError(
                    "a column of labels does not hold numbers",
                    where=pool.key("labels"),
                    got=f"{name}: {kind}, in {file.location}",
                    wanted="0, 1 or null; numbers or null where task is regression",
                    remedy="leave the column out, or write its classes as numbers",
                )
            values = counts.setdefault(name, Counter())
            for pair in pc.value_counts(column.filter(pc.invert(pc.is_null(column, nan_is_null=True)))).to_pylist():
                # As the classes are told apart later: 1 and 1.0 are one, true is another.
                value = str(pair["values"]).lower() if pa.types.is_boolean(kind) else float(pair["values"])
                values[value] += pair["counts"]
    if missing := [each for each in patterns if not any(fnmatchcase(name, each) for name in [*counts, *skipped])]:
        raise InputError(
            f"the {pool.label} has no such column of labels",
            where=pool.key("labels"),
            got=", ".join(missing),
            wanted="patterns of columns that hold numbers, besides the inputs",
        )
    if not counts:
        raise InputError(
            f"the {pool.label} has columns of text alone",
            where=pool.key("labels"),
            got=", ".join(dict.fromkeys(skipped)),
            wanted="columns of labels: numbers or null",
        )
    return counts


def _columns(file: SourceFile, pool: Pool, patterns: list[str], inputs: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield the columns of a file whose names match a pattern, besides the inputs."""

    def matching(names: list[str]) -> list[str]:
        return [name for name in names if name not in inputs and any(fnmatchcase(name, each) for each in patterns)]

    with reading(file, pool.files_key):
        if pool.config.reader == "csv":
            with open_file(file) as stream:
                table = pyarrow.csv.read_csv(stream)
            table = table.select(matching(table.column_names))
        else:
            with open_parquet(file) as parquet:
                table = parquet.read(columns=matching(parquet.schema_arrow.names))
    yield from zip(table.column_names, table.columns, strict=True)
