"""The data stage for tabular examples: look at every part, learn the encoding from the sources, encode every part.

Identity is content, as it is for texts: what is encoded depends on the values that were read and on the encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mixray.config.data import ExamplesConfig
from mixray.config.objective import GroupObjective
from mixray.config.schema import RunConfig
from mixray.data.pools import ExampleInputs, Notify, Pool, Prepared, pools_of
from mixray.data.reading.parts import Listing, list_pool
from mixray.data.tabular.encoder import RowEncoder, TableSummary
from mixray.data.tabular.example_rows import EncodeSource, EncodeTarget, LookAt, file_parts, no_rows
from mixray.data.tabular.tables import NAMED, TableColumns, read_part
from mixray.data.target_rows import PARTS
from mixray.errors import InputError
from mixray.store import Artifact, Artifacts, RunTasks, Step, find_or_make, fingerprint


def prepare_examples(
    config: RunConfig, examples: ExamplesConfig, artifacts: Artifacts, run_tasks: RunTasks, notify: Notify
) -> Prepared:
    """Find or make everything that training and scoring read, as ``prepare`` does for texts."""
    listings = {pool.label: list_pool(pool) for pool in pools_of(config)}
    columns = {label: _columns_of(listing.pool, config, examples) for label, listing in listings.items()}
    looking = {label: LookAt(listing, columns[label]) for label, listing in listings.items()}
    looks = {
        label: TableSummary(**artifact.meta)
        for label, artifact in find_or_make(looking, artifacts, run_tasks, "look").items()
    }
    for label, listing in listings.items():
        _check_some(listing.pool, looks[label])
    sources = TableSummary.joined(
        [looks[f"source {name}"] for name in config.sources], columns[f"source {next(iter(config.sources))}"]
    )
    _check_classes(sources)
    encoder = RowEncoder.of(sources)
    _check_prior(config, encoder)
    for label, listing in listings.items():
        _check_fit(listing.pool, looks[label], encoder)
    encoding: dict[str, Step[Any, Any]] = {
        label: (EncodeSource if listing.pool.role == "source" else EncodeTarget)(
            listing, looks[label], columns[label], encoder
        )
        for label, listing in listings.items()
    }
    encoded = find_or_make(encoding, artifacts, run_tasks, "encode")
    for label in listings:
        notify(f"{label}: {looks[label].rows} examples")
    notify(f"{sources.inputs.features} features, {len(encoder.label_names)} classes")
    return Prepared(
        inputs=sources.inputs,
        tokenizer=None,
        sources={name: encoded[f"source {name}"] for name in config.sources},
        targets={name: encoded[f"target {name}"] for name in config.targets},
        counts={label: _counts(listing, looks[label], encoded[label]) for label, listing in listings.items()},
        warnings=list(_warnings(looks, encoder)),
    )


def look_ahead(config: RunConfig, examples: ExamplesConfig) -> tuple[ExampleInputs, dict[str, int]]:
    """Return what models will read, and the number of rows of every pool ("source NAME", "target NAME"), estimated from
    the first part of each that has any. Raises InputError for unfit columns, and for pools without rows."""
    looks, counts = [], {}
    for pool in pools_of(config):
        columns, parts = _columns_of(pool, config, examples), file_parts(list_pool(pool))
        summaries: list[TableSummary] = []
        for part in parts:
            summaries.append(TableSummary.of(read_part(pool, part, columns, None), columns))
            if summaries[-1].rows:
                break
        look = TableSummary.joined(summaries, columns)
        _check_some(pool, look)
        if pool.role == "source":
            looks.append(look)
            source_columns = columns
        counts[pool.label] = round(look.rows * len(parts) / len(summaries))
    return TableSummary.joined(looks, source_columns).inputs, counts


def _columns_of(pool: Pool, config: RunConfig, examples: ExamplesConfig) -> TableColumns:
    """Return the columns to read. Only sources have groups: the split of a target does not depend on them."""
    objective = config.retrain.objective
    if pool.role == "target" or not isinstance(objective, GroupObjective):
        return TableColumns("examples", examples)
    return TableColumns("examples", examples, (objective.group_column,) if objective.group_column else ())


def _check_some(pool: Pool, look: TableSummary) -> None:
    if not look.rows:
        raise no_rows(pool, look.filtered)


def _check_classes(sources: TableSummary) -> None:
    if len(sources.labels) < 2:
        raise InputError(
            "the label has one class only",
            where="examples.label",
            got=", ".join(sources.labels) or "no rows",
            wanted="two classes or more over all sources",
        )


def _check_prior(config: RunConfig, encoder: RowEncoder) -> None:
    objective = config.retrain.objective
    if not isinstance(objective, GroupObjective) or not objective.group_column:
        return
    if isinstance(objective.prior, dict) and set(objective.prior) != set(encoder.group_names):
        raise InputError(
            "the prior does not fit the groups",
            where="retrain.objective.prior",
            got=", ".join(objective.prior),
            wanted=f"a weight for every value of {objective.group_column}: {', '.join(encoder.group_names)}",
        )


def _check_fit(pool: Pool, look: TableSummary, encoder: RowEncoder) -> None:
    if pool.role == "target" and (unknown := sorted(set(look.labels) - set(encoder.label_names))):
        raise InputError(
            f"the {pool.label} has a class that no source has",
            where=f"examples.label, {pool.files_key}",
            got=", ".join(map(repr, unknown[:NAMED])),
            wanted=f"one of {', '.join(map(repr, encoder.label_names[:NAMED]))}"
            + (", ..." if len(encoder.label_names) > NAMED else ""),
            remedy="leave its rows out by 'where', or add a source that has it",
        )
    if len(look.mean) != len(encoder.mean):
        raise InputError(
            "the features differ in length",
            where=f"examples.features, {pool.files_key}",
            got=len(look.mean),
            wanted=f"{len(encoder.mean)}, as the sources have",
        )


def _counts(listing: Listing, look: TableSummary, encoded: Artifact) -> dict[str, int]:
    """Return the counts that texts have. A row is a document of one token, and no duplicates are dropped."""
    zeros = dict.fromkeys(("skipped_not_utf8", "skipped_empty", "split", "duplicates", "in_target"), 0)
    size = listing.size_bytes or 0
    read = {"documents_read": look.rows + look.filtered, "filtered": look.filtered, "bytes_read": size}
    counts = zeros | read | {"documents": look.rows, "bytes": size, "tokens": look.rows}
    if listing.pool.role == "source":
        return counts
    parts = {f"{part}_{name}": encoded.meta[part][name] for part in PARTS for name in ("documents", "tokens")}
    return counts | parts


def _warnings(looks: Mapping[str, TableSummary], encoder: RowEncoder) -> Iterator[dict[str, Any]]:
    first_with: dict[str, str] = {}
    for label, look in looks.items():
        if (other := first_with.setdefault(fingerprint(look.digests), label)) != label:
            one_role = other.split()[0] == label.split()[0]
            so = "shares between them mean nothing" if one_role else "models are judged by what they have learnt"
            message = f"{other} and {label} hold the same rows: {so}"
            yield {"code": "identical_pools", "message": message, "pools": [other, label]}
        for column, values in look.categories.items():
            if unknown := sorted(set(values) - set(encoder.categories[column])):
                message = f"{label} has values of {column} that no source has, all zeros: {', '.join(unknown[:NAMED])}"
                yield {"code": "unknown_category", "message": message, "pools": [label], "column": column}
