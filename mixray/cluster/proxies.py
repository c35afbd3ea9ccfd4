"""Training the proxies: one Ray actor per source, as many at a time as the cluster has room for.

Each actor writes checkpoints to the storage, so that an actor that dies is replaced by one that continues from the last
checkpoint. Each publishes its own artifact, so that a finished proxy is kept whatever happens to the others or to the
driver, the process that started the run.

Boosted trees take less time than an actor takes to start, and a swarm has many models: so every actor of a pool trains
one after another of these.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from mixray.cluster.mapping import run_on_actors
from mixray.cluster.session import Session
from mixray.cluster.watching import News, Watcher, plain, was_preempted
from mixray.config.training import ProxyConfig, Resources
from mixray.errors import InputError, MixrayError, StageError
from mixray.models import TrainingJob, TreeJob, train_missing
from mixray.store import Artifact, Artifacts
from mixray.store.retrying import retried
from mixray.training import use_resources

log = logging.getLogger(__name__)


class ProxyTrainer:
    """An actor that trains one proxy."""

    def train(self, job: TrainingJob, config: ProxyConfig, board: ray.actor.ActorHandle) -> None:
        """Train and publish the proxy, and delete its checkpoints. Progress is posted on ``board`` for the driver.

        Where the storage did not answer, training goes on from the last checkpoint (see ``retried``).
        """
        device = use_resources(config.resources)
        retried(lambda: job.run(device, lambda record: board.post.remote(job.name, record)), log.warning)
        job.delete_checkpoints()


ProxyActor: Any = ray.remote(ProxyTrainer)


def train_proxies(
    session: Session, artifacts: Artifacts, config: ProxyConfig, jobs: Mapping[str, TrainingJob], news: News
) -> dict[str, Artifact]:
    """Return the proxy of every source. Proxies that the storage already holds are not trained again.

    ``jobs``: by source. ``news``: called with the progress of every proxy.

    Raises StageError, once all others have finished, naming every source whose proxy failed and why; InputError instead
    if the user's input is the cause of every failure.
    """
    return train_missing(artifacts, jobs, lambda missing: _train_all(session, config, missing, news))


def _train_all(session: Session, config: ProxyConfig, jobs: list[TrainingJob], news: News) -> None:
    at_once = session.at_once(config.resources, where="proxy.resources", jobs=len(jobs))
    watcher = Watcher(news, session.moved)
    waiting = list(reversed(jobs))  # the next job is the last one: an actor that died is replaced at once
    running: dict[ray.ObjectRef, tuple[TrainingJob, ray.actor.ActorHandle]] = {}
    finished: list[str] = []
    failed: dict[str, Exception] = {}
    restarts = dict.fromkeys((job.name for job in jobs), 0)
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop()
                actor = ProxyActor.options(num_cpus=config.resources.cpus, num_gpus=config.resources.gpus).remote()
                running[actor.train.remote(job, config, watcher.board)] = (job, actor)
            reference = watcher.next_finished(list(running))
            job, actor = running.pop(reference)
            try:
                ray.get(reference)
                finished.append(job.name)
            except RayTaskError as error:
                failed[job.name] = error.cause if isinstance(error.cause, MixrayError) else error
            except RayError as error:  # the actor died, or could not be placed
                restarts[job.name] += not was_preempted(error, actor)
                if restarts[job.name] <= config.max_restarts:
                    waiting.append(job)
                else:
                    failed[job.name] = error
            ray.kill(actor)
    finally:  # an interrupted run leaves nobody at work in a session that goes on
        for _, actor in running.values():
            ray.kill(actor)
    if failed:
        _raise_failed(failed, finished)


class TreeTrainer:
    """Trains and publishes one model after another."""

    def __init__(self, resources: Resources) -> None:
        use_resources(resources)

    def __call__(self, job: TreeJob) -> None:
        job.run()


class SwarmTrainer:
    """Trains and publishes one model of a swarm after another. One that was cut off goes on from its checkpoint."""

    def __init__(self, resources: Resources) -> None:
        self._device = use_resources(resources)

    def __call__(self, job: TrainingJob) -> None:
        job.run(self._device, lambda _: None)
        job.delete_checkpoints()


def train_swarm(
    session: Session,
    artifacts: Artifacts,
    config: ProxyConfig,
    jobs: Mapping[str, TrainingJob],
    progress: Callable[[str], None],
) -> dict[str, Artifact]:
    """Return the model of every job. Models that exist are not trained again.

    ``progress``: called with the name of each model that has been trained.
    """

    def train(missing: list[TrainingJob]) -> None:
        most = session.at_once(config.resources, where="proxy.resources", jobs=len(missing))
        done = run_on_actors(session, SwarmTrainer, (config.resources,), missing, config.resources, (1, most))
        for job, _ in zip(missing, done, strict=True):
            progress(job.name)

    return train_missing(artifacts, jobs, train)


def train_trees(
    session: Session,
    artifacts: Artifacts,
    resources: Resources,
    jobs: Mapping[str, TreeJob],
    progress: Callable[[str, int, int], None],
    *,
    where: str,
) -> dict[str, Artifact]:
    """Return the model of every job. Models that exist are not trained again, equal ones are trained once.

    ``resources``: of one actor; ``progress``: called with ("trained", models trained, models to train) after each;
    ``where``: the key of the resources in the run file.
    """

    def train(missing: list[TreeJob]) -> None:
        most = session.at_once(resources, where=where, jobs=len(missing))
        trained = run_on_actors(session, TreeTrainer, (resources,), missing, resources, (1, most))
        for done, _ in enumerate(trained, start=1):
            progress("trained", done, len(missing))

    return train_missing(artifacts, jobs, train)


def _raise_failed(failed: dict[str, Exception], finished: list[str]) -> None:
    reasons = "\n".join(f"{source}: {plain(str(reason))}" for source, reason in failed.items())
    error_class = InputError if all(isinstance(reason, InputError) for reason in failed.values()) else StageError
    raise error_class(
        f"the proxies of {', '.join(failed)} failed",
        got=reasons,
        remedy=f"fix the cause and run again: the proxies of {', '.join(finished) or 'no source'} are kept",
    )
