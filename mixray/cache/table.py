"""The prediction cache of one target: how its columns are written, and how it is read whole.

A column holds what one model gives each row of one part (fit, held_out) of one target. It is an artifact, so a new
source adds one without touching the others. It has a file for every file of the target's rows, each row keyed by
(document, window): columns are joined by key, never by arrival order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixray.errors import CorruptedArtifactError, InputError, first_line
from mixray.store import Artifact, Storage, fingerprint
from mixray.store.artifacts import artifact_folder
from mixray.store.target_parts import ROW_KEY, TargetPart, document_ids, parent_ids, part_files, row_keys


def column_id(
    model_id: str,
    rows_id: str,
    part: TargetPart,
    *,
    precision: str,
    on_gpu: bool,
    batch_tokens: int,
    token_log_probs: bool,
    threads: int = 1,
) -> str:
    """Return the identity of a column: everything that decides its numbers, rounding included."""
    facts = ["column", 1, model_id, rows_id, part, precision, on_gpu, batch_tokens, token_log_probs]
    return fingerprint([*facts, threads] if threads > 1 and not on_gpu else facts)


def column_table(
    rows: pa.Table,
    log_probs: np.ndarray,
    token_log_probs: Sequence[np.ndarray] | None,
    *,
    model: str,
    target: str,
    value: Literal["log_prob", "error"] = "log_prob",
) -> pa.Table:
    """Return the column's table for a file of rows.

    ``log_probs``: float64 (rows,), total nats of each row's tokens, or the model's error where ``value`` says so;
    ``token_log_probs``: per row float32 (tokens,). Raises InputError naming model and document where a value is not
    finite.
    """
    bad = np.flatnonzero(~np.isfinite(log_probs))
    if bad.size:
        document, window = (rows[name][int(bad[0])].as_py() for name in ROW_KEY)
        raise InputError(
            f"{model} gives the target {target!r} a log-probability that is not a finite number",
            where=f"document {document.hex()}, window {window} ({bad.size} such rows in this file)",
            got=float(log_probs[bad[0]]),
            wanted="finite nats",
            remedy="look at the proxy's loss curve; a lower learning rate or float32 precision usually helps",
        )
    columns: dict[str, Any] = {name: rows[name] for name in ROW_KEY}
    columns[value] = pa.array(log_probs, pa.float64())
    if token_log_probs is not None:
        columns["token_log_probs"] = pa.array(
            [values.astype(np.float32) for values in token_log_probs], pa.list_(pa.float32())
        )
    return pa.table(columns)


@dataclass(frozen=True)
class PredictionCache:
    """All rows of one part of one target, in the order of its files.

    ``documents`` int64 (rows,): which document a row belongs to, 0 .. documents-1; ``document_ids`` bytes (documents,);
    ``windows`` int32 and ``counts`` int64 (rows,): window number and predicted tokens; ``log_probs`` float64
    (rows, models): total nats of the row's tokens; ``token_log_probs`` float32 (tokens, models), rows one after
    another, where kept. ``errors`` float64 (rows, models), where numbers are predicted: predicted minus true ones; then
    ``log_probs`` are their squares with the sign reversed, so that losses are squared errors.
    """

    models: tuple[str, ...]
    documents: np.ndarray
    document_ids: np.ndarray
    windows: np.ndarray
    counts: np.ndarray
    log_probs: np.ndarray
    token_log_probs: np.ndarray | None
    errors: np.ndarray | None = None

    def document_counts(self) -> np.ndarray:
        """Return the predicted tokens of every document, int64 (documents,)."""
        return np.bincount(self.documents, weights=self.counts, minlength=len(self.document_ids)).astype(np.int64)

    def parents(self) -> np.ndarray:
        """Return the number of every document's parent, 0 .. parents-1 in the order of their ids, int64 (documents,).

        Documents that were cut from one parent are not independent: it is what every interval is about.
        """
        return np.unique(parent_ids(self.document_ids), return_inverse=True)[1].astype(np.int64)

    def losses(self) -> dict[str, tuple[float, float]]:
        """Return for each model, in nats per token: (mean over documents, total nats / total tokens)."""
        lengths = self.document_counts()
        losses = {}
        for index, model in enumerate(self.models):
            totals = np.bincount(self.documents, weights=self.log_probs[:, index], minlength=len(lengths))
            losses[model] = (float(-(totals / lengths).mean()), float(-totals.sum() / lengths.sum()))
        return losses


def no_token_values() -> InputError:
    """Return the error for the unit ``token`` of a cache without per-token values."""
    return InputError(
        "the prediction cache keeps no per-token values",
        where="mixture.unit",
        got="token",
        wanted="document or window",
        remedy="run again with cache.token_log_probs=true",
    )


def read_file(storage: Storage, name: str, rows: Artifact, columns: Mapping[str, Artifact]) -> pa.Table:
    """Return one file of rows joined with its columns: document, window, count and, per model, its log-probability.

    Per-token values, where a column has them, stand in ``<model>.tokens``; errors, where a column has these in place of
    log-probabilities, in ``<model>.error``. Raises CorruptedArtifactError where a column's keys are not the rows' keys,
    or a row has not as many values as tokens.
    """
    table = read_columns(storage, rows, name, [*ROW_KEY, "count"])
    keys = row_keys(table)
    order = np.argsort(keys, kind="stable")
    for model, column in columns.items():
        what, its_rows = f"the cache column of {model}", f"the {len(keys)} rows of its target"
        if name not in column.files:
            raise _corrupted(storage, column, what, f"no file {name}", its_rows)
        values = read_columns(storage, column, name, None)
        column_keys = row_keys(values)
        column_order = np.argsort(column_keys, kind="stable")
        if not np.array_equal(column_keys[column_order], keys[order]):
            got = f"{len(column_keys)} rows, {len(np.setdiff1d(column_keys, keys))} of them foreign"
            raise _corrupted(storage, column, what, got, its_rows)
        take = np.empty(len(keys), np.int64)
        take[order] = column_order
        values = values.take(pa.array(take))
        if "error" in values.column_names:
            table = table.append_column(f"{model}.error", values["error"])
        else:
            table = table.append_column(model, values["log_prob"])
        if "token_log_probs" in values.column_names:
            lengths = pc.list_value_length(values["token_log_probs"])
            if lengths.to_pylist() != table["count"].to_pylist():
                raise _corrupted(storage, column, what, "rows of other lengths", "one value per token")
            table = table.append_column(f"{model}.tokens", values["token_log_probs"])
    return table


def read_cache(storage: Storage, rows: Artifact, part: TargetPart, columns: Mapping[str, Artifact]) -> PredictionCache:
    """Return the cache of one part of one target; ``columns``: model name -> its column artifact.

    Raises CorruptedArtifactError as ``read_file`` does, and where a row stands twice.
    """
    models = tuple(columns)
    table = pa.concat_tables([read_file(storage, name, rows, columns) for name in part_files(rows, part)])
    ids, documents = np.unique(document_ids(table), return_inverse=True)
    order = np.lexsort((table["window"].to_numpy(), documents))
    same = (np.diff(documents[order]) == 0) & (np.diff(table["window"].to_numpy()[order]) == 0)
    if same.any():
        raise _corrupted(storage, rows, "the target's rows", f"{same.sum()} rows that stand twice", "every row once")
    tokens = None
    if models and all(f"{model}.tokens" in table.column_names for model in models):
        flat = [table[f"{model}.tokens"].combine_chunks().flatten().to_numpy() for model in models]
        tokens = np.stack(flat, axis=1)
    errors = None
    if models and f"{models[0]}.error" in table.column_names:
        errors = np.stack([table[f"{model}.error"].to_numpy() for model in models], axis=1)
    return PredictionCache(
        models=models,
        documents=documents.astype(np.int64),
        document_ids=ids,
        windows=table["window"].to_numpy(),
        counts=table["count"].to_numpy().astype(np.int64),
        log_probs=np.stack([table[model].to_numpy() for model in models], axis=1) if errors is None else -(errors**2),
        token_log_probs=tokens,
        errors=errors,
    )


def read_labels(storage: Storage, rows: Artifact, part: TargetPart) -> np.ndarray:
    """Return the label of every example of a target, (rows,), in the order of ``read_cache``."""
    files = [read_columns(storage, rows, name, ["label"]) for name in part_files(rows, part)]
    labels: np.ndarray = pa.concat_tables(files)["label"].to_numpy()
    return labels


def _corrupted(storage: Storage, artifact: Artifact, what: str, got: str, wanted: str) -> CorruptedArtifactError:
    """Return the error for an artifact whose files are those of its manifest: ``--rebuild`` would keep it."""
    where = storage.location(artifact_folder(artifact.kind, artifact.id))
    return CorruptedArtifactError(
        f"{what} cannot be joined", where=where, got=got, wanted=wanted, remedy="delete that folder and run again"
    )


def read_columns(storage: Storage, artifact: Artifact, name: str, columns: list[str] | None) -> pa.Table:
    """Return one file of an artifact, with all its columns when None. Raises CorruptedArtifactError naming it."""
    record = artifact.files[name]
    try:
        return pq.read_table(storage.fetch(record), columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise CorruptedArtifactError(
            "a file of the prediction cache cannot be read",
            where=storage.location(record.path),
            got=first_line(error),
            wanted=f"{record.bytes} bytes of Parquet",
            remedy="run again with --rebuild to make it anew",
        ) from error
