"""Training a toy model under objectives other than the plain mean: Group DRO, ALSO, importance weights, classifiers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mixray.robust import ALSO, ALSOObjective, DoReMiObjective, GroupDRO, GroupDROObjective
from mixray.store import Storage
from mixray.training import (
    Batch,
    CompletionsAlone,
    Objective,
    RowLoss,
    StorageCheckpoint,
    TrainReport,
    World,
    train,
    weighted_sum,
)
from mixray.training.batch import row_batch
from mixray.training.loss import NextTokenLoss

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
NAMES = ["cycle", "noise", "rare"]
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "group_dro": lambda: GroupDROObjective(GroupDRO(3, step_size=0.3)),
    "group_dro ema": lambda: GroupDROObjective(GroupDRO(3, step_size=0.3, missing="ema")),
    "group_dro excess": lambda: GroupDROObjective(GroupDRO(3, step_size=0.3), reference_losses=[0.5, 2.5, 0.1]),
    "doremi": lambda: DoReMiObjective(3, step_size=0.3, smoothing=0.01),
    "also": lambda: ALSOObjective(partial(ALSO, num_groups=3, step_size=0.3)),
    "also descent_ascent": lambda: ALSOObjective(partial(ALSO, num_groups=3, step_size=0.3, mode="descent_ascent")),
    "also group_sum": lambda: ALSOObjective(partial(ALSO, num_groups=3, step_size=0.3, weighting="group_sum")),
}
objectives = pytest.mark.parametrize("kind", OBJECTIVES)


class GroupedStream:
    """The toy stream's windows; every third is noise and every seventh, of the others, a cycle backwards."""

    def __init__(self, windows: Any, vocabulary: int) -> None:
        self.windows, self.vocabulary = windows, vocabulary

    def read(self, start: int, stop: int) -> Batch:
        windows = self.windows.read(start, stop)
        groups = self.groups(start, stop)
        for row, (position, group) in enumerate(zip(range(start, stop), groups, strict=True)):
            if group == 1:
                windows[row] = np.random.default_rng(position).integers(self.vocabulary, size=windows.shape[1])
            elif group == 2:
                windows[row] = windows[row][::-1]
        return row_batch(windows, groups)

    def groups(self, start: int, stop: int) -> np.ndarray:
        positions = np.arange(start, stop)
        return np.where(positions % 3 == 0, 1, np.where(positions % 7 == 0, 2, 0))


def run(toy: SimpleNamespace, kind: str | None, **options: Any) -> tuple[nn.Module, TrainReport]:
    """``options`` go to the config or ``train``."""
    model = toy.model(dropout=options.pop("dropout", 0.0), **options.pop("model", {}))
    config = toy.config(**{key: options.pop(key) for key in list(options) if key in type(toy.config()).model_fields})
    settings = {
        "steps": 20,
        "config": config,
        "device": CPU,
        "seed": 1,
        "group_names": NAMES,
        "objective": OBJECTIVES[kind]() if kind else None,
    }
    stream = options.pop("stream", None) or GroupedStream(toy.stream(), toy.vocabulary)
    return model, train(model, stream, **(settings | options))


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten() for value in model.state_dict().values()]).clone()


def timeless(report: TrainReport) -> list[Any]:
    return [replace(record, tokens_per_second=0.0, time=0) for record in report.records]


def group_weights(report: TrainReport) -> list[list[float]]:
    return [list(record.group_weights.values()) for record in report.records if record.group_weights]


@objectives
@pytest.mark.parametrize("after", [None, lambda logits: 2 * torch.tanh(logits / 2)], ids=["blockwise", "plain"])
def test_the_loops_steps_are_those_of_a_hand_written_loop(
    toy: SimpleNamespace, kind: str, after: Callable[[torch.Tensor], torch.Tensor] | None
) -> None:
    """Per-window losses with a graph, one call a step, for four steps."""
    settings = {"optimizer": {"learning_rate": 0.02, "warmup": 0.0, "final": 1.0, "clip": 0.5}}
    trained, report = run(toy, kind, steps=4, model={"after": after}, **settings)

    model, stream = toy.model(after=after), GroupedStream(toy.stream(), toy.vocabulary)
    objective, config = OBJECTIVES[kind](), toy.config(**settings)
    optimizer = objective.optimizer(model, config.optimizer, CPU)
    for step in range(4):
        batch = stream.read(8 * step, 8 * step + 8)
        ids, groups = torch.tensor(batch.inputs[0]), torch.tensor(batch.group_ids)
        with objective.step(groups) as row_weights:
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            losses = cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").mean(1)
            (row_weights * losses).sum().backward()
            objective.observe(losses.detach(), groups)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = 0.02
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(weights(trained), weights(model), rtol=0, atol=1e-5)
    assert group_weights(report)[-1] == pytest.approx(objective.group_weights.tolist(), abs=1e-6)


