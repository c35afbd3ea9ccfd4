"""Sources and the store on S3, through a real server on this machine."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from moto.server import ThreadedMotoServer

from mixray.data import Windows, check_inputs, prepare
from mixray.data.locations import find_files
from mixray.data.parts import list_pool
from mixray.errors import InputError
from mixray.store import Artifacts, Storage

TEXTS = {"a": [f"one {number}" for number in range(80)], "b": [f"two {number}" for number in range(80)]}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def options(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A bucket with the texts in every form; the options that a URI needs to reach it."""
    for name, value in {"ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="bucket")
    for name, texts in TEXTS.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
        pq.write_table(pa.table({"text": texts}), tmp_path / "t.parquet")
        objects = {
            f"jsonl/{name}.jsonl": lines,
            f"zst/deep/er/{name}.jsonl.zst": zstandard.compress(lines),
            f"gz/{name}.jsonl.gz": gzip.compress(lines),
            f"parquet/{name}.parquet": (tmp_path / "t.parquet").read_bytes(),
        }
        for key, body in objects.items():
            client.put_object(Bucket="bucket", Key=f"data/{key}", Body=body)
    client.put_object(Bucket="bucket", Key="data/text/with space+plus.txt", Body=b"abcdefghijklmnopqrstuvwxyz")
    client.close()
    return f"endpoint_override={endpoint}&scheme=http"


FORMS = [
    {"jsonl": "s3://bucket/data/jsonl/*.jsonl"},
    {"jsonl": "s3://bucket/data/zst/**/*.zst"},
    {"jsonl": "s3://bucket/*/gz/[ab].*.gz"},
    {"parquet": "s3://bucket/data/parquet/"},
]


def filled(form: dict[str, str], options: str) -> dict[str, str]:
    return {reader: f"{pattern}?{options}" for reader, pattern in form.items()}


def test_every_form_gives_the_same_tokens(options: str, artifacts: Artifacts, run_config: Any, mapper: Any) -> None:
    """One part a form, so the digest of all forms is one; listing, reading and the check all go to the server."""
    made = set()
    for form in FORMS:
        source = filled(form, options)
        goal = {"files": f"s3://bucket/data/text/*?{options}", "document_chars": 1}
        config = run_config({"code": source}, {"goal": goal})
        sizes = check_inputs(config)
        assert sizes["target goal"] == 26
        prepared = prepare(config, artifacts, mapper, lambda _: None)
        made.add(prepared.sources["code"].id)
        assert prepared.counts["source code"]["documents"] == 160
    assert len(made) == 1


def test_the_store_may_lie_there_too(options: str, run_config: Any, mapper: Any, tmp_path: Path) -> None:
    goal = {"files": f"s3://bucket/data/text/*?{options}", "document_chars": 1}
    config = run_config({"code": filled(FORMS[0], options)}, {"goal": goal})
    here = Artifacts(Storage(str(tmp_path / "store")), "attempt")
    there = Artifacts(Storage(f"s3://bucket/store?{options}"), "attempt")
    local, remote = (prepare(config, artifacts, mapper, lambda _: None) for artifacts in (here, there))
    assert remote == local
    windows = [Windows(each.storage, made.sources["code"]) for each, made in ((here, local), (there, remote))]
    everything = np.arange(len(windows[0]))
    assert (windows[0].read(everything) == windows[1].read(everything)).all()
    mapper.labels.clear()
    assert prepare(config, there, mapper, lambda _: None) == remote
    assert mapper.labels == []


def test_exclude_works_on_uris_and_on_ends_of_paths(options: str) -> None:
    pattern = f"s3://bucket/data/**?{options}"
    names = {file.path for file in find_files([pattern], [f"s3://bucket/data/parquet/**?{options}", "*.zst", "a.*"])}
    wanted = ["gz/b.jsonl.gz", "jsonl/b.jsonl", "text/with space+plus.txt"]
    assert names == {f"bucket/data/{name}" for name in wanted}


def test_an_error_names_the_place_without_its_options(options: str, source: Any) -> None:
    with pytest.raises(InputError) as caught:
        list_pool(source(parquet=f"s3://bucket/data/nothing/*.parquet?{options}"))
    assert "the source code has no files" in str(caught.value)
    assert "s3://bucket/data/nothing/*.parquet" in str(caught.value)
    assert "endpoint_override" not in str(caught.value)
