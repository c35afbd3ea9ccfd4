"""The prediction cache of one target: how its columns are written, and how it is read whole.

A column holds what one model gives each row of one part (fit, held_out) of one target. It is an artifact, so a new
source adds one without touching the others. It has a file for every file of the target's rows, each row keyed by
(document, window): columns are joined by key, never by arrival order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixray.errors import CorruptedArtifactError, InputError, first_line
from mixray.store import Artifact, Storage, fingerprint
from mixray.store.artifacts import artifact_folder
from mixray.store.target_parts import (
    MOLECULE,
    MOLECULES,
    ROW_KEY,
    RowGroup,
    TargetPart,
    document_ids,
    parent_ids,
    part_files,
    row_keys,
)

SEGMENTS = "segment_log_probs"
PREDICTIONS_FILE = "predictions.npy"
"""Of a column of molecules: the log-probability of every class, float64 (molecules, classes), nats, or the predicted
number, (molecules, 1). It serves all targets with molecules of the same files."""


def column_id(
    model_id: str,
    rows_id: str,
    part: RowGroup,
    *,
    precision: str,
    on_gpu: bool,
    batch_tokens: int,
    segment: int | None,
    threads: int = 1,
) -> str:
    """Return the identity of a column: everything that decides its numbers, rounding included."""
    segments = False if segment is None else segment  # As earlier versions wrote it for the same bytes.
    facts = ["column", 1, model_id, rows_id, part, precision, on_gpu, batch_tokens, segments]
    return fingerprint([*facts, threads] if threads > 1 and not on_gpu else facts)


def column_table(
    rows: pa.Table,
    log_probs: np.ndarray,
    segments: Sequence[np.ndarray] | None,
    *,
    model: str,
    target: str,
    value: Literal["log_prob", "error"] = "log_prob",
) -> pa.Table:
    """Return the column's table for a file of rows.

    ``log_probs``: float64 (rows,), total nats of each row's tokens, or the model's error where ``value`` says so;
    ``segments``: per row float32 (segments,). Raises InputError naming model and document where a value is not finite.
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
    columns = {name: rows[name] for name in ROW_KEY}
    columns[value] = pa.array(log_probs, pa.float64())
    if segments is not None:
        columns[SEGMENTS] = pa.array([values.astype(np.float32) for values in segments], pa.list_(pa.float32()))
    return pa.table(columns)


@dataclass(frozen=True)
class PredictionCache:
    """All rows of one part of one target, in the order of its files.

    ``documents`` int64 (rows,): which document a row belongs to, 0 .. documents-1; ``document_ids`` bytes (documents,);
    ``windows`` int32 and ``counts`` int64 (rows,): window number and predicted tokens; ``log_probs`` float64
    (rows, models): total nats of the row's tokens; ``segments`` float32 (segments, models): nats of pieces of
    ``segment`` tokens, which every row is cut into from its start on, rows one after another; None where not stored.
    ``errors`` float64 (rows, models), where numbers are predicted: predicted minus true ones; then ``log_probs`` are
    their squares with the sign reversed, so that losses are squared errors.
    """

    models: tuple[str, ...]
    documents: np.ndarray
    document_ids: np.ndarray
    windows: np.ndarray
    counts: np.ndarray
    log_probs: np.ndarray
    segments: np.ndarray | None = None
    segment: int | None = None
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
        lengths, losses = self.document_counts(), self.document_losses()
        return {
            model: (float((totals / lengths).mean()), float(totals.sum() / lengths.sum()))
            for model, totals in zip(self.models, losses.T, strict=True)
        }

    def document_losses(self) -> np.ndarray:
        """Return the total loss of every document under every model, nats, float64 (documents, models)."""
        totals = [
            np.bincount(self.documents, weights=-values, minlength=len(self.document_ids))
            for values in self.log_probs.T
        ]
        return np.stack(totals, axis=1)


def stored_segment(columns: Mapping[str, Artifact]) -> int | None:
    """Return the tokens of the segments that all columns hold; None where they hold none or differ."""
    lengths = {column.meta.get("segment") for column in columns.values()}
    return lengths.pop() if len(lengths) == 1 else None


