"""The loss of a trained arm on rows of every source that its training did not read."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import numpy as np

from mixray.data import MixtureStream, TrainingRows
from mixray.data.draws import Permutation
from mixray.models.protocol import Network
from mixray.numerics import Z95
from mixray.store import SourceLoss

MOST_ROWS = 64
"""Of each source: enough to compare arms, and a small part of what training an arm costs."""


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
