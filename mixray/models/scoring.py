"""Log-probabilities of many rows under one causal language model, at nearly the speed of its bare forward pass.

Rows of like length share a forward pass, so that little is padded. Padding stands on the right, where a causal model's
predictions cannot see it, and needs no mask (a mask costs the fast attention kernels). No tensor of (batch, length,
vocabulary) exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixray.config.training import Precision
from mixray.errors import InputError, StageError
from mixray.models.protocol import Scores
from mixray.training import autocast
from mixray.training.loss import IGNORED, NextTokenNll

Rows = Sequence[NDArray[np.integer[Any]]]


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Rows of token ids of which only the last ones count; what stands before them is context.

    ``counts``: how many count of each, int64 (rows,), from 1 to its length less one.
    """

    ids: Rows
    counts: NDArray[np.int64]

    @classmethod
    def whole(cls, rows: Rows) -> TokenRows:
        """Return rows of which every id after the first counts."""
        return cls(rows, np.array([len(row) - 1 for row in rows], dtype=np.int64))


def score(
    nll_of: NextTokenNll,
    rows: TokenRows,
    *,
    batch_tokens: int,
    precision: Precision,
    segment: int | None = None,
) -> Scores:
    """Score rows of n + 1 token ids (n >= 1 may differ): the sum of log p(ids[t] | ids[:t]) over the last ``count`` of
    t = 1..n, in nats.

    ``segment``: the tokens of the pieces of a row, from its first token that counts on, whose sums are returned too.

    At most ``batch_tokens`` tokens, padding included, pass the model at once (a longer row passes alone). How rows are
    grouped depends on the rows alone, so the same rows give the same bits; other groupings differ by rounding.
    Values that are not finite are returned as they are. Raises StageError where a batch does not fit in memory.
    """
    ids, counts = rows.ids, rows.counts
    lengths = np.array([len(row) - 1 for row in ids], dtype=np.int64)
    unscored = np.flatnonzero((counts < 1) | (counts > lengths))
    if len(unscored):
        raise InputError("a row has no token to predict", got=f"row {unscored[0]}", wanted="2 or more token ids")
    done = []
    with torch.inference_mode():
        for batch in batches(lengths, batch_tokens):
            inputs, labels = _padded([ids[i] for i in batch], counts[batch])
            try:
                with autocast(nll_of.device, precision):
                    nll = nll_of(inputs, labels)
            except torch.OutOfMemoryError as error:
                raise StageError(
                    "a scoring batch does not fit in the device's memory",
                    got=f"{inputs.shape[0]} rows of {inputs.shape[1]} tokens",
                    remedy="lower cache.batch_tokens",
                ) from error
            log_probs = -nll.double()
            sums = None
            if segment is not None:
                sums = _segment_sums(_without_context(log_probs, lengths[batch] - counts[batch]), segment)
            done.append((batch, log_probs.sum(1), sums))
    return _in_order(done, counts, segment)


def batches(lengths: NDArray[np.int64], batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Indices of rows that pass the model together: longest first, rows x longest <= ``batch_tokens``.

    A batch is closed early, once a quarter full, before a row that is less than 9/10 of its longest: small batches
    cost little, padding costs its tokens.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        most, fewest = max(1, batch_tokens // longest), batch_tokens // (4 * longest)
        similar = int(np.searchsorted(-lengths[order[start:]], -0.9 * longest, side="right"))
        stop = start + min(most, max(similar, fewest, 1))
        yield order[start:stop]
        start = stop


def _padded(rows: Rows, counts: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (padded with 0) and labels (IGNORED where nothing is scored), int64, shape (rows, longest)."""
    longest = max(len(row) for row in rows) - 1
    inputs = np.zeros((len(rows), longest), dtype=np.int64)
    labels = np.full((len(rows), longest), IGNORED, dtype=np.int64)
    for index, (row, count) in enumerate(zip(rows, counts.tolist(), strict=True)):
        inputs[index, : len(row) - 1] = row[:-1]
        labels[index, len(row) - 1 - count : len(row) - 1] = row[-count:]
    return torch.from_numpy(inputs), torch.from_numpy(labels)


def _without_context(log_probs: torch.Tensor, contexts: NDArray[np.int64]) -> torch.Tensor:
    """Return every row moved to the left by the tokens of its context, padded with 0; (rows, longest)."""
    if not contexts.any():
        return log_probs
    longest = log_probs.shape[1]
    places = torch.from_numpy(np.arange(longest) + contexts[:, None]).to(log_probs.device)
    return torch.nn.functional.pad(log_probs, (0, 1)).gather(1, places.clamp(max=longest))


def _segment_sums(log_probs: torch.Tensor, segment: int) -> torch.Tensor:
    """Return the sum over each piece of every row, float32 (rows, pieces).

    ``log_probs``: (rows, longest), padded with 0.
    """
    padded = torch.nn.functional.pad(log_probs, (0, -log_probs.shape[1] % segment))
    sums: torch.Tensor = padded.view(len(padded), -1, segment).sum(2).float()
    return sums


def _in_order(
    done: list[tuple[NDArray[np.int64], torch.Tensor, torch.Tensor | None]],
    counts: NDArray[np.int64],
    segment: int | None,
) -> Scores:
    totals = np.empty(len(counts), dtype=np.float64)
    pieces = np.zeros_like(counts) if segment is None else -(-counts // segment)
    segments: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(counts)
    for batch, sums, values in done:
        totals[batch] = sums.cpu().numpy()
        if values is not None:
            block = values.cpu().numpy()
            for row, index in enumerate(batch):
                segments[index] = block[row, : pieces[index]].copy()
    return Scores(totals, None if segment is None else segments)
