"""The tokenizer: byte-level BPE learned from the sources, or one that exists, with its end-of-document token.

The artifact's files are a folder that ``transformers.AutoTokenizer`` loads. Its meta: ``end_of_document`` (token id),
``vocab_size`` (largest id + 1) and ``digest``, the identity of what it does.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixray.config.data import TokenizerConfig, TrainTokenizer
from mixray.data.reading.hub import snapshot
from mixray.data.tables import read_batches
from mixray.data.wording import said
from mixray.errors import InputError
from mixray.store import Artifact, Draft, FileRecord, Storage, fingerprint

KIND = "tokenizer"
END_OF_DOCUMENT = "<|endoftext|>"
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "config.json",
    "tokenizer.model",
    "spiece.model",
)
"""What a tokenizer's folder is made of; other files beside it (a model's weights) do not matter."""


@dataclass(frozen=True)
class TrainTask:
    samples: tuple[FileRecord, ...]
    vocab_size: int
    draft: Draft


@dataclass(frozen=True)
class TokenizerFiles:
    files: dict[str, FileRecord]
    meta: dict[str, Any]


def trained_id(settings: TrainTokenizer, seed: int, digests: Sequence[str]) -> str:
    """``digests``: of the sources it learns from. Their names and order do not matter."""
    numbers = {"vocab_size": settings.vocab_size, "sample_bytes": settings.sample_bytes, "seed": seed}
    return fingerprint({"tokenizer": 1, **numbers, "sources": sorted(digests)})


def train(task: TrainTask) -> TokenizerFiles:
    """Learn a byte-level BPE; the same on any number of cores, since counts alone decide and ties go by token id."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=task.vocab_size,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(task.draft.storage, task.samples), trainer)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_DOCUMENT}
    contents = {"tokenizer.json": tokenizer.to_str(pretty=True), "tokenizer_config.json": json.dumps(settings)}
    files = {name: task.draft.write(name, text.encode()) for name, text in contents.items()}
    end_of_document = tokenizer.token_to_id(END_OF_DOCUMENT)
    assert end_of_document is not None
    return TokenizerFiles(files, _meta(tokenizer, end_of_document))


def publish_trained(draft: Draft, tasks: Sequence[TrainTask], results: Sequence[TokenizerFiles]) -> Artifact:
    """Publish, and remove the sample it was learned from."""
    artifact = draft.publish(results[0].files, results[0].meta)
    for record in tasks[0].samples:
        draft.storage.delete(record.path)
    return artifact


def existing_folder(config: TokenizerConfig) -> Path:
    """The folder of a tokenizer that exists: as given, or the hub's files. Raises InputError if it is none."""
    if config.hub is not None:
        return snapshot(config.hub, "model", config.revision, FILES, "tokenizer.hub")
    assert config.path is not None
    folder = Path(config.path).expanduser().absolute()
    if not any((folder / name).is_file() for name in FILES if name != "config.json"):
        raise InputError(
            "a folder is not a tokenizer",
            where="tokenizer.path",
            got=str(folder) if folder.is_dir() else f"{folder} (no such folder)",
            wanted="a folder written by save_pretrained, with a tokenizer.json",
        )
    return folder


def existing_id(folder: Path) -> str:
    found = [name for name in FILES if (folder / name).is_file()]
    contents = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in found}
    return fingerprint({"tokenizer": 1, "files": contents})


def vocabulary(config: TokenizerConfig) -> int:
    """How many tokens a tokenizer knows, or will know. Raises InputError where it is none or cannot be looked up."""
    if config.train is not None:
        return config.train.vocab_size
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(str(existing_folder(config))))


def import_existing(folder: Path, draft: Draft, where: str) -> TokenizerFiles:
    """Load a folder with transformers and store what it loaded. Raises InputError if that is no use."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError("the tokenizer cannot be loaded", where=where, got=f"{folder} ({said(error)})") from error
    if not tokenizer.is_fast:
        raise InputError(
            "the tokenizer is not a fast one",
            where=where,
            got=type(tokenizer).__name__,
            wanted="one with a tokenizer.json",
        )
    if tokenizer.eos_token_id is None:
        raise InputError(
            "the tokenizer has no end-of-document token",
            where=where,
            got=f"{folder} without an eos_token",
            wanted="an eos_token in tokenizer_config.json: it stands between documents",
        )
    with tempfile.TemporaryDirectory(prefix="mixray-") as copy:
        tokenizer.save_pretrained(copy)
        files = draft.put_folder(Path(copy))
    return TokenizerFiles(files, _meta(tokenizer.backend_tokenizer, int(tokenizer.eos_token_id)))


def _meta(tokenizer: Any, end_of_document: int) -> dict[str, Any]:
    vocabulary: Mapping[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    content = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
    return {
        "end_of_document": end_of_document,
        "vocab_size": max(vocabulary.values()) + 1,
        "digest": fingerprint({"tokenizer.json": content, "end_of_document": end_of_document}),
    }


def _texts(storage: Storage, samples: Sequence[FileRecord]) -> Iterator[str]:
    for record in samples:
        for batch in read_batches(storage, record):
            yield from batch.column("text").to_pylist()
