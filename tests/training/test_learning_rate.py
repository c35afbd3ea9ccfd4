"""The schedule's numbers and which parameters decay."""

import pytest
import torch
from torch import nn

from mixray.config.training import OptimizerConfig
from mixray.training.objective import adamw, learning_rate

# By hand: 20 steps, warm-up over 2 of them, then 18 of cosine from 1 to 0.1; half-way is (1 + 0.1) / 2.
GOLDEN = [(0, 0.5), (1, 1.0), (4, 0.1 + 0.9 * (1 + 3**0.5 / 2) / 2), (7, 0.775), (10, 0.55), (13, 0.325), (19, 0.1)]


@pytest.mark.parametrize(("step", "expected"), GOLDEN)
def test_learning_rate_golden(step: int, expected: float) -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup=0.1, final=0.1)
    assert learning_rate(step, 20, config) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3, 17, 1000])
@pytest.mark.parametrize("warmup", [0.0, 0.03, 0.5, 1.0])
@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_learning_rate_rises_then_falls_to_final(steps: int, warmup: float, final: float) -> None:
    config = OptimizerConfig(learning_rate=3e-3, warmup=warmup, final=final)
    rates = [learning_rate(step, steps, config) for step in range(steps)]
    top = round(warmup * steps)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) <= 3e-3 * (1 + 1e-12)
    assert rates[-1] == pytest.approx(3e-3 * (final if top < steps else 1.0), abs=1e-18)


def test_only_matrices_decay() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    model[1].bias.requires_grad_(False)
    optimizer = adamw(model, OptimizerConfig(weight_decay=0.3, betas=(0.8, 0.9), epsilon=1e-6), torch.device("cpu"))
    decay = {tuple(p.shape): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {(5, 4): 0.3, (4, 4): 0.3, (4,): 0.0}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4  # the frozen bias is not among them
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    assert optimizer.defaults["eps"] == 1e-6
    assert optimizer.defaults["fused"]
