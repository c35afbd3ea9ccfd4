"""Labelled rows of a mixture of examples: look at the values, learn the encoding from the sources, encode every pool.

A source's row becomes a record that training reads by its number. A target's row becomes a row of the prediction cache,
a document of one window that counts as one token. Equal rows are all kept, because tables repeat rows by chance.
Identity is content, as it is for texts: what is encoded depends on the values that were read and on the encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mixray.config.data import ExamplesConfig, SourceConfig
from mixray.config.objective import GroupObjective
from mixray.config.schema import RunConfig
from mixray.data.pools import DataWarning, ExampleInputs, Notify, Pool, Prepared, pools_of
from mixray.data.reading.parts import Listing, list_pool
from mixray.data.tabular.encoder import RowEncoder, TableSummary
from mixray.data.tabular.example_steps import (
    EncodePool,
    EncodeSource,
    EncodeTarget,
    LookAt,
    Split,
    file_parts,
    no_rows,
)
from mixray.data.tabular.molecules import FingerprintMolecules, first_molecules, require_rdkit
from mixray.data.tabular.tables import NAMED, FileKind, TableColumns, listed, read_part
from mixray.data.target_rows import target_config
from mixray.errors import InputError
from mixray.store import Artifact, Artifacts, RunTasks, Storage, find_or_make, fingerprint
from mixray.store.retrying import retried
from mixray.store.tables import read_table
from mixray.store.target_parts import PARTS, part_files


def prepare_examples(
    config: RunConfig, examples: ExamplesConfig, artifacts: Artifacts, run_tasks: RunTasks, notify: Notify
) -> Prepared:
    """Find or make everything that training and scoring read, as ``prepare`` does for texts."""
    listings = {pool.label: retried(partial(list_pool, pool), notify) for pool in pools_of(config)}
    columns = {label: columns_of_pool(listing.pool, examples, config) for label, listing in listings.items()}
    fingerprints: dict[str, Artifact] = {}
    if examples.smiles is not None:
        by_scaffold = any(target.held_out_by == "scaffold" for target in config.targets.values())
        steps = {
            label: FingerprintMolecules.of(each, columns[label], examples, with_scaffolds=by_scaffold)
            for label, each in listings.items()
        }
        fingerprints = find_or_make(steps, artifacts, run_tasks, "fingerprints")
    looking = {
        label: LookAt(listing, columns[label], run_tasks, fingerprints.get(label))
        for label, listing in listings.items()
    }
    looks = {
        label: TableSummary(**artifact.meta)
        for label, artifact in find_or_make(looking, artifacts, run_tasks, "look").items()
    }
    for label, listing in listings.items():
        _check_not_empty(listing.pool, looks[label])
    sources = TableSummary.joined(
        [looks[f"source {name}"] for name in config.sources], columns[f"source {next(iter(config.sources))}"]
    )
    encoder = RowEncoder.of(sources, None if examples.smiles is None else examples.fingerprint)
    _check_sources(config, encoder)
    for label, listing in listings.items():
        _check_fit(listing.pool, looks[label], encoder)
    encoding: dict[str, EncodePool[Any]] = {
        label: (EncodeSource if listing.pool.role == "source" else EncodeTarget)(
            listing, looks[label], columns[label], encoder, split_of(listing.pool, config), fingerprints.get(label)
        )
        for label, listing in listings.items()
    }
    encoded = find_or_make(encoding, artifacts, run_tasks, "encode")
    if encoder.label_names:
        for name, target in config.targets.items():
            if target.leave_out is not None:
                _check_classes(listings[f"target {name}"].pool, encoded[f"target {name}"], artifacts.storage)
    for label in listings:
        notify(f"{label}: {looks[label].rows} examples")
    classes = f", {len(encoder.label_names)} classes" if encoder.label_names else ""
    notify(f"{encoder.inputs.features} features{classes}")
    return Prepared(
        inputs=encoder.inputs,
        tokenizer=None,
        sources={name: encoded[f"source {name}"] for name in config.sources},
        targets={name: encoded[f"target {name}"] for name in config.targets},
        counts={label: _counts(listing, looks[label], encoded[label]) for label, listing in listings.items()},
        warnings=[*_warnings(config, looks, encoder), *_too_short(config, looks)],
    )


@dataclass(frozen=True)
class RowsAhead:
    """What a look at the first part of every pool that has rows tells.

    ``inputs``: what models will read; ``rows``: of every pool ("source NAME", "target NAME"), about; ``molecules``: at
    most, in the files of all targets, 0 where inputs are others. Targets of the same files share their predictions.
    """

    inputs: ExampleInputs
    rows: dict[str, int]
    molecules: int


def look_ahead(config: RunConfig, examples: ExamplesConfig) -> RowsAhead:
    """Look at the pools of a run file. Raises InputError for unfit columns, and for pools without rows."""
    if examples.smiles is not None:
        require_rdkit()
    looks, counts, molecules = [], {}, {}
    for pool in pools_of(config):
        listing = list_pool(pool)
        columns, parts = columns_of_pool(pool, examples, config), file_parts(listing)
        summaries: list[TableSummary] = []
        for part in parts:
            table = read_part(part, columns, None)
            summaries.append(TableSummary.of(table, columns))
            if summaries[-1].rows and (examples.smiles is None or first_molecules(table, examples.fingerprint)):
                break
        else:
            _check_not_empty(pool, TableSummary.joined(summaries, columns))
            raise _no_molecules(pool, examples)
        look = TableSummary.joined(summaries, columns)
        if pool.role == "source":
            looks.append(look)
            source_columns = columns
        else:
            molecules[listing.key] = round((look.rows + look.filtered) * len(parts) / len(summaries))
        counts[pool.label] = round(look.rows * len(parts) / len(summaries))
    fingerprint = None if examples.smiles is None else examples.fingerprint
    inputs = RowEncoder.of(TableSummary.joined(looks, source_columns), fingerprint).inputs
    return RowsAhead(inputs, counts, 0 if examples.smiles is None else sum(molecules.values()))


def columns_of_pool(pool: Pool, examples: ExamplesConfig, config: RunConfig) -> TableColumns:
    """Return the columns to read. Only sources have groups: the split of a target does not depend on them."""
    column = config.retrain.group_column
    groups = (column,) if pool.role == "source" and column is not None else ()
    kind: FileKind = "parquet" if pool.config.reader == "parquet" else "csv"
    label = pool.config.label
    if label is not None:
        examples = examples.model_copy(update={"label": label})
    columns = TableColumns("examples", examples, kind, pool.section, groups, where=pool.config.where)
    return replace(columns, labelled=label is not None)


def split_of(pool: Pool, config: RunConfig) -> Split | None:
    """Return how a target is split, and of a source how the target is whose held-out rows it leaves out; else None.

    Molecules, and targets that leave a source out, are split by the inputs (or by the scaffolds of molecules), so that
    rows with the same inputs stay together. The seed draws the inputs that are held out, and where ``held_out_of`` is
    ``target`` so does the target.
    """
    if pool.role == "target":
        name, target = pool.name, target_config(pool)
    else:
        assert isinstance(pool.config, SourceConfig)
        if pool.config.without_held_out_of is None:
            return None
        name = pool.config.without_held_out_of
        target = config.targets[name]
    is_salted = target.leave_out is not None or (config.examples is not None and config.examples.smiles is not None)
    salt = str(config.seed) if target.held_out_of == "all" else f"{config.seed}/{name}"
    return Split(target.held_out, salt if is_salted else None, by_scaffold=target.held_out_by == "scaffold")


def _no_molecules(pool: Pool, examples: ExamplesConfig) -> InputError:
    return InputError(
        f"the {pool.label} has no molecule that can be read",
        where=f"examples.smiles, column {examples.smiles}",
        got="texts none of which is valid SMILES",
        wanted="a column of SMILES, such as CCO",
    )


def _check_not_empty(pool: Pool, look: TableSummary) -> None:
    if not look.rows:
        raise no_rows(pool, look.filtered)


def _check_sources(config: RunConfig, encoder: RowEncoder) -> None:
    """Raise InputError unless the sources have two classes, and all groups that the prior names."""
    assert config.examples is not None
    if config.examples.task == "classification" and len(encoder.label_names) < 2:
        raise InputError(
            "the label has one class only",
            where="examples.label",
            got=", ".join(encoder.label_names) or "no rows",
            wanted="two classes or more over all sources",
        )
    for key, objective in config.retrain.objectives.items():
        if not isinstance(objective, GroupObjective) or not objective.group_column:
            continue
        if isinstance(objective.prior, dict) and set(objective.prior) != set(encoder.group_names):
            raise InputError(
                "the prior does not fit the groups",
                where=f"{key}.prior",
                got=", ".join(objective.prior),
                wanted=f"a weight for every value of {objective.group_column}: {', '.join(encoder.group_names)}",
            )


def _check_fit(pool: Pool, look: TableSummary, encoder: RowEncoder) -> None:
    """Raise InputError unless the encoder knows a target's classes and the length of its features."""
    if pool.role == "target" and (unknown := sorted(set(look.labels) - set(encoder.label_names))):
        raise InputError(
            f"the {pool.label} has a class that no source has",
            where=f"examples.label, {pool.files_key}",
            got=listed(unknown),
            wanted=f"one of {listed(encoder.label_names)}",
            remedy="leave its rows out by 'where', or add a source that has it",
        )
    if len(look.mean) != len(encoder.mean):
        raise InputError(
            "the features differ in length",
            where=f"examples.features, {pool.files_key}",
            got=len(look.mean),
            wanted=f"{len(encoder.mean)}, as the sources have",
        )


