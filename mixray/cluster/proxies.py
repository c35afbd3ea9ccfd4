"""Training the proxies: one actor per source, as many at a time as the cluster has room for.

Each keeps its state in the storage, so an actor that dies is replaced by one that goes on where it was; each publishes
its own artifact, so what is finished stays finished whatever happens to the others or to the driver.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from mixray.cluster.session import Session
from mixray.cluster.watching import News, Watcher, plain
from mixray.config.training import ProxyConfig
from mixray.data import MixtureStream, ModelInputs, open_rows
from mixray.errors import InputError, MixrayError, StageError
from mixray.models import model_identity, new_model
from mixray.store import Artifact, Artifacts, Draft, fingerprint
from mixray.training import StorageCheckpoint, device_for, step_count


@dataclass(frozen=True)
class ProxyJob:
    """All that one proxy needs, wherever it is trained."""

    source: str
    config: ProxyConfig
    rows: Artifact
    inputs: ModelInputs
    steps: int
    seed: int
    draft: Draft

    @property
    def checkpoint(self) -> StorageCheckpoint:
        return StorageCheckpoint(self.draft.storage, f"checkpoints/proxy/{self.draft.id}/{self.draft.attempt}")


class ProxyTrainer:
    """Trains one proxy."""

    def train(self, job: ProxyJob, board: ray.actor.ActorHandle) -> Artifact:
        """The published proxy; its checkpoints are gone by then."""
        import torch

        torch.set_num_threads(job.config.resources.threads)
        device = device_for(job.config.resources.gpus)
        proxy = new_model(job.config, job.inputs, seed=job.seed, device=device)
        # The order of the rows must not hang on the source's name: the proxy's identity does not.
        stream = MixtureStream({"source": open_rows(job.draft.storage, job.rows)}, {"source": 1.0}, job.seed)
        report = proxy.fit(
            stream,
            config=job.config,
            steps=job.steps,
            seed=job.seed,
            checkpoint=job.checkpoint,
            progress=lambda record: board.post.remote(job.source, record),
        )
        with tempfile.TemporaryDirectory(prefix="mixray-") as folder:
            proxy.save(Path(folder))
            files = job.draft.put_folder(Path(folder))
        meta = {
            "source": job.source,
            "parameters": sum(parameter.numel() for parameter in proxy.model.parameters()),
            "tokens": report.tokens,
            "seconds": report.seconds,
            "curve": [[tokens, loss] for tokens, loss in report.curve.items()],
            **report.rates,
        }
        artifact = job.draft.publish(files, meta)
        job.draft.storage.delete_folder(job.checkpoint.folder)
        return artifact


ProxyActor: Any = ray.remote(ProxyTrainer)


def train_proxies(
    session: Session,
    artifacts: Artifacts,
    config: ProxyConfig,
    sources: Mapping[str, Artifact],
    *,
    tokens: int,
    inputs: ModelInputs,
    seed: int,
    news: News,
) -> dict[str, Artifact]:
    """One proxy per source (name -> its rows); those that exist are not trained again, equal sources share one.

    Raises StageError naming every source whose proxy failed, after the others have finished.
    """
    steps = step_count(tokens, config.batch, inputs.row_tokens)
    jobs = {
        name: ProxyJob(name, config, source, inputs, steps, seed, artifacts.draft("proxy", id))
        for name, source in sources.items()
        for id in [proxy_id(config, source, steps=steps, seed=seed)]
    }
    found = {job.draft.id: artifacts.find("proxy", job.draft.id) for job in jobs.values()}
    missing = {job.draft.id: job for job in jobs.values() if found[job.draft.id] is None}
    trained = _train_all(session, config, list(missing.values()), news) if missing else {}
    return {name: found[job.draft.id] or trained[job.draft.id] for name, job in jobs.items()}


def proxy_id(config: ProxyConfig, source: Artifact, *, steps: int, seed: int) -> str:
    """What decides a proxy's weights. The tokens artifact stands for source, tokenizer and window; proxies see no
    groups of examples."""
    settings = config.model_dump(
        mode="json", exclude={"tokens", "fraction", "resources", "max_restarts", "checkpoints"}
    )
    rows = source.meta.get("content", source.id)
    return fingerprint(["proxy", 1, settings, model_identity(config.model), rows, steps, seed])


def _train_all(session: Session, config: ProxyConfig, jobs: list[ProxyJob], news: News) -> dict[str, Artifact]:
    room = session.fits(config.resources, where="proxy.resources")
    watcher = Watcher(news)
    waiting = list(reversed(jobs))
    running: dict[ray.ObjectRef, tuple[ProxyJob, ray.actor.ActorHandle]] = {}
    trained: dict[str, Artifact] = {}
    failed: dict[str, Exception] = {}
    restarts = dict.fromkeys((job.source for job in jobs), 0)
    while waiting or running:
        while waiting and len(running) < room:
            job = waiting.pop()
            actor = ProxyActor.options(num_cpus=config.resources.cpus, num_gpus=config.resources.gpus).remote()
            running[actor.train.remote(job, watcher.board)] = (job, actor)
        reference = watcher.next_finished(list(running))
        job, actor = running.pop(reference)
        try:
            trained[job.draft.id] = ray.get(reference)
        except RayTaskError as error:
            failed[job.source] = error.cause if isinstance(error.cause, MixrayError) else error
        except RayError as error:  # the actor died, or could not be placed
            restarts[job.source] += 1
            if restarts[job.source] <= config.max_restarts:
                waiting.append(job)
            else:
                failed[job.source] = error
        ray.kill(actor)
    if failed:
        _raise_failed(failed, [job.source for job in jobs if job.draft.id in trained])
    return trained


def _raise_failed(failed: dict[str, Exception], trained: list[str]) -> None:
    reasons = "\n".join(f"{source}: {plain(str(reason))}" for source, reason in failed.items())
    kind = InputError if all(isinstance(reason, InputError) for reason in failed.values()) else StageError
    raise kind(
        f"the proxies of {', '.join(failed)} failed",
        got=reasons,
        remedy=f"mend the cause and run again: the proxies of {', '.join(trained) or 'no source'} are kept",
    )
