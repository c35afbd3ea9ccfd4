"""Retraining the arms on Ray Train: DDP, one or several workers, elastic ranges, restarts.

State is kept by mixray's own checkpoints in the storage: a worker group that Ray Train starts anew, of whatever size,
goes on from the last one, and so does the next run of the same file. Positions in the stream belong to the whole group,
so a change of size changes no window's place.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import ray
import ray.train
from ray.train.torch import TorchTrainer

from mixray.cluster.session import Session
from mixray.cluster.watching import POLL_SECONDS, News, Watcher, plain
from mixray.config.schema import RetrainConfig
from mixray.data import ExampleInputs, ExampleRows, MixtureStream, ModelInputs, TrainingRows, group_shares, open_rows
from mixray.errors import MixrayError, StageError
from mixray.models import model_identity, new_model
from mixray.robust import new_objective
from mixray.store import Artifact, Artifacts, Draft, fingerprint
from mixray.training import (
    BatchStream,
    ColumnAsGroups,
    Objective,
    SourcesAsGroups,
    StorageCheckpoint,
    WindowStream,
    World,
    device_for,
    step_count,
)


@dataclass(frozen=True)
class ArmJob:
    """All that the training of one arm needs on a worker.

    ``source_shares``: name -> share of training tokens. ``reference_losses``: name -> nats per token that the source's
    proxy reached on it, where the objective asks for them.
    """

    arm: str
    config: RetrainConfig
    source_shares: Mapping[str, float]
    sources: Mapping[str, Artifact]
    inputs: ModelInputs
    steps: int
    seed: int
    draft: Draft
    reference_losses: Mapping[str, float] | None = None

    @property
    def checkpoint(self) -> StorageCheckpoint:
        return StorageCheckpoint(self.draft.storage, f"checkpoints/model/{self.draft.id}/{self.draft.attempt}")


def train_arm(job: ArmJob, board: ray.actor.ActorHandle) -> None:
    """The training function of every Ray Train worker; rank 0 publishes the model."""
    import torch

    torch.set_num_threads(job.config.resources_per_worker.threads)
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size())
    device = device_for(job.config.resources_per_worker.gpus)
    model = new_model(job.config, job.inputs, seed=job.seed, device=device)
    rows = {name: open_rows(job.draft.storage, artifact) for name, artifact in job.sources.items()}
    stream = MixtureStream(rows, job.source_shares, job.seed)
    grouped, objective, group_names = _grouped(job, stream, rows)
    report = model.fit(
        grouped,
        objective=objective,
        group_names=group_names,
        steps=job.steps,
        config=job.config,
        seed=job.seed,
        world=world,
        checkpoint=job.checkpoint,
        progress=lambda record: _post(board, job.arm, record) if world.rank == 0 else None,
    )
    if world.rank == 0:
        with tempfile.TemporaryDirectory(prefix="mixray-") as folder:
            model.save(Path(folder))
            files = job.draft.put_folder(Path(folder))
        meta = {
            "source_shares": dict(job.source_shares),
            "parameters": sum(parameter.numel() for parameter in model.model.parameters()),
            "tokens": report.tokens,
            "seconds": report.seconds,
            "workers": world.size,
            "curve": [[tokens, loss] for tokens, loss in report.curve.items()],
            **report.rates,
        }
        if objective is not None:
            meta |= {f"group_{kind}": curves for kind, curves in report.group_curves.items()}
        job.draft.publish(files, meta)


def _grouped(
    job: ArmJob, stream: MixtureStream, rows: Mapping[str, TrainingRows]
) -> tuple[BatchStream | WindowStream, Objective | None, list[str] | None]:
    """The stream with its groups, the objective over them, and their names."""
    config, batch = job.config.objective, job.config.batch
    if config.kind == "erm":
        return stream, None, None
    grouped: BatchStream
    shares = {name: job.source_shares[name] for name in stream.source_names}
    if config.group_column is None:
        grouped = SourcesAsGroups(stream)
        presence = stream.presence(batch, job.steps)
    else:
        assert isinstance(job.inputs, ExampleInputs), "windows of text have no columns"
        ids = {name: some.group_ids() for name, some in rows.items() if isinstance(some, ExampleRows)}
        by_group = group_shares(ids, shares, len(job.inputs.group_names))
        present = np.flatnonzero(by_group)
        grouped = ColumnAsGroups(stream, present)
        shares = {job.inputs.group_names[group]: float(by_group[group]) for group in present.tolist()}
        presence = stream.presence(batch, job.steps, ids)[present]
    objective = new_objective(
        config,
        shares,
        windows=job.steps * batch,
        presence=presence.tolist(),
        reference_losses=job.reference_losses,
    )
    return grouped, objective, list(shares)


def retrain(
    session: Session,
    artifacts: Artifacts,
    config: RetrainConfig,
    arms: Mapping[str, Mapping[str, float]],
    sources: Mapping[str, Artifact],
    *,
    inputs: ModelInputs,
    seed: int,
    news: News,
    proxies: Mapping[str, Artifact] | None = None,
) -> dict[str, Artifact]:
    """One model per arm (name -> shares); those that exist are not trained again, equal mixtures are trained once.

    ``proxies``: by source; the objective may measure losses from theirs.
    Raises StageError naming every arm that failed, after the others have finished.
    """
    steps = step_count(config.tokens, config.batch, inputs.row_tokens)
    jobs: dict[str, ArmJob] = {}
    for arm, shares in arms.items():
        used = {name: source for name, source in sources.items() if shares[name] > 0}
        # The stream breaks ties by order; the identity knows none.
        positive = {name: shares[name] for name in sorted(used)}
        references = _references(config, proxies, positive)
        draft = artifacts.draft("model", arm_id(config, positive, used, references, steps=steps, seed=seed))
        losses = {name: reference_loss(proxy) for name, proxy in references.items()} or None
        jobs[arm] = ArmJob(arm, config, positive, used, inputs, steps, seed, draft, losses)
    missing = {job.draft.id: job for job in jobs.values() if artifacts.find("model", job.draft.id) is None}
    if missing:
        _train_all(session, config, list(missing.values()), news)
    return {arm: artifacts.get("model", job.draft.id) for arm, job in jobs.items()}


def _references(
    config: RetrainConfig, proxies: Mapping[str, Artifact] | None, shares: Mapping[str, float]
) -> dict[str, Artifact]:
    """The proxies that the arm's losses are measured from; none where they are not."""
    if config.objective.kind == "erm" or config.objective.excess == "none":
        return {}
    assert proxies is not None, "excess: proxy needs the proxies"
    return {name: proxies[name] for name in shares}


