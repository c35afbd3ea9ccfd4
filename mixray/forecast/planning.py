"""``mixray plan``: check a run file of either kind, forecast its work, and estimate time, memory and disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mixray.config import RobustConfig, RunConfig, RunFile, load_config
from mixray.config.loading import Overrides
from mixray.data import InputWarning
from mixray.data.tabular.grouped import read_task
from mixray.forecast.checking import check
from mixray.forecast.costs import StatedFigures, comparison_resources, mixture_resources
from mixray.forecast.mixture_forecast import Forecast, forecast
from mixray.forecast.robust_forecast import RobustForecast, forecast_comparison
from mixray.report import ResourceForecast
from mixray.search import with_files_read


def plan(
    run_file: str | Path,
    overrides: Overrides = (),
    *,
    tokens_per_second: float | None = None,
    devices: int | None = None,
    device_memory_gb: float | None = None,
) -> Forecast | RobustForecast:
    """Check what can be checked without computing, and forecast the rest. Starts nothing.

    ``tokens_per_second``: training tokens (or rows) of one retraining worker, or of one arm of a robust comparison; by
    default a few steps are measured on this machine, where it can. ``devices``: GPUs that work at the same time, or CPU
    cores where the run file asks for no GPU, by default those of this machine; ``device_memory_gb``: the memory of one
    GPU, or of the machine with the cores, in GB (10^9 bytes). Raises InputError.
    """
    config = with_files_read(load_config(run_file, overrides, kind=RunFile))
    stated = StatedFigures(tokens_per_second, devices, device_memory_gb)
    if isinstance(config, RobustConfig):
        task = read_task(config.data, config.seed)
        comparison = forecast_comparison(config, task)
        costs = comparison_resources(config, task, comparison.arms_to_train, stated)
        return replace(comparison, resources=costs, warnings=[*comparison.warnings, *_misfits(costs)])
    assert isinstance(config, RunConfig)
    checked = check(config)
    search = forecast(config, checked)
    if search.cost is None:
        return search  # the speed of boosted trees is neither measured nor derived
    costs = mixture_resources(config, checked, search, stated)
    return replace(search, resources=costs, warnings=[*search.warnings, *_misfits(costs)])


def _misfits(costs: ResourceForecast) -> list[InputWarning]:
    return [InputWarning("does_not_fit", message) for message in costs.misfits]


def input_warnings(config: RunFile) -> list[InputWarning]:
    """Check a run file as ``plan`` does, and return what may be wrong with its inputs. Raises InputError."""
    if isinstance(config, RobustConfig):
        read_task(config.data, config.seed)
        return []  # its results hold the warnings of its task
    assert isinstance(config, RunConfig)
    return forecast(config, check(config)).warnings
