"""Every combination of some settings of a run file, each a run that shares what it can with the others.

    mixray sweep run.yaml proxy.tokens=[20_000,80_000] seed=[0,1]

Artifacts are named by what they depend on, so runs in one storage share them: above, the prepared data of a seed.
The sweep itself is a folder beside the runs, ``<storage>/sweeps/<name>-<8 hex>/``, with a table and figures.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from rich.console import RenderableType

from mixray.cluster import Session
from mixray.config import RunConfig, load_config
from mixray.config.loading import Overrides, override_items
from mixray.errors import InputError, canonical_uris
from mixray.pipeline import run as run_once
from mixray.progress import Progress, open_progress
from mixray.report import SweptRun, moved, run_tables, sweep_figure
from mixray.result import Result, mixtures_to_dict
from mixray.runs import is_finished
from mixray.store import Storage, fingerprint
from mixray.tracking import publish_sweep

PLACES = ("storage", "tracking")
"""Where results are, which is the same for all runs of a sweep."""


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep. ``keys``: the settings that differ; ``location``: the sweep's folder, a path or URI."""

    keys: list[str]
    runs: list[SweptRun]
    location: str

    def tables(self) -> list[RenderableType]:
        """Return one table per mixture, with a row for every run."""
        return run_tables(self.runs)

    def to_dict(self) -> dict[str, object]:
        """Return the runs as JSON values, for ``--json``."""
        return {
            "sweep": self.location,
            "keys": self.keys,
            "runs": [
                {"settings": run.settings, "run": run.location, "mixtures": mixtures_to_dict(run.mixtures)}
                for run in self.runs
            ],
        }


def sweep(
    run_file: str | Path,
    overrides: Overrides,
    *,
    address: str | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Run a run file that searches for mixtures once for every combination of the values in lists.

    Every list in ``overrides`` is a list of values; that of a key which takes lists is a list of lists. All
    combinations are checked before the first one runs. They run one after the other, on one Ray cluster, and each is an
    ordinary run: what is stored is used again, and a sweep that was interrupted continues.

    Args:
        run_file: its path.
        overrides: ``["seed=[0,1]", "proxy.tokens=50_000"]`` or a mapping.
        address: of a Ray cluster, a local one by default.
        progress: where progress is shown, by default bars on a terminal and lines elsewhere, on stderr.

    Raises:
        InputError: for no list of values, an empty one or one for the storage, and for what the runs refuse.
    """
    combinations = _combinations(dict(override_items(overrides)))
    configs = [load_config(run_file, {**fixed, **swept}, kind=RunConfig) for fixed, swept in combinations]
    progress = progress or open_progress()
    runs = []
    with Session(address, note=progress.note) as session:
        if not all(map(is_finished, configs)):
            session.connect()
        for number, (fixed, swept) in enumerate(combinations, start=1):
            settings = ", ".join(f"{key}={value}" for key, value in swept.items())
            progress.note(f"run {number} of {len(combinations)}: {settings}")
            result: Result = run_once(run_file, {**fixed, **swept}, address=address, progress=progress)
            runs.append(SweptRun(swept, result.mixtures, result.folder))
    return _stored(configs[0], runs, progress)


def _combinations(settings: Mapping[str, object]) -> list[tuple[dict[str, object], dict[str, object]]]:
    """Return the settings that all runs share and, for every run, those that differ."""
    lists = {key: value for key, value in settings.items() if isinstance(value, list)}
    if not lists:
        raise InputError(
            "a sweep needs values to choose from",
            got=", ".join(settings) or "no settings",
            wanted="a list of values, e.g. seed=[0,1,2]",
            remedy="mixray run runs a single combination",
        )
    for key, values in lists.items():
        if not values:
            raise InputError("a sweep has no values of a key", where=key, got="[]", wanted=f"{key}=[VALUE, ...]")
        if key.partition(".")[0] in PLACES:
            raise InputError("the runs of a sweep have one storage", where=key, got=values, wanted="one value")
    fixed = {key: value for key, value in settings.items() if key not in lists}
    return [(fixed, dict(zip(lists, values, strict=True))) for values in product(*lists.values())]


def _stored(config: RunConfig, runs: list[SweptRun], progress: Progress) -> Sweep:
    """Write the sweep's folder, and publish it."""
    storage, keys = Storage(config.storage), list(runs[0].settings)
    identity = [[canonical_uris(run.location) for run in runs], keys]
    folder = f"sweeps/{config.name}-{fingerprint(identity)[:8]}"
    files = {"sweep.csv": _csv(keys, runs).encode()}
    key = next((key for key in keys if len({str(run.settings[key]) for run in runs}) > 1), keys[0])
    for name in runs[0].mixtures:
        own = [run for run in runs if name in run.mixtures]
        files[f"{name}.png"] = sweep_figure(
            key, [run.settings[key] for run in own], [run.mixtures[name] for run in own]
        )
    for filename, data in files.items():
        storage.write(f"{folder}/{filename}", data)
    publish_sweep(config, storage, folder, [run.location for run in runs], files, progress.warn)
    return Sweep(keys, runs, storage.location(folder))


def _csv(keys: list[str], runs: list[SweptRun]) -> str:
    """Return a table with a line for every run, mixture and arm; losses in the mixture's unit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = ["predicted", "held_out", "difference", "difference_low", "difference_high"]
    writer.writerow([*keys, "run", "mixture", "moved_from_last", "arm", *numbers])
    for run in runs:
        for name, mixture in run.mixtures.items():
            last = next(other.mixtures[name] for other in reversed(runs) if name in other.mixtures)
            for arm in dict.fromkeys([*mixture.loss, *mixture.retrain]):
                trained = mixture.retrain.get(arm)
                realised = [] if trained is None else [getattr(trained, key) for key in ("nll", *numbers[2:])]
                row = [mixture.loss.get(arm), *(realised or [None] * 4)]
                settings = [run.settings[key] for key in keys]
                writer.writerow([*settings, run.location, name, moved(mixture, last), arm, *row])
    return text.getvalue()
