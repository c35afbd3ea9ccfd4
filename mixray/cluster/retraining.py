"""Retraining the arms on Ray Train: DDP, one or several workers, elastic ranges, restarts.

State is kept by mixray's own checkpoints in the storage: a worker group that Ray Train starts anew, of whatever size,
goes on from the last one, and so does the next run of the same file. Positions in the stream belong to the whole group,
so a change of size changes no window's place.

Where a machine of the group is about to be taken away, the group saves its state after the step that it is at, and
leaves; a new one goes on from there on other machines. Only a machine that dies unannounced costs the steps since the
last checkpoint, and only that counts as a failure.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import ray
import ray.train
import ray.train.collective
import torch.distributed as dist
from ray.exceptions import RayActorError
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer

from mixray.cluster.session import Session
from mixray.cluster.watching import POLL_SECONDS, News, Watcher, plain
from mixray.config.schema import RetrainConfig
from mixray.errors import MixrayError, StageError
from mixray.models import TrainingJob, train_missing
from mixray.store import Artifact, Artifacts, Draft
from mixray.training import Preempted, World, use_resources

MEASURED_STEPS = 10
RAY_TRAIN_FOLDER = "ray-train"
"""Where Ray Train keeps what it knows of its groups, in a folder for each execution of a run."""
SOCKET_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


class LoopbackConfig(TorchConfig):  # type: ignore[misc]
    """The workers of a local cluster talk over loopback. Torch listens on every network of the machine otherwise."""

    @property
    def backend_cls(self) -> type[Backend]:
        return LoopbackBackend


class LoopbackBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Ray's own backend, with every worker prepared before it joins the group."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(use_loopback)
        super().on_start(worker_group, backend_config)


def use_loopback() -> None:
    """Make torch's process groups in this process listen on loopback alone."""
    for loopback in [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]:
        for variable in SOCKET_INTERFACES:
            os.environ.setdefault(variable, loopback)
    # The function of the same name hides the module from an import.
    vars(sys.modules["torch.distributed.rendezvous"])["TCPStore"] = _store_on_loopback


def _store_on_loopback(host_name: str, port: int, *, is_master: bool, **options: Any) -> Any:
    if is_master:
        options["master_listen_fd"] = socket.create_server((host_name, port)).detach()
    return dist.TCPStore(host_name, port, is_master=is_master, **options)  # type: ignore[attr-defined]


class Notices:
    """Whether a machine of this group of workers is about to be taken away: asked of Ray about once a second.

    All workers must ask after the same steps, for they wait for each other then. So rank 0 decides after how many.
    """

    def __init__(self) -> None:
        self._calls, self._every = 0, 1

    def __call__(self) -> bool:
        if self._calls == 0:
            self._started = time.monotonic()
        elif self._calls == MEASURED_STEPS:
            steps_a_second = MEASURED_STEPS / (time.monotonic() - self._started)
            self._every = ray.train.collective.broadcast_from_rank_zero(max(1, int(steps_a_second)))
        self._calls += 1
        return self._calls % self._every == 0 and ray.train.get_preemption_info() is not None


def train_arm(job: TrainingJob, config: RetrainConfig, board: ray.actor.ActorHandle) -> bool:
    """Train an arm: the function that every Ray Train worker runs. Return False where the group had to leave before the
    end."""
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size(), Notices())
    device = use_resources(config.resources_per_worker)
    try:
        job.run(device, lambda record: board.post.remote(job.name, record), world)
    except Preempted:
        return False
    return True


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
    delete_earlier(jobs[0].draft)
    watcher = Watcher(news, session.moved)
    failed: dict[str, str] = {}
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="mixray-arm")
    torch_config = LoopbackConfig() if session.is_local else TorchConfig()
    running: dict[Future[None], TrainingJob] = {
        pool.submit(_fit, job, config, watcher.board, torch_config): job for job in jobs
    }
    try:
        while running:
            finished, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
            watcher.pass_on()
            for future in finished:
                job, error = running.pop(future), future.exception()
                if isinstance(error, StageError | ray.train.TrainingFailedError):
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


def delete_earlier(draft: Draft) -> None:
    """Delete what Ray Train kept for earlier executions of the run that makes ``draft``, which were killed."""
    for attempt in draft.storage.list(RAY_TRAIN_FOLDER):
        if attempt != draft.attempt and attempt.partition(".")[0] == draft.attempt.partition(".")[0]:
            draft.storage.delete_folder(f"{RAY_TRAIN_FOLDER}/{attempt}")


def _fit(job: TrainingJob, config: RetrainConfig, board: ray.actor.ActorHandle, torch_config: TorchConfig) -> None:
    storage, folder, name = job.draft.storage, f"{RAY_TRAIN_FOLDER}/{job.draft.attempt}", job.draft.id[:32]
    resources = {"CPU": config.resources_per_worker.cpus, "GPU": config.resources_per_worker.gpus}
    is_published, deaths = False, 0
    while not is_published:  # a group that had to leave, or lost its controller, is followed by another one
        trainer = TorchTrainer(
            lambda: train_arm(job, config, board),
            torch_config=torch_config,
            scaling_config=ray.train.ScalingConfig(
                num_workers=config.workers,
                use_gpu=config.resources_per_worker.gpus > 0,
                resources_per_worker={name: amount for name, amount in resources.items() if amount > 0},
            ),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=storage.full(folder),
                storage_filesystem=storage.filesystem,
                failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            ),
        )
        try:
            is_published = trainer.fit().return_value
        except RayActorError as error:  # Ray starts workers that died anew, but not what controls them
            deaths += 1
            if deaths > config.max_failures:
                raise StageError(f"Ray Train's controller died {deaths} times", got=plain(str(error))) from error
        storage.delete_folder(f"{folder}/{name}")
    job.delete_checkpoints()


def _reason(error: BaseException) -> str:
    """Return the message of an error, a worker's without the layers that Ray wraps around it."""
    if isinstance(error, MixrayError):
        return str(error)
    for cause in getattr(error, "worker_failures", {}).values():
        inner = getattr(cause, "cause", cause)
        if isinstance(inner, MixrayError):
            return str(inner)
    return plain(str(error))
