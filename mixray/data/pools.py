"""The pools that a run reads, and what the data stage makes of them for training and scoring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from mixray.config.data import PoolConfig
from mixray.config.schema import RunConfig
from mixray.store import Artifact

Notify = Callable[[str], None]
DataWarning = dict[str, Any]
"""``code``, ``message``, and what else there is to say, such as ``pools``."""


@dataclass(frozen=True)
class Pool:
    """One source or one target as the run file describes it, with the words that an error needs to name it."""

    role: Literal["source", "target"]
    name: str
    config: PoolConfig

    @property
    def label(self) -> str:
        return f"{self.role} {self.name}"

    @property
    def is_read_whole(self) -> bool:
        """Whether every text is read: ``max_tokens`` ends the reading of a source, and samples all of a target."""
        return self.role == "target" or self.config.max_tokens is None

    @property
    def section(self) -> str:
        """The dotted key of the pool in the run file."""
        return f"{self.role}s.{self.name}"

    def key(self, field: str) -> str:
        """Return the dotted key of a field in the run file."""
        return f"{self.section}.{field}"

    @property
    def files_key(self) -> str:
        """The dotted key of the field that says where the data is."""
        return self.key(self.config.reader)


def pools_of(config: RunConfig) -> list[Pool]:
    """Return the sources and then the targets of a run, in the order of the run file."""
    sources = [Pool("source", name, pool) for name, pool in config.sources.items()]
    return [*sources, *(Pool("target", name, pool) for name, pool in config.targets.items())]


@dataclass(frozen=True)
class TextInputs:
    """Models read windows of ``window`` token ids below ``vocab_size``."""

    window: int
    vocab_size: int
    end_of_document: int

    @property
    def row_tokens(self) -> int:
        """How many tokens a training row counts as."""
        return self.window


@dataclass(frozen=True)
class ExampleInputs:
    """Models read records of ``features`` numbers, a label and a group.

    ``label_names``: the classes; empty where the label is a number. ``group_names``: the values of the column of
    groups; empty where the run file names none.
    """

    features: int
    label_names: tuple[str, ...]
    group_names: tuple[str, ...]

    @property
    def row_tokens(self) -> int:
        return 1


ModelInputs = TextInputs | ExampleInputs


@dataclass(frozen=True)
class Prepared:
    """What training and scoring read: an artifact for each source (see ``open_rows``) and each target, by name.

    ``inputs``: what a model must know about both. ``tokenizer``: None where pools hold examples instead of texts.
    ``counts``: for "source NAME" and "target NAME", the documents and bytes that were read, skipped, dropped and used,
    and the tokens that they gave. ``warnings``: {code, message, ...}.
    """

    inputs: ModelInputs
    tokenizer: Artifact | None
    sources: dict[str, Artifact]
    targets: dict[str, Artifact]
    counts: dict[str, dict[str, int]]
    warnings: list[DataWarning]

    @property
    def available_tokens(self) -> dict[str, int]:
        """Return how many training tokens each source has."""
        return {name: int(source.meta["tokens"]) for name, source in self.sources.items()}
