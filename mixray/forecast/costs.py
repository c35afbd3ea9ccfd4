"""Time, memory and disk of a run file: its models and their workers, the devices, and how fast a worker trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mixray.config import RobustConfig, RunConfig
from mixray.config.training import HeadConfig, PretrainedModel, Resources, TrainingConfig
from mixray.data import ExampleInputs, ModelInputs
from mixray.data.tabular.grouped import GroupedTask
from mixray.errors import InputError
from mixray.forecast.checking import CheckedInputs
from mixray.forecast.mixture_forecast import Forecast
from mixray.models import activation_bytes, measure_training, memory_bytes, visible_gpus
from mixray.report import Devices, ModelsToTrain, ResourceForecast, Speed
from mixray.report.resources import DeviceKind
from mixray.simplex.objectives.passes import processors

TARGET_TOKEN_BYTES = 4
SMALL_VOCABULARY = 1 << 16
"""Up to so many tokens, a source's token takes 2 bytes of disk, else 4."""


@dataclass(frozen=True)
class StatedFigures:
    """What the user says about the machines; None where nothing. See ``plan``.

    Raises InputError for what is not a positive number.
    """

    tokens_per_second: float | None = None
    devices: int | None = None
    device_memory_gb: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 0 < value < math.inf:
                raise InputError(
                    "a stated figure is not a positive number", where=name, got=value, wanted="a number above 0"
                )


def mixture_resources(
    config: RunConfig, checked: CheckedInputs, forecast: Forecast, stated: StatedFigures
) -> ResourceForecast:
    """Return what the training of a search for mixtures costs. Measures speeds unless one is stated."""
    *cheap, arms = forecast.models_to_train
    works = [
        *(_with_activations(work, config.proxy, checked.proxy_inputs) for work in cheap),
        _with_activations(arms, config.retrain, checked.retrain_inputs),
    ]
    of_proxy, of_arm = _mixture_speeds(config, checked, (works[0], works[-1]), stated.tokens_per_second)
    speeds = [*(of_proxy for _ in cheap), of_arm]  # what comes between is trained as the proxies are
    devices = _devices([work.device_kind for work in works], stated)
    unit = "rows" if config.examples is not None else "tokens"
    return ResourceForecast.of(works, speeds, devices, _data_bytes(config, checked, forecast), unit)


def comparison_resources(
    config: RobustConfig, task: GroupedTask, arms: ModelsToTrain, stated: StatedFigures
) -> ResourceForecast:
    """Return what the training of a comparison of robust training costs. Measures the speed unless it is stated."""
    inputs = ExampleInputs(task.train.features.shape[1], task.label_names, task.group_names)
    training = TrainingConfig(
        model=HeadConfig(head=config.model.head, hidden=config.model.hidden),
        batch=config.batch,
        optimizer=config.optimizer,
        precision=config.precision,
    )
    if stated.tokens_per_second is not None:
        speed: Speed | None = Speed(stated.tokens_per_second, "stated")
    else:
        speed = _measured(training, inputs, config.resources)
    arms = _with_activations(arms, training, inputs)
    rows = sum(len(part) for _, part in task.parts())
    return ResourceForecast.of(
        [arms], [speed], _devices([arms.device_kind], stated), rows * _row_bytes(inputs.features), unit="rows"
    )


def _with_activations(work: ModelsToTrain, training: TrainingConfig, inputs: ModelInputs) -> ModelsToTrain:
    on_gpu = work.device_kind == "GPU"
    # The fewest workers have the most rows each.
    size = activation_bytes(training, inputs, workers=work.workers[0], on_gpu=on_gpu)
    return replace(work, activation_bytes=size)


def _devices(kinds: Sequence[DeviceKind], stated: StatedFigures) -> list[Devices]:
    """Return the devices of every kind that is asked for. What is stated holds for the GPUs, where there are any."""
    devices = []
    for kind in dict.fromkeys(kinds):
        is_stated = kind == "GPU" or "GPU" not in kinds
        count = stated.devices if is_stated else None
        memory = stated.device_memory_gb if is_stated else None
        devices.append(
            Devices(
                kind=kind,
                count=count or (visible_gpus() if kind == "GPU" else processors()),
                count_basis="stated" if count else "this machine",
                memory_bytes=memory_bytes(gpu=kind == "GPU") if memory is None else memory * 1e9,
                memory_basis="this machine" if memory is None else "stated",
            )
        )
    return devices


def _mixture_speeds(
    config: RunConfig, checked: CheckedInputs, works: tuple[ModelsToTrain, ModelsToTrain], stated: float | None
) -> tuple[Speed | None, Speed | None]:
    """Return how fast a proxy and a retraining worker train."""
    proxies, arms = works
    if stated is not None:
        derived = _derived(stated, arms, proxies)
        return derived or _measured(config.proxy, checked.proxy_inputs, config.proxy.resources), Speed(stated, "stated")
    proxy, retrain = config.proxy, config.retrain
    proxy_speed = _measured(proxy, checked.proxy_inputs, proxy.resources)
    settings = ("model", "batch", "micro_batch", "precision")
    if proxy.resources == retrain.resources_per_worker and all(
        getattr(proxy, name) == getattr(retrain, name) for name in settings
    ):
        return proxy_speed, proxy_speed
    speed = _measured(retrain, checked.retrain_inputs, retrain.resources_per_worker)
    if speed is None and proxy_speed is not None:
        speed = _derived(proxy_speed.tokens_per_second, proxies, arms)
    return proxy_speed, speed


def _measured(training: TrainingConfig, inputs: ModelInputs, resources: Resources) -> Speed | None:
    # A plan downloads no weights.
    if isinstance(training.model, PretrainedModel) and not Path(training.model.pretrained).expanduser().is_dir():
        return None
    rate = measure_training(training, inputs, resources)
    return None if rate is None else Speed(rate, "measured")


def _derived(rate: float, of: ModelsToTrain, to: ModelsToTrain) -> Speed | None:
    """Return the speed of other models, which spend as many operations a second; None on other devices."""
    if of.device_kind != to.device_kind:
        return None
    # A worker has a GPU or a fraction of one; cores are its threads.
    devices = to.devices_per_worker / of.devices_per_worker if to.device_kind == "core" else 1.0
    return Speed(rate * devices * of.parameters / to.parameters, "derived")


def _data_bytes(config: RunConfig, checked: CheckedInputs, forecast: Forecast) -> int | None:
    """Return what the prepared sources and targets and the prediction cache take on disk; None where unknown."""
    sources = [pool.tokens for pool in forecast.sources.values()]
    targets = [pool.tokens for pool in forecast.targets.values()]
    if forecast.cache_bytes is None or None in sources or None in targets:
        return None
    source_bytes = target_bytes = TARGET_TOKEN_BYTES
    if checked.pools.examples is not None:
        source_bytes = target_bytes = _row_bytes(checked.pools.examples.features)
    elif config.tokenizer is not None and config.tokenizer.train is not None:
        source_bytes = 2 if config.tokenizer.train.vocab_size <= SMALL_VOCABULARY else 4
    return (
        source_bytes * sum(map(int, filter(None, sources)))
        + target_bytes * sum(map(int, filter(None, targets)))
        + forecast.cache_bytes
    )


def _row_bytes(features: int) -> int:
    """Return the size of an encoded row: float32 features, a label and a group."""
    return 4 * features + 16
