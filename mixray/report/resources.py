"""What the training of a run will cost in time, GPU-hours, memory and disk, forecast from the speed of one worker.

Training takes 6 operations per parameter and token and scoring takes 2 (see ``compute.py``), so scoring is three times
as fast. Workers that train one model together are assumed to share its work without loss. The time to read the data, to
solve and to write the report is not included.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import RenderableType
from rich.text import Text

from mixray.progress import duration_text
from mixray.report.compute import SCORING_OPERATIONS, TRAINING_OPERATIONS
from mixray.report.layout import count_text, new_table, titled

Basis = Literal["measured", "stated", "derived"]
"""Where a speed comes from: measured on this machine, stated by the user, or derived from another stage's speed."""
DeviceKind = Literal["GPU", "core"]
ADAMW_BYTES = 16
"""Memory per parameter in training: the weight, its gradient and Adam's two moments, in float32."""
ALSO_BYTES = 24
"""The same with optimistic ALSO, which also keeps its last gradient and the weights before the look-ahead."""
STATE_BYTES = 12
"""Disk per parameter of a checkpoint: the weight and Adam's two moments. Optimistic ALSO adds its last gradient."""
SAVED_STATES = 3
"""How many checkpoints of one training are on disk while the newest is written."""
MODEL_BYTES = 4
"""Memory, or disk of a published model, per parameter: the weight in float32."""


@dataclass(frozen=True)
class Devices:
    """The GPUs or the CPU cores that a run works on.

    ``count``: how many work at the same time, None if unknown. ``memory_bytes``: the memory of one GPU, or of the
    machine that has the cores, None if unknown. ``count_basis``, ``memory_basis``: whether this machine or the user
    gave the number.
    """

    kind: DeviceKind
    count: int | None
    count_basis: Literal["this machine", "stated"]
    memory_bytes: float | None
    memory_basis: Literal["this machine", "stated"]

    def __str__(self) -> str:
        plural = "" if self.count == 1 else "s"
        count = f"an unknown number of {self.kind}s"
        if self.count is not None:
            count = f"{self.count:,} {self.kind}{plural} ({self.count_basis})"
        if self.memory_bytes is None:
            return count
        each = " each" if self.kind == "GPU" else ""
        return f"{count} with {_bytes_text(self.memory_bytes)}{each} ({self.memory_basis})"


@dataclass(frozen=True)
class Speed:
    """How many tokens (or rows) a second one worker trains on."""

    tokens_per_second: float
    basis: Basis


@dataclass(frozen=True)
class ModelsToTrain:
    """The models that one stage trains.

    ``tokens``: how many each model is trained on. ``trained``: how many of the parameters are trained; None: all.
    ``scored_tokens``: how many all of them together score, None if unknown. ``workers``: the smallest and the largest
    number of workers that train one model. ``devices_per_worker``: how many devices of ``device_kind`` one worker uses,
    which may be a fraction. ``is_optimistic``: whether optimistic ALSO is among the optimizers. ``activation_bytes``:
    what one forward pass of one worker keeps, None if unknown.
    """

    name: str
    models: int
    parameters: int
    tokens: int
    scored_tokens: int | None
    workers: tuple[int, int]
    device_kind: DeviceKind
    devices_per_worker: float
    is_optimistic: bool = False
    activation_bytes: int | None = None
    trained: int | None = None

    @property
    def trained_parameters(self) -> int:
        return self.parameters if self.trained is None else self.trained

    @property
    def memory_bytes(self) -> int:
        """The memory of one worker's weights, gradients and optimizer state, without activations."""
        return training_bytes(self.parameters, self.trained, is_optimistic=self.is_optimistic)