class GroupedCompletions:
    """The toy completions, of three groups in turn."""

    def __init__(self, windows: Any) -> None:
        self.windows = windows

    def read(self, start: int, stop: int) -> Batch:
        return row_batch(self.windows.read(start, stop), np.arange(start, stop) // 2 % 3)


@objectives
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_of_completions_a_groups_loss_is_the_mean_over_its_tokens(
    toy: SimpleNamespace, kind: str, micro_batch: int | None
) -> None:
    """Windows differ in how many of their tokens are trained on; by hand for four steps."""
    settings = {"optimizer": {"learning_rate": 0.02, "warmup": 0.0, "final": 1.0, "clip": 0.5}}
    stream = CompletionsAlone(GroupedCompletions(toy.completions()))
    trained, report = run(toy, kind, steps=4, stream=stream, micro_batch=micro_batch, **settings)

    model, objective = toy.model(), OBJECTIVES[kind]()
    optimizer = objective.optimizer(model, toy.config(**settings).optimizer, CPU)
    for step in range(4):
        batch = stream.read(8 * step, 8 * step + 8)
        ids, is_trained = map(torch.from_numpy, batch.inputs)
        groups = torch.tensor(batch.group_ids)
        with objective.step(groups) as row_weights:
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            nll = cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
            means = torch.stack([nll[groups == group][is_trained[groups == group, 1:]].mean() for group in range(3)])
            (row_weights * means[groups]).sum().backward()
            objective.observe(means[groups].detach(), groups)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(weights(trained), weights(model), rtol=0, atol=1e-5)
    assert group_weights(report)[-1] == pytest.approx(objective.group_weights.tolist(), abs=1e-6)
    losses = report.records[-1].group_losses
    assert losses is not None
    assert list(losses.values()) == pytest.approx(means.tolist(), abs=1e-5)


@objectives
@pytest.mark.parametrize("micro_batch", [1, 3, 5])
def test_micro_batches_are_the_whole_batch(toy: SimpleNamespace, kind: str, micro_batch: int) -> None:
    whole, report = run(toy, kind)
    parts, accumulated = run(toy, kind, micro_batch=micro_batch)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=5e-5)
    np.testing.assert_allclose(group_weights(accumulated), group_weights(report), atol=1e-5)
    assert accumulated.records[-1].loss == pytest.approx(report.records[-1].loss, abs=1e-5)


@objectives
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_resumed_run_is_the_run_that_never_stopped(
    toy: SimpleNamespace, tmp_path: Path, kind: str, micro_batch: int | None
) -> None:
    options = {"steps": 23, "dropout": 0.2, "micro_batch": micro_batch}
    model, report = run(toy, kind, **options)

    inner = StorageCheckpoint(Storage(str(tmp_path)), "checkpoint")

    class Dying:
        latest = inner.latest

        def save(self, step: int, state: dict[str, Any]) -> None:
            inner.save(step, state)
            if step == 12:
                raise toy.stopped

    with pytest.raises(toy.stopped):
        run(toy, kind, **options, checkpoint=Dying())
    torch.manual_seed(999)
    again, resumed = run(toy, kind, **options, checkpoint=inner)
    assert torch.equal(weights(again), weights(model))
    assert timeless(resumed) == timeless(report)
    assert report.records[-1].group_weights != report.records[12].group_weights


@objectives
def test_records_name_the_groups(toy: SimpleNamespace, kind: str) -> None:
    _, report = run(toy, kind, steps=300)
    for record in report.records:
        assert record.group_weights is not None
        assert record.group_losses is not None
        assert list(record.group_weights) == NAMES
        assert sum(record.group_weights.values()) == pytest.approx(1)
        # The loss that is recorded, and that tells of divergence, is the plain mean.
        if len(record.group_losses) == 3:
            counts = np.bincount(GroupedStream(toy.stream(), 13).groups(8 * (record.step - 3), 8 * record.step))
            mean = np.average(list(record.group_losses.values()), weights=counts)
            assert record.loss == pytest.approx(mean, rel=1e-5)
    last = report.records[-1]
    if "excess" not in kind and "sum" not in kind:
        assert max(last.group_weights, key=last.group_weights.__getitem__) == "noise"


def test_groups_of_the_plain_mean_are_told_and_change_nothing(toy: SimpleNamespace) -> None:
    grouped, report = run(toy, None)
    plain, other = run(toy, None, group_names=None)
    assert torch.equal(weights(grouped), weights(plain))
    assert [r.loss for r in report.records] == [r.loss for r in other.records]
    assert all(record.group_losses and record.group_weights is None for record in report.records)
    assert all(record.group_losses is None for record in other.records)


@pytest.mark.parametrize("kind", ["group_dro", "also"])
def test_excess_losses_favour_the_group_that_is_furthest_from_its_reference(toy: SimpleNamespace, kind: str) -> None:
    references = [0.0, 4.0, 5.0]
    new: dict[str, Callable[[], Objective]] = {
        "group_dro": lambda: GroupDROObjective(GroupDRO(3, step_size=0.3), reference_losses=references),
        "also": lambda: ALSOObjective(partial(ALSO, num_groups=3, step_size=0.3), reference_losses=references),
    }
    _, report = run(toy, None, steps=60, objective=new[kind]())
    last = report.records[-1].group_weights
    assert last is not None
    assert max(last, key=last.__getitem__) == "cycle"


