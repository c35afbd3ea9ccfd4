"""An arm's losses on samples that no training reads: of the targets while it trains, of the sources at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixray.data import MixtureStream, TrainingRows
from mixray.data.draws import Permutation
from mixray.models.protocol import Network
from mixray.numerics import Z95
from mixray.store import Artifact, HeldOutCurve, SourceLoss, Storage
from mixray.store.target_parts import MOLECULES, part_files, tokens_read
from mixray.training import Progress

MOST_ROWS = 64
"""Of each source: enough to compare arms, and a small part of what training an arm costs."""
HELD_OUT_POINTS = 10
"""How often an arm is judged on the targets while it trains, evenly, the last time at the end."""
MOST_COST = 0.05
"""Judging takes at most this part of the operations that the training itself takes."""
FORWARD_PASSES = 3
"""A training step costs as much as so many forward passes over its tokens: its own, and the backward pass's two."""
MOST_TOKENS = 65_536
"""Of each target's sample."""
MOST_FILES = 8
"""Of each target that its sample is read from; a file has about 2,000 rows."""
BATCH_TOKENS = 8192
"""Tokens per forward pass."""


@dataclass(frozen=True, eq=False)
class HeldOutSample:
    """Rows of a target's held-out part that every arm is judged on while it trains.

    ``rows``: an Arrow table of what the model reads; ``tokens``: how many of the rows' tokens are scored.
    """

    rows: Any
    tokens: int

    @classmethod
    def read(cls, storage: Storage, target: Artifact, columns: tuple[str, ...], tokens: int) -> Self | None:
        """Read whole rows of about so many tokens, which are always the same of the same target. Return None where
        that is less than two rows, or where the target's rows are molecules.

        ``columns``: those that the model reads.
        """
        held_out = target.meta["held_out"]
        count = int(held_out["rows"] * tokens / max(1, tokens_read(target, "held_out")))
        if count < 2 or MOLECULES in target.meta:
            return None
        draws = np.random.default_rng(int(target.id[:16], 16))
        names = part_files(target, "held_out")
        chosen = np.sort(draws.permutation(len(names))[:MOST_FILES])
        files = [storage.fetch(target.files[names[place]]) for place in chosen]
        table = pa.concat_tables([pq.read_table(path, columns=[*columns]) for path in files])
        rows = table.take(np.sort(draws.permutation(len(table))[:count])).combine_chunks()
        return cls(rows, int(np.sum(rows["count"])) if "count" in columns else len(rows))

    def loss(self, model: Network) -> float:
        """Return the model's loss, nats per scored token (or example). The model is back in training mode after it."""
        try:
            return (
                -float(model.log_probs(model.rows_of(self.rows), batch_tokens=BATCH_TOKENS).totals.sum()) / self.tokens
            )
        finally:
            model.network.train()


class HeldOutSamples:
    """The samples of all targets, by the ids of the targets' rows, and what a model's losses on them become."""

    def __init__(self, storage: Storage, targets: Mapping[str, Artifact], model: Network, training_tokens: int) -> None:
        """Read the samples. ``targets``: by name; ``training_tokens``: of the whole training of ``model``."""
        by_id = {rows.id: rows for rows in targets.values()}
        tokens = MOST_COST * FORWARD_PASSES * training_tokens / HELD_OUT_POINTS / max(1, len(by_id))
        samples = {
            id: HeldOutSample.read(storage, rows, model.row_columns, int(min(tokens, MOST_TOKENS)))
            for id, rows in by_id.items()
        }
        self._model = model
        self._samples = {id: sample for id, sample in samples.items() if sample is not None}

    def losses(self) -> dict[str, float]:
        """Return the model's loss on every target, nats per token, by the id of the target's rows, where finite."""
        losses = {id: sample.loss(self._model) for id, sample in self._samples.items()}
        return {id: loss for id, loss in losses.items() if isfinite(loss)}

    def curves(self, records: tuple[Progress, ...]) -> dict[str, HeldOutCurve]:
        """Return what the records of a training hold of these targets, by the ids of their rows."""
        curves = {}
        for id, sample in self._samples.items():
            points = [(each.tokens, each.held_out[id]) for each in records if each.held_out and id in each.held_out]
            curves[id] = HeldOutCurve(rows=len(sample.rows), tokens=sample.tokens, curve=points)
        return curves


def source_losses(
    model: Network, rows: Mapping[str, TrainingRows], stream: MixtureStream, positions: int
) -> dict[str, SourceLoss]:
    """Return a model's loss on the last rows in each source's order that its training did not reach.

    They are the same rows for every arm, but for those that an arm has read. A source that was read whole has no loss.
    ``rows``: of every source, those without a share among them. ``positions``: how many of ``stream`` were read.
    """
    drawn = stream.counts(positions)
    losses = {}
    for name, source in rows.items():
        read = drawn.get(name, 0)
        order = np.arange(max(read, len(source) - MOST_ROWS), len(source))
        loss = reach = None
        if order.size > 1:
            unread = source.read(Permutation(stream.seed, name, len(source))(np.zeros_like(order), order))
            values = model.training_losses(unread)
            loss, reach = float(values.mean()), Z95 * float(values.std(ddof=1)) / sqrt(values.size)
        losses[name] = SourceLoss(share=read / positions, rows=int(order.size), loss=loss, reach=reach)
    return losses