@dataclass(frozen=True)
class StageCost:
    """What it costs to train the models of one stage and to score with them. None means unknown.

    ``workers``: how many train one model. ``at_once``: how many models train at the same time. ``memory_bytes``: the
    weights, gradients and optimizer state of one worker; ``activation_bytes`` come on top. ``disk_bytes``: all
    published models. ``checkpoint_bytes``: the largest size of all checkpoints that exist at the same time.
    """

    name: str
    models: int
    workers: int
    at_once: int
    tokens_per_second: float | None
    speed_basis: Basis | None
    training_seconds: float | None
    scoring_seconds: float | None
    device_kind: DeviceKind
    device_hours: float | None
    memory_bytes: int
    activation_bytes: int | None
    disk_bytes: int
    checkpoint_bytes: int

    @classmethod
    def of(cls, work: ModelsToTrain, speed: Speed | None, devices: Devices) -> StageCost:
        """Compute the cost of a stage. If the number of devices is unknown, models train one after another."""
        workers, at_once, scorers = work.workers[1], 1, 1
        if devices.count is not None:
            scorers = max(1, math.floor(devices.count / work.devices_per_worker))
            workers = max(1, min(workers, scorers))
            at_once = max(1, min(work.models, scorers // workers))
        training = scoring = device_hours = None
        if speed is not None:
            rate = speed.tokens_per_second
            training = math.ceil(work.models / at_once) * work.tokens / (rate * workers)
            busy = work.models * work.tokens / rate  # seconds of one worker, over all models
            if work.scored_tokens is not None:
                scored = work.scored_tokens / rate * SCORING_OPERATIONS / TRAINING_OPERATIONS
                scoring, busy = scored / scorers, busy + scored
            device_hours = busy * work.devices_per_worker / 3600
        state_bytes = STATE_BYTES + 4 * work.is_optimistic
        return cls(
            name=work.name,
            models=work.models,
            workers=workers,
            at_once=at_once,
            tokens_per_second=None if speed is None else speed.tokens_per_second,
            speed_basis=None if speed is None else speed.basis,
            training_seconds=training,
            scoring_seconds=scoring,
            device_kind=work.device_kind,
            device_hours=device_hours,
            memory_bytes=work.memory_bytes,
            activation_bytes=work.activation_bytes,
            disk_bytes=MODEL_BYTES * work.trained_parameters * work.models,
            checkpoint_bytes=SAVED_STATES * state_bytes * work.trained_parameters * at_once,
        )


@dataclass(frozen=True)
class ResourceForecast:
    """The cost of all stages that train.

    ``data_bytes``: the disk that prepared data and predictions take, None if unknown. ``misfits``: for every stage that
    needs more devices or memory than there are, a sentence that says so. ``unit``: what models are trained on,
    ``tokens`` or ``rows``.
    """

    devices: tuple[Devices, ...]
    stages: tuple[StageCost, ...]
    data_bytes: int | None
    misfits: tuple[str, ...]
    unit: str

    @classmethod
    def of(
        cls,
        works: Sequence[ModelsToTrain],
        speeds: Sequence[Speed | None],
        devices: Sequence[Devices],
        data_bytes: int | None,
        unit: str = "tokens",
    ) -> ResourceForecast:
        """Compute the cost of every stage, and compare it with the devices.

        ``works`` and ``speeds``: one for each stage, in the same order; a speed is None if unknown. ``devices``: one
        record for each kind of device that the stages use.
        """
        by_kind = {each.kind: each for each in devices}
        stages = tuple(
            StageCost.of(work, speed, by_kind[work.device_kind]) for work, speed in zip(works, speeds, strict=True)
        )
        misfits = [
            text
            for work, stage in zip(works, stages, strict=True)
            for text in _misfits(work, stage, by_kind[work.device_kind])
        ]
        return cls(tuple(devices), stages, data_bytes, tuple(misfits), unit)

    @property
    def seconds(self) -> float | None:
        """The time of all stages, one after another, without scoring of unknown size; None if a speed is unknown."""
        if any(stage.training_seconds is None for stage in self.stages):
            return None
        return sum((stage.training_seconds or 0) + (stage.scoring_seconds or 0) for stage in self.stages)

    @property
    def device_hours(self) -> dict[DeviceKind, float | None]:
        """Device kind -> hours of work, summed over the devices of that kind; None if a stage's speed is unknown."""
        hours: dict[DeviceKind, float | None] = {}
        for devices in self.devices:
            parts = [stage.device_hours for stage in self.stages if stage.device_kind == devices.kind]
            hours[devices.kind] = None if None in parts else sum(part or 0 for part in parts)
        return hours

    @property
    def disk_bytes(self) -> dict[str, int | None]:
        """The largest disk use of the storage: of data, models and checkpoints, and in total; None if unknown.

        Only one stage at a time has checkpoints.
        """
        models = sum(stage.disk_bytes for stage in self.stages)
        checkpoints = max(stage.checkpoint_bytes for stage in self.stages)
        total = None if self.data_bytes is None else self.data_bytes + models + checkpoints
        return {"data": self.data_bytes, "models": models, "checkpoints": checkpoints, "total": total}

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as JSON values, with their units in the keys."""
        stages = {}
        for stage in self.stages:
            figures = asdict(stage)
            figures[f"{figures.pop('device_kind').lower()}_hours"] = figures.pop("device_hours")
            stages[figures.pop("name")] = figures
        totals = {f"{kind.lower()}_hours": hours for kind, hours in self.device_hours.items()}
        return {
            "devices": [asdict(each) for each in self.devices],
            "stages": stages,
            "seconds": self.seconds,
            **totals,
            "disk_bytes": self.disk_bytes,
        }

    def tables(self) -> list[RenderableType]:
        """Return a table of the stages, and lines on the sums and on where the figures come from."""
        table = new_table(
            "stage",
            "models",
            "at once",
            "workers",
            f"{self.unit}/s a worker",
            "training",
            "scoring",
            "hours",
            "state",
            "activations",
        )
        for stage in self.stages:
            speed = "unknown" if stage.tokens_per_second is None else count_text(stage.tokens_per_second)
            hours = "unknown" if stage.device_hours is None else _hours_text(stage.device_hours, stage.device_kind)
            table.add_row(
                stage.name,
                f"{stage.models:,}",
                f"{stage.at_once:,}",
                f"{stage.workers:,}",
                f"{speed}, {stage.speed_basis}" if stage.speed_basis else speed,
                duration_text(stage.training_seconds),
                duration_text(stage.scoring_seconds),
                hours,
                _bytes_text(stage.memory_bytes),
                _bytes_text(stage.activation_bytes),
            )
        return [titled("Time and memory", table), *map(Text, self._lines())]

    def _lines(self) -> Iterator[str]:
        devices = " and ".join(map(str, self.devices))
        if self.seconds is None:
            unknown = " and ".join(stage.name for stage in self.stages if stage.speed_basis is None)
            is_stated = any(stage.speed_basis == "stated" for stage in self.stages)
            remedy = "" if is_stated else "; state --tokens-per-second"
            yield f"time: unknown for {unknown}, whose speed cannot be measured quickly on this machine{remedy}"
        else:
            sums = [_hours_text(hours, kind) for kind, hours in self.device_hours.items() if hours is not None]
            total = " and ".join([duration_text(self.seconds), *sums])
            yield f"time: about {total}, derived from the speeds, without reading data and solving"
            yield (
                "speed: measured = a few steps on this machine; stated = by --tokens-per-second; "
                "derived = from the other stage's, in proportion to the parameters"
            )
        in_turn = (
            "; models are taken to train one after another" if None in [each.count for each in self.devices] else ""
        )
        yield f"devices: {devices}{in_turn}"
        yield (
            "memory of one worker, derived: state = weights, gradients and optimizer; "
            "activations = what one forward pass keeps; buffers of single operations come on top"
        )
        disk = self.disk_bytes
        parts = [f"{name} {_bytes_text(size)}" for name, size in disk.items() if name != "total"]
        yield f"disk, derived: {_bytes_text(disk['total'])} = {' + '.join(parts)}"


def training_bytes(parameters: int, trained: int | None, *, is_optimistic: bool = False) -> int:
    """Return the memory of a model in training, without activations; a parameter that is not trained is only stored.

    ``trained``: how many parameters are; None: all.
    """
    by_trained = ALSO_BYTES if is_optimistic else ADAMW_BYTES
    untrained = 0 if trained is None else parameters - trained
    return by_trained * (parameters - untrained) + MODEL_BYTES * untrained


def _misfits(work: ModelsToTrain, stage: StageCost, devices: Devices) -> Iterator[str]:
    """Yield a sentence for each way in which the stage needs more devices, or more memory, than there are."""
    least = work.workers[0] * work.devices_per_worker
    if devices.count is not None and least > devices.count:
        yield f"{work.name}: one model asks for {least:g} {devices.kind}s; there are {devices.count}"
    if devices.memory_bytes is None:
        return
    if devices.kind == "GPU":
        # ``sharing``: how many workers share one memory.
        sharing = max(1, min(math.floor(1 / work.devices_per_worker), stage.workers * stage.at_once))
        place = "a GPU"
    else:
        sharing, place = stage.workers * stage.at_once, "the machine"
    state, activations = sharing * stage.memory_bytes, sharing * (stage.activation_bytes or 0)
    if state + activations > devices.memory_bytes:
        workers = "one worker needs" if sharing == 1 else f"{sharing} workers need"
        top = f" and {_bytes_text(activations)} for activations" if activations else ""
        yield (
            f"{work.name}: {workers} {_bytes_text(state)} for weights, gradients and optimizer state{top}; "
            f"{place} has {_bytes_text(devices.memory_bytes)}"
        )


def cost_tables(resources: ResourceForecast | None, warnings: Iterable[str]) -> list[RenderableType]:
    """Return the last parts of a forecast: the table of resources, if they are forecast, and the warnings."""
    lines = [Text(f"warning: {message}") for message in warnings]
    return [*(resources.tables() if resources is not None else []), *lines]


def _hours_text(hours: float, kind: DeviceKind) -> str:
    return f"{hours:,.0f} {kind}-hours" if hours >= 99.5 else f"{hours:.2g} {kind}-hours"


def _bytes_text(size: float | None) -> str:
    if size is None:
        return "unknown"
    return f"{count_text(size)}B" if size >= 1000 else f"{count_text(size)} B"
