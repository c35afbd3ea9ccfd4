"""Tabular examples: encoded as the sources say, split by their values, refused where a column is not what it should."""

from __future__ import annotations

import gzip
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from mixray.config.schema import RunConfig
from mixray.data import ExampleRows, MixtureStream, Prepared, group_shares, look_ahead, open_rows, prepare
from mixray.data import target_rows as rows
from mixray.data.reading import parts as parts_module
from mixray.data.tabular import encoder as encoder_module
from mixray.data.tabular import example_steps
from mixray.errors import InputError, StageError
from mixray.store import Artifacts, Storage

Columns = dict[str, Any]
Make = Callable[..., Prepared]
PLACES = ["north", "south", "west"]
BY_GROUP = {"objective": {"kind": "group_dro", "groups": "column:side"}}


def table(count: int, seed: int, **changes: Any) -> Columns:
    """``size`` is constant in all sources, to the last bit of its mean or not."""
    draws = np.random.default_rng([count, seed])
    return {
        "age": draws.integers(18, 80, count),
        "pay": draws.normal(1e4, 3e3, count),
        "size": np.full(count, 0.1),
        "place": draws.choice(PLACES, count).tolist(),
        "code": draws.choice(["1", "01"], count).tolist(),
        "label": draws.choice(["no", "yes"], count).tolist(),
        "side": draws.choice(["left", "right"], count).tolist(),
        **changes,
    }


