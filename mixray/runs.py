"""The run folder: ``<storage>/runs/<name>-<8 hex of the config's hash>/``, where a run's results are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from mixray.config import RunConfig, dump_config, parse_config
from mixray.config.section import RunFile
from mixray.errors import InputError
from mixray.mixture import Mixture
from mixray.store import Artifact, Artifacts, Storage, fingerprint

INDEX_SCHEMA = "mixray.run/1"


@dataclass(frozen=True)
class RunFolder:
    """A run folder in a storage root. ``path`` is relative to the root."""

    storage: Storage
    path: str
    config: RunConfig

    @classmethod
    def create(cls, config: RunConfig) -> Self:
        """The run's folder, its resolved config written. Raises InputError where the storage cannot be written."""
        return cls(*created(config), config)

    @classmethod
    def open(cls, location: str) -> Self:
        """An existing run folder, by its path or URI. Raises InputError where it is not one."""
        storage, path, text = located(location)
        return cls(storage, path, parse_config(text, name=storage.location(f"{path}/config.yaml")))

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def location(self) -> str:
        """As a person would type it."""
        return self.storage.location(self.path)

    def artifacts(self, *, rebuild: bool = False) -> Artifacts:
        return Artifacts(self.storage, self.name, rebuild=rebuild)

    def save_mixture(self, name: str, mixture: Mixture, *, keep_results: bool = False) -> None:
        """Write a mixture file. ``keep_results``: leave one that holds retraining results of the same shares."""
        if keep_results and self._has_results(name, mixture):
            return
        self.storage.write(self._inside(f"mixtures/{name}.json"), mixture.to_json().encode())

    def _has_results(self, name: str, mixture: Mixture) -> bool:
        path = self._inside(f"mixtures/{name}.json")
        if not self.storage.exists(path):
            return False
        try:
            kept = Mixture.from_json(self.storage.read(path).decode())
        except (InputError, UnicodeDecodeError):
            return False  # damaged: to be written anew
        return bool(kept.retrain) and kept.weights == mixture.weights

    def mixtures(self) -> dict[str, Mixture]:
        """The mixture files there are: name (a target) -> mixture."""
        names = [name for name in self.storage.list(self._inside("mixtures")) if name.endswith(".json")]
        return {
            name.removesuffix(".json"): Mixture.from_json(
                self.storage.read(self._inside(f"mixtures/{name}")).decode(),
                where=self.storage.location(self._inside(f"mixtures/{name}")),
            )
            for name in names
        }

    def save_report(self, filename: str, data: bytes) -> None:
        self.storage.write(self._inside(f"report/{filename}"), data)

    def save_cache(
        self,
        rows: Mapping[str, Artifact],
        columns: Mapping[str, Mapping[str, Artifact]],
        available_tokens: Mapping[str, int],
    ) -> None:
        """Remember which artifacts hold the prediction cache, and how many training tokens each source has."""
        index = {
            "schema": INDEX_SCHEMA,
            "rows": {target: artifact.id for target, artifact in rows.items()},
            "columns": {
                target: {name: column.id for name, column in found.items()} for target, found in columns.items()
            },
            "available_tokens": dict(available_tokens),
        }
        self.storage.write(self._inside("cache.json"), json.dumps(index, indent=1).encode())

    def load_cache(self, artifacts: Artifacts) -> tuple[dict[str, Artifact], dict[str, dict[str, Artifact]]]:
        """The prediction cache's artifacts: the rows of every target, and its columns by source."""
        index = self._index()
        rows = {target: artifacts.get("rows", id) for target, id in index["rows"].items()}
        columns = {
            target: {name: artifacts.get("column", id) for name, id in found.items()}
            for target, found in index["columns"].items()
        }
        return rows, columns

    def available_tokens(self) -> dict[str, int]:
        """Training tokens there are of every source."""
        return dict(self._index()["available_tokens"])

    def _index(self) -> Any:
        if not self.storage.exists(self._inside("cache.json")):
            raise InputError(
                "the run has no prediction cache yet",
                where=self.location,
                wanted="a run that has come past the stage 'cache'",
                remedy="mixray run its run file again",
            )
        return json.loads(self.storage.read(self._inside("cache.json")))

    def _inside(self, name: str) -> str:
        return f"{self.path}/{name}"


def located(location: str) -> tuple[Storage, str, str]:
    """Of an existing run folder: its storage, its folder there, its config's text. Raises InputError where it is not
    one."""
    folder, _, query = location.partition("?") if "://" in location else (location, "", "")
    parent, _, name = folder.rstrip("/").rpartition("/")
    root, slash, runs = parent.rpartition("/")
    if runs != "runs" or root.endswith(":/"):  # s3://runs is a bucket
        raise _not_a_run_folder(location, "its parent is not named 'runs'")
    storage, path = Storage((root or slash or ".") + (f"?{query}" if query else "")), f"runs/{name}"
    try:
        if not storage.exists(f"{path}/config.yaml"):
            raise _not_a_run_folder(location, "no config.yaml in it")
        return storage, path, storage.read(f"{path}/config.yaml").decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the run folder cannot be read", where=location, got=error) from error


def created(config: RunFile) -> tuple[Storage, str]:
    """The storage of a run, and its folder there with its resolved config in it."""
    storage, path = _place(config)
    storage.check_writable()
    storage.write(f"{path}/config.yaml", dump_config(config).encode())
    return storage, path


def is_finished(config: RunConfig) -> bool:
    """Whether nothing dear is left to do: all mixtures of the run have their retraining results."""
    storage, path = _place(config)
    try:
        mixtures = RunFolder(storage, path, config).mixtures().values()
    except (OSError, UnicodeDecodeError, InputError):  # told, or mended, by those who need them
        return False
    return bool(mixtures) and all(mixture.retrain for mixture in mixtures)


def _place(config: RunFile) -> tuple[Storage, str]:
    # Where results are kept and told is not what the run is.
    settings = config.model_dump(mode="json")
    digest = fingerprint({key: settings[key] for key in settings if key not in ("storage", "tracking")})
    return Storage(config.storage), f"runs/{config.name}-{digest[:8]}"


def _not_a_run_folder(location: str, got: str) -> InputError:
    return InputError(
        "this is not a run folder",
        where=location,
        got=got,
        wanted="<storage>/runs/<name>-<hash>, as the last lines of mixray run name it",
    )
