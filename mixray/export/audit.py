"""``mixray audit``: the shares that were asked for beside those that a training really read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from mixray.errors import InputError, first_line
from mixray.mixture import Mixture, SourceSize
from mixray.store import ModelMeta

LONGEST_ROW = 1 << 28
"""Bytes that a row of a JSONL file may have; Arrow's own limit, a megabyte, is less than a long document."""


@dataclass(frozen=True)
class SourceAudit:
    """One source of an audited training.

    ``requested``, ``realised``: shares of the training tokens; ``documents``, ``epochs``: None where sizes are not
    stated; ``loss``: of the trained model on the source, nats per token, None where it was not measured.
    """

    source: str
    requested: float
    realised: float
    tokens: float
    documents: float | None
    epochs: float | None
    loss: float | None = None


def misplaced_share(rows: list[SourceAudit]) -> float:
    """Return the part of the tokens that came from other sources than asked for: half the sum of the differences."""
    return sum(abs(row.realised - row.requested) for row in rows) / 2


def audit_arm(model: ModelMeta, sizes: Mapping[str, SourceSize]) -> list[SourceAudit] | None:
    """Return the audit of a finished arm; None for one of a version that did not record what it read."""
    if model.source_shares is None or model.source_losses is None:
        return None
    rows = []
    for source, measured in model.source_losses.items():
        tokens = measured.share * model.tokens
        rows.append(
            _row(source, model.source_shares.get(source, 0.0), measured.share, tokens, sizes.get(source), measured.loss)
        )
    return rows


def audit_log(mixture: Mixture, path: str) -> list[SourceAudit]:
    """Return the audit of what a trainer's log, or a data set, says it read. Raises InputError.

    ``path``: a CSV file with the columns ``source``, ``tokens`` and, where it counts them, ``documents``; or a JSONL or
    Parquet file with one document a row, and the columns ``source`` and ``tokens`` or ``input_ids``.
    """
    table = _read(path)
    by_source = {row["source"]: row for row in table.group_by("source").aggregate(_sums(table)).to_pylist()}
    unknown = [str(source) for source in by_source if source not in mixture.sources]
    if unknown:
        raise InputError(
            "the log has sources that the mixture does not have",
            where=f"{path}: source",
            got=", ".join(unknown[:5]),
            wanted=f"those of the mixture: {', '.join(mixture.sources)}",
        )
    total = sum(row["tokens_sum"] or 0 for row in by_source.values())
    if total <= 0:
        raise InputError("the log has no tokens", where=f"{path}: tokens", got=total, wanted="more than 0")
    rows = []
    for source in mixture.sources:
        counts = by_source.get(source, {"tokens_sum": 0, "documents_sum": 0})
        tokens = counts["tokens_sum"] or 0
        row = _row(source, mixture.weights[source], tokens / total, tokens, mixture.sizes.get(source), None)
        if "documents" in table.column_names:
            row = SourceAudit(source, row.requested, row.realised, tokens, counts["documents_sum"], row.epochs)
        rows.append(row)
    return rows


def _row(
    source: str, requested: float, realised: float, tokens: float, size: SourceSize | None, loss: float | None
) -> SourceAudit:
    documents = None if size is None else tokens / size.mean_tokens
    epochs = None if size is None else tokens / size.tokens
    return SourceAudit(source, requested, realised, tokens, documents, epochs, loss)


def _sums(table: Any) -> list[tuple[str, str]]:
    return [(name, "sum") for name in ("tokens", "documents") if name in table.column_names]


def _read(path: str) -> Any:
    """Return an Arrow table of the columns source, tokens and, where they are counted, documents."""
    try:
        if path.endswith(".csv"):
            # Names of sources may look like numbers.
            options = pyarrow.csv.ConvertOptions(column_types={"source": pa.string()})
            table = pyarrow.csv.read_csv(path, convert_options=options)
        elif path.endswith((".jsonl", ".json")):
            table = pyarrow.json.read_json(path, pyarrow.json.ReadOptions(block_size=LONGEST_ROW))
        else:
            table = pyarrow.parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            "the log cannot be read", where=path, got=first_line(error), wanted="a CSV, JSONL or Parquet file"
        ) from None
    names = table.column_names
    if "source" in names and "tokens" not in names and "input_ids" in names:
        if not isinstance(table["input_ids"].type, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
            raise _wrong_type(path, table, "input_ids", "lists of token ids")
        table = table.append_column("tokens", pc.list_value_length(table["input_ids"]))
    if not {"source", "tokens"} <= set(table.column_names):
        raise InputError(
            "the log does not say which source its tokens came from",
            where=path,
            got=f"the columns {', '.join(names)}",
            wanted="source, and tokens or input_ids",
        )
    if not (pa.types.is_string(table["source"].type) or pa.types.is_large_string(table["source"].type)):
        raise _wrong_type(path, table, "source", "the names of sources, as text")
    for name in ("tokens", "documents") if path.endswith(".csv") else ("tokens",):
        if name in names and not (pa.types.is_integer(table[name].type) or pa.types.is_floating(table[name].type)):
            raise _wrong_type(path, table, name, "numbers")
    if not path.endswith(".csv"):
        ones = pa.array([1] * table.num_rows)
        table = table.drop_columns([name for name in ("documents",) if name in names]).append_column("documents", ones)
    return table.select([name for name in ("source", "tokens", "documents") if name in table.column_names])


def _wrong_type(path: str, table: Any, name: str, wanted: str) -> InputError:
    return InputError(
        "a column of the log has the wrong type", where=f"{path}: {name}", got=table[name].type, wanted=wanted
    )
