"""Which options models find the likeliest, from rows and columns of the prediction cache."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mixray.cache import read_choices
from mixray.cache.choices import right_options
from tests.cache.conftest import Shelf

# (document, window, (tokens, option, is_right, log-probability under "a", under "b"))
FIRST = [
    (1, 0, (2, 0, True, -4.0, -2.0)),
    (1, 1, (4, 1, False, -3.0, -3.0)),
    (1, 2, (4, 1, False, -3.0, -3.0)),  # goes on: 8 tokens, -6
    (2, 0, (1, 0, False, -1.0, -5.0)),
    (2, 1, (1, 1, False, -9.0, -5.0)),
]
SECOND = [(2, 2, (4, 2, True, -2.0, -5.0)), (3, 0, (3, 0, True, -2.0, -2.0))]


def test_the_likeliest_option_by_all_tokens_and_per_token(shelf: Shelf) -> None:
    """An item's rows may go on in the next file, and a column's rows may come in another order."""
    files = {"options-00000.parquet": FIRST, "options-00001.parquet": SECOND}

    def published(kind: str, id: str, names: tuple[str, ...], step: int) -> object:
        def table(values: list[tuple[float, ...]]) -> dict[str, pa.Array]:
            cells = dict(zip(("count", "option", "is_right", "a", "b"), zip(*values, strict=True), strict=True))
            return {"log_prob" if name in "ab" else name: pa.array(cells[name]) for name in names}

        return shelf._publish(kind, id, {name: rows[::step] for name, rows in files.items()}, table)

    rows = published("rows", "rows", ("count", "option", "is_right"), 1)
    columns = {model: published("column", model, (model,), -1) for model in "ab"}
    finds = read_choices(shelf.storage, rows, columns)  # type: ignore[arg-type]
    assert finds["accuracy"].tolist() == [[True, True], [False, False], [True, True]]
    assert finds["accuracy_per_token"].tolist() == [[False, False], [True, True], [True, True]]


def test_right_options_are_those_above_all_others() -> None:
    """Against a loop; a tie finds nothing."""
    draws = np.random.default_rng(0)
    items = np.repeat(np.arange(200), draws.integers(1, 6, 200))
    starts = np.flatnonzero(np.diff(items, prepend=-1))
    is_right = np.zeros(len(items), bool)
    is_right[starts + draws.integers(0, np.bincount(items))] = True
    values = draws.integers(-4, 0, (len(items), 3)).astype(float)
    finds = right_options(items, values, is_right)
    for item in range(200):
        own, right = values[items == item], is_right[items == item]
        assert finds[item].tolist() == [
            all(value < own[right, model][0] for value in own[~right, model]) for model in range(3)
        ]
