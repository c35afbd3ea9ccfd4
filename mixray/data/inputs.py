"""What a model must know of what it reads, to be built and trained: the same for all sources and targets of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextInputs:
    """Windows of ``window`` token ids below ``vocab_size``."""

    window: int
    vocab_size: int
    end_of_document: int

    @property
    def row_tokens(self) -> int:
        """What a training row counts as."""
        return self.window


@dataclass(frozen=True)
class ExampleInputs:
    """Records of ``mixray.data.tabular.example_rows``: so many features, and the names behind labels and groups."""

    features: int
    label_names: tuple[str, ...]
    group_names: tuple[str, ...]
    """Of a column; empty where the run file names none."""

    @property
    def row_tokens(self) -> int:
        return 1


ModelInputs = TextInputs | ExampleInputs
