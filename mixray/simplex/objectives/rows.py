"""Rows of log-probabilities: their weights, how those of one document add up, and the loss of a given mixture.

The loss is always in nats per token of the target, under one of two weightings:

    document   the mean over N documents of (nats of the document / its tokens):  w_i = 1 / (N * tokens of i's document)
    token      all nats / all tokens:                                             w_i = 1 / all tokens

The unit (document, window or token) is what one row of the table is: what the mixture likelihood is taken over.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixray.errors import InputError
from mixray.simplex.checks import (
    Matrix,
    Vector,
    checked_log_probs,
    checked_row_weights,
    checked_shares,
    checked_table,
    name_rows,
)

Weighting = Literal["document", "token"]


def row_weights(token_counts: ArrayLike, document_ids: ArrayLike | None, weighting: Weighting) -> Vector:
    """Return the weight of every row, float64 ``(rows,)``: with them the weighted sum of nats is nats per token.

    ``token_counts``: predicted tokens of each row, ``(rows,)``, > 0. ``document_ids``: which document each row is part
    of, ``(rows,)``, in any order; None when every row is a document. Raises InputError.
    """
    if weighting not in get_args(Weighting):
        raise InputError(f"unknown weighting {weighting!r}", wanted=", ".join(get_args(Weighting)))
    tokens = checked_token_counts(token_counts)
    if weighting == "token":
        return np.full(tokens.size, 1 / tokens.sum())
    if document_ids is None:
        return 1 / (tokens.size * tokens)
    documents, position = documents_of(document_ids, tokens.size)
    document_tokens = np.bincount(position, weights=tokens)
    return 1 / (documents.size * document_tokens[position])


def sum_by_document(
    log_probs: ArrayLike, document_ids: ArrayLike, token_counts: ArrayLike
) -> tuple[Matrix, NDArray[np.int64], NDArray[np.generic]]:
    """Add the log-probabilities of windows or tokens, ``(rows, sources)`` nats, to one row per document.

    Return the documents' log-probabilities (float64), their token counts and their ids, in ascending order of id.
    Raises InputError when the shapes disagree.
    """
    table, tokens = np.asarray(log_probs), checked_token_counts(token_counts)
    if table.ndim != 2 or len(table) != tokens.size:
        raise InputError(
            "log_probs: one row per token count is needed",
            got=f"shape {table.shape}",
            wanted=f"({tokens.size}, sources)",
        )
    documents, position = documents_of(document_ids, tokens.size)
    order = np.argsort(position, kind="stable")
    starts = np.searchsorted(position[order], np.arange(documents.size))
    sums = np.add.reduceat(table[order], starts, axis=0, dtype=np.float64)
    return sums, np.add.reduceat(tokens[order], starts), documents


def checked_token_counts(token_counts: ArrayLike, rows: int | None = None) -> NDArray[np.int64]:
    """Return token counts as int64 ``(rows,)``. Raises InputError unless all are whole numbers above 0."""
    tokens = np.asarray(token_counts)
    fits = tokens.ndim == 1 and tokens.size == (tokens.size if rows is None else rows)
    if not fits or not tokens.size or tokens.dtype.kind not in "iu":
        raise InputError(
            "token_counts: one whole number per row is needed",
            got=f"shape {tokens.shape}, dtype {tokens.dtype}",
            wanted=f"({'rows' if rows is None else rows},)",
        )
    bad = np.flatnonzero(tokens <= 0)
    if bad.size:
        raise InputError(f"token_counts: no tokens in {name_rows(bad)}", wanted=">= 1", remedy="leave empty rows out")
    return tokens.astype(np.int64)


def documents_of(document_ids: ArrayLike, rows: int) -> tuple[NDArray[np.generic], NDArray[np.intp]]:
    """Return the documents' ids in ascending order, and each row's place among them."""
    ids = np.asarray(document_ids)
    if ids.shape != (rows,):
        raise InputError("document_ids: one per row is needed", got=f"shape {ids.shape}", wanted=f"({rows},)")
    documents, position = np.unique(ids, return_inverse=True)
    return documents, position


def mixture_loss(log_probs: ArrayLike, source_shares: ArrayLike, *, row_weights: ArrayLike | None = None) -> float:
    """Return ``-sum_i w_i log sum_k shares_k exp(l_ik)``, nats per token; inf when a row that counts cannot occur.

    Arguments as in ``solve``; ``source_shares``: ``(sources,)``, >= 0, sum 1. Raises InputError.
    """
    table = checked_table(log_probs)
    weights = checked_row_weights(row_weights, len(table))
    counts = weights > 0
    return -float(weights[counts] @ mixed_log_probs(table[counts], source_shares))


def mixed_log_probs(log_probs: ArrayLike, source_shares: ArrayLike) -> Vector:
    """Return the log-probability of every row under a mixture, nats, float64 ``(rows,)``. Raises InputError."""
    table = checked_log_probs(log_probs)
    shares = checked_shares("source_shares", source_shares, table.shape[1])
    positive = shares > 0
    terms = table[:, positive] + np.log(shares[positive])
    largest = terms.max(axis=1)
    terms -= np.where(np.isneginf(largest), 0.0, largest)[:, None]
    with np.errstate(divide="ignore"):  # log 0 = -inf is meant: such a row cannot occur
        mixed: Vector = largest + np.log(np.exp(terms, out=terms).sum(axis=1))
    return mixed
