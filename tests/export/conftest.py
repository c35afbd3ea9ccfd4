"""A mixture whose numbers are awkward in every unit."""

from __future__ import annotations

import pytest

from mixray.mixture import Mixture

SHARES = {"web": 1 / 3, "code:python": 1 / 3, "books": 1 / 3 - 0.002, "größe": 0.002, "mail": 0.0}
SIZES = {
    "web": {"documents": 3_000, "tokens": 600_000},
    "code:python": {"documents": 200, "tokens": 400_000, "tail_tokens": 100},
    "books": {"documents": 50, "tokens": 1_000_000},
    "größe": {"documents": 10, "tokens": 7_000},
    "mail": {"documents": 10, "tokens": 7_000},
}
PATHS = {"web": "data/web", "code:python": "s3://bucket/code", "books": "data/books.jsonl", "größe": "data/größe"}


@pytest.fixture
def mixture() -> Mixture:
    content = {
        "schema": "mixray.mixture/1",
        "run": "demo-0123abcd",
        "targets": ["news"],
        "sources": list(SHARES),
        "weights": SHARES,
        "budget": 900_000,
        "sizes": SIZES,
    }
    return Mixture.model_validate(content)