def _check_classes(pool: Pool, rows: Artifact, storage: Storage) -> None:
    """Raise InputError where a part of a target has one class alone: nothing is learned from it, or judged by it."""
    for part in PARTS:
        files = [read_table(storage, rows.files[name]) for name in part_files(rows, part)]
        if len({label for table in files for label in table["label"].unique().to_pylist()}) < 2:
            raise InputError(
                f"the {pool.label} has one class alone after the split",
                where=pool.key("held_out"),
                got=f"{sum(map(len, files))} rows in the part {part}",
                wanted="two classes in both parts",
                remedy="leave the target out, by a larger min_positive of its source, or take another held_out or seed",
            )


def _counts(listing: Listing, look: TableSummary, encoded: Artifact) -> dict[str, int]:
    """Return the counts that texts have. A row is a document of one token, and no duplicates are dropped."""
    zeros = dict.fromkeys(("skipped_not_utf8", "skipped_empty", "split", "duplicates", "in_target"), 0)
    size = listing.size_bytes or 0
    rows = look.rows + look.filtered + look.invalid
    read = {"documents_read": rows, "filtered": look.filtered, "bytes_read": size}
    if look.invalid:
        read["invalid"] = look.invalid
    counts = zeros | read | {"documents": look.rows, "bytes": size, "tokens": look.rows}
    if listing.pool.role == "source":
        return counts | {"tokens": encoded.meta["tokens"]}
    parts = {f"{part}_{name}": encoded.meta[part][name] for part in PARTS for name in ("documents", "tokens")}
    return counts | parts


