"""The training loop of language models and classifiers: reads rows by position, so that resuming and the number of
workers change no row's place.

    model -> loss module (``RowLoss``): inputs of rows -> their losses, nats
    stream (``Batch``): positions -> inputs of rows, their groups, their weights
    objective: what is minimised. None: the mean over rows; else a weighted mean over groups (``Objective``)

Step s trains on positions [s x batch, (s + 1) x batch) of the stream. A row of a language model is a window, and its
loss the mean negative log-likelihood of the window's predicted tokens; where windows differ in how many of their tokens
are trained on, a step's loss is the mean over all of these tokens in the joint batch. Everything that a step does
depends on the state before it and on (seed, step, rank): a run that stops and resumes is the run that never stopped, on
the CPU to the last bit.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mixray.config.training import LoopConfig
from mixray.errors import StageError
from mixray.training.batch import Batch, BatchStream, WindowStream, read_batch
from mixray.training.checkpoint import Checkpoint, State
from mixray.training.loss import NextTokenLoss, RowLoss
from mixray.training.objective import Objective, adamw, learning_rate
from mixray.training.progress import Progress, Recorder, TrainReport, milestones
from mixray.training.world import Preempted, World, autocast


def step_count(tokens: int, batch: int, window: int) -> int:
    """Return the whole optimizer steps of ``batch`` windows that a budget of training tokens pays for."""
    return tokens // (batch * window)


def train(
    model: nn.Module,
    stream: BatchStream | WindowStream,
    *,
    steps: int,
    config: LoopConfig,
    device: torch.device,
    seed: int,
    loss: Callable[[nn.Module], RowLoss] | None = None,
    objective: Objective | None = None,
    group_names: Sequence[str] | None = None,
    world: World = World(),  # noqa: B008 (frozen)
    checkpoint: Checkpoint | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    held_out: HeldOut | None = None,
) -> TrainReport:
    """Train a model in place for ``steps`` optimizer steps, resuming from ``checkpoint``.

    ``model`` is bare; several workers share it through DistributedDataParallel here. ``loss``: its loss module; None
    for a Hugging Face causal language model. ``objective``: None for the mean over rows, weighted by
    ``Batch.row_weights`` where there are any. ``group_names``: of the groups that ``Batch.group_ids`` numbers, whose
    losses are then recorded; an objective needs them.
    ``seed``: of dropout. ``progress`` is called on every worker at the same steps, at most 100 times in a run;
    ``checkpoint`` saves right after some of these calls, the last of them at the end. ``held_out``: what rank 0
    measures on the way; it must leave the model and every state of training as they are.
    Raises StageError where the plain mean loss diverges or memory does not suffice, and Preempted, with the state saved
    in ``checkpoint``, where ``world`` says that the workers must leave.
    """
    assert objective is None or group_names is not None, "an objective needs the names of its groups"
    model.to(device).train()
    optimizer = (objective.optimizer if objective else adamw)(model, config.optimizer, device)
    losses = (loss or NextTokenLoss)(model).to(device)
    if config.compile:
        losses.compile(dynamic=False)
    tokens = config.batch * read_batch(stream, 0, 1).tokens_per_row
    recorder = Recorder(steps, tokens, device, world, group_names)
    run = _Run(model, optimizer, objective, recorder)
    state = world.from_rank_0(checkpoint.latest) if checkpoint else None
    first = run.restore(state) if state else 0
    gradients = _Gradients(losses, objective, recorder, config, device, world)
    saves = milestones(steps, config.checkpoints)
    judges = milestones(steps, held_out.points) if held_out and world.rank == 0 else set[int]()

    with contextlib.closing(_read_ahead(stream, config.batch, range(first, steps), world)) as batches:
        for step, batch in zip(range(first, steps), batches, strict=True):
            rate = learning_rate(step, steps, config.optimizer)
            for group in optimizer.param_groups:
                group["lr"] = rate
            _seed_step(seed, step, world.rank, device)
            gradients.compute(batch)
            # Without a limit only the norm is computed.
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip or math.inf)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            weights = (lambda: objective.group_weights) if objective else None
            losses_of = held_out.losses if held_out and step + 1 in judges else None
            record = recorder.record(step + 1, rate, norm, weights, losses_of)
            if record:
                progress(record)
            leaves = checkpoint is not None and step + 1 < steps and world.must_leave()
            if leaves:
                recorder.gather()
            if checkpoint and world.rank == 0 and (leaves or step + 1 in saves):
                checkpoint.save(step + 1, run.state(step + 1))
            if leaves:
                raise Preempted
    return TrainReport(tuple(recorder.records), recorder.seconds)


@dataclass(frozen=True)
class HeldOut:
    """Losses on data that training does not read: ``losses`` is called ``points`` times, evenly, last at the end."""

    losses: Callable[[], dict[str, float]]
    points: int


def _read_ahead(
    stream: BatchStream | WindowStream, batch: int, steps: range, world: World
) -> Generator[Batch, None, None]:
    """Yield this worker's part of the batch of each step; the next one is read, in a thread, while one is used."""
    low, high = world.slice(batch)

    def read(step: int) -> Batch:
        return read_batch(stream, step * batch + low, step * batch + high)

    if not steps:
        return
    with ThreadPoolExecutor(1, thread_name_prefix="mixray-batches") as reader:
        upcoming = reader.submit(read, steps[0])
        for step in steps:
            current = upcoming.result()
            if step != steps[-1]:
                upcoming = reader.submit(read, step + 1)
            yield current


