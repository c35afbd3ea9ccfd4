"""The cross entropy of a mixture of the proxies (MixMin, arXiv 2502.10510).

    loss(shares) = - sum_i w_i log sum_k shares_k exp(l_ik)

with ``l_ik`` the log-probability of row i under the proxy of source k and ``w_i`` the row's weight. For a classifier
``l_ik`` is the log-probability of row i's true label: the conditional cross entropy is the same function.

The rows lie in shards: one in this process, or many with actors. This file adds up what the shards answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from mixray.errors import InputError
from mixray.simplex.checks import Mask, Matrix, Vector, checked_row_weights, checked_table, name_rows
from mixray.simplex.objectives.draws import Documents, Draws, draw_replicates
from mixray.simplex.objectives.objective import Evaluation
from mixray.simplex.objectives.passes import Columns, total
from mixray.simplex.objectives.shard import Shard


class Shards(Protocol):
    """The rows of a cross entropy in one or more shards, wherever they are."""

    @property
    def rows(self) -> int: ...

    @property
    def sources(self) -> int: ...

    @property
    def documents(self) -> int: ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the likelihoods."""
        ...

    def ask(self, method: str, *arguments: Any) -> Sequence[Any]:
        """Call a method of every ``Shard`` and return the results in the order of the rows."""
        ...

    def rescaled(self, allowed: Mask) -> Shards:
        """Return the same rows, divided by their largest likelihood under the ``allowed`` sources. Raises InputError
        where the log-probabilities are no longer there."""
        ...


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """An ``Objective``. ``allowed``: the sources by whose largest likelihood the rows were divided, ``(sources,)``."""

    shards: Shards
    allowed: Mask
    explaining: Mask | None = None
    """Other sources under which no row's largest likelihood is lost to rounding."""
    draws: Draws | None = None
    """The one bootstrap replicate by which the rows are weighted."""
    drawn_sums: tuple[float, float] | None = None
    """That replicate's total weight and offset."""

    @classmethod
    def from_log_probs(
        cls,
        log_probs: ArrayLike,
        row_weights: ArrayLike | None = None,
        allowed: Mask | None = None,
        *,
        document_ids: ArrayLike | None = None,
        token_counts: ArrayLike | None = None,
        dtype: DTypeLike = np.float64,
    ) -> CrossEntropy:
        """Return the cross entropy of a table in memory.

        Args:
            log_probs: nats, ``(rows, sources)``. -inf is allowed, NaN and +inf are not.
            row_weights: ``(rows,)``, finite, >= 0; 1/rows each by default.
            allowed: ``(sources,)``, the sources whose share may be above 0; all by default.
            document_ids: the document of each row, ``(rows,)``; every row is a document by default. A bootstrap draws
                documents.
            token_counts: the tokens of each row, ``(rows,)``. With them a replicate's loss is per token of its own
                documents, which matters where documents of unequal length count by their tokens.
            dtype: of the likelihoods in memory, float64 or float32; sums are float64.

        Raises:
            InputError: naming rows, for a table, weights, documents or token counts that are not valid.
        """
        table = checked_table(log_probs)
        weights = checked_row_weights(row_weights, len(table))
        documents = Documents.of(weights, document_ids, token_counts)
        shards = LocalShards.of(table, weights, documents, np.dtype(dtype), allowed)
        return cls(shards, np.ones(shards.sources, bool) if allowed is None else allowed)

    @classmethod
    def of_labels(
        cls, probabilities: ArrayLike, labels: ArrayLike, row_weights: ArrayLike | None = None
    ) -> CrossEntropy:
        """The conditional cross entropy of classifiers: the mixture's probability of the true label.

        ``probabilities``: ``(rows, sources, classes)``, each source's classifier's; ``labels``: ``(rows,)``, whole
        numbers. Raises InputError, naming rows, for labels that are no class and numbers that are no probabilities.
        """
        table, label = np.asarray(probabilities, np.float64), np.asarray(labels)
        if table.ndim != 3 or 0 in table.shape:
            raise InputError(
                "probabilities: a table per source is needed",
                got=f"shape {table.shape}",
                wanted="(rows, sources, classes)",
            )
        if label.shape != table.shape[:1] or label.dtype.kind not in "iu":
            raise InputError(
                "labels: one class number per row is needed",
                got=f"shape {label.shape}, dtype {label.dtype}",
                wanted=f"({len(table)},), whole numbers",
            )
        unknown = np.flatnonzero((label < 0) | (label >= table.shape[2]))
        if unknown.size:
            raise InputError(f"labels: no class in {name_rows(unknown)}", wanted=f"0 to {table.shape[2] - 1}")
        odd = np.flatnonzero(~((table >= 0) & (table <= 1 + 1e-6)).all(axis=(1, 2)))
        if odd.size:
            raise InputError(f"probabilities: no probabilities in {name_rows(odd)}", wanted="0 to 1")
        with np.errstate(divide="ignore"):  # log 0 = -inf is meant: a classifier that rules the label out
            return cls.from_log_probs(np.log(table[np.arange(len(table)), :, label]), row_weights)

    @property
    def rows(self) -> int:
        return self.shards.rows

    @property
    def sources(self) -> int:
        return self.shards.sources

    @property
    def documents(self) -> int:
        return self.shards.documents

    @property
    def total_weight(self) -> float:
        return self._weight_sums[0]

    @property
    def rounding(self) -> float:
        """0 for float64 likelihoods; else nats per token, as ``block.py`` says."""
        return (
            0.0 if self.shards.dtype == np.float64 else float(np.finfo(self.shards.dtype).eps) / 2 * self.total_weight
        )

    @cached_property
    def _weight_sums(self) -> tuple[float, float]:
        """The total weight, and what dividing the rows took from the loss."""
        if self.drawn_sums is not None:
            return self.drawn_sums
        weight, offset, _ = self._total("weight_sums", self.draws)
        return float(weight), float(offset)

    def at(self, points: Matrix, columns: Columns | None = None) -> list[Evaluation]:
        sums = self._total("sums", points, columns, self.draws)
        return evaluations(sums, self._weight_sums[1], len(points), self.sources, columns)

    def loss(self, source_shares: Vector) -> float:
        return float(self._total("losses", source_shares[None], self.draws)[0])

    def row_losses(self, source_shares: Vector) -> Vector:
        assert self.draws is None, "a replicate's rows are the full sample's"
        return np.concatenate(self.shards.ask("row_losses", source_shares))

    def row_documents(self) -> Documents:
        numbers, row_tokens = zip(*self.shards.ask("documents"), strict=True)
        return Documents(
            None if numbers[0] is None else np.concatenate(numbers),
            None if row_tokens[0] is None else np.concatenate(row_tokens),
            self.documents,
        )

    @property
    def is_local(self) -> bool:
        """Whether all rows lie in this process, with their log-probabilities."""
        return isinstance(self.shards, LocalShards)

    def of_rows(self, kept: Mask) -> CrossEntropy | None:
        """Return the cross entropy of some of the rows ``(rows,)``, each of them a document, or None where none of them
        counts. Their weights are raised to the total of all rows', so that a prior pulls as much as before."""
        assert isinstance(self.shards, LocalShards), "rows in other processes cannot be picked"
        weights = self.shards.row_weights[kept]
        if not weights.any():
            return None
        weights = weights * (self.total_weight / weights.sum())
        return self.from_log_probs(self.shards.table[kept], weights, self.allowed, dtype=self.shards.dtype)

    def single_losses(self) -> Vector:
        """Return the loss under each source alone, ``(sources,)``, from the rows before any rounding."""
        return self._total("single_losses")

    def restricted_to(self, allowed: Mask) -> CrossEntropy:
        """Return the same rows for mixtures of some sources only.

        Rows are divided by the largest likelihood under these where it would be lost beside the one that they were
        divided by: a long document's may be a thousand nats below. Raises InputError for rows that none of the allowed
        sources can explain, and where rows of shards elsewhere would have to be divided again.
        """
        if any(np.array_equal(allowed, mask) for mask in (self.allowed, self.explaining) if mask is not None):
            return self
        if not (allowed & ~self.allowed).any() and all(self.shards.ask("explains", allowed)):
            return replace(self, explaining=allowed)
        return CrossEntropy(self.shards.rescaled(allowed), allowed)

    def replicates(self, seed: int, target: int, numbers: range) -> CrossEntropyReplicates:
        def sums_of(draws: Draws) -> Matrix:
            return self._total("weight_sums", draws).reshape(3, len(draws.keys))

        full_tokens = float(self._total("weight_sums")[2])
        draws, (weights, offsets) = draw_replicates(seed, target, numbers, sums_of, full_tokens)
        return CrossEntropyReplicates(self, draws, weights, offsets)

    def _total(self, method: str, *arguments: Any) -> Vector:
        """Return the sum over all rows from the partial sums of every shard."""
        return total(chain.from_iterable(self.shards.ask(method, *arguments)))


