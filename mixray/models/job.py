"""Training one model and publishing it: the same job for a proxy on an actor and an arm on one or many workers.

``proxy_jobs`` and ``arm_jobs`` turn the run file into jobs, each with the id that decides the model's weights. A job
runs in any process; ``mixray.cluster`` only chooses where.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch

from mixray.config.mixture import DoReMiConfig
from mixray.config.objective import ErmConfig, ObjectiveConfig
from mixray.config.schema import RetrainConfig
from mixray.config.training import ProxyConfig, TrainingConfig
from mixray.data import ExampleInputs, ExampleRows, MixtureStream, ModelInputs, TrainingRows, group_shares, open_rows
from mixray.models.building import ModelIdentity, model_identity, pinned_model
from mixray.models.causal_lm import CausalLM
from mixray.models.kinds import new_model
from mixray.models.sample_losses import HELD_OUT_POINTS, HeldOutSamples, source_losses
from mixray.robust import DoReMiObjective, new_objective
from mixray.store import Artifact, Artifacts, Draft, ModelMeta, fingerprint
from mixray.store.artifacts import fetch_folder
from mixray.training import (
    BatchStream,
    ColumnAsGroups,
    CompletionsAlone,
    HeldOut,
    Objective,
    Progress,
    SourcesAsGroups,
    StorageCheckpoint,
    WindowStream,
    World,
    delete_states,
    step_count,
)

PROXY, ARM, SWARM = "proxy", "model", "swarm_model"
"""The kinds of artifacts that jobs publish."""


@dataclass(frozen=True)
class TrainingData:
    """What all models of a run share: the published training rows of every source, their description, and the seed."""

    sources: Mapping[str, Artifact]
    inputs: ModelInputs
    seed: int

    def has_completions(self, names: Iterable[str]) -> bool:
        """Whether some of these sources hold prompts with completions, so that windows differ in their tokens."""
        return any("trained_tokens" in self.sources[name].meta for name in names)


@dataclass(frozen=True)
class DoReMiTraining:
    """What DoReMi's proxy is trained with: the published ``reference`` model, and the run file's settings."""

    reference: Artifact
    settings: DoReMiConfig


@dataclass(frozen=True)
class TrainingJob:
    """Everything that is needed to train one model and to publish it, on any machine.

    ``name`` is the arm, the proxy's source or the model of a swarm; progress is reported under it. ``source_shares``
    are shares of training tokens (or of examples), all positive. ``reference_losses`` are the losses, nats per token,
    that the sources' proxies reached, where the objective measures excess losses. ``targets``: the rows of the targets,
    by name, whose held-out parts the model is judged on while it trains; they change nothing of it. ``doremi``: with it
    the model is DoReMi's proxy, in place of what ``objective`` says.
    """

    name: str
    config: TrainingConfig
    objective: ObjectiveConfig
    source_shares: Mapping[str, float]
    data: TrainingData
    steps: int
    draft: Draft
    reference_losses: Mapping[str, float] | None = None
    targets: Mapping[str, Artifact] = field(default_factory=dict)
    doremi: DoReMiTraining | None = None

    def run(self, device: torch.device, progress: Callable[[Progress], None], world: World = World()) -> None:  # noqa: B008 (frozen)
        """Train on this worker's part of every batch, from the last checkpoint on; rank 0 publishes the model."""
        model = new_model(self.config, self.data.inputs, seed=self.data.seed, device=device)
        sources = {name: open_rows(self.draft.storage, source) for name, source in self.data.sources.items()}
        rows = {name: sources[name] for name in self.source_shares}
        stream = MixtureStream(rows, self.source_shares, self.data.seed)
        grouped, objective, group_names = self._grouped(stream, rows)
        if self.doremi is not None:
            assert isinstance(model, CausalLM), "DoReMi compares the losses of tokens"
            model.judge_against(self._reference(self.doremi.reference, device))
        if self.data.has_completions(rows):
            grouped = CompletionsAlone(grouped)
        held_out = None
        if self.targets and world.rank == 0:
            tokens = self.steps * self.config.batch * self.data.inputs.row_tokens
            held_out = HeldOutSamples(self.draft.storage, self.targets, model, tokens)
        report = model.fit(
            grouped,
            objective=objective,
            group_names=group_names,
            steps=self.steps,
            config=self.config,
            seed=self.data.seed,
            world=world,
            checkpoint=self._checkpoint,
            progress=progress if world.rank == 0 else lambda _: None,
            held_out=HeldOut(held_out.losses, HELD_OUT_POINTS) if held_out else None,
        )
        if world.rank:
            return
        is_proxy = self.draft.kind == PROXY
        curves = report.group_curves
        positions = self.steps * self.config.batch
        meta = ModelMeta(
            parameters=model.parameter_count,
            trained_parameters=model.trained_count if model.trained_count < model.parameter_count else None,
            tokens=report.tokens,
            seconds=report.seconds,
            curve=list(report.curve.items()),
            source=self.name if is_proxy else None,
            source_shares=None if is_proxy else dict(self.source_shares),
            workers=world.size if self.draft.kind == ARM else None,
            group_losses=curves["losses"] or None,
            group_weights=curves["weights"] or None,
            source_losses=source_losses(model, sources, stream, positions) if self.draft.kind == ARM else None,
            held_out_curves=held_out.curves(report.records) or None if held_out else None,
        )
        if isinstance(objective, DoReMiObjective):
            weights = dict(zip(stream.source_names, objective.mean_group_weights.tolist(), strict=True))
            meta = replace(meta, mean_group_weights=weights)
        with tempfile.TemporaryDirectory(prefix="mixray-") as folder:
            model.save(Path(folder))
            self.draft.publish(self.draft.put_folder(Path(folder)), meta.to_meta() | report.rates)

    def delete_checkpoints(self) -> None:
        """Delete the saved states of a job whose model is published and whose workers have all ended."""
        self._checkpoint.delete()

    def _reference(self, reference: Artifact, device: torch.device) -> CausalLM:
        with tempfile.TemporaryDirectory(prefix="mixray-") as folder:
            fetch_folder(self.draft.storage, reference, Path(folder))
            return CausalLM.load(Path(folder), device=device, precision=self.config.precision)

    @property
    def _checkpoint(self) -> StorageCheckpoint:
        return StorageCheckpoint.of(self.draft)

    def _grouped(
        self, stream: MixtureStream, rows: Mapping[str, TrainingRows]
    ) -> tuple[BatchStream | WindowStream, Objective | None, list[str] | None]:
        """Return the stream with its groups, the objective over them, and their names.

        Under ERM the groups of several sources are the sources, whose losses are only recorded.
        """
        if self.doremi is not None:
            settings = self.doremi.settings
            doremi = DoReMiObjective(len(rows), step_size=settings.step_size, smoothing=settings.smoothing)
            return SourcesAsGroups(stream), doremi, list(stream.source_names)
        if isinstance(self.objective, ErmConfig):
            several = len(rows) > 1
            return (SourcesAsGroups(stream), None, list(stream.source_names)) if several else (stream, None, None)
        grouped: BatchStream
        shares = {name: self.source_shares[name] for name in stream.source_names}
        if self.objective.group_column is None:
            grouped = SourcesAsGroups(stream)
            presence = stream.presence(self.config.batch, self.steps)
        else:
            inputs = self.data.inputs
            assert isinstance(inputs, ExampleInputs), "windows of text have no columns"
            ids = {name: source.group_ids() for name, source in rows.items() if isinstance(source, ExampleRows)}
            by_group = group_shares(ids, shares, len(inputs.group_names))
            present = np.flatnonzero(by_group)
            grouped = ColumnAsGroups(stream, present)
            shares = {inputs.group_names[group]: float(by_group[group]) for group in present.tolist()}
            presence = stream.presence(self.config.batch, self.steps, ids)[present]
        objective = new_objective(
            self.objective,
            shares,
            windows=self.steps * self.config.batch,
            presence=presence.tolist(),
            reference_losses=self.reference_losses,
        )
        return grouped, objective, list(shares)