class Run:
    """Pools written to files, and the data stage on them."""

    def __init__(self, folder: Path, mapper: Any) -> None:
        self.folder, self.mapper = folder, mapper
        self.artifacts = Artifacts(Storage(str(folder / "store")), "attempt")

    def write(self, name: str, columns: Columns, **settings: Any) -> dict[str, Any]:
        """A pool of one Parquet file; ``settings``: of how it is written."""
        pq.write_table(pa.table(columns), self.folder / f"{name}.parquet", **settings)
        return {"parquet": str(self.folder / f"{name}.parquet")}

    def text(self, name: str, content: str) -> dict[str, Any]:
        (self.folder / name).write_text(content, encoding="utf-8")
        return {"csv": str(self.folder / name)}

    def config(
        self,
        sources: dict[str, Any],
        goal: dict[str, Any],
        *,
        examples: dict[str, Any] | None = None,
        retrain: dict[str, Any] | None = None,
    ) -> RunConfig:
        columns = {"numeric": ["age", "pay", "size"], "categorical": ["place", "code"], "label": "label"}
        budget = {"model": {"head": "linear"}, "tokens": 100}
        return RunConfig.model_validate(
            {
                "name": "test",
                "examples": examples or columns,
                "sources": sources,
                "targets": {"goal": goal},
                "proxy": {"kind": "classifier", **budget},
                "retrain": budget | (retrain or {}),
            }
        )

    def prepare(self, *pools: Any, **settings: Any) -> Prepared:
        return prepare(self.config(*pools, **settings), self.artifacts, self.mapper, lambda _: None)

    def records(self, prepared: Prepared, source: str) -> np.ndarray:
        opened = open_rows(self.artifacts.storage, prepared.sources[source])
        return opened.read(np.arange(len(opened)))

    def target(self, prepared: Prepared, part: str) -> list[dict[str, Any]]:
        artifact = prepared.targets["goal"]
        paths = [self.artifacts.storage.full(artifact.files[name].path) for name in artifact.meta[part]["files"]]
        return [row for path in paths for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def run(tmp_path: Path, mapper: Any) -> Run:
    return Run(tmp_path, mapper)


def pools(run: Run, **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    sources = {
        "one": run.write("one", table(90, 1), **settings),
        "two": run.write("two", table(60, 2, place=["north"] * 60), **settings),
    }
    return sources, run.write("goal", table(80, 3, size=np.full(80, 0.2)), **settings)


def expected(columns: Columns, sources: list[Columns]) -> np.ndarray:
    """The features, worked out plainly: what varies is standardised over all sources, categories in order."""
    parts = []
    for name in ("age", "pay"):
        values = np.concatenate([source[name] for source in sources])
        parts.append(((columns[name] - values.mean()) / values.std())[:, None])
    parts.append(np.zeros((len(columns["size"]), 1)))
    for name, categories in (("place", PLACES), ("code", ["01", "1"])):
        parts.append(np.array([[value == category for category in categories] for value in columns[name]]))
    return np.hstack(parts)


@pytest.mark.parametrize("part_bytes", [1, 1000, 1 << 24])
def test_features_are_what_numpy_makes_of_all_sources(
    part_bytes: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the files fall into parts."""
    monkeypatch.setattr(parts_module, "PART_BYTES", part_bytes)
    monkeypatch.setattr(rows, "FILE_ROWS", 20)
    monkeypatch.setattr(example_steps, "FILE_ROWS", 20)
    prepared = run.prepare(*pools(run, row_group_size=25))
    inputs = prepared.inputs
    assert (inputs.features, inputs.label_names, inputs.group_names) == (8, ("no", "yes"), ())  # type: ignore[union-attr]
    tables = {"one": table(90, 1), "two": table(60, 2, place=["north"] * 60)}
    for name, columns in tables.items():
        records = run.records(prepared, name)
        np.testing.assert_allclose(records["features"], expected(columns, list(tables.values())), rtol=1e-6, atol=1e-6)
        assert records["label"].tolist() == [int(label == "yes") for label in columns["label"]]
    goal = table(80, 3, size=np.full(80, 0.2))
    wanted = Counter(
        (label == "yes", *np.round(row, 4))
        for label, row in zip(goal["label"], expected(goal, list(tables.values())), strict=True)
    )
    found = [row for part in ("fit", "held_out") for row in run.target(prepared, part)]
    assert Counter((row["label"] == 1, *np.round(row["features"], 4)) for row in found) == wanted
    assert {(row["window"], row["count"]) for row in found} == {(0, 1)}
    assert len({row["document"] for row in found}) == 80
    files = prepared.targets["goal"].files.values()
    assert max(pq.read_metadata(run.folder / "store" / file.path).num_rows for file in files) <= 20


def test_parquet_csv_and_compressed_csv_give_the_same(run: Run) -> None:
    sources, goal = pools(run)
    parquet = run.prepare(sources, goal)
    plain = pa.BufferOutputStream()
    pyarrow.csv.write_csv(pa.table(table(90, 1)), plain)
    (run.folder / "one.csv").write_bytes(plain.getvalue())
    (run.folder / "one.csv.gz").write_bytes(gzip.compress(plain.getvalue()))
    for name in ("one.csv", "one.csv.gz"):
        read = run.prepare(sources | {"one": {"csv": str(run.folder / name)}}, goal)
        assert read.sources == parquet.sources
        assert read.targets == parquet.targets


def test_dots_reach_into_structs(run: Run) -> None:
    """A column in a struct is the same column."""
    flat = table(60, 1)
    nested = {name: values for name, values in flat.items() if name not in ("age", "place")}
    nested["row"] = [{"age": int(age), "place": place} for age, place in zip(flat["age"], flat["place"], strict=True)]
    goal = {"numeric": ["row.age", "pay"], "categorical": ["row.place"], "label": "label"}
    plain = {"numeric": ["age", "pay"], "categorical": ["place"], "label": "label"}
    one = run.prepare({"one": run.write("nested", nested)}, run.write("goal", nested), examples=goal)
    other = run.prepare({"one": run.write("flat", flat)}, run.write("goal", flat), examples=plain)
    rows = [open_rows(run.artifacts.storage, each.sources["one"]).read(np.arange(60)) for each in (one, other)]
    assert (rows[0] == rows[1]).all()


def test_equal_rows_fall_into_one_part_and_none_is_lost(run: Run) -> None:
    sources, _ = pools(run)
    some = pa.table(table(40, 5))
    prepared = run.prepare(sources, run.write("goal", pa.concat_tables([some, some, some]), row_group_size=13))
    parts = {
        part: Counter((row["label"], *row["features"]) for row in run.target(prepared, part))
        for part in ("fit", "held_out")
    }
    assert not set(parts["fit"]) & set(parts["held_out"])
    assert set((parts["fit"] + parts["held_out"]).values()) == {3}
    assert prepared.counts["target goal"]["fit_documents"] == parts["fit"].total()
    assert parts["fit"].total() + parts["held_out"].total() == 120
    more = run.prepare(sources, run.write("goal", pa.concat_tables([some, some, some])) | {"held_out": 0.7})
    held_out = Counter((row["label"], *row["features"]) for row in run.target(more, "held_out"))
    assert parts["held_out"] <= held_out


def test_a_second_time_finds_everything_and_a_move_touches_nothing(run: Run) -> None:
    sources, goal = pools(run)
    first = run.prepare(sources, goal)
    assert run.mapper.labels == ["look", "encode"]
    run.mapper.labels.clear()
    assert run.prepare(sources, goal) == first
    assert run.mapper.labels == []
    (run.folder / "elsewhere").mkdir()
    moved = {}
    for name in sources:
        (run.folder / f"{name}.parquet").rename(run.folder / "elsewhere" / f"{name}.parquet")
        moved[name] = {"parquet": f"{run.folder}/elsewhere/{name}.parquet"}
    again = run.prepare(dict(reversed(moved.items())), goal)
    assert (again.sources, again.targets) == (first.sources, first.targets)
    assert run.mapper.labels == ["look"]


@pytest.mark.parametrize(
    ("changes", "source", "target"),
    [
        ({"side": ["left"] * 90}, False, False),
        ({"place": ["south"] * 90}, True, False),
        ({"label": ["yes"] * 90}, True, False),
        ({"pay": np.arange(90.0)}, True, True),
    ],
)
def test_identity_is_what_is_in_the_named_columns(changes: Columns, source: bool, target: bool, run: Run) -> None:
    """A target hangs on the encoding; a source on its own rows too."""
    sources, goal = pools(run)
    sources |= {"three": run.write("three", table(90, 4))}
    first = run.prepare(sources, goal)
    second = run.prepare(sources | {"one": run.write("one", table(90, 1, **changes))}, goal)
    assert (second.sources["one"].id != first.sources["one"].id) == source
    assert (second.targets["goal"].id != first.targets["goal"].id) == target
    assert (second.sources["two"].id != first.sources["two"].id) == target


def test_groups_touch_neither_the_split_nor_what_proxies_read(run: Run) -> None:
    """The target needs no column of groups."""
    sources, _ = pools(run)
    without = table(80, 3)
    del without["side"]
    goal = run.write("goal", without)
    plain, grouped = run.prepare(sources, goal), run.prepare(sources, goal, retrain=BY_GROUP)
    assert grouped.targets == plain.targets
    for name, columns in (("one", table(90, 1)), ("two", table(60, 2))):
        assert grouped.sources[name].id != plain.sources[name].id
        assert grouped.sources[name].meta["content"] == plain.sources[name].id
        assert run.records(grouped, name)["group"].tolist() == [int(side == "right") for side in columns["side"]]
    other = run.prepare(sources | {"one": run.write("one", table(90, 1, side=["left"] * 90))}, goal, retrain=BY_GROUP)
    assert other.sources["one"].id != grouped.sources["one"].id
    assert other.sources["one"].meta["content"] == plain.sources["one"].id


def test_max_tokens_of_a_source_takes_the_first_of_every_part(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is less than the number of parts."""
    monkeypatch.setattr(parts_module, "PART_BYTES", 1)
    sources, goal = pools(run, row_group_size=30)
    everything = run.records(run.prepare(sources, goal), "one")["label"]
    for limit, places in ((2, [0, 30]), (7, [0, 1, 2, 30, 31, 60, 61])):
        some = run.prepare(sources | {"one": sources["one"] | {"max_tokens": limit}}, goal)
        assert some.sources["one"].meta["tokens"] == some.counts["source one"]["tokens"] == limit
        assert run.records(some, "one")["label"].tolist() == everything[places].tolist()


def target_features(run: Run, prepared: Prepared) -> np.ndarray:
    """The first feature of every row of the target, of both parts."""
    target = prepared.targets["goal"]
    tables = [pq.read_table(run.artifacts.storage.fetch(record)) for record in target.files.values()]
    return np.concatenate([np.array(table["features"].to_pylist())[:, 0] for table in tables])


@pytest.mark.parametrize("limit", [40, 89, 90, 1000])
def test_max_tokens_of_a_target_is_a_sample_of_all_of_it(run: Run, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Its rows are sorted, its parts have 80 and 10 of them, and every age occurs twice."""
    monkeypatch.setattr(parts_module, "PART_BYTES", 1)
    sources, _ = pools(run)
    ages = np.repeat(np.arange(45), 2) + 18
    goal = run.write("goal", table(90, 3, age=ages), row_group_size=80)
    everything = target_features(run, run.prepare(sources, goal))
    prepared = run.prepare(sources, goal | {"max_tokens": limit})
    short = [warning["message"] for warning in prepared.warnings if warning["code"] == "short_target"]
    assert short == ["target goal: max_tokens is 1,000, but 90 are used: it has no more"] * (limit > 90)
    sample = target_features(run, prepared)
    assert len(sample) == min(limit, 90)
    places = np.searchsorted(np.unique(everything), sample)
    assert abs(places.mean() - 22) < 7  # the mean of 40 of 90 rows has a standard deviation of 1.5
    run.mapper.labels.clear()
    again = run.prepare(sources, goal | {"max_tokens": limit})
    assert run.mapper.labels == []
    assert target_features(run, again).tolist() == sample.tolist()


def test_where_keeps_rows_and_counts_the_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that loses all its rows is counted too; a number is compared as it is written."""
    monkeypatch.setattr(parts_module, "PART_BYTES", 1)
    sources, goal = pools(run)
    ages = np.repeat([20, 30, 40], 30)
    one = run.write("one", table(90, 1, age=ages), row_group_size=30) | {"where": {"age": "40"}}
    counts = run.prepare(sources | {"one": one}, goal).counts["source one"]
    assert (counts["documents"], counts["filtered"], counts["documents_read"]) == (30, 60, 90)
    pyarrow.csv.write_csv(pa.table(table(90, 1, age=ages)), run.folder / "one.csv")
    csv = run.prepare(sources | {"one": {"csv": f"{run.folder}/one.csv", "where": {"age": "40"}}}, goal)
    assert csv.counts["source one"]["filtered"] == 60


@pytest.mark.parametrize("left_out", [{}, {"where": {"year": "2024"}}], ids=["empty", "filtered"])
def test_a_part_without_rows_does_not_know_how_long_its_features_are(
    left_out: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "PART_BYTES", 1)

    def rows_of(count: int, year: str) -> Any:
        features = np.arange(3.0 * count).reshape(-1, 3).tolist()
        types = {"v": pa.list_(pa.float64()), "label": pa.string(), "year": pa.string()}
        columns = {"v": features, "label": ["no", "yes"] * (count // 2), "year": [year] * count}
        return pa.table(columns, schema=pa.schema(types))

    some, none = run.write("some", rows_of(60, "2024")), run.write("none", rows_of(20 if left_out else 0, "2023"))
    pool = {"parquet": [some["parquet"], none["parquet"]], **left_out}
    prepared = run.prepare({"one": pool}, pool, examples={"features": "v", "label": "label"})
    assert len(run.records(prepared, "one")) == 60


def test_random_access_by_number_and_by_place_in_a_mixture(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "PART_BYTES", 1)
    prepared = run.prepare(*pools(run, row_group_size=20))
    opened = {name: open_rows(run.artifacts.storage, source) for name, source in prepared.sources.items()}
    everything = {name: run.records(prepared, name) for name in opened}
    places = np.array([89, 0, 20, 19, 0, 45])
    one = pickle.loads(pickle.dumps(opened["one"]))
    assert (one.read(places) == everything["one"][places]).all()
    assert len(one.read(np.empty(0, np.int64))) == 0
    stream = MixtureStream(opened, {"one": 0.75, "two": 0.25}, seed=3)
    sources, indices = stream.locate(5, 300)
    read = stream.read(5, 300)
    for record, source, index in zip(read, sources, indices, strict=True):
        assert record == everything[stream.source_names[source]][index]


def test_shares_and_presence_of_groups_are_counted(run: Run) -> None:
    """``left`` is one source, ``right`` the other, ``rare`` stands in every tenth row of the second."""
    sides = {"one": ["left"] * 90, "two": ["rare" if row % 10 == 0 else "right" for row in range(60)]}
    sources = {
        "one": run.write("one", table(90, 1, side=sides["one"])),
        "two": run.write("two", table(60, 2, side=sides["two"])),
    }
    prepared = run.prepare(sources, run.write("goal", table(80, 3)), retrain=BY_GROUP)
    opened = {name: open_rows(run.artifacts.storage, source) for name, source in prepared.sources.items()}
    ids = {name: some.group_ids() for name, some in opened.items() if isinstance(some, ExampleRows)}
    shares = {"one": 0.1, "two": 0.9}
    assert group_shares(ids, shares, 3).tolist() == pytest.approx([0.1, 0.09, 0.81])
    stream = MixtureStream(opened, shares, seed=0)
    batches = stream.read(0, 8 * 500)["group"].reshape(500, 8)
    counted = [(batches == group).any(axis=1).mean() for group in range(3)]
    assert stream.presence(8, 500, ids).tolist() == counted
    assert counted[0] == pytest.approx(0.8)  # not 1 - 0.9^8


def test_a_class_that_is_empty_is_missing_and_one_named_na_is_not(run: Run) -> None:
    pool = run.text(
        "a.csv", "age,place,label\n" + "".join(f"{row},NA,null\n{row},,01\n{row},x,1\n" for row in range(40))
    )
    prepared = run.prepare({"one": pool}, pool, examples={"categorical": ["place"], "label": "label"})
    assert prepared.inputs.label_names == ("01", "1", "null")  # type: ignore[union-attr]
    found = {(int(row["label"]), *row["features"].tolist()) for row in run.records(prepared, "one")}
    assert found == {(0, 1.0, 0.0, 0.0), (2, 0.0, 1.0, 0.0), (1, 0.0, 0.0, 1.0)}


def test_files_of_one_pool_may_be_typed_differently(run: Run) -> None:
    """Text that is dictionary-encoded or not, lists of fixed or free length, a table of no rows."""
    columns: Columns = {"v": [[1.0, 2.0], [3.0, 4.0]] * 30, "label": ["no", "yes"] * 30}
    other: Columns = {
        "v": pa.array(columns["v"], pa.list_(pa.float32(), 2)),
        "label": pa.array(columns["label"]).dictionary_encode(),
    }
    nothing: Columns = {"v": pa.nulls(0), "label": pa.nulls(0)}
    for name, written in {"a": nothing, "b": columns, "c": other}.items():
        run.write(name, written)
    run.write("goal", {"v": np.arange(80.0).reshape(40, 2).tolist(), "label": ["no", "yes"] * 20})
    sources, goal = {"one": {"parquet": f"{run.folder}/[abc].parquet"}}, {"parquet": f"{run.folder}/goal.parquet"}
    prepared = run.prepare(sources, goal, examples={"features": "v", "label": "label"})
    assert prepared.sources["one"].meta["tokens"] == 120
    assert np.unique(run.records(prepared, "one")["features"]).tolist() == [-1.0, 1.0]


def test_a_changed_file_is_noticed(run: Run) -> None:
    """Between the look and the encoding."""
    sources, goal = pools(run)

    def meddle(function: Any, items: Any, label: str) -> Any:
        if label == "encode":
            run.write("one", table(90, 7))
        return map(function, items)

    config = run.config(sources, goal)
    with pytest.raises(StageError, match="the source one has changed since it was scanned"):
        prepare(config, run.artifacts, meddle, lambda _: None)


# --------------------------------------------------------------------------------------------- warnings and refusals


def test_what_is_odd_is_warned_of(run: Run) -> None:
    sources, _ = pools(run)
    sources |= {"again": run.write("again", table(90, 1))}
    goal = run.write("goal", table(80, 3, place=["east", *["north"] * 79]))
    found = run.prepare(sources, goal).warnings
    assert [warning["code"] for warning in found] == ["identical_pools", "unknown_category"]
    assert found[0]["message"] == "source one and source again hold the same rows: shares between them mean nothing"
    assert found[1]["message"] == "target goal has values of place that no source has, all zeros: east"
    (same,) = run.prepare({"one": sources["one"]}, sources["one"]).warnings
    assert same["pools"] == ["source one", "target goal"]
    assert "judged by what they have learnt" in same["message"]


def test_an_unknown_value_is_all_zeros(run: Run) -> None:
    sources, _ = pools(run)
    prepared = run.prepare(sources, run.write("goal", table(80, 3, place=["east"] * 80)))
    found = [row["features"] for side in ("fit", "held_out") for row in run.target(prepared, side)]
    assert {tuple(features[3:6]) for features in found} == {(0.0, 0.0, 0.0)}


@pytest.mark.parametrize(
    ("changes", "what", "where", "got"),
    [
        ({"label": ["no"] * 90}, "the label has one class only", "examples.label", "no"),
        ({"label": np.arange(90.0) + 0.5}, "does not hold classes", "examples.label, column label", "double"),
        ({"label": [None, *["no"] * 89]}, "a value is missing", "column label, row 0", "1 of 90"),
        ({"age": [float("nan")] * 90}, "missing or not finite", "column age, row 0", "90 of 90"),
        ({"age": pa.nulls(90)}, "missing or not finite", "column age, row 0", "90 of 90"),
        ({"age": [1.0] * 89 + [-1.7e308]}, "a number is too large", "column age, row 89", "1 of 90"),
        ({"age": ["old"] * 90}, "does not hold numbers", "examples.numeric, column age", "'old'"),
        ({"place": np.linspace(0, 1, 90)}, "does not hold classes", "examples.categorical, column place", "double"),
    ],
)
def test_a_column_that_is_not_what_its_role_needs_is_refused_ahead(
    changes: Columns, what: str, where: str, got: str, run: Run
) -> None:
    """By the look ahead too, but for what only all rows tell; with the file's name."""
    one = {"one": run.write("one", table(90, 1, **changes))}
    goal = run.write("goal", table(80, 3))
    config = run.config(one, goal)
    with pytest.raises(InputError) as caught:
        run.prepare(one, goal)
    assert what in caught.value.what
    assert where in str(caught.value.where)
    assert got in str(caught.value.got)
    if "one class" not in what:
        assert str(caught.value.got).endswith("one.parquet")
        with pytest.raises(InputError, match=what):
            look_ahead(config, config.examples)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pool", "what", "got"),
    [
        ({"where": {"place": "east"}}, "the source one has no rows", "90 rows, none of which 'where' keeps"),
        ({"where": {"region": "east"}}, "a column is missing", "region, but "),
        ({"csv": ""}, "a file cannot be read", "Empty CSV file"),
        ({"csv": "age,pay,size,place,code,label\n"}, "the source one has no rows", "empty files"),
        ({"csv": "age,pay,size,place,code,label\n1,2\n"}, "a file cannot be read", "Expected 6 columns, got 2"),
        ({"csv": "age,age,pay,size,place,code,label\n1,1,2,3,a,b,c\n"}, "a column stands twice", "age, in "),
        ({"csv": "age,pay,size,code,label\n1,2,3,b,c\n"}, "a column is missing", "place, but "),
        ({"rows": 0}, "the source one has no rows", "empty files"),
        ({"row groups": 0}, "the source one has no rows", "empty files"),
    ],
)
def test_a_source_without_rows_or_columns_is_refused(pool: dict[str, Any], what: str, got: str, run: Run) -> None:
    sources, goal = pools(run)
    if "csv" in pool:
        sources["one"] = run.text("one.csv", pool["csv"])
    elif "rows" in pool:
        run.write("one", pa.table(table(90, 1)).slice(0, 0))
    elif "row groups" in pool:
        pq.ParquetWriter(run.folder / "one.parquet", pa.table(table(90, 1)).schema).close()
    else:
        sources["one"] |= pool
    config = run.config(sources, goal)
    for attempt in (lambda: run.prepare(sources, goal), lambda: look_ahead(config, config.examples)):  # type: ignore[arg-type]
        with pytest.raises(InputError) as caught:
            attempt()
        assert caught.value.what == what
        assert got in str(caught.value.got)


def test_a_class_that_no_source_has_is_refused(run: Run) -> None:
    sources, _ = pools(run)
    with pytest.raises(InputError) as caught:
        run.prepare(sources, run.write("goal", table(80, 3, label=["maybe"] * 80)))
    assert caught.value.what == "the target goal has a class that no source has"
    assert (caught.value.got, caught.value.wanted) == ("'maybe'", "one of 'no', 'yes'")


def test_a_target_of_rows_that_are_all_alike_cannot_be_split(run: Run) -> None:
    sources, _ = pools(run)
    alike = {name: values[:1] for name, values in table(1, 3).items()}
    with pytest.raises(InputError, match="the target goal is too small to split") as caught:
        run.prepare(sources, run.write("goal", pa.concat_tables([pa.table(alike)] * 9)))
    assert caught.value.remedy == "more rows, or another held_out; rows that are alike stay together"


@pytest.mark.parametrize(
    ("lengths", "where"),
    [
        ({"one": (2, 3)}, "examples.features"),
        ({"one": (2,), "two": (3,)}, "examples.features"),
        ({"one": (2,), "goal": (3,)}, "targets.goal"),
    ],
)
def test_features_of_different_lengths_are_refused(lengths: dict[str, tuple[int, ...]], where: str, run: Run) -> None:
    """Between files, sources, sources and target."""
    pool: dict[str, dict[str, Any]] = {}
    for name, widths in {"goal": (2,), **lengths}.items():
        files = [
            run.write(f"{name}{width}", {"v": np.ones((20, width)).tolist(), "label": ["no", "yes"] * 10})
            for width in widths
        ]
        pool[name] = {"parquet": [file["parquet"] for file in files]}
    goal = pool.pop("goal")
    with pytest.raises(InputError, match="the features differ in length") as caught:
        run.prepare(pool, goal, examples={"features": "v", "label": "label"})
    assert where in str(caught.value.where)


def test_a_column_of_too_many_values_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "MOST_VALUES", 5)
    sources, goal = pools(run)
    one = run.write("one", table(90, 1, place=[str(row % 4) for row in range(90)]))
    two = run.write("two", table(90, 1, place=[str(4 + row % 4) for row in range(90)]))
    with pytest.raises(InputError) as caught:
        run.prepare(sources | {"one": one, "two": two}, goal)
    assert caught.value.where == "examples.categorical, column place"
    assert str(caught.value.got).startswith("8, for instance '0', '1'")


def test_a_column_to_filter_by_that_stands_twice_is_refused(run: Run) -> None:
    text = "year,year,age,pay,size,place,code,label\n" + "2024,2023,1,1,1,a,b,no\n" * 9
    one = run.text("one.csv", text) | {"where": {"year": "2024"}}
    with pytest.raises(InputError, match="a column stands twice") as caught:
        run.prepare({"one": one}, run.write("goal", table(80, 3)))
    assert caught.value.where == "sources.one.where"


def test_an_arm_alone_may_have_groups(run: Run) -> None:
    arms = ["mixmin", {"name": "dro", "mixture": "mixmin", **BY_GROUP}]
    prepared = run.prepare(*pools(run), retrain={"arms": arms})
    assert prepared.inputs.group_names == ("left", "right")  # type: ignore[union-attr]
    arms = ["mixmin", {"name": "dro", "mixture": "mixmin", "objective": BY_GROUP["objective"] | {"prior": {"left": 1}}}]
    with pytest.raises(InputError, match="the prior does not fit the groups") as caught:
        run.prepare(*pools(run), retrain={"arms": arms})
    assert caught.value.where == "retrain.arms.1.objective.prior"


def test_a_prior_must_fit_the_groups(run: Run) -> None:
    objective = BY_GROUP["objective"] | {"prior": {"left": 1.0}}
    with pytest.raises(InputError, match="the prior does not fit the groups") as caught:
        run.prepare(*pools(run), retrain={"objective": objective})
    assert caught.value.wanted == "a weight for every value of side: left, right"
