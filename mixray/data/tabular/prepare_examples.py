"""The data stage for tabular examples: look at every part, learn the encoding from the sources, encode every part.

Identity is content, as it is for texts: what is encoded hangs on the values that were read and on the encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mixray.config.data import ExamplesConfig, TargetConfig
from mixray.config.objective import GroupObjective
from mixray.config.schema import RunConfig
from mixray.data import target_rows as rows
from mixray.data.pools import ExampleInputs, Notify, Pool, Prepared, pools_of
from mixray.data.reading.parts import FilePart, Listing, list_pool
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
from mixray.store import Artifact, Artifacts, Draft, FileRecord, RunTasks, Step, find_or_make, fingerprint

KIND = "examples"
LOOK = "look"
TOO_FEW = "more rows, or another held_out; rows that are alike stay together"


def prepare_examples(
    config: RunConfig, examples: ExamplesConfig, artifacts: Artifacts, run_tasks: RunTasks, notify: Notify
) -> Prepared:
    """As ``prepare`` of texts: make, or find, everything that training and scoring read."""
    listings = {pool.label: list_pool(pool) for pool in pools_of(config)}
    columns = {label: _columns_of(listing.pool, config, examples) for label, listing in listings.items()}
    looking = {label: LookAt(listing, columns[label]) for label, listing in listings.items()}
    looks = {
        label: Look(**artifact.meta) for label, artifact in find_or_make(looking, artifacts, run_tasks, "look").items()
    }
    for label, listing in listings.items():
        _check_some(listing.pool, looks[label])
    sources = together([looks[f"source {name}"] for name in config.sources])
    encoder = ExampleEncoder.of(sources)
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
    """What models will read, and the examples of every pool ("source NAME", "target NAME"), guessed from the first part
    of each that has any. Raises InputError for columns that are missing or hold something else, and for no rows."""
    looks, counts = [], {}
    for pool in pools_of(config):
        columns, parts = _columns_of(pool, config, examples), _file_parts(list_pool(pool))
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


def _file_parts(listing: Listing) -> list[FilePart]:
    """Raises InputError where there are none: Parquet files may have no row groups."""
    parts = [part for part in listing.parts if isinstance(part, FilePart)]
    if not parts:
        raise _no_rows(listing.pool, 0)
    return parts


@dataclass(frozen=True)
class LookAt(Step[ExamplePart, Look]):
    """What the values of a pool's columns are. It has no files; its meta is a Look."""

    kind = LOOK
    listing: Listing
    columns: Columns

    @property
    def id(self) -> str:
        pool, columns = self.listing.pool.config, self.columns
        settings = [columns.examples.model_dump(mode="json"), columns.group, pool.reader, pool.where, pool.max_tokens]
        return fingerprint([LOOK, 1, settings, self.listing.key])

    def tasks(self, draft: Draft) -> list[ExamplePart]:
        return _parts(self.listing, self.columns, draft)

    @staticmethod
    def run(task: ExamplePart) -> Look:
        return look_at(task)

    def publish(self, draft: Draft, results: Sequence[Look]) -> Artifact:
        return draft.publish({}, asdict(together(results)))


@dataclass(frozen=True)
class EncodeSource(Step[EncodeTask, tuple[FileRecord, int]]):
    """The records of a source. Meta: ``tokens`` (the number of examples), ``shards`` ({file: examples}, in order) and
    ``content`` (the identity of the records without their groups)."""

    kind = KIND
    listing: Listing
    look: Look
    columns: Columns
    encoder: ExampleEncoder

    @property
    def content(self) -> str:
        return fingerprint([KIND, 1, self.encoder.digest, self.look.digests])

    @property
    def id(self) -> str:
        groups = self.encoder.group_names
        return fingerprint([self.content, groups, self.look.group_digests]) if groups else self.content

    def tasks(self, draft: Draft) -> list[EncodeTask]:
        return _encode_tasks(self.listing, self.look, self.columns, self.encoder, draft)

    @staticmethod
    def run(task: EncodeTask) -> tuple[FileRecord, int]:
        return write_examples(task)

    def publish(self, draft: Draft, results: Sequence[tuple[FileRecord, int]]) -> Artifact:
        files = {f"{index:06d}.npy": record for index, (record, count) in enumerate(results) if count}
        shards = {f"{index:06d}.npy": count for index, (_, count) in enumerate(results) if count}
        return draft.publish(files, {"tokens": sum(shards.values()), "shards": shards, "content": self.content})


@dataclass(frozen=True)
class EncodeTarget(Step[EncodeTask, rows.RowsResult]):
    """The rows of a target. The meta is that of ``publish_rows``."""

    kind = rows.KIND
    listing: Listing
    look: Look
    columns: Columns
    encoder: ExampleEncoder

    @property
    def id(self) -> str:
        config = self.listing.pool.config
        assert isinstance(config, TargetConfig)
        return fingerprint([rows.KIND, 1, self.encoder.digest, self.look.digests, config.held_out])

    def tasks(self, draft: Draft) -> list[EncodeTask]:
        return _encode_tasks(self.listing, self.look, self.columns, self.encoder, draft)

    @staticmethod
    def run(task: EncodeTask) -> rows.RowsResult:
        return write_target_examples(task)

    def publish(self, draft: Draft, results: Sequence[rows.RowsResult]) -> Artifact:
        return rows.publish_rows(draft, 1, results)

    def check(self, artifact: Artifact) -> None:
        rows.check_rows(self.listing.pool, artifact, remedy=TOO_FEW)


def _encode_tasks(
    listing: Listing, look: Look, columns: Columns, encoder: ExampleEncoder, draft: Draft
) -> list[EncodeTask]:
    parts, digests = _parts(listing, columns, draft), zip(look.digests, look.group_digests, strict=True)
    return [EncodeTask(replace(part, digests=pair), encoder) for part, pair in zip(parts, digests, strict=True)]


def _parts(listing: Listing, columns: Columns, draft: Draft) -> list[ExamplePart]:
    parts = _file_parts(listing)
    quotas = rows.token_quotas(listing.pool.config.max_tokens, len(parts))
    return [
        ExamplePart(listing.pool, part, index, columns, draft, quota)
        for index, (part, quota) in enumerate(zip(parts, quotas, strict=True))
    ]


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


def _counts(listing: Listing, look: Look, encoded: Artifact) -> dict[str, int]:
    """The counts that texts have. An example is a document of one token; none is dropped for being twice."""
    zeros = dict.fromkeys(("skipped_not_utf8", "skipped_empty", "split", "duplicates", "in_target"), 0)
    size = listing.size_bytes or 0
    read = {"documents_read": look.rows + look.filtered, "filtered": look.filtered, "bytes_read": size}
    counts = zeros | read | {"documents": look.rows, "bytes": size, "tokens": look.rows}
    if listing.pool.role == "source":
        return counts
    parts = {f"{part}_{name}": encoded.meta[part][name] for part in rows.PARTS for name in ("documents", "tokens")}
    return counts | parts


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