class AnyJob(Protocol):
    """What makes one model: a ``TrainingJob``, or a ``TreeJob`` of ``tree_job.py``."""

    @property
    def draft(self) -> Draft: ...


Job = TypeVar("Job", bound=AnyJob)


def train_missing(
    artifacts: Artifacts, jobs: Mapping[str, Job], train: Callable[[list[Job]], None]
) -> dict[str, Artifact]:
    """Return the published model of every job. ``train`` is called once with the jobs whose model does not exist yet.

    Jobs with equal ids share one model.
    """
    missing = missing_jobs(artifacts, jobs)
    if missing:
        train(missing)
    delete_states(job.draft for job in jobs.values())
    return {name: artifacts.get(job.draft.kind, job.draft.id) for name, job in jobs.items()}


def missing_jobs(artifacts: Artifacts, jobs: Mapping[str, Job]) -> list[Job]:
    """Return the jobs whose model does not exist yet, one for each id."""
    by_id = {job.draft.id: job for job in jobs.values()}
    stored = artifacts.find_all((job.draft.kind, id) for id, job in by_id.items())
    return [job for id, job in by_id.items() if (job.draft.kind, id) not in stored]


def proxy_jobs(artifacts: Artifacts, config: ProxyConfig, data: TrainingData, *, tokens: int) -> dict[str, TrainingJob]:
    """Return one job per source that trains its proxy on ``tokens`` tokens."""
    steps = step_count(tokens, config.batch, data.inputs.row_tokens)
    jobs = {}
    model = model_identity(config.model)
    pinned = config.model_copy(update={"model": pinned_model(config.model, model)})
    for source, rows in data.sources.items():
        draft = artifacts.draft(PROXY, proxy_id(config, model, rows, steps=steps, seed=data.seed))
        # The stream's order depends on its source's name, and a proxy's identity does not: so the name is the same.
        alone = TrainingData({"source": rows}, data.inputs, data.seed)
        jobs[source] = TrainingJob(source, pinned, ErmConfig(), {"source": 1.0}, alone, steps, draft)
    return jobs


