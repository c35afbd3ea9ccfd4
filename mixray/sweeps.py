"""Every combination of some settings of a run file, each a run that shares what it can with the others.

    mixray sweep run.yaml proxy.tokens=[20_000,80_000] seed=[0,1]

Artifacts are named by what they depend on, so runs in one storage share them: above, the prepared data of a seed.
The sweep itself is a folder beside the runs, ``<storage>/sweeps/<name>-<8 hex>/``, with a table and figures.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from rich.console import RenderableType

from mixray.cluster import Session
from mixray.config import RobustConfig, RunConfig, RunFile, load_config
from mixray.config.loading import Overrides, override_items
from mixray.errors import InputError
from mixray.pipeline import run_config
from mixray.progress import Progress, open_progress
from mixray.report import SweptRun, mixture_names, moved, reference_arm, run_tables, sweep_figure
from mixray.result import mixtures_to_dict
from mixray.search import with_files_read
from mixray.store import Storage, fingerprint
from mixray.tracking import publish_sweep

SHARED = ("name", "storage", "tracking")
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
        InputError: for no list of values, an empty one or one for what all runs share, and for what the runs refuse.
    """
    loaded, combinations = load_sweep(run_file, overrides)
    configs = [with_files_read(config) for config in loaded]
    progress = progress or open_progress()
    runs = []
    with Session(address, note=progress.note) as session:
        for number, (config, swept) in enumerate(zip(configs, combinations, strict=True), start=1):
            settings = {key: _plain(value) for key, value in swept.items()}
            named = ", ".join(f"{key}={value}" for key, value in settings.items())
            progress.note(f"run {number} of {len(configs)}: {named}")
            session.serve(config)
            result = run_config(config, session, address, progress)
            runs.append(SweptRun(settings, result.mixtures, result.folder))
    return _stored(configs[0], runs, progress)


def load_sweep(run_file: str | Path, overrides: Overrides) -> tuple[list[RunConfig], list[dict[str, object]]]:
    """Return the checked run file of every combination, in order, and the settings that differ. Reads no data.

    Raises InputError as ``sweep`` does.
    """
    fixed, combinations = _combinations(dict(override_items(overrides)))
    return [_swept_config(run_file, fixed, swept) for swept in combinations], combinations


def _swept_config(run_file: str | Path, fixed: Mapping[str, object], swept: Mapping[str, object]) -> RunConfig:
    """Return the run file of one combination. Of a key that takes lists, an error says that a sweep needs several."""
    try:
        return _config(run_file, {**fixed, **swept})
    except InputError as error:
        key = str(error.where).removeprefix("the override ").removesuffix("=...")
        if key in swept and str(error.wanted).startswith("a list"):
            wanted, remedy = "a list of lists: one list for every run", f"write '{key}=[[{swept[key]}], [...]]'"
            raise InputError(error.what, where=error.where, got=error.got, wanted=wanted, remedy=remedy) from error
        raise


def _config(run_file: str | Path, overrides: Mapping[str, object]) -> RunConfig:
    """Return a checked run file. Raises InputError for one that compares robust training methods."""
    config = load_config(run_file, overrides, kind=RunFile)
    if isinstance(config, RobustConfig):
        raise InputError(
            "a sweep is over searches for a mixture", where=str(run_file), got="a comparison of robust training methods"
        )
    assert isinstance(config, RunConfig), "there are two kinds of run files"
    return config


def _plain(value: object) -> object:
    """Return a value of YAML as one of JSON: dates become text."""
    return json.loads(json.dumps(value, default=str))


def _combinations(settings: Mapping[str, object]) -> tuple[dict[str, object], list[dict[str, object]]]:
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
        if key.partition(".")[0] in SHARED:
            raise InputError(
                "the runs of a sweep share their name, storage and tracking", where=key, got=values, wanted="one value"
            )
    fixed = {key: value for key, value in settings.items() if key not in lists}
    return fixed, [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]


def _stored(config: RunConfig, runs: list[SweptRun], progress: Progress) -> Sweep:
    """Write the sweep's folder, and publish it."""
    storage, keys = Storage(config.storage), list(runs[0].settings)
    names = [run.location.partition("?")[0].rpartition("/")[2] for run in runs]
    identity = [names, keys]
    folder = f"sweeps/{config.name}-{fingerprint(identity)[:8]}"
    files = {"sweep.csv": _csv(keys, runs).encode()}
    key = next((key for key in keys if len({str(run.settings[key]) for run in runs}) > 1), keys[0])
    for name in mixture_names(runs):
        drawn = [run for run in runs if name in run.mixtures]
        values = [run.settings[key] for run in drawn]
        files[f"{name}.png"] = sweep_figure(key, values, [run.mixtures[name] for run in drawn])
    for filename, data in files.items():
        storage.write(f"{folder}/{filename}", data)
    publish_sweep(config, storage, folder, names, files, progress.warn)
    return Sweep(keys, runs, storage.location(folder))


def _csv(keys: list[str], runs: list[SweptRun]) -> str:
    """Return a table with a line for every run, mixture and arm; losses in the mixture's unit.

    ``difference`` is to the arm ``reference``; ``share.SOURCE`` is that of the computed mixture.
    """
    last = {name: mixture for run in runs for name, mixture in run.mixtures.items()}
    sources = list(dict.fromkeys(source for run in runs for each in run.mixtures.values() for source in each.sources))
    numbers = ["predicted", "held_out", "difference", "difference_low", "difference_high", "reference"]
    text = io.StringIO()
    table = csv.DictWriter(
        text,
        [*keys, "run", "mixture", "moved_from_last", "arm", *numbers, *(f"share.{source}" for source in sources)],
        lineterminator="\n",
    )
    table.writeheader()
    for run in runs:
        for name, mixture in run.mixtures.items():
            row: dict[str, object] = {key: run.settings[key] for key in keys}
            row |= {"run": run.location, "mixture": name, "moved_from_last": moved(mixture, last[name])}
            row |= {f"share.{source}": share for source, share in mixture.weights.items()}
            for arm in dict.fromkeys([*mixture.loss, *mixture.retrain]):
                row |= dict.fromkeys(numbers) | {"arm": arm, "predicted": mixture.loss.get(arm)}
                if (trained := mixture.retrain.get(arm)) is not None:
                    row |= {key: getattr(trained, key) for key in numbers[2:5]}
                    row |= {"held_out": trained.nll, "reference": reference_arm(mixture)}
                table.writerow(row)
    return text.getvalue()
