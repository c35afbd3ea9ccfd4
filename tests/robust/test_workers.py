"""Two workers with uneven parts of a batch are one process with all of it, for Group DRO and for ALSO."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from mixray.robust import ALSO, GroupDRO

ROOT = Path(__file__).parents[2]
KINDS = [
    "group_dro",
    "group_dro in parts",
    "group_dro ema",
    "also optimistic",
    "also descent_ascent",
    "also optimistic in parts",
    "also group_sum",
    "also sharded",
    "also sharded descent_ascent",
]
ROWS, STEPS, GROUPS = 11, 6, 4


def new_model(sharded: bool) -> nn.Module:
    """Return the same weights every time. A layer of three rows is sharded unevenly."""
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    if sharded:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    return model


def saved_and_loaded(model: nn.Module, also: ALSO, folder: str, **settings: Any) -> tuple[nn.Module, ALSO]:
    """Return a new model and optimizer that ``torch.distributed.checkpoint`` brought to the state of these."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    model_state, optimizer_state = get_state_dict(model, also)
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder)
    again = new_model(sharded=True)
    again_also = ALSO(again.parameters(), GROUPS, **settings)
    model_state, optimizer_state = get_state_dict(again, again_also)
    dcp.load({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder)
    set_state_dict(again, again_also, model_state_dict=model_state, optim_state_dict=optimizer_state)
    return again, again_also


def train(kind: str, rank: int, size: int, folder: str = "") -> dict[str, torch.Tensor]:
    """Worker 0 of two has the first 3 of 11 rows. Weights, group weights and the mean loss of each step.

    A sharded run is saved and loaded half-way.
    """
    sharded = "sharded" in kind and size > 1
    model = calls = new_model(sharded)
    parameters = list(model.parameters())
    torch.manual_seed(1)
    if size > 1 and not sharded:
        calls = DistributedDataParallel(model)
    settings = {"step_size": 0.3, "missing": "ema" if "ema" in kind else "inverse_presence"}
    group_dro = GroupDRO(GROUPS, **settings)
    mode = "descent_ascent" if "descent_ascent" in kind else "optimistic"
    weighting = "group_sum" if "group_sum" in kind else "group_mean"
    also_settings: Any = {"lr": 0.01, "eps": 1e-4, "step_size": 0.3, "mode": mode, "weighting": weighting}
    also = ALSO(parameters, GROUPS, **also_settings)
    adam = torch.optim.Adam(parameters, lr=0.01, eps=1e-4)
    means = []
    for step in range(STEPS):
        if sharded and step == STEPS // 2:
            state = torch.get_rng_state()
            calls, also = saved_and_loaded(calls, also, f"{folder}/{kind}", **also_settings)
            parameters = list(calls.parameters())
            torch.set_rng_state(state)
        inputs, labels = torch.randn(ROWS, 5), torch.randint(0, 3, (ROWS,))
        ids = torch.randint(0, GROUPS, (ROWS,))
        mine = slice(0, ROWS) if size == 1 else (slice(0, 3), slice(3, ROWS))[rank]
        inputs, labels, ids = inputs[mine], labels[mine], ids[mine]
        # The second worker has more micro-batches than the first.
        parts = torch.arange(len(ids)).split(2 if "in parts" in kind else ROWS)

        def losses_and_ids(part: torch.Tensor, inputs=inputs, labels=labels, ids=ids, calls=calls) -> tuple:
            return cross_entropy(calls(inputs[part]), labels[part], reduction="none"), ids[part]

        def backward(criterion, parts=parts, rows=losses_and_ids, calls=calls) -> torch.Tensor:
            total = torch.zeros(())
            for number, part in enumerate(parts):
                if size > 1 and not sharded:
                    calls.require_backward_grad_sync = number == len(parts) - 1
                loss = criterion(*rows(part))
                loss.backward()
                total += loss.detach()
            return total

        if "also" in kind:
            also.zero_grad()
            also.look_ahead(ids if "in parts" in kind else None)
            total = backward(also.loss)
            also.step()
        else:
            adam.zero_grad()
            if "in parts" in kind:
                with group_dro.accumulating(ids):
                    total = backward(group_dro)
            else:
                total = backward(group_dro)
            adam.step()
        if size > 1:
            dist.all_reduce(total)
        means.append(total / size)
    weights = also.group_weights if "also" in kind else group_dro.group_weights
    whole = [parameter.full_tensor() if sharded else parameter for parameter in parameters]
    flat = nn.utils.parameters_to_vector(whole).detach()
    return {"parameters": flat, "group_weights": weights, "losses": torch.stack(means)}


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    folder = tmp_path_factory.mktemp("workers")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_are_one_process_on_the_joined_batch(kind: str, two_workers: list[dict]) -> None:
    alone, (first, second) = train(kind, 0, 1), (found[kind] for found in two_workers)
    for name, expected in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], expected, rtol=0, atol=1e-5)
    assert float((alone["group_weights"] - 1 / GROUPS).abs().max()) > 0.01


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save({kind: train(kind, rank, 2, folder) for kind in KINDS}, f"{folder}/rank-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
