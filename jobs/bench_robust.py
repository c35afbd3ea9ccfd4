"""What a Group DRO step and an ALSO step cost beside an AdamW step of the same model on the same batch.

    python jobs/bench_robust.py                # two CPU cores: about two minutes

A step is forward, backward, optimizer. Rounds alternate; ratios are medians over rounds, with their range.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from mixray.robust import ALSO, GroupDRO

ROUNDS, STEPS, GROUPS = 9, 2, 8
Losses = Callable[[nn.Module], torch.Tensor]


def language_model() -> tuple[nn.Module, torch.Tensor, Losses]:
    """Return a model of 12.5 M parameters, the groups of 8 windows of 128 tokens, and the losses of the windows."""
    config = GPTNeoXConfig(
        vocab_size=4096, hidden_size=320, num_hidden_layers=8, num_attention_heads=8, intermediate_size=1280
    )
    ids = torch.randint(0, 4096, (8, 129))

    def losses(model: nn.Module) -> torch.Tensor:
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        return cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(8, 128).mean(1)

    return GPTNeoXForCausalLM(config), torch.randint(0, GROUPS, (8,)), losses


def perceptron() -> tuple[nn.Module, torch.Tensor, Losses]:
    """Return a model of 10 M parameters, the groups of 512 rows of 256 features, and the losses of the rows."""
    sizes = [256, 1792, 1792, 1792, 1792]
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    inputs, labels = torch.randn(512, 256), torch.randint(0, 10, (512,))

    def losses(model: nn.Module) -> torch.Tensor:
        return cross_entropy(model(inputs), labels, reduction="none")

    return nn.Sequential(*layers, nn.Linear(1792, 10)), torch.randint(0, GROUPS, (512,)), losses


def erm(model: nn.Module, _group_ids: torch.Tensor, losses: Losses) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        losses(model).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def group_dro(model: nn.Module, group_ids: torch.Tensor, losses: Losses) -> Callable[[], None]:
    optimizer, criterion = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True), GroupDRO(GROUPS)

    def step() -> None:
        criterion(losses(model), group_ids).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def also(model: nn.Module, group_ids: torch.Tensor, losses: Losses) -> Callable[[], None]:
    optimizer = ALSO(model.parameters(), GROUPS, lr=1e-4, weight_decay=0.01, decoupled=True)

    def step() -> None:
        optimizer.look_ahead()
        optimizer.loss(losses(model), group_ids).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(step: Callable[[], None]) -> float:
    """Return the CPU time of STEPS steps in this process, which other work on the machine does not change."""
    started = time.process_time()
    for _ in range(STEPS):
        step()
    return time.process_time() - started


def main() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    for case in (language_model, perceptron):
        torch.manual_seed(0)
        model, group_ids, losses = case()
        steps = {method.__name__: method(model, group_ids, losses) for method in (erm, group_dro, also)}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(ROUNDS + 1):
            for name in sorted(steps, reverse=number % 2 == 1):
                times[name].append(seconds(steps[name]))
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        milliseconds = statistics.median(times["erm"][1:]) / STEPS * 1e3
        print(f"{case.__name__}: {parameters:.1f} M parameters, an ERM step takes {milliseconds:.0f} ms of CPU time")
        for name in ("group_dro", "also"):
            ratios = sorted(a / b for a, b in zip(times[name][1:], times["erm"][1:], strict=True))
            spread = f"({ratios[0]:.3f} to {ratios[-1]:.3f}, n={ROUNDS})"
            print(f"  {name}/erm {statistics.median(ratios):.3f} {spread}", flush=True)


if __name__ == "__main__":
    main()
