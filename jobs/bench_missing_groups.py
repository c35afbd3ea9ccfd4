"""What becomes of rare groups under each way to treat groups that a batch lacks (``missing`` of Group DRO and ALSO).

    python jobs/bench_missing_groups.py [--seeds 5] [--steps 2000] [--batch 8]

Four groups with the shares .55, .40, .04 and the rest, or a rarest group of .002. The label is a noisy linear function
of 20 features, and one more feature agrees with it in the two large groups and contradicts it in the two small ones.
Printed for each rule, as the median over seeds: the largest mean loss of a group (nats per row, on 2,000 fresh rows of
each) at the end and its highest value over the second half of training, and the largest weight that a row ever had.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mixray.robust import GroupDRO, presence_probability

FEATURES, TRAIN_ROWS, TEST_ROWS = 20, 20_000, 2_000
RULES = {
    "erm": None,
    "inverse_presence": {"missing": "inverse_presence"},
    "inverse_presence, known": {"missing": "inverse_presence", "presence": True},
    "present_only": {"missing": "present_only"},
    "ema": {"missing": "ema"},
}


@dataclass(frozen=True)
class Rows:
    features: torch.Tensor
    labels: torch.Tensor
    group_ids: torch.Tensor


@dataclass(frozen=True)
class Outcome:
    final: float
    highest: float
    heaviest_row: float


def draw(group_shares: list[float], rows: int, seed: int) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(FEATURES, generator=torch.Generator().manual_seed(0))
    group_ids = torch.multinomial(torch.tensor(group_shares), rows, replacement=True, generator=generator)
    features = torch.randn(rows, FEATURES, generator=generator)
    noise = 0.5 * torch.randn(rows, generator=generator)
    labels = (features @ direction / FEATURES**0.5 + noise > 0).long()
    spurious = (2.0 * labels - 1) * torch.where(group_ids < 2, 1, -1) + 0.3 * torch.randn(rows, generator=generator)
    return Rows(torch.cat([features, spurious[:, None]], dim=1), labels, group_ids)


def train(
    rule: str, shares: list[float], optimizer: str, clip: float | None, seed: int, steps: int, batch: int
) -> Outcome:
    data, test = draw(shares, TRAIN_ROWS, seed), draw([0.25] * 4, 4 * TEST_ROWS, 1000 + seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(FEATURES + 1, 32), nn.ReLU(), nn.Linear(32, 2))
    if optimizer == "sgd":
        descent: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    else:
        descent = torch.optim.AdamW(model.parameters(), lr=3e-3)
    settings = dict(RULES[rule] or {})
    if settings.get("presence"):
        settings["presence"] = presence_probability(shares, batch)
    group_dro = None if RULES[rule] is None else GroupDRO(4, step_size=0.01, **settings)
    worst, heaviest = [], 0.0
    order = torch.Generator().manual_seed(seed)
    for step in range(steps):
        chosen = torch.randint(TRAIN_ROWS, (batch,), generator=order)
        losses = cross_entropy(model(data.features[chosen]), data.labels[chosen], reduction="none")
        losses.retain_grad()
        loss = losses.mean() if group_dro is None else group_dro(losses, data.group_ids[chosen])
        loss.backward()
        heaviest = max(heaviest, float(losses.grad.max()))
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        descent.step()
        descent.zero_grad()
        if step >= steps // 2 and (steps - 1 - step) % 50 == 0:
            with torch.no_grad():
                row_losses = cross_entropy(model(test.features), test.labels, reduction="none")
            worst.append(max(float(row_losses[test.group_ids == group].mean()) for group in range(4)))
    return Outcome(worst[-1], max(worst), heaviest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{options.seeds} seeds, {options.steps} steps of {options.batch} rows; losses in nats per row")
    print(f"{'rarest':>7} {'optimizer':>9} {'clip':>5}  {'rule':24} {'final':>7} {'highest':>8} {'heaviest row':>13}")
    for rarest in (0.01, 0.002):
        shares = [0.55, 0.41 - rarest, 0.04, rarest]
        for optimizer in ("sgd", "adamw"):
            for clip in (None, 1.0):
                for rule in RULES:
                    outcomes = [
                        train(rule, shares, optimizer, clip, seed, options.steps, options.batch)
                        for seed in range(options.seeds)
                    ]
                    final, highest, heaviest = (
                        median(getattr(outcome, name) for outcome in outcomes)
                        for name in ("final", "highest", "heaviest_row")
                    )
                    limit = "-" if clip is None else f"{clip:g}"
                    print(
                        f"{rarest:7} {optimizer:>9} {limit:>5}  {rule:24} {final:7.2f} {highest:8.2f} {heaviest:13.1f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
