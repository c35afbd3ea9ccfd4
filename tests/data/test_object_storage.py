"""Sources and the store on S3, through a real server on this machine."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from mixray.config.schema import RunConfig
from mixray.data import Windows, check_inputs, open_rows, prepare
from mixray.data.reading.locations import find_files
from mixray.data.reading.parts import list_pool
from mixray.errors import InputError
from mixray.store import Artifacts, Storage

TEXTS = {"a": [f"one {number}" for number in range(80)], "b": [f"two {number}" for number in range(80)]}
FORMS = [
    {"jsonl": "plain/*.jsonl"},
    {"jsonl": "zst/**/*.zst"},
    {"jsonl": "*/deep/er/[ab].*.zst"},
    {"jsonl": "gz/*"},
    {"parquet": "parquet/"},
]


class Bucket:
    """A place on the server with the texts in every form."""

    def __init__(self, uri: str, scratch: Path) -> None:
        self.base, _, self.options = uri.partition("?")
        storage = Storage(uri)
        for name, texts in TEXTS.items():
            lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
            pq.write_table(pa.table({"text": texts}), scratch / "table")
            storage.write(f"plain/{name}.jsonl", lines)
            storage.write(f"zst/deep/er/{name}.jsonl.zst", zstandard.compress(lines))
            storage.write(f"gz/{name}.jsonl.gz", gzip.compress(lines))
            storage.write(f"parquet/{name}.parquet", (scratch / "table").read_bytes())
        letters = b"abcdefghijklmnopqrstuvwxyz"  # the one is in the part that is held out, the other is not
        storage.write("text/with space+plus.txt", letters[:1])
        storage.write("text/more.txt", letters[1:])

    def uri(self, pattern: str) -> str:
        return f"{self.base}/{pattern}?{self.options}"

    def pools(self, form: dict[str, str]) -> list[dict[str, Any]]:
        """The arguments of ``run_config``: one source in this form, and letters as the target."""
        source = {reader: self.uri(pattern) for reader, pattern in form.items()}
        return [{"code": source}, {"goal": {"files": self.uri("text/*")}}]


@pytest.fixture
def bucket(s3_uri: str, tmp_path: Path) -> Bucket:
    return Bucket(s3_uri, tmp_path)


def test_every_form_gives_the_same_tokens(bucket: Bucket, artifacts: Artifacts, run_config: Any, mapper: Any) -> None:
    """One part a form, so the digest of all forms is one; listing, reading and the check all go to the server."""
    made = set()
    for form in FORMS:
        config = run_config(*bucket.pools(form))
        assert check_inputs(config).stored_bytes["target goal"] == 26
        prepared = prepare(config, artifacts, mapper, lambda _: None)
        assert prepared.counts["source code"]["documents"] == 160
        made.add(prepared.sources["code"].id)
    assert len(made) == 1


def test_the_store_may_lie_there_too(bucket: Bucket, run_config: Any, mapper: Any, tmp_path: Path) -> None:
    config = run_config(*bucket.pools(FORMS[0]))
    here, there = (Artifacts(Storage(uri), "attempt") for uri in (str(tmp_path / "store"), bucket.uri("store")))
    local, remote = (prepare(config, artifacts, mapper, lambda _: None) for artifacts in (here, there))
    assert remote == local
    windows = [Windows(each.storage, made.sources["code"]) for each, made in ((here, local), (there, remote))]
    everything = np.arange(len(windows[0]))
    assert (windows[0].read(everything) == windows[1].read(everything)).all()
    mapper.labels.clear()
    assert prepare(config, there, mapper, lambda _: None) == remote
    assert mapper.labels == []


def test_exclude_works_on_uris_and_on_ends_of_paths(bucket: Bucket) -> None:
    files = find_files([bucket.uri("**")], [bucket.uri("parquet/**"), "*.zst", "a.*"])
    wanted = ["gz/b.jsonl.gz", "plain/b.jsonl", "text/more.txt", "text/with space+plus.txt"]
    assert [file.location for file in files] == [f"{bucket.base}/{name}" for name in wanted]


def test_an_error_names_the_place_without_its_options(bucket: Bucket, source: Any) -> None:
    with pytest.raises(InputError) as caught:
        list_pool(source(parquet=bucket.uri("nothing/*.parquet")))
    assert "the source code has no files\n  where: sources.code.parquet\n" in str(caught.value)
    assert f"\n  got: {bucket.base}/nothing/*.parquet\n" in str(caught.value)


def test_tabular_examples_lie_there_like_anything_else(bucket: Bucket, mapper: Any, tmp_path: Path) -> None:
    """In a folder of Parquet and in compressed CSV; the store too."""
    storage, rows = Storage(bucket.uri("")), range(40)
    pq.write_table(pa.table({"x": [row * 0.5 for row in rows], "y": [row % 3 for row in rows]}), tmp_path / "table")
    lines = "".join(f"{row * 0.5},{row % 3}\n" for row in rows)
    storage.write("tables/a.parquet", (tmp_path / "table").read_bytes())
    storage.write("rows.csv.gz", gzip.compress(f"x,y\n{lines}".encode()))
    training = {"model": {"head": "linear"}, "tokens": 40}
    config = RunConfig.model_validate(
        {
            "name": "test",
            "examples": {"numeric": ["x"], "label": "y"},
            "sources": {"a": {"parquet": bucket.uri("tables/")}, "b": {"csv": bucket.uri("rows.csv.gz")}},
            "targets": {"goal": {"csv": bucket.uri("rows.csv.gz")}},
            "proxy": {"kind": "classifier", **training},
            "retrain": training,
        }
    )
    prepared = prepare(config, Artifacts(Storage(bucket.uri("store")), "attempt"), mapper, lambda _: None)
    assert prepared.sources["a"] == prepared.sources["b"]
    records = open_rows(Storage(bucket.uri("store")), prepared.sources["a"]).read(np.arange(40))
    assert records["label"].tolist() == [row % 3 for row in rows]
