"""Training is a function of the sampled text alone; an existing tokenizer is used as it is, or refused."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mixray.config.data import TokenizerConfig
from mixray.data.prepare import prepare
from mixray.data.text.documents import Document
from mixray.data.text.tokenizer import (
    Encoder,
    LearnTokenizer,
    SampleTask,
    TrainTokenizerTask,
    existing_folder,
    import_tokenizer,
    write_sample,
)
from mixray.errors import InputError
from mixray.store import Artifact, Artifacts, FileRecord
from mixray.store.artifacts import fetch_folder
from mixray.store.tables import read_table, write_rows

WORDS = [f"{stem}{end}" for stem in ("walk", "talk", "jump", "über") for end in ("", "s", "ed", "ing")]
TEXTS = [" ".join(WORDS[number % 7 :: number % 3 + 1]) for number in range(60)]


def trained(artifacts: Artifacts, texts: list[str], vocab_size: int = 300) -> Artifact:
    draft = artifacts.draft("tokenizer", "trained")
    sample = write_rows(draft, "sample", pa.schema([("text", pa.string())]), ((text,) for text in texts))
    files, meta = LearnTokenizer.run(TrainTokenizerTask((sample,), vocab_size, draft))
    return draft.publish(files, asdict(meta))


def document(text: str) -> Document:
    return Document(text, b"", len(text), b"")


def encode(artifacts: Artifacts, tokenizer: Artifact, *texts: str) -> list[list[int]]:
    return [ids for _, ids in Encoder.of(artifacts.storage, tokenizer).encode(map(document, texts))]


def test_training_gives_a_folder_that_transformers_loads(artifacts: Artifacts, tmp_path: Path) -> None:
    artifact = trained(artifacts, TEXTS)
    folder = str(fetch_folder(artifacts.storage, artifact, tmp_path / "folder"))
    for loaded in (AutoTokenizer.from_pretrained(folder), PreTrainedTokenizerFast.from_pretrained(folder)):
        assert (loaded.eos_token_id, len(loaded)) == (artifact.meta["end_of_document"], artifact.meta["vocab_size"])
        (ids,) = encode(artifacts, artifact, "walking über\n 𝄞")
        assert loaded.decode(ids) == "walking über\n 𝄞"


def test_a_document_that_spells_the_end_of_document_does_not_end(artifacts: Artifacts) -> None:
    artifact = trained(artifacts, TEXTS)
    (ids,) = encode(artifacts, artifact, "a<|endoftext|>b")
    assert artifact.meta["end_of_document"] not in ids


def test_a_small_sample_gives_a_smaller_vocabulary(artifacts: Artifacts) -> None:
    assert trained(artifacts, ["a"], 4096).meta["vocab_size"] == 257


SCRIPT = """
import sys
from mixray.data.text.tokenizer import LearnTokenizer, TrainTokenizerTask
from mixray.store import Draft, FileRecord, Storage
storage = Storage(sys.argv[1])
draft = Draft(storage, "tokenizer", "x", "y")
record = FileRecord(sys.argv[2], storage.size(sys.argv[2]), storage.sha256(sys.argv[2]))
print(LearnTokenizer.run(TrainTokenizerTask((record,), 400, draft))[1].digest)
"""


def test_the_number_of_cores_does_not_matter(artifacts: Artifacts) -> None:
    trained(artifacts, TEXTS)
    sample = artifacts.draft("tokenizer", "trained").path("sample")
    runs = [{"RAYON_NUM_THREADS": "1"}, {"RAYON_NUM_THREADS": "5"}, {"TOKENIZERS_PARALLELISM": "false"}]
    command = [sys.executable, "-c", SCRIPT, artifacts.storage.uri, sample]
    digests = {subprocess.check_output(command, env=os.environ | environment) for environment in runs}
    assert len(digests) == 1


def folder_of(tmp_path: Path, eos: str | None = "</s>") -> Path:
    """A word-level tokenizer with gaps in its numbering, truncation and padding switched on."""
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "one": 1, "two": 7}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.enable_truncation(2)
    backend.enable_padding(length=5)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, unk_token="<unk>")
    tokenizer.save_pretrained(tmp_path / "words")
    return tmp_path / "words"


def test_an_existing_tokenizer_is_used_whole(artifacts: Artifacts, tmp_path: Path) -> None:
    artifact = import_tokenizer(TokenizerConfig(path=str(folder_of(tmp_path))), artifacts)
    assert (artifact.meta["end_of_document"], artifact.meta["vocab_size"]) == (3, 8)
    assert encode(artifacts, artifact, "one two one", "two </s>", "") == [[1, 7, 1], [7, 0, 0, 0], []]


def test_the_identity_of_an_existing_tokenizer_is_its_content(artifacts: Artifacts, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    config = TokenizerConfig(path=str(folder))
    id = import_tokenizer(config, artifacts).id
    (folder / "model.safetensors").write_bytes(b"weights")
    os.utime(folder / "tokenizer.json", (1, 1))
    assert import_tokenizer(config, artifacts).id == id
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "<unk>"}))
    assert import_tokenizer(config, artifacts).id != id


def test_a_folder_that_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for path, got in ((tmp_path, str(tmp_path)), (tmp_path / "none", "none (no such folder)")):
        with pytest.raises(InputError) as caught:
            existing_folder(TokenizerConfig(path=str(path)))
        assert "a folder is not a tokenizer\n  where: tokenizer.path\n" in str(caught.value)
        assert f"{got}\n  wanted: a folder written by save_pretrained" in str(caught.value)


def test_a_tokenizer_without_end_of_document(artifacts: Artifacts, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, eos=None)
    with pytest.raises(InputError, match=r"the tokenizer has no end-of-document token\n  where: tokenizer.path"):
        import_tokenizer(TokenizerConfig(path=str(folder)), artifacts)


def test_a_broken_tokenizer(artifacts: Artifacts, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"the tokenizer cannot be loaded\n  where: tokenizer.path"):
        import_tokenizer(TokenizerConfig(path=str(folder)), artifacts)


def test_a_tokenizer_of_the_hub_without_a_network() -> None:
    with pytest.raises(InputError, match=r"hub cannot be reached\n  where: tokenizer.hub\n  got: no/such"):
        existing_folder(TokenizerConfig(hub="no/such"))


def test_the_sample_takes_equal_bytes_of_every_source(
    artifacts: Artifacts, run_config: Any, write_jsonl: Any, mapper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source of many short documents and one of few long ones; the quota is overrun by less than a document."""
    sampled: list[list[str]] = []

    def spy(task: SampleTask) -> FileRecord:
        record = write_sample(task)
        sampled.append(read_table(task.draft.storage, record)["text"].to_pylist())
        return record

    monkeypatch.setattr(sys.modules["mixray.data.text.tokenizer"], "write_sample", spy)
    short = [f"short {number}" for number in range(2000)]
    long = [f"long {number} " + "x" * 500 for number in range(60)]
    sources = {name: {"jsonl": str(write_jsonl(f"{name}.jsonl", texts))} for name, texts in (("s", short), ("l", long))}
    goal = {"jsonl": str(write_jsonl("t.jsonl", ["a", "b", "c", "d", "e"]))}
    config = run_config(sources, {"goal": goal}, tokenizer={"train": {"vocab_size": 300, "sample_bytes": 6000}})
    prepare(config, artifacts, mapper, lambda _: None)
    sizes = sorted((min(map(len, texts)), sum(map(len, texts))) for texts in sampled)
    assert sizes[0][0] < 20 < sizes[1][0]
    assert all(3000 <= size < 3600 for _, size in sizes)
    assert sampled[0] != short[: len(sampled[0])]
