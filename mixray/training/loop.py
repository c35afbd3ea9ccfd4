"""The training loop: reads windows by position, so that resuming and the number of workers change no window's place.

Step s trains on positions [s x batch, (s + 1) x batch) of the stream and minimises the mean over these windows of the
mean negative log-likelihood of a window's predicted tokens. Everything that a step does depends on the state before it
and on (seed, step, rank): a run that stops and resumes is the run that never stopped, on the CPU to the last bit.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mixray.config.schema import TrainingConfig
from mixray.errors import StageError
from mixray.training.checkpoint import Checkpoint, State
from mixray.training.device import autocast
from mixray.training.loss import NextTokenLoss
from mixray.training.optimizer import adamw, learning_rate
from mixray.training.progress import Progress, Recorder, TrainReport, save_steps
from mixray.training.world import World


class WindowStream(Protocol):
    """Training windows in a fixed order that every worker sees alike."""

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Token ids of the windows at positions [start, stop), shape (stop - start, window)."""
        ...


def step_count(tokens: int, batch: int, window: int) -> int:
    """Whole optimiser steps of ``batch`` windows that a budget of training tokens pays for."""
    return tokens // (batch * window)


def train(
    model: nn.Module,
    stream: WindowStream,
    *,
    steps: int,
    config: TrainingConfig,
    device: torch.device,
    seed: int,
    world: World = World(),  # noqa: B008 (frozen)
    checkpoint: Checkpoint | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> TrainReport:
    """Train a Hugging Face causal language model in place for ``steps`` optimiser steps, resuming from ``checkpoint``.

    ``model`` is bare; several workers share it through DistributedDataParallel here.
    ``seed``: of dropout. ``progress`` is called on every worker at the same steps, at most 100 times in a run;
    ``checkpoint`` saves right after some of these calls, the last of them at the end.
    Raises StageError where the loss diverges or memory does not suffice.
    """
    model.to(device).train()
    optimizer = adamw(model, config.optimizer, device)
    window = stream.read(0, 1).shape[1]
    recorder = Recorder(steps, config.batch * window, device, world)
    state = checkpoint.latest() if checkpoint else None
    first = _restore(state, model, optimizer, recorder) if state else 0
    gradients = _Gradients(model, config, device, world)
    saves = save_steps(steps, config.checkpoints)

    for step in range(first, steps):
        rate = learning_rate(step, steps, config.optimizer)
        for group in optimizer.param_groups:
            group["lr"] = rate
        _seed_step(seed, step, world.rank, device)
        low, high = world.slice(config.batch)
        recorder.add(gradients.compute(stream.read(step * config.batch + low, step * config.batch + high)))
        if config.optimizer.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        record = recorder.record(step + 1, rate)
        if record:
            progress(record)
        if checkpoint and world.rank == 0 and step + 1 in saves:
            checkpoint.save(step + 1, _state(step + 1, model, optimizer, recorder))
    return TrainReport(tuple(recorder.records), recorder.seconds)


class _Gradients:
    """One step's loss and gradients on this worker, by micro-batches.

    The loss is scaled by workers / batch, so that the mean of gradients over workers, which is what
    DistributedDataParallel takes, is the gradient of the mean over the global batch, however uneven the slices.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, device: torch.device, world: World) -> None:
        self._config, self._device = config, device
        self._loss: nn.Module = NextTokenLoss(model, compile=config.compile)
        self._without_exchange: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        if world.size > 1:
            # A language model's buffers are constants: nothing to send before each forward pass.
            replica = DistributedDataParallel(self._loss, forward_sync_buffers=False, gradient_as_bucket_view=True)
            self._loss, self._without_exchange = replica, replica.no_sync
        self._scale = world.size / config.batch

    def compute(self, windows: NDArray[np.int64]) -> torch.Tensor:
        """Add the gradients of windows (n, window) to the parameters; return the scaled loss, a device scalar."""
        ids = torch.tensor(windows)
        if self._device.type == "cuda":
            ids = ids.pin_memory()
        chunks = torch.split(ids.to(self._device, non_blocking=True), self._config.micro_batch or len(ids))
        total = torch.zeros((), device=self._device)
        try:
            for index, chunk in enumerate(chunks):
                # Workers average their gradients once a step, in the last micro-batch.
                with contextlib.nullcontext() if index == len(chunks) - 1 else self._without_exchange():
                    with autocast(self._device, self._config.precision):
                        loss = self._loss(chunk) * self._scale
                    loss.backward()
                total += loss.detach()
        except torch.OutOfMemoryError as error:
            raise StageError(
                "a training step does not fit in the device's memory",
                got=f"{len(chunks[0])} windows of {ids.shape[1]} tokens per forward pass",
                remedy="lower micro_batch: the gradients stay the same",
            ) from error
        return total


def _seed_step(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Dropout depends on (seed, step, rank) alone, so that no generator's state has to be kept to resume exactly."""
    number = int.from_bytes(hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest())
    # torch.manual_seed would do it for every kind of device, at a thousand times the cost.
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(number)


def _state(step: int, model: nn.Module, optimizer: torch.optim.Optimizer, recorder: Recorder) -> State:
    return {
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "recorder": recorder.state(),
    }


def _restore(state: State, model: nn.Module, optimizer: torch.optim.Optimizer, recorder: Recorder) -> int:
    """Load a state and return the step to go on from."""
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    recorder.restore(state["recorder"])
    step: Any = state["step"]
    return int(step)