@dataclass(frozen=True, eq=False)
class CrossEntropyReplicates:
    """A batch of bootstrap replicates. ``weights``, ``offsets``: ``(replicates,)``, total row weights and what dividing
    the rows took from the losses."""

    objective: CrossEntropy
    draws: Draws
    weights: Vector
    offsets: Vector

    @property
    def count(self) -> int:
        return len(self.weights)

    def at(self, points: Matrix, which: Columns, *, values: bool) -> list[Evaluation]:
        sums = self.objective._total("replicate_sums", points, self.draws.select(which), values)
        return evaluations(sums, 0.0, len(points), self.objective.sources, None)

    def one(self, replicate: int) -> CrossEntropy:
        sums = float(self.weights[replicate]), float(self.offsets[replicate])
        return replace(self.objective, draws=self.draws.select(np.array([replicate])), drawn_sums=sums)

    def losses(self, mixtures: Matrix) -> Matrix:
        return self.objective._total("losses", mixtures, self.draws).reshape(self.count, len(mixtures))


@dataclass(frozen=True, eq=False)
class LocalShards:
    """All rows in one shard in this process, whose log-probabilities are kept."""

    table: NDArray[np.floating]
    row_weights: Vector
    row_documents: Documents
    dtype: np.dtype[Any]
    shard: Shard

    @classmethod
    def of(
        cls,
        table: NDArray[np.floating],
        row_weights: Vector,
        documents: Documents,
        dtype: np.dtype[Any],
        allowed: Mask | None,
    ) -> LocalShards:
        shard = Shard.of_table(
            table, row_weights, documents.numbers, documents.row_tokens, dtype=dtype, allowed=allowed
        )
        return cls(table, row_weights, documents, dtype, shard)

    @property
    def rows(self) -> int:
        return len(self.table)

    @property
    def sources(self) -> int:
        return int(self.table.shape[1])

    @property
    def documents(self) -> int:
        return self.row_documents.count

    def ask(self, method: str, *arguments: Any) -> Sequence[Any]:
        return [getattr(self.shard, method)(*arguments)]

    def rescaled(self, allowed: Mask) -> LocalShards:
        return self.of(self.table, self.row_weights, self.row_documents, self.dtype, allowed)


def evaluations(sums: Vector, offset: float, points: int, sources: int, columns: Columns | None) -> list[Evaluation]:
    """Return the evaluation of every point from the sums over all rows, which lie one after another in ``sums``."""
    values, rest = sums[:points] + offset, sums[points:]
    gradients = rest[: points * sources].reshape(points, sources)
    size = 0 if columns is None else len(columns)
    curvatures = rest[points * sources :].reshape(points, size, size) if size else [None] * points
    return [Evaluation(float(values[i]), gradients[i], curvatures[i]) for i in range(points)]