def reference_loss(proxy: Artifact) -> float:
    """What a proxy reached on its own source: nats per token, mean over the records of its training's last tenth."""
    losses = [float(loss) for _, loss in proxy.meta["curve"]]
    return mean(losses[-max(1, len(losses) // 10) :])


def arm_id(
    config: RetrainConfig,
    shares: Mapping[str, float],
    sources: Mapping[str, Artifact],
    references: Mapping[str, Artifact],
    *,
    steps: int,
    seed: int,
) -> str:
    """What decides an arm's weights (up to rounding, which the number of workers touches)."""
    left_out = {"arms", "tokens", "workers", "resources_per_worker", "max_failures", "checkpoints"}
    settings = config.model_dump(mode="json", exclude=left_out)
    mixture = sorted((name, share, sources[name].id) for name, share in shares.items())
    facts = ["model", 1, settings, model_identity(config.model), mixture, steps, seed]
    measured_from = sorted((name, proxy.id) for name, proxy in references.items())
    return fingerprint([*facts, measured_from] if measured_from else facts)


def _train_all(session: Session, config: RetrainConfig, jobs: list[ArmJob], news: News) -> None:
    fewest, most = config.worker_range
    room = session.fits(config.resources_per_worker, where="retrain.workers", count=fewest)
    at_once = max(1, min(len(jobs), room // most))
    watcher = Watcher(news)
    failed: dict[str, str] = {}
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="mixray-arm")
    running: dict[Future[None], ArmJob] = {pool.submit(_fit, job, watcher.board): job for job in jobs}
    try:
        while running:
            finished, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
            watcher.pass_on()
            for future in finished:
                job, error = running.pop(future), future.exception()
                if isinstance(error, ray.train.TrainingFailedError):
                    failed[job.arm] = _reason(error)
                elif error is not None:
                    raise error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupt does not wait for the arms that are left
    if failed:
        reasons = "\n".join(f"{arm}: {reason}" for arm, reason in failed.items())
        raise StageError(
            f"the retraining of {', '.join(failed)} failed",
            got=reasons,
            remedy="mend the cause and run again: finished arms are kept, others go on from their last checkpoint",
        )


def _fit(job: ArmJob, board: ray.actor.ActorHandle) -> None:
    storage, folder = job.draft.storage, f"ray-train/{job.draft.attempt}"
    resources = {"CPU": job.config.resources_per_worker.cpus, "GPU": job.config.resources_per_worker.gpus}
    TorchTrainer(
        lambda: train_arm(job, board),
        scaling_config=ray.train.ScalingConfig(
            num_workers=job.config.workers,
            use_gpu=job.config.resources_per_worker.gpus > 0,
            resources_per_worker={name: amount for name, amount in resources.items() if amount > 0},
        ),
        run_config=ray.train.RunConfig(
            name=job.draft.id[:32],
            storage_path=storage.full(folder),
            storage_filesystem=storage.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=job.config.max_failures),
        ),
    ).fit()
    storage.delete_folder(f"{folder}/{job.draft.id[:32]}")
    storage.delete_folder(job.checkpoint.folder)


def _post(board: ray.actor.ActorHandle, key: str, notice: Any) -> None:
    board.post.remote(key, notice)


def _reason(error: BaseException) -> str:
    """What a worker said, without the layers that Ray wraps around it."""
    for cause in getattr(error, "worker_failures", {}).values():
        inner = getattr(cause, "cause", cause)
        if isinstance(inner, MixrayError):
            return str(inner)
    return plain(str(error))