class _Gradients:
    """One step's losses and gradients on this worker, by micro-batches.

    Rows weigh workers / batch, so that the mean of gradients over workers, which is what DistributedDataParallel takes,
    is the gradient of the mean over the global batch, however uneven the slices; an objective's weights do the same.
    """

    def __init__(
        self,
        loss: RowLoss,
        objective: Objective | None,
        recorder: Recorder,
        config: LoopConfig,
        device: torch.device,
        world: World,
    ) -> None:
        self._objective, self._recorder, self._config, self._device = objective, recorder, config, device
        self._loss: nn.Module = loss
        self._without_exchange: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        if world.size > 1:
            # The models' buffers are constants: nothing to send before each forward pass.
            replica = DistributedDataParallel(loss, forward_sync_buffers=False, gradient_as_bucket_view=True)
            self._loss, self._without_exchange = replica, replica.no_sync
        self._world, self._scale = world, world.size / config.batch

    def compute(self, batch: Batch) -> None:
        """Add the gradients of the step's rows to the parameters; tell the recorder and the objective their losses."""
        group_ids = None if batch.group_ids is None else torch.tensor(batch.group_ids)
        tokens = by_tokens = None
        if batch.row_tokens is not None:
            tokens = torch.tensor(batch.row_tokens, dtype=torch.float64).to(self._device)
            # A step's loss is the mean over the tokens of all workers.
            by_tokens = (tokens * self._world.size / self._world.sum_on_device(tokens.sum())).float()
        if self._objective is None:
            weights = by_tokens
            if batch.row_weights is not None:
                assert by_tokens is None, "rows weigh what the stream says, or what their tokens say"
                weights = torch.tensor(batch.row_weights * self._scale, dtype=torch.float32).to(self._device)
            row_losses = self._backward(batch, weights, by_tokens)
        else:
            assert group_ids is not None, "an objective needs a stream that gives groups"
            assert batch.row_weights is None, "rows weigh what the objective says"
            sizes = 1.0 if tokens is None else self._sizes_in_group(tokens, group_ids, self._objective)
            with self._objective.step(group_ids) as weights:
                row_losses = self._backward(batch, (weights * sizes).float(), by_tokens)
                self._objective.observe(row_losses * sizes, group_ids)
        if group_ids is not None and self._recorder.group_names is not None:
            self._recorder.add_groups(row_losses, group_ids.to(self._device), tokens)

    def _sizes_in_group(self, tokens: torch.Tensor, group_ids: torch.Tensor, objective: Objective) -> torch.Tensor:
        """Return each row's tokens over the mean of its group in the step, over all workers, float32 (rows,): an
        objective, which takes the mean of a group's rows, then takes that of its tokens."""
        ids = group_ids.to(self._device)
        sums = torch.zeros(2, len(objective.group_weights), dtype=torch.float64, device=self._device)
        sums = self._world.sum_on_device(sums.index_add_(1, ids, torch.stack([tokens, torch.ones_like(tokens)])))
        return (tokens * sums[1, ids] / sums[0, ids]).float()

    def _backward(
        self, batch: Batch, row_weights: torch.Tensor | None, recorded_weights: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the losses, (rows,). ``row_weights``: (rows,), with all factors; None: all weigh workers / batch.
        ``recorded_weights``: the same for the loss that is recorded."""
        size = self._config.micro_batch or len(batch)
        inputs = [torch.split(self._moved(array), size) for array in batch.inputs]
        parts = list(zip(*inputs, strict=True))
        weights = [None] * len(parts) if row_weights is None else torch.split(row_weights, size)
        plain, rows = torch.zeros((), device=self._device), []
        try:
            for index, (part, weight) in enumerate(zip(parts, weights, strict=True)):
                # Workers average their gradients once a step, in the last micro-batch.
                with contextlib.nullcontext() if index == len(parts) - 1 else self._without_exchange():
                    with autocast(self._device, self._config.precision):
                        loss, losses = self._loss(*part, row_weights=weight)
                        loss = loss if weight is not None else loss * self._scale
                    loss.backward()
                plain += loss.detach() if weight is None else losses.sum() * self._scale
                rows.append(losses)
        except torch.OutOfMemoryError as error:
            tokens = batch.tokens_per_row
            raise StageError(
                "a training step does not fit in the device's memory",
                got=f"{len(parts[0][0])} {f'windows of {tokens} tokens' if tokens > 1 else 'rows'} per forward pass",
                remedy="lower micro_batch: the gradients stay the same",
            ) from error
        row_losses = torch.cat(rows)
        self._recorder.add(plain if recorded_weights is None else (row_losses * recorded_weights).sum())
        return row_losses

    def _moved(self, array: NDArray[Any]) -> torch.Tensor:
        values = torch.tensor(array)
        if self._device.type == "cuda":
            values = values.pin_memory()
        return values.to(self._device, non_blocking=True)


def _seed_step(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Make dropout depend on (seed, step, rank) alone, so that no generator's state is needed to resume exactly."""
    number = int.from_bytes(hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest())
    # torch.manual_seed would do it for every kind of device, at a thousand times the cost.
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(number)


@dataclass(frozen=True)
class _Run:
    """What changes from step to step, and so what a checkpoint holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    objective: Objective | None
    recorder: Recorder

    @property
    def _frozen(self) -> set[str]:
        """The names of parameters that are not trained, which a state does not hold."""
        parameters = self.model.named_parameters(remove_duplicate=False)
        return {name for name, parameter in parameters if not parameter.requires_grad}

    def state(self, step: int) -> State:
        state = {
            "step": step,
            "model": {name: value for name, value in self.model.state_dict().items() if name not in self._frozen},
            "optimizer": self.optimizer.state_dict(),
            "recorder": self.recorder.state(),
        }
        return state | ({"objective": self.objective.state_dict()} if self.objective else {})

    def restore(self, state: State) -> int:
        """Load a state and return the step to go on from."""
        self.model.load_state_dict(state["model"], strict=not self._frozen)
        self.optimizer.load_state_dict(state["optimizer"])
        self.recorder.restore(state["recorder"])
        if self.objective:
            self.objective.load_state_dict(state["objective"])
        step: int = state["step"]
        return step
