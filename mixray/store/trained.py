"""What the artifact of a trained model records of its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from statistics import mean
from typing import Any, Self

from mixray.store.artifacts import Artifact

Curve = list[tuple[int, float]]
"""Points (tokens trained on, value), in the order of training."""


@dataclass(frozen=True)
class SourceLoss:
    """An arm's loss on a source's rows that its training did not read.

    ``share``: the realised share of training tokens, which windows round; ``rows``: how many rows were judged;
    ``loss``: their mean, nats per token; ``reach``: of its 95 % interval over the rows, to either side. Both are None
    where the training read all of the source's rows but one.
    """

    share: float
    rows: int
    loss: float | None
    reach: float | None


@dataclass(frozen=True)
class HeldOutCurve:
    """An arm's losses on a sample of a target's held-out part while it trained: the same sample for every arm.

    ``rows`` and ``tokens``: how many are judged at every point; ``curve``: losses, nats per token (or example).
    """

    rows: int
    tokens: int
    curve: Curve


@dataclass(frozen=True)
class ModelMeta:
    """The facts that are published with a proxy (a model of one source) or an arm (a model of a mixture).

    ``parameters``: all of the model's, embeddings included; ``trained_parameters``: those that were trained, where
    these are adapters alone. ``tokens``: trained on (rows, where they are not text).
    ``seconds``: spent in training. ``curve``: losses, nats per token. ``source``: of a proxy. ``source_shares`` and
    ``workers``: of an arm. ``group_losses`` and ``group_weights``: by group, of an arm with a robust objective.
    ``source_losses``: of an arm, on every source. ``held_out_curves``: of an arm, by the id of a target's rows, which
    tells targets of the same name apart; an arm that another run trained has those of that run's targets.
    ``mean_group_weights``: of DoReMi's proxy, over all steps; its curve is of the loss above the reference model's.
    ``times`` (milliseconds since 1970), ``tokens_per_second``, ``learning_rate`` and ``gradient_norm``: one for each
    point of ``curve``; artifacts of earlier versions do not have them.
    """

    parameters: int
    tokens: int
    seconds: float
    curve: Curve
    times: list[int] | None = None
    tokens_per_second: list[float] | None = None
    learning_rate: list[float] | None = None
    gradient_norm: list[float | None] | None = None
    source: str | None = None
    source_shares: Mapping[str, float] | None = None
    workers: int | None = None
    group_losses: Mapping[str, Curve] | None = None
    group_weights: Mapping[str, Curve] | None = None
    source_losses: Mapping[str, SourceLoss] | None = None
    held_out_curves: Mapping[str, HeldOutCurve] | None = None
    mean_group_weights: Mapping[str, float] | None = None
    trained_parameters: int | None = None

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """Read the facts of a published model, and leave out keys that this version does not know."""
        facts = {field.name: artifact.meta[field.name] for field in fields(cls) if field.name in artifact.meta}
        if "source_losses" in facts:
            facts["source_losses"] = {name: SourceLoss(**loss) for name, loss in facts["source_losses"].items()}
        if "held_out_curves" in facts:
            facts["held_out_curves"] = {id: HeldOutCurve(**curve) for id, curve in facts["held_out_curves"].items()}
        return cls(**facts)

    def to_meta(self) -> dict[str, Any]:
        """Return what is stored: every fact that the model has."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def final_loss(self) -> float:
        """The mean loss over the last tenth of the training's records, nats per token."""
        losses = [float(loss) for _, loss in self.curve]
        return mean(losses[-max(1, len(losses) // 10) :])

    @property
    def final_group_weights(self) -> dict[str, float]:
        """The weight that a robust objective gave each group in the end; empty where there was no such objective."""
        return {group: curve[-1][1] for group, curve in (self.group_weights or {}).items()}
