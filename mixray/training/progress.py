"""What a training run tells: at most 100 records, at steps that depend on its length alone, and a report at its end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import torch

from mixray.errors import StageError
from mixray.store.index import now_ms
from mixray.training.checkpoint import State
from mixray.training.world import World

RECORDS = 100
DIVERGED_NATS = 2.0
DIVERGED_RECORDS = 10
"""A run whose loss stays 2 nats per token above the first record's for 10 records in a row is ended."""
FINITE_EVERY = 10
"""A loss that is not finite ends the run within so many steps, whatever the records' distance."""


@dataclass(frozen=True)
class Progress:
    """A record of training: the state after ``step`` of ``steps``, over all workers.

    ``loss``: nats per token, mean since the last record. ``tokens``: trained on so far (rows, where they are no text).
    ``learning_rate`` and ``gradient_norm`` (before it is clipped): of this step. Where rows have groups:
    ``group_losses``: of those seen since the last record, nats, mean over their rows; ``group_weights``: of a robust
    objective, after this step. ``held_out``: the losses after this step on samples that training does not read, nats
    per token, by sample, where they are due. ``time``: of the record, in milliseconds since 1970.
    """

    step: int
    steps: int
    tokens: int
    loss: float
    tokens_per_second: float
    learning_rate: float
    gradient_norm: float | None = None
    group_losses: dict[str, float] | None = None
    group_weights: dict[str, float] | None = None
    held_out: dict[str, float] | None = None
    time: int = field(default_factory=now_ms)


@dataclass(frozen=True)
class TrainReport:
    """A finished training run. ``seconds``: spent in all attempts up to their last checkpoint, and in the last one."""

    records: tuple[Progress, ...]
    seconds: float

    @property
    def tokens(self) -> int:
        return self.records[-1].tokens

    @property
    def tokens_per_second(self) -> float:
        """Tokens trained on, by the seconds that it took."""
        return self.tokens / self.seconds

    @property
    def curve(self) -> dict[int, float]:
        """Tokens trained on -> loss in nats per token."""
        return {record.tokens: record.loss for record in self.records}

    @property
    def rates(self) -> dict[str, list[float | None]]:
        """What was measured beside the curve, one value for each of its points: see ``Progress``."""
        return {
            "times": [record.time for record in self.records],
            "tokens_per_second": [record.tokens_per_second for record in self.records],
            "learning_rate": [record.learning_rate for record in self.records],
            "gradient_norm": [record.gradient_norm for record in self.records],
        }

    @property
    def group_curves(self) -> dict[str, dict[str, list[tuple[int, float]]]]:
        """``losses`` (nats) and ``weights`` -> group -> (tokens trained on, value); of groups that were recorded."""
        curves: dict[str, dict[str, list[tuple[int, float]]]] = {"losses": {}, "weights": {}}
        for record in self.records:
            for kind, values in (("losses", record.group_losses), ("weights", record.group_weights)):
                for name, value in (values or {}).items():
                    curves[kind].setdefault(name, []).append((record.tokens, value))
        return curves


