"""What is found by looking, before anything starts: errors where a run would fail, warnings where it might."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pyarrow.fs import FileSystem

from mixray.data import InputCheck, check_inputs
from mixray.data.reading import files
from mixray.errors import InputError

WriteJsonl = Callable[..., Path]
LINES = [json.dumps({"text": f"line {number} of a document about nothing"}).encode() for number in range(25_000)]
"""1.3 MB of JSON lines, more than is read whole."""


def codes(check: InputCheck) -> set[str]:
    return {warning.code for warning in check.warnings}


@pytest.fixture
def goal(write_jsonl: WriteJsonl) -> dict[str, Any]:
    return {"jsonl": str(write_jsonl("goal.jsonl", [f"goal {number}" for number in range(20)]))}


def test_a_pretrained_model_beside_a_tokenizer_that_is_trained_here(run_config: Any, goal: dict[str, Any]) -> None:
    """Its weights know other tokens by the same numbers."""
    source = {"code": {"jsonl": goal["jsonl"].replace("goal", "code")}}
    Path(source["code"]["jsonl"]).write_bytes(b"\n".join(LINES[:50]))
    models = {"proxy": {"model": {"pretrained": "some/model"}, "tokens": 10_000}}
    (warning,) = check_inputs(run_config(source, {"goal": goal}, **models)).warnings
    assert warning.code == "foreign_tokenizer"
    assert warning.message.startswith("proxy.model continues some/model")
    assert codes(check_inputs(run_config(source, {"goal": goal}))) == set()


# ---------------------------------------------------------------------------------------------------- sizes and errors


def test_sizes(run_config: Any, goal: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"word " * 100)
    (tmp_path / "b.txt").write_bytes(b"\xff" * 4)
    check = check_inputs(run_config({"text": {"files": f"{tmp_path}/*.txt"}}, {"goal": goal}))
    assert check.stored_bytes == {"source text": 504, "target goal": Path(goal["jsonl"]).stat().st_size}
    assert check.bytes_per_token["source text"] * (check.tokens["source text"] or 0) == pytest.approx(500, rel=0.05)
    assert check.warnings == []


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "files"])
def test_a_large_pools_tokens_are_estimated_from_a_sample(
    kind: str, run_config: Any, goal: dict[str, Any], tmp_path: Path
) -> None:
    texts = [json.loads(line)["text"] for line in LINES]
    text_bytes = sum(map(len, texts))
    if kind == "parquet":
        pq.write_table(pa.table({"text": texts, "other": texts}), tmp_path / "a.parquet", use_dictionary=False)
        pool = {"parquet": f"{tmp_path}/a.parquet"}
    elif kind == "files":
        for number in range(4):
            (tmp_path / f"{number}.txt").write_text("\n".join(texts[number::4]))
        pool = {"files": f"{tmp_path}/*.txt"}
    else:
        data = b"\n".join(LINES)
        # Compressed, a megabyte is more than the sample only where several files hold it.
        for number in range(8 if kind == "jsonl.gz" else 1):
            (tmp_path / f"{number}.{kind}").write_bytes(gzip.compress(data) if kind == "jsonl.gz" else data)
        pool = {"jsonl": f"{tmp_path}/*.{kind}"}
        text_bytes *= 8 if kind == "jsonl.gz" else 1
    check = check_inputs(run_config({"code": pool}, {"goal": goal}))
    estimate = (check.tokens["source code"] or 0) * check.bytes_per_token["source code"]
    assert estimate == pytest.approx(text_bytes, rel=0.5 if kind == "jsonl.gz" else 0.1)


def test_lines_longer_than_the_sample_do_not_mislead_the_estimate(
    run_config: Any, goal: dict[str, Any], tmp_path: Path
) -> None:
    text = "words of a long line " * 20_000
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for _ in range(20)))
    check = check_inputs(run_config({"code": {"jsonl": f"{tmp_path}/a.jsonl"}}, {"goal": goal}))
    estimate = (check.tokens["source code"] or 0) * check.bytes_per_token["source code"]
    assert estimate == pytest.approx(20 * len(text), rel=0.5)


def test_pools_in_object_storage_are_sampled_too(run_config: Any, goal: dict[str, Any], s3_uri: str) -> None:
    location, _, options = s3_uri.partition("?")
    filesystem, folder = FileSystem.from_uri(s3_uri)
    for name, lines in (("good", LINES), ("bad", [*LINES, b"broken"])):
        with filesystem.open_output_stream(f"{folder}/{name}.jsonl") as sink:
            sink.write(b"\n".join(lines))
    pools = {name: {"jsonl": f"{location}/{name}.jsonl?{options}"} for name in ("good", "bad")}
    assert check_inputs(run_config({"code": pools["good"]}, {"goal": goal})).warnings == []
    with pytest.raises(InputError, match=r"bad\.jsonl, line 25001"):
        check_inputs(run_config({"code": pools["bad"]}, {"goal": goal}))
    with pytest.raises(InputError, match="holds nothing but documents of the target"):
        check_inputs(run_config({"code": pools["good"]}, {"goal": pools["good"]}))


def test_one_error_is_itself_and_several_come_together(
    run_config: Any, write_jsonl: WriteJsonl, goal: dict[str, Any], tmp_path: Path
) -> None:
    good = {"jsonl": str(write_jsonl("a.jsonl", ["a"]))}
    wrong = {"files": f"{tmp_path}/nothing/*"}
    with pytest.raises(InputError) as one:
        check_inputs(run_config({"wrong": wrong, "good": good}, {"goal": goal}))
    assert str(one.value).startswith("the source wrong has no files\n  where: sources.wrong.files\n")
    with pytest.raises(InputError) as several:
        check_inputs(
            run_config(
                {"wrong": wrong, "good": good},
                {"goal": {**goal, "text": "body"}, "package": {"files": "{package:nosuchpackage}/*.py"}},
                tokenizer={"path": str(tmp_path / "nothing")},
            )
        )
    message = str(several.value)
    assert message.startswith("4 inputs are wrong\n\n")
    for part in ("the source wrong has no files", "where: targets.goal.text", "is not installed", "is not a tokenizer"):
        assert part in message
    assert "where: targets.package.files" in message


# ----------------------------------------------------------------------------------------------------- malformed lines


def test_a_small_file_is_read_whole(run_config: Any, goal: dict[str, Any], tmp_path: Path) -> None:
    pool = {"jsonl": f"{tmp_path}/a.jsonl"}
    config = run_config({"code": pool}, {"goal": goal})
    (tmp_path / "a.jsonl").write_bytes(b'\n{"text": "fine"}\n\xff\n')
    assert check_inputs(config).stored_bytes["source code"] == 20
    for content, what, got in (
        (b'\n{"text": "fine"}\nbroken\n', "a line is not a JSON object", "a.jsonl, line 3"),
        (b'\n\xff\n{"body": ""}\n', "a column is missing", "a.jsonl, line 3 has the columns body"),
        (b'{"text": "fine"}\n{"text": "cut', "a line is not a JSON object", "a.jsonl, line 2"),
    ):
        (tmp_path / "a.jsonl").write_bytes(content)
        with pytest.raises(InputError) as caught:
            check_inputs(config)
        assert caught.value.what == what
        assert got in str(caught.value.got)


@pytest.mark.parametrize(
    ("line", "is_sampled"),
    [(0, True), (12_550, True), (24_999, True), (6_000, False)],
    ids=["beginning", "middle", "end", "between"],
)
def test_a_broken_line_of_a_large_file(
    line: int, is_sampled: bool, run_config: Any, goal: dict[str, Any], tmp_path: Path
) -> None:
    lines = [*LINES[:line], LINES[line][:20], *LINES[line + 1 :]]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(LINES))
    (tmp_path / "b.jsonl").write_bytes(b"\n".join(lines))
    config = run_config({"code": {"jsonl": f"{tmp_path}/?.jsonl"}}, {"goal": goal})
    if not is_sampled:
        assert check_inputs(config).warnings == []
        return
    with pytest.raises(InputError, match=f"b.jsonl, line {line + 1}"):
        check_inputs(config)


def test_a_line_far_into_a_file_is_named_by_its_byte(
    run_config: Any, goal: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "COUNTED_BYTES", 1000)
    (tmp_path / "a.jsonl").write_bytes(b"x" * 1000 + b"\n")
    config = run_config({"code": {"jsonl": f"{tmp_path}/a.jsonl"}}, {"goal": goal})
    with pytest.raises(InputError, match=r"a\.jsonl, line 1:"):
        check_inputs(config)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' * 100 + b"x")
    with pytest.raises(InputError, match=r"a\.jsonl, byte 1,400:"):
        check_inputs(config)


def test_a_column_of_where_that_is_missing_is_named(run_config: Any, goal: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"a column is missing\n  where: sources\.code\.where"):
        check_inputs(run_config({"code": {**goal, "where": {"kind": "x"}}}, {"goal": goal}))


def test_a_last_line_longer_than_the_sample_is_read(run_config: Any, goal: dict[str, Any], tmp_path: Path) -> None:
    long = json.dumps({"text": "x" * 300_000}).encode()
    config = run_config({"code": {"jsonl": f"{tmp_path}/a.jsonl"}}, {"goal": goal})
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*LINES, long]))
    assert check_inputs(config).warnings == []
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*LINES, long[:-2]]))
    with pytest.raises(InputError, match=r"a\.jsonl, line 25001"):
        check_inputs(config)


def test_of_a_compressed_file_the_beginning_is_read(run_config: Any, goal: dict[str, Any], tmp_path: Path) -> None:
    config = run_config({"code": {"jsonl": f"{tmp_path}/*.gz"}}, {"goal": goal})
    for number in range(8):
        (tmp_path / f"{number}.jsonl.gz").write_bytes(gzip.compress(b"\n".join([*LINES, b"broken"]), compresslevel=1))
    assert check_inputs(config).warnings == []
    (tmp_path / "5.jsonl.gz").write_bytes(gzip.compress(b"\n".join([LINES[0], b"broken", *LINES]), compresslevel=1))
    with pytest.raises(InputError, match=r"5.jsonl.gz, line 2"):
        check_inputs(config)


def test_what_max_tokens_may_leave_unread_is_a_warning(run_config: Any, goal: dict[str, Any], tmp_path: Path) -> None:
    pool = {"jsonl": f"{tmp_path}/a.jsonl", "max_tokens": 100}
    config = run_config({"code": pool}, {"goal": goal})
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*LINES, b"broken"]))
    (warning,) = (each for each in check_inputs(config).warnings if each.code == "malformed_text")
    assert "a.jsonl, line 25001" in warning.message
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([b"broken", *LINES]))
    with pytest.raises(InputError, match=r"a\.jsonl, line 1"):
        check_inputs(config)


# ---------------------------------------------------------------------------------------- empty pools, single documents


@pytest.mark.parametrize("role", ["source", "target"])
@pytest.mark.parametrize("kind", ["files", "jsonl", "where", "parquet", "blank"])
def test_a_pool_without_documents_is_refused(
    role: str, kind: str, run_config: Any, goal: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "e.txt").write_bytes(b"")
    (tmp_path / "e.jsonl").write_bytes(b"\n\n")
    (tmp_path / "w.jsonl").write_bytes(b'{"text": "a", "kind": "other"}\n')
    (tmp_path / "b.jsonl").write_bytes(b'{"text": " "}\n{"text": null}\n')
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "e.parquet")
    pool = {
        "files": {"files": f"{tmp_path}/e.txt"},
        "jsonl": {"jsonl": f"{tmp_path}/e.jsonl"},
        "where": {"jsonl": f"{tmp_path}/w.jsonl", "where": {"kind": "this"}},
        "parquet": {"parquet": f"{tmp_path}/e.parquet"},
        "blank": {"jsonl": f"{tmp_path}/b.jsonl"},
    }[kind]
    (tmp_path / "full.txt").write_text("words")
    full = {"files": f"{tmp_path}/full.txt"}
    config = run_config({"one": pool if role == "source" else full}, {"goal": pool if role == "target" else goal})
    with pytest.raises(InputError, match="has no documents left") as caught:
        check_inputs(config)
    assert str(caught.value.where).startswith(f"{role}s.")


def test_a_large_pool_whose_sample_is_filtered_out_is_warned_of(
    run_config: Any, goal: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "", "kind": "y"}\n' + b"\n".join(LINES))
    check = check_inputs(run_config({"code": {"jsonl": f"{tmp_path}/a.jsonl", "where": {"kind": "x"}}}, {"goal": goal}))
    assert codes(check) == {"no_documents_in_sample"}


@pytest.mark.parametrize(
    ("texts", "settings", "is_refused"),
    [
        (["one document"], {}, True),
        (["the same", "the same"], {}, True),
        (["one document"], {"document_chars": 1}, True),
        ([f"document {number}" for number in range(20)], {}, False),
        ([f"document {number}" for number in range(20)], {"held_out": 1e-9}, True),
    ],
)
def test_a_target_that_cannot_be_split_is_refused(
    texts: list[str],
    settings: dict[str, Any],
    is_refused: bool,
    run_config: Any,
    write_jsonl: WriteJsonl,
    tmp_path: Path,
) -> None:
    (tmp_path / "source.txt").write_text("a source")
    target = {"jsonl": str(write_jsonl("t.jsonl", texts)), **settings}
    config = run_config({"code": {"files": f"{tmp_path}/source.txt"}}, {"goal": target})
    if not is_refused:
        assert check_inputs(config).warnings == []
        return
    with pytest.raises(InputError, match="the target goal is too small to split"):
        check_inputs(config)


def test_a_local_data_set_is_looked_into(run_config: Any, tmp_path: Path) -> None:
    import datasets

    (tmp_path / "source.txt").write_text("a source")
    source = {"files": f"{tmp_path}/source.txt"}
    for name, texts in (("one", ["a document"]), ("many", [f"document {number}" for number in range(20)])):
        datasets.Dataset.from_dict({"text": texts}).save_to_disk(tmp_path / name)
    assert check_inputs(run_config({"code": source}, {"goal": {"dataset": f"{tmp_path}/many"}})).warnings == []
    with pytest.raises(InputError, match="the target goal is too small to split"):
        check_inputs(run_config({"code": source}, {"goal": {"dataset": f"{tmp_path}/one"}}))


# ----------------------------------------------------------------------------------------- a source that is a target


@pytest.mark.parametrize("settings", [{}, {"document_chars": 3}])
@pytest.mark.parametrize(
    "spelling", ["{folder}/a.jsonl", "{folder}/sub/../a.jsonl", "{folder}/link.jsonl", "file://{folder}/a.*"]
)
def test_the_file_of_a_target_cannot_be_a_source(
    spelling: str, settings: dict[str, Any], run_config: Any, write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    path = write_jsonl("a.jsonl", [f"document {number}" for number in range(20)])
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.jsonl").symlink_to(path)
    source = {"jsonl": spelling.format(folder=tmp_path), **settings}
    with pytest.raises(InputError, match="holds nothing but documents of the target goal") as caught:
        check_inputs(run_config({"code": source}, {"goal": {"jsonl": str(path)}}))
    assert caught.value.where == "sources.code.jsonl"
    assert "also in targets.goal.jsonl" in str(caught.value.got)


@pytest.mark.parametrize(
    ("settings", "warns"),
    [
        ({"jsonl": "{folder}/*.jsonl"}, True),
        ({"jsonl": "{folder}/a.jsonl", "text": "{text}!"}, True),
        ({"jsonl": "{folder}/copy.jsonl"}, False),
        ({"jsonl": "{folder}/*.jsonl", "exclude": ["a.jsonl"]}, False),
    ],
)
def test_a_source_that_shares_files_with_a_target_is_warned_of(
    settings: dict[str, Any], warns: bool, run_config: Any, write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    texts = [f"document {number}" for number in range(20)]
    path = write_jsonl("a.jsonl", texts)
    write_jsonl("copy.jsonl", texts)
    settings["jsonl"] = settings["jsonl"].format(folder=tmp_path)
    check = check_inputs(run_config({"code": settings}, {"goal": {"jsonl": str(path)}}))
    assert codes(check) == ({"source_is_target"} if warns else set())


def test_rows_that_where_tells_apart_are_no_shared_rows(run_config: Any, tmp_path: Path) -> None:
    rows = [{"text": f"document {number}", "part": "train" if number % 2 else "dev"} for number in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pool = {"jsonl": f"{tmp_path}/a.jsonl"}
    config = run_config({"code": {**pool, "where": {"part": "train"}}}, {"goal": {**pool, "where": {"part": "dev"}}})
    assert check_inputs(config).warnings == []


# ------------------------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def hub() -> Iterator[str]:
    """The address of a hub that has no repository at all."""

    class Nothing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Nothing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def plan_with_hub(folder: Path, hub: str, config: Any) -> subprocess.CompletedProcess[str]:
    """The command ``mixray plan`` in a process whose hub is at an address."""
    (folder / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    command = [sys.executable, "-m", "mixray.cli", "plan", str(folder / "run.yaml")]
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hub")}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


@pytest.mark.parametrize("revision", [None, "0123456789" * 4])
def test_a_name_that_the_hub_does_not_have_is_refused(
    revision: str | None, hub: str, run_config: Any, goal: dict[str, Any], tmp_path: Path
) -> None:
    config = run_config({"code": {"dataset": "no/such-data", "revision": revision}}, {"goal": goal})
    done = plan_with_hub(tmp_path, hub, config)
    assert done.returncode == 2, done.stderr
    assert "the dataset is not found on the Hugging Face hub\n  where: sources.code.dataset" in done.stderr


def test_a_tokenizer_that_the_hub_does_not_have_is_refused(
    hub: str, run_config: Any, goal: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "source.txt").write_text("a source")
    source = {"files": f"{tmp_path}/source.txt"}
    model = {"architecture": "gpt_neox", "vocab_size": 300}  # so that nothing else asks for the tokenizer
    sections = {section: {"model": model, "tokens": 10_000} for section in ("proxy", "retrain")}
    done = plan_with_hub(
        tmp_path, hub, run_config({"code": source}, {"goal": goal}, tokenizer={"hub": "no/such"}, **sections)
    )
    assert done.returncode == 2, done.stderr
    assert "the model is not found on the Hugging Face hub\n  where: tokenizer.hub" in done.stderr


def test_a_hub_that_cannot_be_reached_is_said_to_be_unchecked(run_config: Any, goal: dict[str, Any]) -> None:
    model = {"architecture": "gpt_neox", "vocab_size": 300}
    config = run_config(
        {"code": {"dataset": "no/such-data", "max_tokens": 20_000}},
        {"goal": goal},
        tokenizer={"hub": "no/such-tokenizer"},
        proxy={"model": model, "tokens": 10_000},
        retrain={"model": model, "tokens": 10_000},
    )
    (warning,) = check_inputs(config).warnings
    assert warning.code == "hub_not_checked"
    assert "not checked: no/such-data, the tokenizer no/such-tokenizer" in warning.message