def swarm_jobs(
    artifacts: Artifacts,
    config: ProxyConfig,
    data: TrainingData,
    mixtures: Mapping[str, Mapping[str, float]],
    *,
    tokens: int,
) -> dict[str, TrainingJob]:
    """Return one job per mixture (name -> shares of the sources) that trains a model like a proxy on it."""
    steps = step_count(tokens, config.batch, data.inputs.row_tokens)
    jobs = {}
    model = model_identity(config.model)
    pinned = config.model_copy(update={"model": pinned_model(config.model, model)})
    for name, shares in mixtures.items():
        positive = {source: shares[source] for source in sorted(data.sources) if shares[source] > 0}
        mixture = [(source, share, data.sources[source].id) for source, share in positive.items()]
        facts = [SWARM, 1, _proxy_settings(config), model, mixture, steps, data.seed, *config.resources.arithmetic]
        draft = artifacts.draft(SWARM, fingerprint(facts))
        jobs[name] = TrainingJob(name, pinned, ErmConfig(), positive, data, steps, draft)
    return jobs


def doremi_job(
    artifacts: Artifacts,
    config: ProxyConfig,
    data: TrainingData,
    settings: DoReMiConfig,
    reference: Artifact,
    *,
    tokens: int,
) -> TrainingJob:
    """Return the job that trains DoReMi's proxy on equal shares of all sources."""
    steps = step_count(tokens, config.batch, data.inputs.row_tokens)
    model = model_identity(config.model)
    pinned = config.model_copy(update={"model": pinned_model(config.model, model)})
    shares = {source: 1 / len(data.sources) for source in sorted(data.sources)}
    sources = [(source, data.sources[source].id) for source in shares]
    rule = [settings.step_size, settings.smoothing, reference.id, *_group_losses(data, shares)]
    facts = ["doremi", 1, rule, _proxy_settings(config), model, sources, steps, data.seed, *config.resources.arithmetic]
    draft = artifacts.draft(SWARM, fingerprint(facts))
    return TrainingJob(
        "doremi", pinned, ErmConfig(), shares, data, steps, draft, doremi=DoReMiTraining(reference, settings)
    )


