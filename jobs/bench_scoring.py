"""Tokens per second of ``CausalLM.log_probs`` beside two others that see the same documents.

    python jobs/bench_scoring.py                                     # two CPU cores: about a minute
    python jobs/bench_scoring.py --device cuda --cases large

forward: the bare forward pass of the same batches, no log-probabilities taken: what scoring cannot beat by much.
one by one: a forward pass per document with Hugging Face's loss, as MixMin's published code scores.
Rounds alternate; ratios are medians over rounds, tokens are predicted tokens, padding not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from mixray.config.training import NewModel, TrainingConfig
from mixray.models import CausalLM
from mixray.models.scoring import batches
from mixray.training import autocast


@dataclass(frozen=True)
class Case:
    hidden: int
    layers: int
    heads: int
    vocabulary: int
    window: int
    documents: int
    batch_tokens: int

    def proxy(self, device: torch.device, precision: str) -> CausalLM:
        model = {
            "architecture": "gpt_neox",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
        }
        config = TrainingConfig.model_validate({"model": model, "precision": precision})
        assert isinstance(config.model, NewModel)
        sizes = {"vocab_size": self.vocabulary, "window": self.window}
        return CausalLM.create(config.model, **sizes, seed=0, device=device, precision=config.precision)

    def rows(self) -> list[np.ndarray]:
        """Documents of 9 ids to window + 1 ids, lengths log-uniform."""
        generator = np.random.default_rng(0)
        lengths = np.exp(generator.uniform(np.log(9), np.log(self.window + 1), self.documents)).astype(int)
        return [generator.integers(0, self.vocabulary, length) for length in lengths]


CASES = {
    "quickstart": Case(128, 4, 4, 4096, 128, documents=100, batch_tokens=4096),
    "big-vocabulary": Case(64, 2, 4, 50304, 128, documents=40, batch_tokens=4096),
    "large": Case(768, 12, 12, 50304, 1024, documents=1000, batch_tokens=65536),
}


def forward_only(proxy: CausalLM, inputs: list[torch.Tensor]) -> Callable[[], None]:
    def run() -> None:
        proxy.network.eval()
        with torch.inference_mode(), autocast(proxy.device, proxy.precision):
            for ids in inputs:
                proxy.network(input_ids=ids, use_cache=False)

    return run


def one_by_one(proxy: CausalLM, rows: list[np.ndarray]) -> Callable[[], None]:
    def run() -> None:
        proxy.network.eval()
        with torch.inference_mode(), autocast(proxy.device, proxy.precision):
            for row in rows:
                ids = torch.from_numpy(row)[None].to(proxy.device)
                (-proxy.network(input_ids=ids, labels=ids, use_cache=False).loss * (len(row) - 1)).item()

    return run


def bare_inputs(rows: list[np.ndarray], batch_tokens: int, device: torch.device) -> list[torch.Tensor]:
    """The batches that scoring makes of these rows, on the device beforehand."""
    padded = []
    for batch in batches(np.array([len(row) - 1 for row in rows]), batch_tokens):
        ids = torch.zeros(len(batch), max(len(rows[i]) - 1 for i in batch), dtype=torch.int64)
        for number, i in enumerate(batch):
            ids[number, : len(rows[i]) - 1] = torch.from_numpy(rows[i][:-1])
        padded.append(ids.to(device))
    return padded


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of the clock on a GPU, of this process on a CPU: other work on the machine is not ours."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    started = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=["quickstart", "big-vocabulary"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    for name in options.cases:
        case = CASES[name]
        proxy, rows = case.proxy(device, options.precision), case.rows()
        inputs = bare_inputs(rows, case.batch_tokens, device)
        runs: dict[str, Callable[[], object]] = {
            "log_probs": partial(proxy.log_probs, rows, batch_tokens=case.batch_tokens),
            "forward": forward_only(proxy, inputs),
            "one by one": one_by_one(proxy, rows),
        }
        times: dict[str, list[float]] = {key: [] for key in runs}
        for number in range(options.rounds + 1):
            for key in list(runs) if number % 2 else reversed(runs):
                times[key].append(seconds(runs[key], device))
        tokens = sum(len(row) - 1 for row in rows)
        padding = 1 - tokens / sum(ids.numel() for ids in inputs)
        ratio = {
            key: statistics.median(other / ours for other, ours in zip(values[1:], times["log_probs"][1:], strict=True))
            for key, values in times.items()
        }
        print(
            f"{name}: log_probs/forward {ratio['forward']:.3f}, log_probs/one by one {ratio['one by one']:.2f}, "
            f"{tokens / statistics.median(times['log_probs'][1:]):,.0f} tokens/s, n={options.rounds}, "
            f"padding {padding:.1%}, {device.type}, {options.precision}",
            flush=True,
        )


if __name__ == "__main__":
    main()
