"""The whole cache of one target as arrays, every count, key and value checked on the way in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixray.cache.columns import KEY
from mixray.errors import CorruptedArtifactError, InputError
from mixray.store import Artifact, Storage
from mixray.store.artifacts import artifact_folder


@dataclass(frozen=True)
class PredictionCache:
    """All rows of one part of one target, in the order of its files.

    ``documents`` int64 (rows,): which document a row belongs to, 0 .. documents-1; ``document_ids`` bytes (documents,);
    ``windows`` int32 and ``counts`` int64 (rows,): window number and predicted tokens; ``log_probs`` float64
    (rows, models): total nats of the row's tokens; ``token_log_probs`` float32 (tokens, models), rows one after
    another, where kept.
    """

    models: tuple[str, ...]
    documents: np.ndarray
    document_ids: np.ndarray
    windows: np.ndarray
    counts: np.ndarray
    log_probs: np.ndarray
    token_log_probs: np.ndarray | None

    def document_counts(self) -> np.ndarray:
        """Predicted tokens of every document, int64 (documents,)."""
        return np.bincount(self.documents, weights=self.counts, minlength=len(self.document_ids)).astype(np.int64)

    def losses(self) -> dict[str, tuple[float, float]]:
        """Per model, in nats per token: (mean over documents, total nats / total tokens)."""
        lengths = self.document_counts()
        found = {}
        for index, model in enumerate(self.models):
            totals = np.bincount(self.documents, weights=self.log_probs[:, index], minlength=len(lengths))
            found[model] = (float(-(totals / lengths).mean()), float(-totals.sum() / lengths.sum()))
        return found


def no_token_values() -> InputError:
    """For whoever wants the unit ``token`` of a cache without per-token values."""
    return InputError(
        "the prediction cache keeps no per-token values",
        where="mixture.unit",
        got="token",
        wanted="document or window",
        remedy="run again with cache.token_log_probs=true",
    )


def split_files(rows: Artifact, split: str) -> list[str]:
    """The names of the files that hold one part (fit, held_out) of a target's rows, in order."""
    return sorted(name for name in rows.files if name.startswith(f"{split}-"))


def read_file(storage: Storage, name: str, rows: Artifact, columns: Mapping[str, Artifact]) -> pa.Table:
    """One file of rows joined with its columns: document, window, count and, per model, its log-probability.

    Per-token values, where a column has them, stand in ``<model>.tokens``. Raises CorruptedArtifactError where a
    column's keys are not the rows' keys, or a row has not as many values as tokens.
    """
    table = read_columns(storage, rows, name, [*KEY, "count"])
    keys = _keys(table)
    order = np.argsort(keys, kind="stable")
    for model, column in columns.items():
        what, wanted = f"the cache column of {model}", f"the {len(keys)} rows of its target"
        if name not in column.files:
            raise _corrupted(storage, column, what, f"no file {name}", wanted)
        values = read_columns(storage, column, name, None)
        theirs = _keys(values)
        their_order = np.argsort(theirs, kind="stable")
        if not np.array_equal(theirs[their_order], keys[order]):
            got = f"{len(theirs)} rows, {len(np.setdiff1d(theirs, keys))} of them foreign"
            raise _corrupted(storage, column, what, got, wanted)
        take = np.empty(len(keys), np.int64)
        take[order] = their_order
        values = values.take(pa.array(take))
        table = table.append_column(model, values["log_prob"])
        if "token_log_probs" in values.column_names:
            lengths = pc.list_value_length(values["token_log_probs"])
            if lengths.to_pylist() != table["count"].to_pylist():
                raise _corrupted(storage, column, what, "rows of other lengths", "one value per token")
            table = table.append_column(f"{model}.tokens", values["token_log_probs"])
    return table


def read_cache(storage: Storage, rows: Artifact, split: str, columns: Mapping[str, Artifact]) -> PredictionCache:
    """The cache of one part of one target; ``columns``: model name -> its column artifact.

    Raises CorruptedArtifactError as ``read_file`` does, and where a row stands twice.
    """
    models = tuple(columns)
    table = pa.concat_tables([read_file(storage, name, rows, columns) for name in split_files(rows, split)])
    ids, documents = np.unique(document_bytes(table["document"]), return_inverse=True)
    order = np.lexsort((table["window"].to_numpy(), documents))
    same = (np.diff(documents[order]) == 0) & (np.diff(table["window"].to_numpy()[order]) == 0)
    if same.any():
        raise _corrupted(storage, rows, "the target's rows", f"{same.sum()} rows that stand twice", "every row once")
    tokens = None
    if models and all(f"{model}.tokens" in table.column_names for model in models):
        flat = [table[f"{model}.tokens"].combine_chunks().flatten().to_numpy() for model in models]
        tokens = np.stack(flat, axis=1)
    return PredictionCache(
        models=models,
        documents=documents.astype(np.int64),
        document_ids=ids,
        windows=table["window"].to_numpy(),
        counts=table["count"].to_numpy().astype(np.int64),
        log_probs=np.stack([table[model].to_numpy() for model in models], axis=1),
        token_log_probs=tokens,
    )


def _corrupted(storage: Storage, artifact: Artifact, what: str, got: str, wanted: str) -> CorruptedArtifactError:
    """Of an artifact whose files are those of its manifest: ``--rebuild`` would keep it."""
    where = storage.location(artifact_folder(artifact.kind, artifact.id))
    return CorruptedArtifactError(
        f"{what} cannot be joined", where=where, got=got, wanted=wanted, remedy="delete that folder and run again"
    )


def read_columns(storage: Storage, artifact: Artifact, name: str, columns: list[str] | None) -> pa.Table:
    """One file of an artifact, all its columns when None. Raises CorruptedArtifactError naming it."""
    record = artifact.files[name]
    try:
        return pq.read_table(storage.fetch(record), columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise CorruptedArtifactError(
            "a file of the prediction cache cannot be read",
            where=storage.location(record.path),
            got=str(error).partition("\n")[0],
            wanted=f"{record.bytes} bytes of Parquet",
            remedy="run again with --rebuild to make it anew",
        ) from error


def document_bytes(column: pa.ChunkedArray) -> np.ndarray:
    """A fixed_size_binary(16) column as numpy ``V16``-like sortable bytes, trailing zeros kept."""
    array = column.combine_chunks()
    raw = np.frombuffer(array.buffers()[1], np.uint8, count=16 * len(array), offset=16 * array.offset)
    return raw.reshape(-1, 16).copy().view("V16").ravel()


def _keys(table: pa.Table) -> np.ndarray:
    """One sortable number per (document, window): documents and windows of one file, ranked together."""
    document = document_bytes(table["document"])
    keys = np.empty(len(table), dtype=[("high", ">u8"), ("low", ">u8"), ("window", "<i8")])
    halves = document.view(">u8").reshape(-1, 2)
    keys["high"], keys["low"], keys["window"] = halves[:, 0], halves[:, 1], table["window"].to_numpy()
    return keys