def _warnings(config: RunConfig, looks: Mapping[str, TableSummary], encoder: RowEncoder) -> Iterator[DataWarning]:
    if invalid := {label: look for label, look in looks.items() if look.invalid}:
        counts = [f"{label}: {look.invalid} of {look.invalid + look.rows} rows" for label, look in invalid.items()]
        more = f"; and so in {len(counts) - NAMED} other pools" if len(counts) > NAMED else ""
        yield {
            "code": "invalid_smiles",
            "message": f"{'; '.join(counts[:NAMED])}{more}: these are not valid SMILES and were left out",
            "pools": list(invalid),
            "rows": sum(look.invalid for look in invalid.values()),
        }
    first_with: dict[str, str] = {}
    for label, look in looks.items():
        other = first_with.setdefault(fingerprint(look.digests), label)
        # A source without the rows that the target holds out is what leaving one out means.
        role, _, name = other.partition(" ")
        is_left_out = role == "source" and config.sources[name].without_held_out_of is not None
        if other != label and not (is_left_out and label == f"target {config.sources[name].without_held_out_of}"):
            one_role = other.split()[0] == label.split()[0]
            so = "shares between them mean nothing" if one_role else "models are judged by what they have learnt"
            message = f"{other} and {label} hold the same rows: {so}"
            yield {"code": "identical_pools", "message": message, "pools": [other, label]}
        for column, values in look.categories.items():
            if unknown := sorted(set(values) - set(encoder.categories[column])):
                message = f"{label} has values of {column} that no source has, all zeros: {', '.join(unknown[:NAMED])}"
                yield {"code": "unknown_category", "message": message, "pools": [label], "column": column}


def _too_short(config: RunConfig, looks: Mapping[str, TableSummary]) -> Iterator[DataWarning]:
    """Yield a warning for each target that has fewer rows than its ``max_tokens``."""
    for name, target in config.targets.items():
        label, rows = f"target {name}", looks[f"target {name}"].rows
        if target.max_tokens is not None and rows < target.max_tokens:
            message = f"{label}: max_tokens is {target.max_tokens:,}, but {rows:,} are used: it has no more"
            yield {"code": "short_target", "message": message, "pools": [label], "tokens": rows}
