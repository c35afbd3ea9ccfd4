"""Hugging Face data sets that lie in folders: of save_to_disk, or of data files; map-style and streaming."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixray.data.check import check_inputs
from mixray.data.pools import Pool
from mixray.data.reading import parts as parts_module
from mixray.data.reading.hugging_face import HubUnreachableError
from mixray.data.reading.parts import list_pool
from mixray.data.text.documents import read_documents
from mixray.errors import InputError

ROWS = [{"text": f"document {number}", "meta": {"set": "ab"[number % 2]}} for number in range(30)]


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def saved(folder: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder))


def saved_splits(folder: Path) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": rows, "test": rows.select(range(2))}).save_to_disk(str(folder))


def data_files(folder: Path) -> None:
    folder.mkdir()
    for part in range(3):
        pq.write_table(
            pa.Table.from_pylist(ROWS[part * 10 : part * 10 + 10]), folder / f"train-{part:05d}-of-00003.parquet"
        )


LAYOUTS = [saved, saved_splits, data_files]


def read(pool: Pool, counts: Counter[str] | None = None) -> list[str]:
    gathered = Counter[str]() if counts is None else counts
    parts = list_pool(pool).parts
    return [document.text for part in parts for document in read_documents(pool, part, gathered)]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_give_all_rows(
    layout: Callable[[Path], None], streaming: bool, tmp_path: Path, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout(tmp_path / "data")
    monkeypatch.setattr(parts_module, "PART_BYTES", 100)
    pool = source(dataset=str(tmp_path / "data"), streaming=streaming)
    assert len(list_pool(pool).parts) == ((3 if layout is data_files else 1) if streaming else 6)
    assert read(pool) == [row["text"] for row in ROWS]


@pytest.mark.parametrize("streaming", [False, True])
def test_where_and_templates(streaming: bool, tmp_path: Path, source: Any) -> None:
    data_files(tmp_path / "data")
    pool = source(
        dataset=str(tmp_path / "data"), streaming=streaming, where={"meta.set": "b"}, text="{meta.set}: {text}"
    )
    counts = Counter[str]()
    assert read(pool, counts) == [f"b: {row['text']}" for row in ROWS[1::2]]
    assert counts["filtered"] == 15


def test_a_changed_folder_is_read_anew(tmp_path: Path, source: Any) -> None:
    data_files(tmp_path / "data")
    pool = source(dataset=str(tmp_path / "data"))
    key = list_pool(pool).key
    assert len(read(pool)) == 30
    pq.write_table(
        pa.table({"text": ["new"], "meta": [{"set": "a"}]}), tmp_path / "data" / "train-00000-of-00003.parquet"
    )
    assert list_pool(pool).key != key
    assert len(read(pool)) == 21


DEFECTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no such folder": ({"dataset": "./nowhere"}, ["a data set is missing", "sources.code.dataset", "got: ./nowhere"]),
    "no such split": (
        {"split": "dev"},
        ["a data set cannot be loaded", "sources.code.dataset", "split dev (", "train"],
    ),
    "missing column": (
        {"text": "body"},
        ["a column is missing", "sources.code.text", "body, but", "columns meta, text"],
    ),
    "no text": ({"text": "meta"}, ["a column holds no text", "sources.code.text", "meta: "]),
    "an empty folder": ({"dataset": "{tmp}/empty"}, ["a data set cannot be loaded", "empty"]),
    "hub": (
        {"dataset": "nobody/nothing"},
        ["the Hugging Face hub cannot be reached", "nobody/nothing (", "HF_HUB_OFFLINE"],
    ),
    "no name": ({"dataset": "a..b"}, ["the dataset is not found on the Hugging Face hub", "a..b ("]),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("layout", [saved_splits, data_files])
@pytest.mark.parametrize("case", DEFECTS)
def test_defects(case: str, layout: Callable[[Path], None], streaming: bool, tmp_path: Path, source: Any) -> None:
    settings, messages = DEFECTS[case]
    layout(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    name = settings.get("dataset", "{tmp}/data").replace("{tmp}", str(tmp_path))
    with pytest.raises(InputError) as caught:
        read(source(**{**settings, "dataset": name, "streaming": streaming}))
    for message in messages:
        assert message in str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_check_looks_at_one_row_and_prepares_nothing(
    layout: Callable[[Path], None], tmp_path: Path, run_config: Any
) -> None:
    layout(tmp_path / "data")
    layout(tmp_path / "goal")
    good, goal = {"dataset": str(tmp_path / "data")}, {"dataset": str(tmp_path / "goal")}
    check_inputs(run_config({"code": good}, {"goal": goal}))
    with pytest.raises(InputError, match=r"a column is missing\n  where: targets\.goal\.text\n  got: body, but"):
        check_inputs(run_config({"code": good}, {"goal": {**goal, "text": "body"}}))
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").rglob("*.arrow"))


def test_a_commit_needs_no_look_up(source: Any) -> None:
    listing = list_pool(source(dataset="some/name", revision="a" * 40, subset="en"))
    assert listing.dataset is not None
    assert (listing.dataset.path, listing.dataset.revision, listing.size_bytes) == ("some/name", "a" * 40, None)
    assert listing.key != list_pool(source(dataset="some/name", revision="b" * 40, subset="en")).key


def test_the_check_passes_over_a_hub_it_cannot_reach(tmp_path: Path, source: Any, run_config: Any) -> None:
    data_files(tmp_path / "data")
    data_files(tmp_path / "goal")
    local, hub = {"dataset": str(tmp_path / "data")}, {"dataset": "nobody/nothing"}
    goal = {"dataset": str(tmp_path / "goal")}
    sizes = check_inputs(run_config({"local": local, "hub": hub}, {"goal": goal})).stored_bytes
    assert sizes["source hub"] is None
    assert sizes["source local"] == sum(path.stat().st_size for path in (tmp_path / "data").iterdir())
    with pytest.raises(HubUnreachableError):
        list_pool(source(**hub))
