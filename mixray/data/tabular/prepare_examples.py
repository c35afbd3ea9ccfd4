"""The data stage for tabular examples: look at every part, learn the encoding from the sources, encode every part.

Identity is content, as it is for texts: what is encoded hangs on the values that were read and on the encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from mixray.config.data import ExamplesConfig, TargetConfig
from mixray.config.objective import GroupObjective
from mixray.config.schema import RunConfig
from mixray.data import target_rows as rows
from mixray.data.inputs import ExampleInputs
from mixray.data.pools import Pool, source_pools, target_pools
from mixray.data.prepared import Made, Notify, PoolInput, Prepared, by_label
from mixray.data.reading.parts import FilePart
from mixray.data.steps import RunTasks, Wanted, make_all
from mixray.data.tabular.example_rows import (
    NAMED,
    Columns,
    EncodeTask,
    ExampleEncoder,
    ExamplePart,
    Look,
    look_at,
    look_of,
    read_part,
    together,
    write_examples,
    write_target_examples,
)
from mixray.errors import InputError
from mixray.store import Artifact, Artifacts, Draft, FileRecord, fingerprint

KIND = "examples"
LOOK = "look"
TOO_FEW = "more rows, or another held_out; rows that are alike stay together"


def prepare_examples(
    config: RunConfig, examples: ExamplesConfig, artifacts: Artifacts, run_tasks: RunTasks, notify: Notify
) -> Prepared:
    """As ``prepare`` of texts: make, or find, everything that training and scoring read."""
    inputs = [PoolInput(pool) for pool in [*source_pools(config), *target_pools(config)]]
    columns = {item.pool.label: _columns_of(item.pool, config, examples) for item in inputs}
    found = make_all([_wanted_look(item, columns[item.pool.label]) for item in inputs], artifacts, run_tasks, "look")
    looks = {item.pool.label: Look(**artifact.meta) for item, artifact in zip(inputs, found, strict=True)}
    for item in inputs:
        _check_some(item.pool, looks[item.pool.label])
    sources = together([looks[item.pool.label] for item in inputs if item.pool.role == "source"])
    encoder = ExampleEncoder.of(sources)
    _check_prior(config, encoder)
    for item in inputs:
        _check_fit(item.pool, looks[item.pool.label], encoder)
    wanted = [_wanted(item, looks[item.pool.label], columns[item.pool.label], encoder) for item in inputs]
    made = by_label(inputs, make_all(wanted, artifacts, run_tasks, "encode"))
    for item in inputs:
        notify(f"{item.pool.label}: {looks[item.pool.label].rows} examples")
        if item.pool.role == "target":
            rows.check_rows(item.pool, made[item.pool.label], remedy=TOO_FEW)
    notify(f"{sources.inputs.features} features, {len(encoder.label_names)} classes")
    return Prepared(
        inputs=sources.inputs,
        tokenizer=None,
        sources={name: made[f"source {name}"] for name in config.sources},
        targets={name: made[f"target {name}"] for name in config.targets},
        counts={item.pool.label: _counts(item, looks[item.pool.label], made) for item in inputs},
        warnings=list(_warnings(looks, encoder)),
    )


def look_ahead(config: RunConfig, examples: ExamplesConfig) -> tuple[ExampleInputs, dict[str, int]]:
    """What models will read, and the examples of every pool ("source NAME", "target NAME"), guessed from the first part
    of each that has any. Raises InputError for columns that are missing or hold something else, and for no rows."""
    looks, counts = [], {}
    for pool in [*source_pools(config), *target_pools(config)]:
        columns, parts = _columns_of(pool, config, examples), _file_parts(PoolInput(pool))
        seen: list[Look] = []
        for part in parts:
            seen.append(look_of(read_part(pool, part, columns, None)))
            if seen[-1].rows:
                break
        look = together(seen)
        _check_some(pool, look)
        if pool.role == "source":
            looks.append(look)
        counts[pool.label] = round(look.rows * len(parts) / len(seen))
    return together(looks).inputs, counts


def _columns_of(pool: Pool, config: RunConfig, examples: ExamplesConfig) -> Columns:
    """Groups are of what is trained on; the split of a target does not hang on them."""
    objective = config.retrain.objective
    if pool.role == "target" or not isinstance(objective, GroupObjective):
        return Columns(examples, None)
    return Columns(examples, objective.group_column)


def _file_parts(item: PoolInput) -> list[FilePart]:
    """Raises InputError where there are none: Parquet files may have no row groups."""
    parts = [part for part in item.parts if isinstance(part, FilePart)]
    if not parts:
        raise _no_rows(item.pool, 0)
    return parts


def _wanted_look(item: PoolInput, columns: Columns) -> Wanted:
    def publish(draft: Draft, _: Sequence[ExamplePart], looks: Sequence[Look]) -> Artifact:
        return draft.publish({}, asdict(together(looks)))

    pool = item.pool.config
    settings = [columns.examples.model_dump(mode="json"), columns.group, pool.reader, pool.where, pool.max_tokens]
    id = fingerprint([LOOK, 1, settings, item.listing.key])
    return Wanted(LOOK, id, look_at, lambda draft: _parts(item, columns, draft), publish)


def _wanted(item: PoolInput, look: Look, columns: Columns, encoder: ExampleEncoder) -> Wanted:
    def tasks(draft: Draft) -> list[EncodeTask]:
        parts, seen = _parts(item, columns, draft), zip(look.digests, look.group_digests, strict=True)
        return [EncodeTask(replace(part, digests=digests), encoder) for part, digests in zip(parts, seen, strict=True)]

    config = item.pool.config
    if isinstance(config, TargetConfig):
        id = fingerprint([rows.KIND, 1, encoder.digest, look.digests, config.held_out])
        return Wanted(rows.KIND, id, write_target_examples, tasks, _publish_rows)
    content = fingerprint([KIND, 1, encoder.digest, look.digests])
    groups = [encoder.group_names, look.group_digests] if encoder.group_names else []

    def publish(draft: Draft, _: Sequence[EncodeTask], results: Sequence[tuple[FileRecord, int]]) -> Artifact:
        """``meta``: tokens (examples in all), shards ({file: examples}, in order), content (what they are but for their
        groups)."""
        files = {f"{index:06d}.npy": record for index, (record, count) in enumerate(results) if count}
        shards = {f"{index:06d}.npy": count for index, (_, count) in enumerate(results) if count}
        return draft.publish(files, {"tokens": sum(shards.values()), "shards": shards, "content": content})

    return Wanted(KIND, fingerprint([content, *groups]) if groups else content, write_examples, tasks, publish)


def _parts(item: PoolInput, columns: Columns, draft: Draft) -> list[ExamplePart]:
    parts = _file_parts(item)
    quotas = rows.token_quotas(item.pool.config.max_tokens, len(parts))
    return [
        ExamplePart(item.pool, part, index, columns, draft, quota)
        for index, (part, quota) in enumerate(zip(parts, quotas, strict=True))
    ]


def _publish_rows(draft: Draft, _: Sequence[EncodeTask], results: Sequence[rows.RowsResult]) -> Artifact:
    return rows.publish(draft, 1, results)


def _check_some(pool: Pool, look: Look) -> None:
    if not look.rows:
        raise _no_rows(pool, look.filtered)


def _no_rows(pool: Pool, filtered: int) -> InputError:
    return InputError(
        f"the {pool.label} has no rows",
        where=pool.files_key,
        got=f"{filtered} rows, none of which 'where' keeps" if filtered else "empty files",
        wanted="at least one row",
    )


def _check_prior(config: RunConfig, encoder: ExampleEncoder) -> None:
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


def _check_fit(pool: Pool, look: Look, encoder: ExampleEncoder) -> None:
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


def _counts(item: PoolInput, look: Look, made: Made) -> dict[str, int]:
    """The counts that texts have. An example is a document of one token; none is dropped for being twice."""
    zeros = dict.fromkeys(("skipped_not_utf8", "skipped_empty", "split", "duplicates", "in_target"), 0)
    size = item.listing.size_bytes or 0
    read = {"documents_read": look.rows + look.filtered, "filtered": look.filtered, "bytes_read": size}
    counts = zeros | read | {"documents": look.rows, "bytes": size, "tokens": look.rows}
    if item.pool.role == "source":
        return counts
    meta = made[item.pool.label].meta
    return counts | {f"{side}_{name}": meta[side][name] for side in rows.SIDES for name in ("documents", "tokens")}


def _warnings(looks: Mapping[str, Look], encoder: ExampleEncoder) -> Iterator[dict[str, Any]]:
    seen: dict[str, str] = {}
    for label, look in looks.items():
        if (other := seen.setdefault(fingerprint(look.digests), label)) != label:
            one_role = other.split()[0] == label.split()[0]
            so = "shares between them mean nothing" if one_role else "models are judged by what they have learnt"
            message = f"{other} and {label} hold the same rows: {so}"
            yield {"code": "identical_pools", "message": message, "pools": [other, label]}
        for column, values in look.categories.items():
            if unknown := sorted(set(values) - set(encoder.categories[column])):
                message = f"{label} has values of {column} that no source has, all zeros: {', '.join(unknown[:NAMED])}"
                yield {"code": "unknown_category", "message": message, "pools": [label], "column": column}