class WeightedStream:
    """The toy stream, each window once with weight 2 or, with ``repeat``, twice; every second window without either."""

    def __init__(self, windows: Any, repeat: bool) -> None:
        self.windows, self.repeat = windows, repeat

    def read(self, start: int, stop: int) -> Batch:
        positions = np.arange(start, stop)
        windows = np.concatenate(
            [self.windows.read(p, p + 1) for p in (positions // 2 * 2 if self.repeat else positions)]
        )
        row_weights = None if self.repeat else np.where(positions % 2 == 0, 2.0, 0.0)
        return Batch((windows,), row_weights=row_weights, tokens_per_row=windows.shape[1])


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_row_of_weight_two_counts_as_two_rows(toy: SimpleNamespace, micro_batch: int | None) -> None:
    options = {"micro_batch": micro_batch, "group_names": None}
    twice, _ = run(toy, None, stream=WeightedStream(toy.stream(), repeat=True), **options)
    weighed, _ = run(toy, None, stream=WeightedStream(toy.stream(), repeat=False), **options)
    torch.testing.assert_close(weights(weighed), weights(twice), rtol=0, atol=2e-5)


class ClassifierLoss(RowLoss):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor, row_weights: torch.Tensor | None = None) -> Any:
        return weighted_sum(cross_entropy(self.model(inputs), labels, reduction="none"), row_weights)


class Points:
    """Two features, three classes; the groups are the halves of the plane."""

    def read(self, start: int, stop: int) -> Batch:
        inputs = np.stack([np.random.default_rng(p).normal(size=2) for p in range(start, stop)]).astype(np.float32)
        labels = (inputs[:, 0] > 0).astype(np.int64) + (inputs[:, 1] > 0)
        return Batch((inputs, labels), group_ids=(inputs[:, 0] > 1).astype(np.int64))


@pytest.mark.parametrize("robust", [False, True])
def test_classifiers_train_in_the_same_loop(toy: SimpleNamespace, robust: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 3)
    config = toy.config(batch=32, micro_batch=20, optimizer={"learning_rate": 0.1})
    settings: dict[str, Any] = {
        "steps": 60,
        "config": config,
        "device": CPU,
        "seed": 0,
        "group_names": ["left", "right"],
    }
    objective = GroupDROObjective(GroupDRO(2)) if robust else None
    report = train(model, Points(), loss=ClassifierLoss, objective=objective, **settings)
    assert report.tokens == 60 * 32
    assert report.records[-1].loss < 0.7 < report.records[0].loss
    assert (report.records[-1].group_weights is not None) == robust


def test_row_weights_and_row_losses_of_the_language_model(toy: SimpleNamespace) -> None:
    ids, row_weights = torch.from_numpy(toy.stream().read(0, 7)), torch.rand(7)
    for after in (None, lambda logits: 2 * torch.tanh(logits / 2)):
        model = toy.model(after=after)
        log_probs = torch.log_softmax(model(input_ids=ids, use_cache=False).logits.double(), dim=-1)
        expected = -log_probs[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2).mean(1)
        (expected * row_weights).sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        model.zero_grad(set_to_none=True)
        total, losses = NextTokenLoss(model)(ids, row_weights=row_weights)
        total.backward()
        assert not losses.requires_grad
        torch.testing.assert_close(losses.double(), expected.detach(), rtol=1e-5, atol=1e-6)
        assert total.item() == pytest.approx(float(row_weights.double() @ expected.detach()), rel=1e-6)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-5, atol=1e-6)


@objectives
def test_two_workers_with_uneven_shares_train_what_one_does(
    toy: SimpleNamespace, kind: str, two_workers: list[dict[str, Any]]
) -> None:
    alone, report = run(toy, kind, **TWO)
    first, second = (found[kind] for found in two_workers)
    assert torch.equal(first["weights"], second["weights"])
    torch.testing.assert_close(first["weights"], weights(alone), rtol=0, atol=2e-5)
    assert first["group_weights"] == second["group_weights"]
    np.testing.assert_allclose(first["group_weights"], group_weights(report), atol=1e-5)
    ours, theirs = [r.group_losses for r in report.records], first["group_losses"]
    assert [list(losses) for losses in theirs] == [list(losses) for losses in ours]
    for mine, other in zip(ours, theirs, strict=True):
        assert list(other.values()) == pytest.approx(list(mine.values()), abs=1e-5)


TWO: dict[str, Any] = {"steps": 12, "batch": 5, "micro_batch": 2}


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
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


def main(rank: int, folder: str) -> None:
    import conftest
    import torch.distributed as dist

    def model(**options: Any) -> nn.Module:
        torch.manual_seed(0)
        return conftest.ToyModel(**options)

    toy = SimpleNamespace(model=model, config=conftest.toy_config, stream=conftest.ToyStream, vocabulary=13)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = {}
    for kind in OBJECTIVES:
        trained, report = run(toy, kind, **TWO, world=World(rank, 2))
        losses = [record.group_losses for record in report.records]
        found[kind] = {"weights": weights(trained), "group_weights": group_weights(report), "group_losses": losses}
    torch.save(found, f"{folder}/rank-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