def record_steps(steps: int) -> list[int]:
    """Return the steps (from 1) that end in a record: ``steps`` and 99 evenly before it, or all of them."""
    count = min(steps, RECORDS)
    return [-(-steps * i // count) for i in range(1, count + 1)]


def milestones(steps: int, count: int) -> set[int]:
    """Return the steps of the last record of each ``1 / count`` of the run: those at which checkpoints are saved."""
    records = record_steps(steps)
    return {records[-(-len(records) * i // count) - 1] for i in range(1, count + 1)}


class Recorder:
    """Gathers the loss on the device and turns it into records; waits for the device only there."""

    def __init__(
        self,
        steps: int,
        tokens_per_step: int,
        device: torch.device,
        world: World,
        group_names: Sequence[str] | None = None,
    ) -> None:
        self.group_names = group_names
        # Of each group's rows since the last record: the sum of their losses, and their number; of completions, the
        # same of their tokens.
        self._by_group = torch.zeros(2, len(group_names or ()), dtype=torch.float64, device=device)
        self.records: list[Progress] = []
        self._steps, self._tokens_per_step, self._world = steps, tokens_per_step, world
        self._due = set(record_steps(steps))
        self._sum = torch.zeros((), dtype=torch.float64, device=device)
        self._seconds_before = 0.0
        self._since = 0
        self._started = self._last = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started

    def add(self, loss: torch.Tensor) -> None:
        """Add one step's loss of this worker, scaled so that the mean over workers is the global batch's."""
        self._sum += loss
        self._since += 1

    def add_groups(
        self, row_losses: torch.Tensor, group_ids: torch.Tensor, row_tokens: torch.Tensor | None = None
    ) -> None:
        """Add the same step's losses of this worker's rows; all are (rows,). ``row_tokens``: as ``Batch`` has them."""
        counts = (torch.ones_like(row_losses) if row_tokens is None else row_tokens).to(torch.float64)
        self._by_group.index_add_(1, group_ids, torch.stack([row_losses * counts, counts]))

    def record(
        self,
        step: int,
        learning_rate: float,
        gradient_norm: torch.Tensor,
        group_weights: Callable[[], torch.Tensor] | None = None,
        held_out: Callable[[], dict[str, float]] | None = None,
    ) -> Progress | None:
        """Return the record of ``step`` (from 1) if one is due.

        ``gradient_norm``: a scalar, the same on all workers. ``held_out``: measures the losses on held-out samples; its
        time does not count as training's. Raises StageError where the loss is not finite, which is looked at every 10
        steps too, or where it diverged.
        """
        due = step in self._due
        if not due and step % FINITE_EVERY:
            return None
        loss = self._world.mean(self._sum) / self._since
        if not math.isfinite(loss):
            raise self._failure("training met a loss that is not finite", step, loss, learning_rate)
        if not due:
            return None
        now = time.perf_counter()
        rate = self._since * self._tokens_per_step / (now - self._last)
        record = Progress(
            step,
            self._steps,
            step * self._tokens_per_step,
            loss,
            rate,
            learning_rate,
            float(gradient_norm),
            group_losses=self._group_losses(),
            group_weights=None if group_weights is None else self._named(group_weights().tolist()),
            held_out=None if held_out is None else held_out(),
        )
        self.records.append(record)
        after = time.perf_counter()
        self._started += after - now
        self._sum.zero_()
        self._by_group.zero_()
        self._since, self._last = 0, after
        if min(record.loss for record in self.records[-DIVERGED_RECORDS:]) > self.records[0].loss + DIVERGED_NATS:
            raise self._failure("training diverged", step, loss, learning_rate)
        return record

    def _failure(self, what: str, step: int, loss: float, learning_rate: float) -> StageError:
        """Return the error that ends a run whose loss is not finite, or has been 2 nats above its start for long."""
        first = f"; at first {self.records[0].loss:.4g}" if self.records else ""
        return StageError(
            what,
            where=f"step {step} of {self._steps}",
            got=f"loss {loss:.4g} nats per token at learning rate {learning_rate:.3g}{first}",
            wanted="a finite loss that does not stay above where it began",
            remedy="lower optimizer.learning_rate, lengthen optimizer.warmup or set optimizer.clip",
        )

    def _group_losses(self) -> dict[str, float] | None:
        if self.group_names is None:
            return None
        sums, rows = self._world.sum(self._by_group).tolist()
        return {name: total / n for name, total, n in zip(self.group_names, sums, rows, strict=True) if n}

    def _named(self, values: list[float]) -> dict[str, float]:
        assert self.group_names is not None, "group weights belong to named groups"
        return dict(zip(self.group_names, values, strict=True))

    def gather(self) -> None:
        """Give every worker what all have added since the last record. All workers call this before a ``state``
        between records."""
        self._sum.fill_(self._world.mean(self._sum))
        self._by_group.copy_(self._world.sum(self._by_group))

    def state(self) -> State:
        unrecorded = {"loss": float(self._sum), "steps": self._since, "groups": self._by_group.cpu()}
        records = [asdict(record) for record in self.records]
        return {"records": records, "seconds": self.seconds, "unrecorded": unrecorded}

    def restore(self, state: State) -> None:
        self.records = [Progress(**record) for record in state["records"]]
        self._seconds_before = state["seconds"]
        if unrecorded := state.get("unrecorded"):  # earlier versions saved states at records alone
            self._sum.fill_(unrecorded["loss"])
            self._since = unrecorded["steps"]
            if self._world.rank == 0:  # groups are summed over the workers, losses averaged
                self._by_group.copy_(unrecorded["groups"])