def arm_jobs(
    artifacts: Artifacts,
    config: RetrainConfig,
    data: TrainingData,
    arms: Mapping[str, Mapping[str, float]],
    proxies: Mapping[str, Artifact],
    targets: Mapping[str, Artifact] | None = None,
) -> dict[str, TrainingJob]:
    """Return one job per arm (name -> shares of the sources).

    ``proxies``: by source; objectives on excess losses measure from them. ``targets``: see ``TrainingJob``.
    """
    assert config.tokens is not None, "boosted trees have jobs of their own"
    steps = step_count(config.tokens, config.batch, data.inputs.row_tokens)
    measures_excess = not isinstance(config.objective, ErmConfig) and config.objective.excess != "none"
    jobs = {}
    model = model_identity(config.model)
    pinned = config.model_copy(update={"model": pinned_model(config.model, model)})
    for arm, shares in arms.items():
        # The stream breaks ties by the order of the sources, and an arm's identity knows no order: so it is by name.
        positive = {name: shares[name] for name in sorted(data.sources) if shares[name] > 0}
        references = {name: proxies[name] for name in positive} if measures_excess else {}
        id = arm_id(config, model, data, positive, references, steps=steps)
        losses = {name: ModelMeta.from_artifact(proxy).final_loss for name, proxy in references.items()}
        draft = artifacts.draft(ARM, id)
        jobs[arm] = TrainingJob(
            arm, pinned, config.objective, positive, data, steps, draft, losses or None, targets or {}
        )
    return jobs


def proxy_id(config: ProxyConfig, model: ModelIdentity, rows: Artifact, *, steps: int, seed: int) -> str:
    """Return the hash of everything that decides a proxy's weights.

    The artifact of the rows stands for the source, the tokenizer and the window. Proxies do not see groups of examples.
    """
    content = rows.meta.get("content", rows.id)
    settings = _proxy_settings(config)
    return fingerprint([PROXY, 1, settings, model, content, steps, seed, *config.resources.arithmetic])


def _proxy_settings(config: ProxyConfig) -> dict[str, object]:
    """Return the settings that decide the weights of a proxy or of a swarm's model, beside the steps."""
    not_weights = {"tokens", "fraction", "resources", "max_restarts", "checkpoints"}
    return config.model_dump(mode="json", exclude=not_weights)


def arm_id(
    config: RetrainConfig,
    model: ModelIdentity,
    data: TrainingData,
    shares: Mapping[str, float],
    references: Mapping[str, Artifact],
    *,
    steps: int,
) -> str:
    """Return the hash of everything that decides an arm's weights, up to rounding, which the numbers of workers and of
    their threads change. A GPU may compute in another precision."""
    not_weights = {"arms", "replicates", "tokens", "workers", "resources_per_worker", "max_failures", "checkpoints"}
    settings = config.model_dump(mode="json", exclude=not_weights)
    mixture = sorted((name, share, data.sources[name].id) for name, share in shares.items())
    facts = [ARM, 1, settings, model, mixture, steps, data.seed]
    facts += ["gpu"] if config.resources_per_worker.gpus > 0 else []
    facts += [] if isinstance(config.objective, ErmConfig) else _group_losses(data, shares)
    measured_from = sorted((name, proxy.id) for name, proxy in references.items())
    return fingerprint([*facts, measured_from] if measured_from else facts)


def _group_losses(data: TrainingData, sources: Iterable[str]) -> list[str]:
    """Return what ids hold of how groups are judged: by their tokens where windows differ in these, else by windows,
    which leave no trace."""
    return ["mean over tokens"] if data.has_completions(sources) else []
