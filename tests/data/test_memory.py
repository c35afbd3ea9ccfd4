"""The memory of a task is that of a batch of documents, not of its file."""

import json
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixray.data.reading import files
from mixray.data.reading import parts as parts_module
from mixray.data.reading.parts import list_pool
from mixray.data.text.documents import Document, read_documents
from mixray.data.text.scan import Scan, ScanTask
from mixray.store import Artifacts

LINE = "x" * 999 + "\n"


def texts(count: int) -> Iterator[str]:
    return (f"{number:08d} " + LINE * 20 for number in range(count))


def write_text(path: Path, count: int) -> None:
    with path.open("w") as sink:
        sink.writelines(texts(count))


def write_jsonl(path: Path, count: int) -> None:
    with path.open("w") as sink:
        sink.writelines(json.dumps({"text": text}) + "\n" for text in texts(count))


def write_parquet(path: Path, count: int) -> None:
    """One row group, however large, of pages of about 1 MB: those are read whole."""
    pq.write_table(
        pa.table({"text": list(texts(count))}), path, row_group_size=count, use_dictionary=False, write_batch_size=16
    )


WRITERS: dict[str, Callable[[Path, int], None]] = {"files": write_text, "jsonl": write_jsonl, "parquet": write_parquet}


@pytest.mark.parametrize("reader", WRITERS)
def test_scanning_ten_times_as_much_takes_no_more_memory(
    reader: str, tmp_path: Path, source: Any, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's memory (tracemalloc) and Arrow's at their highest, for one file of 6 MB and one of 60 MB; a first scan
    pays for what is imported on the way."""
    arrow, peaks = 0, []

    def watched(*arguments: Any) -> Iterator[Document]:
        nonlocal arrow
        for document in read_documents(*arguments):
            arrow = max(arrow, pa.total_allocated_bytes())
            yield document

    monkeypatch.setattr(parts_module, "PART_BYTES", 1 << 40)
    monkeypatch.setattr(files, "BLOCK_BYTES", 1 << 18)
    monkeypatch.setattr(sys.modules["mixray.data.text.scan"], "read_documents", watched)
    for count in (300, 300, 3000):
        arrow, held = 0, pa.total_allocated_bytes()
        WRITERS[reader](tmp_path / f"{count}", count)
        pool = source(**{reader: f"{tmp_path}/{count}"}, document_chars=20_010)
        (part,) = list_pool(pool).parts
        tracemalloc.start()
        counts = Scan.run(ScanTask(pool, part, 0, None, artifacts.draft("scan", str(count)))).counts
        peaks.append((tracemalloc.get_traced_memory()[1], arrow - held))
        tracemalloc.stop()
        assert counts["bytes"] == count * 20_009
    _, small, large = peaks
    assert large[0] < small[0] + 1e6
    assert large[1] < small[1] + 1e6
