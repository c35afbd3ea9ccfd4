"""A run: one execution of a run file, and its folder ``<storage>/runs/<name>-<8 hex of the config's hash>/``.

``MixtureRun`` searches for mixtures, ``RobustRun`` compares robust training. Either is created from a run file and
worked on (``with run: ...``), or opened from its folder and read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

from mixray.config import RunFile, dump_config
from mixray.errors import InputError, StageError, canonical_uris
from mixray.interrupts import working_on
from mixray.progress import Progress, SilentProgress, Stage
from mixray.store import Artifact, Artifacts, Lease, RunIndex, Storage, fingerprint
from mixray.store.artifacts import new_attempt
from mixray.store.retrying import failures_named
from mixray.tracking import RunTracking, publish_folder, resolve_uri, view_command

NOT_THE_RUN: dict[str, Any] = {
    "storage": True,
    "tracking": True,
    "resources": True,
    "proxy": {"resources", "max_restarts"},
    "cache": {"resources", "actors"},
    "retrain": {"resources_per_worker", "max_failures"},
}
"""Where results are stored and published, and on what they are computed, does not change what a run is."""
DEFAULT_STORAGE = "./mixray-runs"


@dataclass(eq=False)
class Run:
    """A run in a storage root. ``path``: its folder, relative to the root; ``rebuild``: make corrupted artifacts anew.

    Inside a ``with`` block the run is being worked on, by one process at a time: its index says so, and MLflow receives
    what its folder gains. Entering the block raises InputError where another process works on the run.
    """

    storage: Storage
    path: str
    config: RunFile
    progress: Progress = field(default_factory=SilentProgress)
    rebuild: bool = False
    _tracking: RunTracking | None = field(default=None, init=False)
    _work: ExitStack = field(default_factory=ExitStack, init=False)
    kind: ClassVar[Literal["mixture", "robust comparison"]]

    @classmethod
    def create(cls, config: RunFile, progress: Progress | None = None, *, rebuild: bool = False) -> Self:
        """Make the run's folder and write its resolved config there.

        Raises InputError where the storage cannot be written.
        """
        run = cls._at_home(config, progress, rebuild=rebuild)
        run.storage.check_writable()
        if not run.storage.exists(run._inside("config.yaml")):
            run._write_config()
        return run

    @classmethod
    def _at_home(cls, config: RunFile, progress: Progress | None = None, *, rebuild: bool = False) -> Self:
        """Return the run of a config, whether or not its folder exists."""
        settings = json.loads(canonical_uris(json.dumps(config.model_dump(mode="json", exclude=NOT_THE_RUN))))
        path = f"runs/{config.name}-{fingerprint(settings)[:8]}"
        return cls(Storage(config.storage), path, config, progress or SilentProgress(), rebuild)

    # -------------------------------------------------------------------------------------------------- identity

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.path.rpartition("/")[2]

    @property
    def location(self) -> str:
        """The run folder's path or URI, as a person would type it."""
        return self.storage.location(self.path)

    @cached_property
    def artifacts(self) -> Artifacts:
        """The store of artifacts, as this run reads and writes it."""
        return Artifacts(self.storage, new_attempt(self.name), rebuild=self.rebuild)

    @cached_property
    def _lease(self) -> Lease:
        return Lease(self.storage, self._inside("lease"), self.progress.note)

    @cached_property
    def index(self) -> RunIndex:
        """The ids of the artifacts that the run consists of, and how its last execution ended."""
        return RunIndex.open(self.storage, self.path)

    # ------------------------------------------------------------------------------------------------------- work

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._lease)
            self._write_config()  # what does not name the run may have changed, such as resources
            self._tracking = RunTracking(self.config, self.storage, self.path, self.index, self.progress.warn)
            stack.enter_context(self._tracking)
            self._work = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._work.__exit__(kind, error, traceback)

    def _write_config(self) -> None:
        self.storage.write(self._inside("config.yaml"), dump_config(self.config).encode())

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        """Show a stage while it works, and publish what it leaves. ``total``: how many things it has to do, if known.

        Raises Interrupted, which names the stage, in place of KeyboardInterrupt, and StageError where the storage does
        not answer.
        """
        with working_on(name), self.progress.stage(name, total) as stage, failures_named():
            self._lease.require()
            yield stage
            if self._tracking is not None:
                self._tracking.publish()

    def add_artifacts(self, artifacts: Mapping[str, Artifact]) -> None:
        """Add artifacts to the index by key, such as ``arm/erm-0``, and publish them at once."""
        self.index.add(artifacts)
        if self._tracking is not None:
            self._tracking.publish()

    def publish_training(self, key: str, record: Any) -> None:
        """Publish a training record of ``proxy/python`` or ``arm/mixmin-zoo`` while the model trains."""
        if self._tracking is not None:
            self._tracking.publish_training(key, record)

    def publish(self) -> None:
        """Publish what MLflow lacks of a stored run, and wait for the end."""
        publish_folder(self.config, self.storage, self.path, self.progress.warn)

    @property
    def is_published(self) -> bool:
        """Whether MLflow holds all of the run, as its last command left it."""
        return self.index.is_published

    @property
    def view_command(self) -> str:
        """What a person pastes to see the run in MLflow: its page, where the run has been worked on."""
        if self._tracking is not None:
            return self._tracking.view_command()
        return view_command(resolve_uri(self.config.tracking.uri, self.storage))

    # --------------------------------------------------------------------------------------------------- contents

    def stages(self) -> dict[str, bool]:
        """Return the stages of the run in their order, and whether the results of each are stored."""
        raise NotImplementedError

    @property
    def next_stage(self) -> str | None:
        """The first stage that has no results yet; None for a finished run."""
        return next((name for name, is_done in self.stages().items() if not is_done), None)

    @property
    def is_finished(self) -> bool:
        """Whether the results of every stage are stored."""
        return all(self.stages().values())

    def artifact_keys(self) -> list[tuple[str, str]]:
        """Return kind and id of the artifacts that the run's results consist of."""
        return list(dict.fromkeys(self.index.artifact_ids.values()))

    def save_report(self, filename: str, data: bytes) -> None:
        """Write a file of the folder ``report``."""
        self.storage.write(self._inside(f"report/{filename}"), data)

    def _read_result(self, filename: str, what: str, *, wanted: str) -> bytes:
        """Return a file of the run folder. Raises InputError where it does not exist yet."""
        if not self.storage.exists(self._inside(filename)):
            raise InputError(
                f"the run has no {what} yet",
                where=self.location,
                wanted=wanted,
                remedy="mixray run its run file again",
            )
        return self.storage.read(self._inside(filename))

    def _inside(self, name: str) -> str:
        return f"{self.path}/{name}"


def read_folder(location: str) -> tuple[Storage, str, str]:
    """Return a run folder's storage, its path there and the text of its config."""
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
    except (OSError, StageError, UnicodeDecodeError) as error:
        raise InputError("the run folder cannot be read", where=location, got=error) from error


def _not_a_run_folder(location: str, got: str) -> InputError:
    return InputError(
        "this is not a valid run folder",
        where=location,
        got=got,
        wanted="<storage>/runs/<name>-<hash>, as the last lines of mixray run name it",
    )
