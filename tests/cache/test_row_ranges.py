"""Any range of the rows, read from where they lie, is that part of all rows."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixray.cache import CacheRows, NpyRows, RowRanges, read_cache
from mixray.config.mixture import MixtureConfig, SegmentUnit
from mixray.errors import CorruptedArtifactError, InputError
from mixray.search.problem import UnitRows

# (document, windows), in order; 5 begins in one file, fills the next and ends in the third; 9 ends with a file.
WHOLE = [(8, 2), (3, 1), (5, 9), (4, 1), (9, 3), (1, 2), (7, 4)]
# The same lengths, documents as (parent, piece): a parent ends within a file, begins with one and goes on in others.
CUT = [((8, 1), 2), ((8, 0), 1), ((5, 2), 9), ((5, 7), 1), ((5, 3), 3), ((1, 0), 2), ((1, 4), 4)]
FILE_ROWS = 4
SOURCES = ["a", "b", "c"]
UNITS = ["document", "window", "token", *(SegmentUnit(segment=length) for length in (1, 2, 4, 100))]


def in_files(rows: Sequence[Any]) -> dict[str, list[Any]]:
    return {f"fit-{i:05d}.parquet": rows[i * FILE_ROWS :][:FILE_ROWS] for i in range(-(-len(rows) // FILE_ROWS))}


@pytest.fixture(params=[WHOLE, CUT], ids=["whole", "cut"])
def cache(shelf: Any, request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any]]:
    return stored_cache(shelf, request.param, segment=1)


def stored_cache(shelf: Any, documents: Sequence[Any], segment: int) -> tuple[Any, dict[str, Any]]:
    """The same log-probabilities of single tokens, whatever the segments that are stored."""
    draw = np.random.default_rng(0)
    keys = [(document, window) for document, windows in documents for window in range(windows)]
    counts = draw.integers(1, 6, len(keys))
    rows = shelf.rows(in_files([(*key, int(count)) for key, count in zip(keys, counts, strict=True)]))
    columns = {}
    for source in SOURCES:
        tokens = [(-draw.exponential(3, count)).astype(np.float32).tolist() for count in counts]
        files = in_files([(*key, own) for key, own in zip(keys, tokens, strict=True)])
        columns[source] = shelf.segment_column(f"{source}-{segment}", files, segment)
    return rows, columns


def read(ranges: RowRanges, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    log_probs, row_weights, _, _ = zip(*ranges.read(start, stop), strict=True)
    return np.concatenate(log_probs), np.concatenate(row_weights)


@pytest.mark.parametrize("unit", UNITS, ids=str)
@pytest.mark.parametrize("weighting", ["document", "token"])
def test_a_cache_has_the_rows_of_a_solve(shelf: Any, cache: Any, unit: Any, weighting: Any) -> None:
    rows, columns = cache
    whole = read_cache(shelf.storage, rows, "fit", columns)
    wanted = UnitRows.of(whole, MixtureConfig(unit=unit, weighting=weighting))
    log_probs, row_weights = wanted.log_probs, wanted.row_weights
    if unit == "document":  # there by id, here as they come
        order = list(dict.fromkeys(whole.documents.tolist()))
        log_probs, row_weights = log_probs[order], row_weights[order]
    ranges = CacheRows.open(shelf.storage, rows, columns, unit=unit, weighting=weighting)
    assert (ranges.rows, ranges.sources) == log_probs.shape
    pairs = [(start, stop) for start in range(ranges.rows) for stop in range(start + 1, ranges.rows + 1)]
    for start, stop in [(0, ranges.rows), *pairs[:: max(1, len(pairs) // 20)]]:
        few = pickle.loads(pickle.dumps(ranges.limited(start, stop)))
        for described in (ranges, few):
            found = read(described, start, stop)
            np.testing.assert_array_equal(found[0], log_probs[start:stop])
            np.testing.assert_allclose(found[1], row_weights[start:stop], rtol=1e-15)


def test_the_files_may_be_looked_through_elsewhere(shelf: Any, cache: Any) -> None:
    def elsewhere(look: Any, names: Any) -> Any:
        return [pickle.loads(pickle.dumps(look))(name) for name in names]

    options: dict[str, Any] = {"unit": "window", "weighting": "document"}
    here, there = (CacheRows.open(shelf.storage, *cache, **options, over=over) for over in (map, elsewhere))
    assert here.places == there.places


@pytest.mark.parametrize("weighting", ["document", "token"])
@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_rows_say_their_parent_and_their_part_of_the_tokens(shelf: Any, cache: Any, unit: Any, weighting: Any) -> None:
    """Drawn once each, parents bring all tokens, each by its part."""
    rows, columns = cache
    whole = read_cache(shelf.storage, rows, "fit", columns)
    expected = UnitRows.of(whole, MixtureConfig(unit=unit, weighting=weighting))
    ranges = CacheRows.open(shelf.storage, rows, columns, unit=unit, weighting=weighting)
    chunks = [chunk for row in range(ranges.rows) for chunk in ranges.read(row, row + 1)]
    _, _, parents, row_tokens = zip(*chunks, strict=True)
    order = list(dict.fromkeys(whole.documents.tolist())) if unit == "document" else np.arange(ranges.rows)
    places = {parent: place for place, parent in enumerate(dict.fromkeys(whole.parents()[whole.documents].tolist()))}
    assert ranges.parents == len(places)
    numbers = [places[parent] for parent in expected.parents[order].tolist()]
    if unit == "document" and len(set(numbers)) == len(numbers):
        assert set(parents) == {None}
        assert numbers == list(range(ranges.rows))
    else:
        assert np.concatenate(parents).tolist() == numbers
    if row_tokens[0] is None:
        assert unit == weighting == "document"
    else:
        tokens = (expected.row_weights * expected.token_counts)[order]
        np.testing.assert_allclose(np.concatenate(row_tokens), tokens, rtol=1e-14)
        assert np.concatenate(row_tokens).sum() == pytest.approx(1.0, rel=1e-12)


def test_a_limited_description_names_only_the_files_it_needs(shelf: Any, cache: Any) -> None:
    ranges = CacheRows.open(shelf.storage, *cache, unit="document", weighting="document")
    few = ranges.limited(2, 3)  # the long document
    assert [place.name[4:9] for place in few.places] == ["00000", "00001", "00002"]
    assert set(few.columns["a"].files) == {place.name for place in few.places}


@pytest.mark.parametrize(
    "rows",
    [
        [(1, 0, 1), (2, 0, 1), (1, 1, 1)],
        [(1, 1, 1), (1, 0, 1)],
        [(1, 0, 1), (1, 0, 1)],
        [((1, 0), 0, 1), (2, 0, 1), ((1, 1), 0, 1)],
    ],
)
def test_documents_that_are_not_in_one_piece_are_refused(shelf: Any, rows: Any) -> None:
    with pytest.raises(CorruptedArtifactError, match="not in the order of its documents"):
        CacheRows.open(shelf.storage, shelf.rows(in_files(rows)), {}, unit="window", weighting="token")


def test_a_document_in_two_distant_files_is_refused(shelf: Any) -> None:
    rows = shelf.rows(in_files([(document, 0, 1) for document in (1, 2, 3, 4, 5)] + [(1, 1, 1)]))
    object.__setattr__(rows, "meta", {"fit": {"documents": 5}})
    with pytest.raises(CorruptedArtifactError, match="6 pieces") as caught:
        CacheRows.open(shelf.storage, rows, {}, unit="window", weighting="token")
    assert caught.value.wanted == "5 documents, each in one piece"


@pytest.mark.parametrize(
    ("stored", "unit", "got"),
    [
        (None, "token", "the cache holds windows"),
        (None, SegmentUnit(segment=16), "the cache holds windows"),
        (2, "token", "the cache holds segments of 2 tokens"),
        (2, SegmentUnit(segment=3), "the cache holds segments of 2 tokens"),
    ],
    ids=str,
)
def test_segments_that_are_not_stored_are_refused(shelf: Any, stored: int | None, unit: Any, got: str) -> None:
    tokens = {"fit-00000.parquet": [(1, 0, [-1.0, -2.0, -3.0])]}
    totals = {"fit-00000.parquet": [(1, 0, -6.0)]}
    column = shelf.column("few", totals) if stored is None else shelf.segment_column("few", tokens, stored)
    rows = shelf.rows({"fit-00000.parquet": [(1, 0, 3)]}, id="few")
    with pytest.raises(InputError, match="does not hold what the unit is made of") as caught:
        CacheRows.open(shelf.storage, rows, {"a": column}, unit=unit, weighting="token")
    assert got in str(caught.value.got)
    with pytest.raises(InputError, match="does not hold what the unit is made of"):
        UnitRows.of(read_cache(shelf.storage, rows, "fit", {"a": column}), MixtureConfig(unit=unit))


@pytest.mark.parametrize("documents", [WHOLE, CUT], ids=["whole", "cut"])
def test_a_cache_in_segments_serves_every_multiple(shelf: Any, documents: Any) -> None:
    """Windows of 1 to 5 tokens in segments of 2: their joins are those of single tokens, up to float32."""
    by_token, by_two = (
        read_cache(shelf.storage, rows, "fit", columns)
        for rows, columns in (stored_cache(shelf, documents, segment) for segment in (1, 2))
    )
    for unit in ("document", "window", SegmentUnit(segment=2), SegmentUnit(segment=4), SegmentUnit(segment=100)):
        config = MixtureConfig(unit=unit)
        expected, got = UnitRows.of(by_token, config), UnitRows.of(by_two, config)
        np.testing.assert_allclose(got.log_probs, expected.log_probs, rtol=1e-6)
        np.testing.assert_array_equal(got.token_counts, expected.token_counts)
        np.testing.assert_array_equal(got.row_weights, expected.row_weights)
        np.testing.assert_array_equal(got.parents, expected.parents)


def test_a_cache_file_that_is_missing_or_damaged_is_named(shelf: Any, cache: Any) -> None:
    rows, columns = cache
    ranges = CacheRows.open(shelf.storage, rows, columns, unit="window", weighting="document")
    path = Path(shelf.storage.full(columns["b"].files["fit-00001.parquet"].path))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorruptedArtifactError, match="a stored file is corrupted") as caught:
        read(ranges, 0, ranges.rows)
    assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(CorruptedArtifactError, match="a stored file is corrupted") as caught:
        read(ranges, 0, ranges.rows)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_any_range_of_a_npy_file(tmp_path: Path, dtype: Any, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixray.cache.row_ranges.CHUNK_BYTES", 7 * 3 * np.dtype(dtype).itemsize)
    log_probs = np.random.default_rng(0).standard_normal((50, 3)).astype(dtype)
    row_weights = np.arange(50) / 1225
    np.save(tmp_path / "table.npy", log_probs)
    np.save(tmp_path / "weights.npy", row_weights)
    ranges = NpyRows.open(str(tmp_path / "table.npy"), str(tmp_path / "weights.npy") if weighted else None)
    assert (ranges.rows, ranges.sources) == (50, 3)
    for start, stop in [(0, 50), (0, 1), (49, 50), (13, 29)]:
        found = read(pickle.loads(pickle.dumps(ranges.limited(start, stop))), start, stop)
        np.testing.assert_array_equal(found[0], log_probs[start:stop])
        np.testing.assert_array_equal(found[1], row_weights[start:stop] if weighted else np.full(stop - start, 1 / 50))


def test_a_npy_file_in_object_storage(s3_uri: str, tmp_path: Path) -> None:
    from mixray.store import Storage

    log_probs = np.random.default_rng(0).standard_normal((50, 3))
    np.save(tmp_path / "table.npy", log_probs)
    Storage(s3_uri).put("deep/table.npy", tmp_path / "table.npy")
    base, mark, options = s3_uri.partition("?")
    ranges = NpyRows.open(f"{base}/deep/table.npy{mark}{options}")
    np.testing.assert_array_equal(read(ranges, 20, 40)[0], log_probs[20:40])


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros(5), r"shape \(5,\), float64"),
        (np.zeros((0, 5)), r"shape \(0, 5\)"),
        (np.zeros((5, 2), int), "int64"),
        (np.zeros((5, 2), np.float16), "float16"),
        (np.asfortranarray(np.zeros((5, 2))), "column by column"),
    ],
)
def test_another_table_is_refused(tmp_path: Path, array: Any, got: str) -> None:
    np.save(tmp_path / "table.npy", array)
    with pytest.raises(InputError, match=got) as caught:
        NpyRows.open(str(tmp_path / "table.npy"))
    assert str(tmp_path / "table.npy") in str(caught.value)


def test_weights_of_another_length_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", np.zeros((5, 2)))
    np.save(tmp_path / "weights.npy", np.zeros(4))
    with pytest.raises(InputError, match="one weight per row"):
        NpyRows.open(str(tmp_path / "table.npy"), str(tmp_path / "weights.npy"))


@pytest.mark.parametrize("content", [None, b"", b"no array at all", b"short"])
def test_a_npy_file_that_is_missing_or_damaged_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "table.npy"
    if content == b"short":
        np.save(path, np.zeros((5, 2)))
        path.write_bytes(path.read_bytes()[:-1])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read") as caught:
        NpyRows.open(str(path))
    assert str(path) in str(caught.value)


def test_a_npy_file_that_goes_missing_later_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.npy"
    np.save(path, np.zeros((5, 2)))
    ranges = NpyRows.open(str(path))
    path.unlink()
    with pytest.raises(InputError, match="cannot be read") as caught:
        read(ranges, 0, 5)
    assert str(path) in str(caught.value)