def require_segments(stored: int | None, length: int) -> int:
    """Return the tokens of stored segments, if those of ``length`` tokens are made of them.

    Raises InputError where they are not, or where none are stored.
    """
    if stored is None or length % stored:
        raise InputError(
            "the prediction cache does not hold what the unit is made of",
            where="mixture.unit",
            got=f"{_tokens(length)}; the cache holds {f'segments of {_tokens(stored)}' if stored else 'windows'}",
            wanted="document or window" + (f", or segments of a multiple of {_tokens(stored)}" if stored else ""),
            remedy=f"run again with cache.segment={length}",
        )
    return stored


def _tokens(number: int) -> str:
    return f"{number} token{'s' * (number != 1)}"


def join_segments(
    segments: np.ndarray, counts: np.ndarray, stored: int, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join segments of ``stored`` tokens to segments of ``length`` tokens, a multiple; none crosses a row.

    ``segments``: (stored segments, models), nats; ``counts``: int64 (rows,), tokens. Return the sums, float64 (joined
    segments, models), and, int64 (joined segments,), their tokens and the row that each is part of.
    """
    pieces, joined = -(-counts // stored), -(-counts // length)
    rows = np.repeat(np.arange(len(counts)), joined)
    number = np.arange(len(rows)) - (np.cumsum(joined) - joined)[rows]
    starts = (np.cumsum(pieces) - pieces)[rows] + number * (length // stored)
    sums = np.add.reduceat(segments, starts, axis=0, dtype=np.float64)
    return sums, np.minimum(length, counts[rows] - number * length), rows


def read_file(storage: Storage, name: str, rows: Artifact, columns: Mapping[str, Artifact]) -> pa.Table:
    """Return one file of rows joined with its columns: document, window, count and, per model, its log-probability.

    Those of segments, where a column has them, stand in ``<model>.segments``; errors, where a column has these in place
    of log-probabilities, in ``<model>.error``. Raises CorruptedArtifactError where a column's keys are not the rows'
    keys, or a row has not as many segments as its tokens make.
    """
    if MOLECULES in rows.meta:
        return _read_predictions(storage, name, rows, columns)
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
        if (segment := column.meta.get("segment")) is not None:
            pieces = pc.list_value_length(values[SEGMENTS]).to_numpy()
            if not np.array_equal(pieces, -(-table["count"].to_numpy() // segment)):
                raise _corrupted(storage, column, what, "rows of other lengths", f"one value per {_tokens(segment)}")
            table = table.append_column(f"{model}.segments", values[SEGMENTS])
    return table


def _read_predictions(storage: Storage, name: str, rows: Artifact, columns: Mapping[str, Artifact]) -> pa.Table:
    """Return one file of rows of molecules with what each model predicts for them, as ``read_file`` does."""
    stored = read_columns(storage, rows, name, [*ROW_KEY, "count", MOLECULE, "label"])
    table, molecules, labels = (
        stored.drop_columns([MOLECULE, "label"]),
        stored[MOLECULE].to_numpy(),
        stored["label"].to_numpy(),
    )
    for model, column in columns.items():
        if column.meta.get(MOLECULES) != rows.meta[MOLECULES]:
            got = f"molecules {column.meta.get(MOLECULES)}"
            raise _corrupted(storage, column, f"the cache column of {model}", got, f"molecules {rows.meta[MOLECULES]}")
        predictions = np.load(storage.fetch(column.files[PREDICTIONS_FILE]), mmap_mode="r")
        if np.issubdtype(labels.dtype, np.floating):
            table = table.append_column(f"{model}.error", pa.array(predictions[molecules, 0] - labels))
        else:
            table = table.append_column(model, pa.array(predictions[molecules, labels]))
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
    segment = stored_segment(columns)
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
        segments=None if segment is None else segment_values(table, models),
        segment=segment,
        errors=errors,
    )


def read_labels(storage: Storage, rows: Artifact, part: TargetPart) -> np.ndarray:
    """Return the label of every example of a target, (rows,), in the order of ``read_cache``."""
    files = [read_columns(storage, rows, name, ["label"]) for name in part_files(rows, part)]
    labels: np.ndarray = pa.concat_tables(files)["label"].to_numpy()
    return labels


def segment_values(table: pa.Table, models: Iterable[str]) -> np.ndarray:
    """Return the segments of a table of ``read_file``, rows one after another, float32 (segments, models), nats."""
    return np.stack([table[f"{model}.segments"].combine_chunks().flatten().to_numpy() for model in models], axis=1)


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
