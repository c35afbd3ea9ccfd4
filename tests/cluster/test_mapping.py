"""One task as a worker runs it; no cluster is needed."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixray.cluster.mapping import _apply
from mixray.config.data import SourceConfig
from mixray.data.pools import Pool
from mixray.data.reading import files, parquet
from mixray.data.reading.parts import list_pool
from mixray.data.text.scan import Scan
from mixray.errors import InputError
from mixray.store import Artifacts, Storage, retrying


class FailingStream:
    """A file whose reads fail for a number of times, over all files."""

    failures = 0

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> FailingStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def read(self, *size: int) -> Any:
        if FailingStream.failures:
            FailingStream.failures -= 1
            raise OSError("AWS Error SLOW_DOWN: please reduce your request rate")
        return self._stream.read(*size)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the next reads of this many streams fail."""
    monkeypatch.setattr(retrying, "WAIT_SECONDS", 0.0)
    open_file = files.open_file
    monkeypatch.setattr(files, "open_file", lambda file: FailingStream(open_file(file)))

    def fail(times: int) -> None:
        monkeypatch.setattr(FailingStream, "failures", times)

    return fail


@pytest.fixture
def task(tmp_path: Path) -> Callable[[str], dict[str, bytes]]:
    """A scan of one file, as a row of a data set."""

    def make(reader: str) -> dict[str, bytes]:
        (tmp_path / "a.txt").write_text("one text")
        pool = Pool("source", "code", SourceConfig.model_validate({reader: f"{tmp_path}/a.txt"}))
        step = Scan(list_pool(pool))
        draft = Artifacts(Storage(str(tmp_path / "store")), "attempt").draft(step.kind, step.id)
        return {"item": pickle.dumps(step.tasks(draft)[0])}

    return make


def test_a_read_that_fails_for_a_while_changes_nothing(failing: Any, task: Any) -> None:
    row = task("files")
    failing(3)
    result, notes = pickle.loads(_apply(Scan.run, row)["result"])
    assert result == pickle.loads(_apply(Scan.run, row)["result"])[0]
    assert len(notes) == 3
    assert all("is tried again in 0 s: AWS Error SLOW_DOWN" in line for line in notes)


def test_a_read_that_goes_on_failing_names_the_file(failing: Any, task: Any, tmp_path: Path) -> None:
    failing(99)
    error, notes = pickle.loads(_apply(Scan.run, task("files"))["result"])
    assert isinstance(error, InputError)
    assert f"where: sources.code.files\n  got: {tmp_path}/a.txt (AWS Error SLOW_DOWN" in str(error)
    assert len(notes) == 3


def test_the_footers_of_parquet_files_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"text": ["one"]}), tmp_path / "a.parquet")
    pool = Pool("source", "code", SourceConfig.model_validate({"parquet": f"{tmp_path}/a.parquet"}))
    open_parquet, left = parquet.open_parquet, [2]

    def failing_open(file: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError("no answer")
        return open_parquet(file)

    monkeypatch.setattr(retrying, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(parquet, "open_parquet", failing_open)
    assert len(list_pool(pool).parts) == 1
    assert left[0] == -1
