"""Retraining the arms on Ray Train: DDP, one or several workers, elastic ranges, restarts.

State is kept by mixray's own checkpoints in the storage: a worker group that Ray Train starts anew, of whatever size,
goes on from the last one, and so does the next run of the same file. Positions in the stream belong to the whole group,
so a change of size changes no window's place.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import ray
import ray.train
from ray.train.torch import TorchTrainer

from mixray.cluster.session import Session
from mixray.cluster.watching import POLL_SECONDS, News, Watcher, plain
from mixray.config.schema import RetrainConfig
from mixray.errors import MixrayError, StageError
from mixray.models import TrainingJob, train_missing
from mixray.store import Artifact, Artifacts
from mixray.training import World, use_resources


def train_arm(job: TrainingJob, config: RetrainConfig, board: ray.actor.ActorHandle) -> None:
    """Train an arm: the function that every Ray Train worker runs."""
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size())
    device = use_resources(config.resources_per_worker)
    job.run(device, lambda record: board.post.remote(job.name, record), world)


def retrain(
    session: Session, artifacts: Artifacts, config: RetrainConfig, jobs: Mapping[str, TrainingJob], news: News
) -> dict[str, Artifact]:
    """Return the model of every job, by arm. Models that exist are not trained again, equal mixtures are trained once.

    Raises StageError naming every arm that failed, after the others have finished.
    """
    return train_missing(artifacts, jobs, lambda missing: _train_all(session, config, missing, news))


def _train_all(session: Session, config: RetrainConfig, jobs: list[TrainingJob], news: News) -> None:
    fewest, most = config.worker_range
    workers = session.at_once(config.resources_per_worker, where="retrain.workers", jobs=len(jobs) * most, count=fewest)
    at_once = max(1, workers // most)
    watcher = Watcher(news, session.moved)
    failed: dict[str, str] = {}
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="mixray-arm")
    running: dict[Future[None], TrainingJob] = {pool.submit(_fit, job, config, watcher.board): job for job in jobs}
    try:
        while running:
            finished, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
            watcher.pass_on()
            for future in finished:
                job, error = running.pop(future), future.exception()
                if isinstance(error, ray.train.TrainingFailedError):
                    failed[job.name] = _reason(error)
                elif error is not None:
                    raise error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupt does not wait for the arms that are left
    if failed:
        reasons = "\n".join(f"{arm}: {reason}" for arm, reason in failed.items())
        raise StageError(
            f"the retraining of {', '.join(failed)} failed",
            got=reasons,
            remedy="fix the cause and run again: finished arms are kept, others continue from their last checkpoint",
        )


def _fit(job: TrainingJob, config: RetrainConfig, board: ray.actor.ActorHandle) -> None:
    storage, folder = job.draft.storage, f"ray-train/{job.draft.attempt}"
    resources = {"CPU": config.resources_per_worker.cpus, "GPU": config.resources_per_worker.gpus}
    TorchTrainer(
        lambda: train_arm(job, config, board),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers,
            use_gpu=config.resources_per_worker.gpus > 0,
            resources_per_worker={name: amount for name, amount in resources.items() if amount > 0},
        ),
        run_config=ray.train.RunConfig(
            name=job.draft.id[:32],
            storage_path=storage.full(folder),
            storage_filesystem=storage.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
        ),
    ).fit()
    storage.delete_folder(f"{folder}/{job.draft.id[:32]}")
    job.delete_checkpoints()


def _reason(error: BaseException) -> str:
    """Return the message of a worker's error, without the layers that Ray wraps around it."""
    for cause in getattr(error, "worker_failures", {}).values():
        inner = getattr(cause, "cause", cause)
        if isinstance(inner, MixrayError):
            return str(inner)
    return plain(str(error))
