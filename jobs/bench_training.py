"""Tokens per second of mixray's training loop over those of a bare PyTorch loop: same model, batch, precision.

    python jobs/bench_training.py                                    # two CPU cores: about a minute
    python jobs/bench_training.py --device cuda --cases large --peak-tflops 989

Rounds of the two alternate; a case's ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixray.config.training import NewModel, TrainingConfig
from mixray.models import build_model
from mixray.training import autocast, train


@dataclass(frozen=True)
class Case:
    hidden: int
    layers: int
    heads: int
    vocabulary: int
    window: int
    batch: int
    micro_batch: int
    steps: int

    def config(self, precision: str) -> TrainingConfig:
        model = {
            "architecture": "gpt_neox",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
        }
        return TrainingConfig.model_validate(
            {"model": model, "batch": self.batch, "micro_batch": self.micro_batch, "precision": precision}
        )


CASES = {
    "tiny": Case(64, 2, 4, 1024, 64, batch=8, micro_batch=8, steps=40),
    "quickstart": Case(128, 4, 4, 4096, 128, batch=16, micro_batch=16, steps=3),
    "accumulate": Case(128, 4, 4, 4096, 128, batch=16, micro_batch=4, steps=3),
    "large": Case(768, 12, 12, 50304, 1024, batch=32, micro_batch=32, steps=30),
    "large-accumulate": Case(768, 12, 12, 50304, 1024, batch=64, micro_batch=16, steps=15),
}


class Windows:
    """The same random windows for both loops, in memory."""

    def __init__(self, case: Case) -> None:
        shape = (case.steps * case.batch, case.window)
        self.ids = np.random.default_rng(0).integers(0, case.vocabulary, shape)

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        return self.ids[start:stop]


def bare_loop(model: Any, ids: torch.Tensor, config: TrainingConfig, device: torch.device) -> None:
    """What one would write for this model alone: ids (steps, batch, window) already on the device."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optimizer.learning_rate, betas=(0.9, 0.95), fused=True)
    model.train()
    for batch in ids:
        chunks = torch.split(batch, config.micro_batch or len(batch))
        for chunk in chunks:
            with autocast(device, config.precision):
                loss = model(input_ids=chunk, labels=chunk, use_cache=False).loss
            (loss / len(chunks)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def seconds(run: Any, device: torch.device) -> float:
    """Of the clock on a GPU, of this process on a CPU: other work on the machine is not ours."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    started = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def measure(case: Case, device: torch.device, precision: str, rounds: int) -> tuple[list[float], list[float], int]:
    """Seconds of each round of our loop and of the bare one, and the model's parameters."""
    config, stream = case.config(precision), Windows(case)
    assert isinstance(config.model, NewModel)
    model = build_model(config.model, vocab_size=case.vocabulary, window=case.window, seed=0).to(device)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.from_numpy(stream.ids).view(case.steps, case.batch, case.window).to(device)
    loops = [
        lambda: train(model, stream, steps=case.steps, config=config, device=device, seed=0),
        lambda: bare_loop(model, ids, config, device),
    ]
    times: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            model.load_state_dict(start)
            times[which].append(seconds(loops[which], device))
    return times[0][1:], times[1][1:], sum(parameter.numel() for parameter in model.parameters())


def flops_per_token(case: Case, parameters: int) -> float:
    """Forward and backward: 6 per parameter used in a matrix product, 12 per layer, width and position of attention."""
    return 6 * (parameters - case.vocabulary * case.hidden) + 12 * case.layers * case.hidden * case.window


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=["tiny", "quickstart", "accumulate"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peak-tflops", type=float, help="of the device in this precision: prints MFU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    for name in options.cases:
        case = CASES[name]
        ours, bare, parameters = measure(case, device, options.precision, options.rounds)
        rate = case.steps * case.batch * case.window / statistics.median(ours)
        ratios = sorted(b / o for o, b in zip(ours, bare, strict=True))
        line = f"{name}: mixray/bare {statistics.median(ratios):.3f}"
        line += f" ({ratios[0]:.3f} to {ratios[-1]:.3f}, n={len(ratios)})"
        line += f", {rate:,.0f} tokens/s, {parameters / 1e6:.2f} M parameters, {device.type}, {options.precision}"
        if options.peak_tflops:
            line += f", MFU {rate * flops_per_token(case, parameters) / options.peak_tflops / 1e12:.3f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
