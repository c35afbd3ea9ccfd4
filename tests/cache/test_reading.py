"""Columns are joined to rows by key; what cannot be joined is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mixray.cache import read_cache
from mixray.errors import CorruptedArtifactError
from mixray.store.target_parts import part_files

# Two files; document 7 spans them, and 1 comes last.
ROWS = {
    "fit-00000.parquet": [(7, 0, 4), (7, 1, 4), (3, 0, 2)],
    "fit-00001.parquet": [(7, 2, 1), (256, 0, 3), (1, 0, 4)],
    "held_out-00000.parquet": [(9, 0, 5)],
}
FIT = [name for name in ROWS if name.startswith("fit")]


def values_of(model: int) -> dict[str, list[tuple[int, int, float]]]:
    """A log-probability that tells document, window and model."""
    return {
        name: [(document, window, -(1000.0 * model + document + window / 10)) for document, window, _ in ROWS[name]]
        for name in FIT
    }


def shuffled(files: dict[str, list[Any]], seed: int) -> dict[str, list[Any]]:
    generator = np.random.default_rng(seed)
    return {name: [rows[i] for i in generator.permutation(len(rows))] for name, rows in files.items()}


def test_a_part_has_its_files_in_order(shelf: Any) -> None:
    rows = shelf.rows(dict(reversed(ROWS.items())))
    assert part_files(rows, "fit") == FIT
    assert part_files(rows, "held_out") == ["held_out-00000.parquet"]


def test_the_cache_has_every_row_of_its_part_in_order(shelf: Any) -> None:
    cache = read_cache(shelf.storage, shelf.rows(ROWS), "fit", {"a": shelf.column("a", values_of(1))})
    assert cache.models == ("a",)
    assert [int.from_bytes(bytes(id), "big") >> 64 for id in cache.document_ids] == [1, 3, 7, 256]
    assert cache.documents.tolist() == [2, 2, 1, 2, 3, 0]
    assert cache.windows.tolist() == [0, 1, 0, 2, 0, 0]
    assert cache.counts.tolist() == [4, 4, 2, 1, 3, 4]
    assert cache.document_counts().tolist() == [4, 2, 9, 3]
    assert cache.log_probs[:, 0].tolist() == [-1007.0, -1007.1, -1003.0, -1007.2, -1256.0, -1001.0]
    assert cache.segments is None


@pytest.mark.parametrize("seed", range(5))
def test_columns_are_aligned_by_key_whatever_the_order_of_their_rows(shelf: Any, seed: int) -> None:
    rows = shelf.rows(ROWS)
    columns = {name: shelf.column(name, shuffled(values_of(k), seed + k)) for k, name in enumerate(["a", "b", "c"])}
    cache = read_cache(shelf.storage, rows, "fit", columns)
    expected = [[value for name in FIT for _, _, value in values_of(k)[name]] for k in range(3)]
    np.testing.assert_array_equal(cache.log_probs.T, expected)


@pytest.mark.parametrize("seed", range(3))
def test_token_values_stand_row_after_row(shelf: Any, seed: int) -> None:
    def tokens(model: int) -> dict[str, list[tuple[int, int, list[float]]]]:
        return {
            name: [(d, w, [-(16.0 * d + 4 * w + t) * model for t in range(count)]) for d, w, count in ROWS[name]]
            for name in FIT
        }

    columns = {name: shelf.segment_column(name, shuffled(tokens(k + 1), seed)) for k, name in enumerate("ab")}
    cache = read_cache(shelf.storage, shelf.rows(ROWS), "fit", columns)
    expected = [-(16.0 * d + 4 * w + t) for name in FIT for d, w, count in ROWS[name] for t in range(count)]
    assert cache.segments is not None
    assert cache.segments.dtype == np.float32
    np.testing.assert_array_equal(cache.segments, np.stack([expected, np.multiply(expected, 2)], axis=1))


def test_token_values_that_not_every_column_has_are_left_out(shelf: Any) -> None:
    tokens = {name: [(d, w, [-1.0] * count) for d, w, count in ROWS[name]] for name in FIT}
    columns = {"a": shelf.segment_column("a", tokens), "b": shelf.column("b", values_of(1))}
    assert read_cache(shelf.storage, shelf.rows(ROWS), "fit", columns).segments is None


@pytest.mark.parametrize("name", ["log_prob", "segments", "segment_log_probs"])
def test_a_source_may_be_named_as_a_column_of_the_table(shelf: Any, name: str) -> None:
    cache = read_cache(shelf.storage, shelf.rows(ROWS), "fit", {name: shelf.column("a", values_of(0))})
    assert cache.models == (name,)
    assert cache.log_probs[2, 0] == -3.0


def without_last(rows: list[Any]) -> list[Any]:
    return rows[:-1]


DAMAGES = {
    "missing": (without_last, "2 rows, 0 of them foreign"),
    "twice": (lambda rows: [*rows, rows[0]], "4 rows, 0 of them foreign"),
    "one twice, one missing": (lambda rows: [*rows[:-1], rows[0]], "3 rows, 0 of them foreign"),
    "of another document": (lambda rows: [*rows[:-1], (8, 0, -1.0)], "3 rows, 1 of them foreign"),
    "of another window": (lambda rows: [*rows[:-1], (rows[-1][0], 5, -1.0)], "3 rows, 1 of them foreign"),
    "none": (lambda _: [], "0 rows, 0 of them foreign"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_column_whose_rows_are_not_the_targets_is_refused(shelf: Any, damage: str) -> None:
    change, got = DAMAGES[damage]
    files = values_of(2)
    files[FIT[1]] = change(files[FIT[1]])
    columns = {"a": shelf.column("a", values_of(1)), "b": shelf.column("bbb", files)}
    with pytest.raises(CorruptedArtifactError, match="the cache column of b cannot be joined") as caught:
        read_cache(shelf.storage, shelf.rows(ROWS), "fit", columns)
    assert caught.value.where == shelf.storage.location("artifacts/column/bbb")
    assert (caught.value.got, caught.value.wanted) == (got, "the 3 rows of its target")


def test_a_column_that_lacks_a_file_is_refused(shelf: Any) -> None:
    column = shelf.column("a", {FIT[0]: values_of(1)[FIT[0]]})
    with pytest.raises(CorruptedArtifactError, match="cannot be joined") as caught:
        read_cache(shelf.storage, shelf.rows(ROWS), "fit", {"a": column})
    assert caught.value.got == f"no file {FIT[1]}"


@pytest.mark.parametrize("place", [0, 1], ids=["in one file", "in two files"])
def test_a_row_that_stands_twice_is_refused(shelf: Any, place: int) -> None:
    rows = {name: list(ROWS[name]) for name in FIT}
    values = values_of(1)
    rows[FIT[place]].append(ROWS[FIT[0]][0])
    values[FIT[place]].append(values[FIT[0]][0])
    with pytest.raises(CorruptedArtifactError, match="the target's rows cannot be joined") as caught:
        read_cache(shelf.storage, shelf.rows(rows), "fit", {"a": shelf.column("a", values)})
    assert caught.value.got == "1 rows that stand twice"


def test_a_row_with_fewer_values_than_tokens_is_refused(shelf: Any) -> None:
    tokens = {name: [(d, w, [-1.0] * count) for d, w, count in ROWS[name]] for name in FIT}
    tokens[FIT[0]][2] = (3, 0, [-1.0])
    with pytest.raises(CorruptedArtifactError, match="cannot be joined") as caught:
        read_cache(shelf.storage, shelf.rows(ROWS), "fit", {"a": shelf.segment_column("a", tokens)})
    assert caught.value.wanted == "one value per 1 token"
