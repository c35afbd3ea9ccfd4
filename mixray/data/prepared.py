"""What the data stage makes, and the pools that it makes it of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mixray.data.inputs import ModelInputs
from mixray.data.pools import Pool
from mixray.data.reading.parts import Part, list_pool, split_into_parts
from mixray.store import Artifact

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """``sources``: what training reads (``open_rows``); ``targets``: rows artifacts; by name, in file order.

    ``inputs``: what models must know of both. ``tokenizer``: None where there are examples in place of texts.
    ``counts``: "source NAME" or "target NAME" -> documents and bytes read, skipped, dropped and kept, and the tokens
    that came of them. ``warnings``: {code, message, ...}.
    """

    inputs: ModelInputs
    tokenizer: Artifact | None
    sources: dict[str, Artifact]
    targets: dict[str, Artifact]
    counts: dict[str, dict[str, int]]
    warnings: list[dict[str, Any]]


class PoolInput:
    """A pool and its files, listed; ``parts`` are worked out only when there is something to read."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.listing = pool, list_pool(pool)

    @cached_property
    def parts(self) -> list[Part]:
        return split_into_parts(self.listing)


Made = Mapping[str, Artifact]
"""A step's artifacts by pool label."""


def by_label(inputs: Sequence[PoolInput], made: Sequence[Artifact]) -> dict[str, Artifact]:
    return {item.pool.label: artifact for item, artifact in zip(inputs, made, strict=True)}
