"""Where a model runs and in which precision: the caller states it, the machine is only asked to have it."""

from __future__ import annotations

from typing import Literal

import torch

from mixray.config.training import Resources
from mixray.errors import InputError

Precision = Literal["auto", "float32", "bfloat16"]


def device_for(gpus: float) -> torch.device:
    """Return the GPU where one (or a fraction) was asked for, else the CPU.

    Ray shows a worker only its own GPUs, so the first visible one is right. Raises InputError where torch sees none.
    """
    if gpus <= 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(
            "a GPU was asked for and torch sees none",
            where="resources",
            got=f"gpus: {gpus}; torch {torch.__version__}, CUDA_VISIBLE_DEVICES as this process sees it",
            wanted="a CUDA device and a torch build for it",
            remedy="set gpus: 0, or install torch with CUDA on the machines that have one",
        )
    return torch.device("cuda")


def use_resources(resources: Resources) -> torch.device:
    """Set the number of threads that torch uses in this process, and return the device that it has been given."""
    torch.set_num_threads(resources.threads)
    return device_for(resources.gpus)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return a fresh autocast context; weights stay float32. ``auto``: bfloat16 on a GPU that has it, else float32."""
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    enabled = precision == "bfloat16" or (precision == "auto" and has_bfloat16)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
