"""Text to token ids: batches of documents, no special tokens added, one thread (tasks are the parallelism)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mixray.data.text.documents import Document
from mixray.store import Artifact, FileRecord, Storage

BATCH_CHARS = 1 << 18


@dataclass(frozen=True)
class Encoder:
    """A tokenizer as tasks carry it: loaded once a process."""

    storage: Storage
    file: FileRecord
    digest: str
    end_of_document: int
    vocab_size: int

    @classmethod
    def of(cls, storage: Storage, tokenizer: Artifact) -> Encoder:
        meta = tokenizer.meta
        file = tokenizer.files["tokenizer.json"]
        return cls(storage, file, meta["digest"], meta["end_of_document"], meta["vocab_size"])

    def encode(self, documents: Iterable[Document]) -> Iterator[tuple[Document, list[int]]]:
        """Every document with its token ids, in order; memory holds one batch."""
        tokenizer = _load(self.storage.uri, self.file)
        for batch in _batches(documents):
            encodings = tokenizer.encode_batch_fast([document.text for document in batch], add_special_tokens=False)
            for document, encoding in zip(batch, encodings, strict=True):
                yield document, encoding.ids


@lru_cache(maxsize=2)
def _load(storage_uri: str, file: FileRecord) -> Any:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(Storage(storage_uri).read(file.path).decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # a document that spells out <|endoftext|> does not end there
    return tokenizer


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    chars = 0
    for document in documents:
        batch.append(document)
        chars += len(document.text)
        if chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch
