"""The two kinds of run, and the functions that create, open, list and verify runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

from mixray.config import RobustConfig, RunConfig, RunFile, parse_config
from mixray.errors import CorruptedArtifactError, InputError, StageError
from mixray.export.swarm import Swarm, swarm_csv
from mixray.mixture import Mixture, SourceSize
from mixray.progress import Progress, SilentProgress
from mixray.report import PAGE_FILE
from mixray.report.robust.results import RobustResults
from mixray.runs.run import DEFAULT_STORAGE, Run, read_folder
from mixray.store import Artifact, Storage
from mixray.store.artifacts import published_artifacts, verify
from mixray.tracking import RESULTS_FILE

CACHE_SCHEMA = "mixray.run/1"


class CacheContent(TypedDict):
    """The file ``cache.json``: artifact ids of each target's rows and, by source, of its columns; tokens by source."""

    schema: str
    rows: dict[str, str]
    columns: dict[str, dict[str, str]]
    available_tokens: dict[str, int]


def _cache_keys(content: CacheContent) -> list[tuple[str, str]]:
    """Return kind and id of the artifacts of a prediction cache, each once: targets of molecules share columns."""
    keys = [("rows", id) for id in content["rows"].values()]
    keys += [("column", id) for ids in content["columns"].values() for id in ids.values()]
    return list(dict.fromkeys(keys))


@dataclass(eq=False)
class MixtureRun(Run):
    """A run that searches for mixtures."""

    config: RunConfig
    kind = "mixture"

    @classmethod
    def open(cls, location: str, progress: Progress | None = None) -> MixtureRun:
        """Return the run in a folder. Raises InputError where it is not that of a run that searches for mixtures."""
        run = open_run(location, progress)
        if not isinstance(run, MixtureRun):
            raise InputError(
                "this run compares robust training; it has no mixtures",
                where=location,
                wanted="the folder of a run with sources and targets",
                remedy=f"mixray show {location}",
            )
        return run

    def save_mixture(self, name: str, mixture: Mixture, *, keep_results: bool = False) -> None:
        """Write a mixture file. ``keep_results``: leave one that holds retraining results of the same shares."""
        if keep_results and self._has_results(name, mixture):
            return
        self.storage.write(self._inside(f"mixtures/{name}.json"), mixture.to_json().encode())

    def _has_results(self, name: str, mixture: Mixture) -> bool:
        if name not in self._mixture_names():
            return False
        try:
            stored = self._mixture(name)
        except (InputError, UnicodeDecodeError):
            return False  # A damaged file is written anew.
        return bool(stored.retrain) and stored.weights == mixture.weights

    def mixtures(self) -> dict[str, Mixture]:
        """Return the stored mixtures: name (a target, ``mean`` or ``worst``) -> mixture, in the run file's order."""
        order = list(self.config.targets)
        names = sorted(self._mixture_names(), key=lambda name: order.index(name) if name in order else len(order))
        return {name: self._mixture(name) for name in names}

    def _mixture_names(self) -> list[str]:
        files = self.storage.list(self._inside("mixtures"))
        return [file.removesuffix(".json") for file in files if file.endswith(".json")]

    def _mixture(self, name: str) -> Mixture:
        path = self._inside(f"mixtures/{name}.json")
        return Mixture.from_json(self.storage.read(path).decode(), where=self.storage.location(path))

    def save_cache(
        self,
        rows: Mapping[str, Artifact],
        columns: Mapping[str, Mapping[str, Artifact]],
        available_tokens: Mapping[str, int],
    ) -> None:
        """Remember which artifacts hold the prediction cache, and how many training tokens each source has."""
        content: CacheContent = {
            "schema": CACHE_SCHEMA,
            "rows": {target: artifact.id for target, artifact in rows.items()},
            "columns": {
                target: {source: column.id for source, column in by_source.items()}
                for target, by_source in columns.items()
            },
            "available_tokens": dict(available_tokens),
        }
        self.storage.write(self._inside("cache.json"), json.dumps(content, indent=1).encode())

    def save_swarm(self, swarm: Swarm) -> None:
        """Write the mixtures of a swarm and what its models reached as two tables, which ``mixray import`` reads."""
        for filename, content in swarm_csv(swarm).items():
            self.storage.write(self._inside(f"swarm/{filename}"), content)

    def load_cache(self) -> tuple[dict[str, Artifact], dict[str, dict[str, Artifact]]]:
        """Return the prediction cache's artifacts: the rows of every target, and its columns by source."""
        content = self._cache_content()
        artifacts = self.artifacts.get_all(_cache_keys(content))
        rows = {target: artifacts["rows", id] for target, id in content["rows"].items()}
        columns = {
            target: {source: artifacts["column", id] for source, id in ids.items()}
            for target, ids in content["columns"].items()
        }
        return rows, columns

    def artifact_keys(self) -> list[tuple[str, str]]:
        """Return kind and id of the prepared data, the models, and the prediction cache as far as they exist."""
        keys = super().artifact_keys()
        if self.storage.exists(self._inside("cache.json")):
            keys += _cache_keys(self._cache_content())
        return list(dict.fromkeys(keys))

    def available_tokens(self) -> dict[str, int]:
        """Return how many training tokens each source has."""
        return dict(self._cache_content()["available_tokens"])

    def source_sizes(self) -> dict[str, SourceSize]:
        """Return how much data every source holds; empty for a run whose index does not name the sources' data.

        A row of a table is a document of one token.
        """
        sizes = {}
        for key, artifact in self.index.artifacts("source").items():
            # The documents that were encoded: max_tokens may stop before the last one that was read.
            documents, tokens = artifact.meta.get("documents"), artifact.meta["tokens"]
            tail_tokens = artifact.meta.get("tail_tokens", 0)
            size = SourceSize(documents=documents or tokens, tokens=tokens, tail_tokens=tail_tokens)
            sizes[key.partition("/")[2]] = size
        return sizes if list(sizes) == list(self.config.sources) else {}

    def _cache_content(self) -> CacheContent:
        wanted = "a run that has come past the stage 'cache'"
        content: CacheContent = json.loads(self._read_result("cache.json", "prediction cache", wanted=wanted))
        return content

    def stages(self) -> dict[str, bool]:
        """Return the stages in their order, and whether the results of each are stored."""
        mixtures = self.mixtures()
        names = self.config.mixture_names
        reports = self.storage.list(self._inside("report"))
        stored = {
            "data": bool(self.index.counts),
            "proxies": all(f"proxy/{source}" in self.index.artifact_ids for source in self.config.sources),
            "cache": self.storage.exists(self._inside("cache.json")),
            "mixture": all(name in mixtures for name in names),
            "swarm": self.storage.exists(self._inside("swarm/metrics.csv")),
            "retrain": all(name in mixtures and mixtures[name].retrain for name in self.config.retrained_mixtures),
            "report": PAGE_FILE in reports,
        }
        # A stage is done where a later one is: folders of earlier versions have no index.
        if self.config.swarm is None:
            del stored["swarm"]
        done, later = {}, False
        for name in reversed(stored):
            later = done[name] = later or bool(stored[name])
        return dict(reversed(done.items()))


@dataclass(eq=False)
class RobustRun(Run):
    """A run that compares arms of robust training."""

    config: RobustConfig
    kind = "robust comparison"

    def save_results(self, results: RobustResults) -> None:
        """Write ``results.json``."""
        self.storage.write(self._inside(RESULTS_FILE), results.to_json().encode())

    def results(self) -> RobustResults:
        """Return the content of ``results.json``. Raises InputError where the run has not finished."""
        data = self._read_result(RESULTS_FILE, "results", wanted="a run whose arms are all trained")
        return RobustResults.from_json(data)

    def stages(self) -> dict[str, bool]:
        """Return the stages in their order, and whether the results of each are stored."""
        finished = self.storage.exists(self._inside(RESULTS_FILE))
        arms = [f"arm/{arm}-{seed}" for arm in self.config.arms for seed in self.config.all_seeds]
        return {"arms": finished or all(key in self.index.artifact_ids for key in arms), "report": finished}


def create_run(config: RunFile, progress: Progress | None = None, *, rebuild: bool = False) -> MixtureRun | RobustRun:
    """Create a run of either kind, as ``Run.create`` does."""
    kind = RobustRun if isinstance(config, RobustConfig) else MixtureRun
    return kind.create(config, progress, rebuild=rebuild)


def open_run(location: str, progress: Progress | None = None) -> MixtureRun | RobustRun:
    """Return the run of either kind in a folder, by its path or URI. Raises InputError where it is not a run folder."""
    storage, path, text = read_folder(location)
    config = parse_config(text, name=storage.location(f"{path}/config.yaml"), kind=RunFile)
    progress = progress or SilentProgress()
    if isinstance(config, RobustConfig):
        return RobustRun(storage, path, config, progress)
    assert isinstance(config, RunConfig)
    return MixtureRun(storage, path, config, progress)


def list_runs(storage_root: str = DEFAULT_STORAGE) -> list[tuple[MixtureRun | RobustRun, datetime]]:
    """Return the runs of a storage root (a folder or URI) and when each was last started (UTC), the latest first.

    Folders whose config this version cannot read are left out. Raises InputError where there is no run.
    """
    storage = Storage(storage_root)
    runs = []
    for name in storage.list("runs"):
        with suppress(InputError):
            run = open_run(storage.location(f"runs/{name}"))
            runs.append((run, storage.modified(f"{run.path}/config.yaml")))
    if not runs:
        raise InputError(
            "there is no run yet",
            where=storage.location("runs"),
            wanted="a storage folder that holds at least one run",
            remedy="start one with mixray run FILE, or name the run folder or the storage that the run file states",
        )
    return sorted(runs, key=lambda entry: entry[1], reverse=True)


def verify_stored(location: str) -> tuple[Iterator[Artifact | CorruptedArtifactError], list[str]]:
    """Read every byte of the artifacts in a storage, or of the data, models and predictions of a run folder.

    ``location``: a path or URI. Returns an iterator over each artifact, or what is wrong with it, and the locations of
    files and folders among the storage's artifacts that are not mixray's. Raises InputError where there is no artifact.
    """
    with suppress(InputError):
        run = open_run(location)
        return verify(run.storage, run.artifact_keys()), []
    storage = Storage(location)
    keys, strays = published_artifacts(storage)
    if not keys:
        raise InputError(
            "there is nothing to verify",
            where=storage.location("artifacts"),
            wanted="a run folder, or a storage folder that holds at least one artifact",
        )
    return verify(storage, keys), [storage.location(path) for path in strays]


def latest_run_folder() -> str:
    """Return the folder of the latest run in ``./mixray-runs``. Raises InputError where there is none."""
    return list_runs()[0][0].location


def is_finished(config: RunFile) -> bool:
    """Whether the run of a config has stored the results of every stage. A storage that cannot be read has none."""
    # What cannot be read is reported, or mended, by the stages that need it.
    with suppress(OSError, UnicodeDecodeError, InputError, StageError):
        kind = RobustRun if isinstance(config, RobustConfig) else MixtureRun
        return kind._at_home(config).is_finished
    return False
