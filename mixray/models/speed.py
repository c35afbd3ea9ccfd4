"""How fast a model trains on this machine: a few steps on random rows, in seconds and without Ray."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixray.config.training import Resources, TrainingConfig
from mixray.data import ExampleInputs, ModelInputs
from mixray.data.tabular.encoder import record_type
from mixray.models.kinds import model_size, new_model, trained_size
from mixray.report.resources import training_bytes
from mixray.training import device_for

STEP_OPERATIONS = {"cpu": 1e11, "cuda": 1e14}
"""The most floating point operations of a step that is measured: a few seconds of work on the slowest machines."""
MEASURED_SECONDS = 1.5
MOST_STEPS = 200


def measure_training(config: TrainingConfig, inputs: ModelInputs, resources: Resources) -> float | None:
    """Return how many tokens (or examples) a second one worker trains on, on this machine.

    Steps have as many rows as one forward pass of the run, fewer where that would take long. A model that the run file
    compiles is measured without compilation. Returns None where the worker asks for a GPU that this machine does not
    have, where the model's state does not fit in the memory, or where even one row is too much for a quick measurement.
    """
    if resources.gpus and not torch.cuda.is_available():
        return None
    device = device_for(resources.gpus)
    parameters, memory = model_size(config, inputs), memory_bytes(gpu=resources.gpus > 0)
    if memory is not None and training_bytes(parameters, trained_size(config, inputs)) > memory:
        return None
    row_operations = 6 * parameters * inputs.row_tokens
    rows = min(config.micro_batch or config.batch, config.batch, int(STEP_OPERATIONS[device.type] / row_operations))
    if rows < 1:
        return None
    # Random rows teach nothing, and the rate changes no step's time: so small, no step can diverge.
    optimizer = config.optimizer.model_copy(update={"learning_rate": 1e-9})
    settings = config.model_copy(update={"compile": False, "batch": rows, "micro_batch": None, "optimizer": optimizer})
    stream = _RandomRows(inputs)
    threads = torch.get_num_threads()
    torch.set_num_threads(resources.threads)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            model = new_model(config, inputs, seed=0, device=device)
            # The first steps are slow: memory is allocated, and kernels are chosen.
            first = model.fit(stream, config=settings, steps=2, seed=0)
            steps = max(2, min(MOST_STEPS, math.ceil(MEASURED_SECONDS / (first.seconds / 2))))
            return model.fit(stream, config=settings, steps=steps, seed=0).tokens_per_second
    finally:
        torch.set_num_threads(threads)


def memory_bytes(*, gpu: bool) -> int | None:
    """Return the memory of this machine's first GPU, or of the machine; None where there is no GPU."""
    if not gpu:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def visible_gpus() -> int | None:
    """Return how many GPUs torch sees on this machine, None for none."""
    return torch.cuda.device_count() or None


class _RandomRows:
    """A stream of windows of random tokens, or of examples of random features."""

    def __init__(self, inputs: ModelInputs) -> None:
        self._inputs, self._draws = inputs, np.random.default_rng(0)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        inputs, count = self._inputs, stop - start
        if not isinstance(inputs, ExampleInputs):
            return self._draws.integers(0, inputs.vocab_size, (count, inputs.window))
        records = np.zeros(count, dtype=record_type(inputs.features))
        records["features"] = self._draws.standard_normal((count, inputs.features))
        records["label"] = self._draws.integers(0, len(inputs.label_names), count)
        return records
