"""The tokenizer: byte-level BPE that is trained on a sample of the sources, or one that exists already.

The artifact's files are a folder that ``transformers.AutoTokenizer`` loads; its meta is TokenizerMeta.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixray.config.data import TokenizerConfig, TrainTokenizer
from mixray.data.pools import Pool
from mixray.data.reading.hugging_face import snapshot
from mixray.data.reading.parts import Listing, Part
from mixray.data.reading.row_texts import Example
from mixray.data.text.chat import ASSISTANT, earlier_answers, in_chat_template, require_separable, shared_start
from mixray.data.text.deduplicate import first_words, read_selected, selected_part
from mixray.data.text.documents import Document
from mixray.errors import InputError, first_line
from mixray.store import Artifact, Artifacts, Draft, FileRecord, RunTasks, Step, Storage, fingerprint
from mixray.store.artifacts import fetch_folder, read_artifact
from mixray.store.tables import read_batches, read_table, write_rows
from mixray.store.target_parts import hash_bytes

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
"""The files of a tokenizer's folder. Other files beside them, such as a model's weights, are ignored."""
CHAT_TEMPLATE = "chat_template.jinja"
"""The file of a tokenizer's chat template, where it is not in its configuration."""
SAMPLE_SCHEMA = pa.schema([("text", pa.string())])
BATCH_CHARS = 1 << 18


@dataclass(frozen=True)
class TokenizerMeta:
    """``end_of_document``: a token id. ``vocab_size``: the largest id + 1. ``digest`` identifies what it does."""

    end_of_document: int
    vocab_size: int
    digest: str


@dataclass(frozen=True)
class TrainTokenizerTask:
    """Train a tokenizer with at most ``vocab_size`` tokens on tables of sampled texts."""

    samples: tuple[FileRecord, ...]
    vocab_size: int
    draft: Draft


@dataclass(frozen=True)
class LearnTokenizer(Step[TrainTokenizerTask, tuple[dict[str, FileRecord], TokenizerMeta]]):
    """A byte-level BPE learned from a sample of the sources.

    ``sources``: the listing and the selection of each. Their names and order do not matter. ``run_tasks`` draws the
    samples, one task a source, each of an equal share of ``settings.sample_bytes``.
    """

    kind = KIND
    settings: TrainTokenizer
    seed: int
    sources: tuple[tuple[Listing, Artifact], ...]
    run_tasks: RunTasks

    @property
    def id(self) -> str:
        numbers = {"vocab_size": self.settings.vocab_size, "sample_bytes": self.settings.sample_bytes}
        digests = sorted(str(selection.meta["digest"]) for _, selection in self.sources)
        return fingerprint({"tokenizer": 1, **numbers, "seed": self.seed, "sources": digests})

    def tasks(self, draft: Draft) -> list[TrainTokenizerTask]:
        quota = max(1, self.settings.sample_bytes // len(self.sources))
        sources = sorted(self.sources, key=lambda source: str(source[1].meta["digest"]))
        samples = [
            SampleTask(listing.pool, tuple(listing.parts), selection, quota, self.seed, draft, _sample_name(index))
            for index, (listing, selection) in enumerate(sources)
        ]
        tables = tuple(self.run_tasks(write_sample, samples, "sample"))
        return [TrainTokenizerTask(tables, self.settings.vocab_size, draft)]

    @staticmethod
    def run(task: TrainTokenizerTask) -> tuple[dict[str, FileRecord], TokenizerMeta]:
        """Train, and return the files and the meta.

        The result is the same on any number of cores: counts alone decide, and ties go by token id.
        """
        tokenizer = train_bpe(_sampled_texts(task.draft.storage, task.samples), task.vocab_size)
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_DOCUMENT}
        contents = {"tokenizer.json": tokenizer.to_str(pretty=True), "tokenizer_config.json": json.dumps(settings)}
        files = {name: task.draft.write(name, text.encode()) for name, text in contents.items()}
        end_of_document = tokenizer.token_to_id(END_OF_DOCUMENT)
        assert end_of_document is not None
        return files, _meta(tokenizer, end_of_document)

    def publish(self, draft: Draft, results: Sequence[tuple[dict[str, FileRecord], TokenizerMeta]]) -> Artifact:
        ((files, meta),) = results
        for index in range(len(self.sources)):
            draft.storage.delete(draft.path(_sample_name(index)))
        return draft.publish(files, asdict(meta))


def train_bpe(texts: Iterable[str], vocab_size: int) -> Any:
    """Return a ``tokenizers.Tokenizer``, a byte-level BPE of at most ``vocab_size`` tokens learned from texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def import_tokenizer(
    config: TokenizerConfig, artifacts: Artifacts, *, chat_pools: Sequence[Pool] = (), attention: str | None = None
) -> Artifact:
    """Store a tokenizer that exists, unless the store holds it. The folder may be on this machine alone: no tasks.

    ``chat_pools``: those that use its chat template, which is then part of its identity; ``attention``: see
    ``require_chat_template``. Raises InputError if there is no tokenizer, or it is of no use.
    """
    folder = existing_folder(config)
    require_chat_template(config, chat_pools, attention)
    id = _existing_id(folder, with_chat=bool(chat_pools))
    stored = artifacts.find(KIND, id)
    if stored is not None:
        return stored
    draft = artifacts.draft(KIND, id)
    tokenizer = load_existing(folder, _key(config))
    with tempfile.TemporaryDirectory(prefix="mixray-") as copy:
        tokenizer.save_pretrained(copy)
        files = draft.put_folder(Path(copy))
    return draft.publish(files, asdict(_meta(tokenizer.backend_tokenizer, int(tokenizer.eos_token_id))))


def _key(config: TokenizerConfig) -> str:
    return "tokenizer.hub" if config.hub else "tokenizer.path"


def _existing_id(folder: Path, *, with_chat: bool) -> str:
    names = [name for name in (*FILES, CHAT_TEMPLATE) if (folder / name).is_file()]
    contents = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    template = contents.pop(CHAT_TEMPLATE, None)
    chat = {"chat_template": template} if with_chat else {}
    return fingerprint({"tokenizer": 1, "files": contents, **chat})


def require_chat_template(config: TokenizerConfig, pools: Sequence[Pool], attention: str | None = None) -> None:
    """Raise InputError where pools use the tokenizer's chat template and it has none, or one that is of no use.

    ``attention``: the key of the run file that keeps the documents of a training window apart; None where none does.
    """
    if not pools or config.train is not None:
        return
    folder = existing_folder(config)
    tokenizer = load_existing(folder, _key(config))
    if not tokenizer.chat_template:
        raise InputError(
            "the tokenizer has no chat template",
            where=pools[0].key("chat_template"),
            got=f"{config.hub or folder} without a chat_template",
            wanted=f"a {CHAT_TEMPLATE}, or a chat_template in tokenizer_config.json",
            remedy="take the tokenizer of a chat model, or leave chat_template out and write the words between in "
            "'prompt' and 'completion'",
        )
    for pool in pools:
        if attention is not None and pool.role == "source":
            several, where = pool.config.messages is not None, pool.key("chat_template")
            require_separable(tokenizer, several_turns=several, where=where, attention=attention)


def load_existing(folder: Path, key: str) -> Any:
    """Load a folder with transformers. ``key``: the dotted key of the run file that names it."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError("the tokenizer cannot be loaded", where=key, got=f"{folder} ({first_line(error)})") from error
    if not tokenizer.is_fast:
        raise InputError(
            "the tokenizer is not a fast one",
            where=key,
            got=type(tokenizer).__name__,
            wanted="one with a tokenizer.json",
        )
    if tokenizer.eos_token_id is None:
        raise InputError(
            "the tokenizer has no end-of-document token",
            where=key,
            got=f"{folder} without an eos_token",
            wanted="an eos_token in tokenizer_config.json: it stands between documents",
        )
    return tokenizer


def existing_folder(config: TokenizerConfig) -> Path:
    """Return the folder of a tokenizer that exists. One on the hub is downloaded.

    Raises InputError if the folder does not hold a tokenizer.
    """
    if config.hub is not None:
        return snapshot(config.hub, "model", config.revision, (*FILES, CHAT_TEMPLATE), "tokenizer.hub")
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


def vocabulary(config: TokenizerConfig) -> int:
    """Return how many tokens a tokenizer has, or will have once it is trained.

    Raises InputError where there is no tokenizer, or the hub cannot be asked.
    """
    if config.train is not None:
        return config.train.vocab_size
    return len(load_existing(existing_folder(config), _key(config)))


def _meta(tokenizer: Any, end_of_document: int) -> TokenizerMeta:
    vocabulary: Mapping[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    content = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
    digest = fingerprint({"tokenizer.json": content, "end_of_document": end_of_document})
    return TokenizerMeta(end_of_document, max(vocabulary.values()) + 1, digest)


# ------------------------------------------------------------------------------------------------------- the sample


@dataclass(frozen=True)
class SampleTask:
    """Sample a source's documents. ``quota``: bytes of text; the document that reaches it is the last one."""

    pool: Pool
    parts: tuple[Part, ...]
    selection: Artifact
    quota: int
    seed: int
    draft: Draft
    name: str


def write_sample(task: SampleTask) -> FileRecord:
    """Write the sampled texts as one table, in the order of the source.

    The sample takes documents in the order of a keyed hash until the quota is full.
    """
    positions = _sampled_positions(task)
    texts = chain.from_iterable(_texts_at(task, index, positions[index]) for index in sorted(positions))
    return write_rows(task.draft, task.name, SAMPLE_SCHEMA, ((text,) for text in texts))


def _sampled_positions(task: SampleTask) -> dict[int, set[int]]:
    """Return, by part, which of its selected documents to take. Memory: about 40 bytes a document of the source."""
    ranks: list[NDArray[np.uint64]] = []
    sizes: list[NDArray[np.int64]] = []
    for index in range(len(task.parts)):
        table = read_table(task.draft.storage, selected_part(task.selection, index))
        selected = table.filter(table["keep"])
        ranks.append(first_words(hash_bytes(selected["content"])))
        sizes.append(selected["bytes"].to_numpy())
    starts = np.cumsum([0, *map(len, ranks)])
    order = np.argsort(_keyed(np.concatenate(ranks), task.seed), kind="stable")
    before = np.cumsum(np.concatenate(sizes)[order]) - np.concatenate(sizes)[order]
    positions: dict[int, set[int]] = {}
    for document in order[before < task.quota].tolist():
        index = int(np.searchsorted(starts, document, side="right")) - 1
        positions.setdefault(index, set()).add(document - int(starts[index]))
    return positions


def _keyed(words: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Return another uniform number for every word, by a bijection that the seed selects."""
    key = hashlib.blake2b(f"sample/{seed}".encode(), digest_size=16).digest()
    shift, factor = np.frombuffer(key, "<u8")
    words = (words ^ shift) * (factor | np.uint64(1))
    words = words ^ (words >> np.uint64(32))
    return np.asarray(words * (factor | np.uint64(1)), np.uint64)


def _texts_at(task: SampleTask, index: int, positions: set[int]) -> Iterator[str]:
    last = max(positions)
    file = selected_part(task.selection, index)
    selected = read_selected(task.pool, task.parts[index], task.draft.storage, file)
    for position, document in enumerate(selected):
        if position in positions:
            yield document.text
        if position == last:
            return


def _sampled_texts(storage: Storage, samples: Sequence[FileRecord]) -> Iterator[str]:
    for record in samples:
        for batch in read_batches(storage, record):
            yield from batch.column("text").to_pylist()


def _sample_name(index: int) -> str:
    return f"sample-{index}"


# ------------------------------------------------------------------------------------------------- text to token ids


@dataclass(frozen=True)
class Encoder:
    """Encodes text as token ids, without special tokens. Tasks carry it; each process loads the tokenizer once.

    ``chat``: where prompts and completions are put into the chat template, whose special tokens count as such, the id
    of the artifact that holds it; else None. ``chat_key``: the key of the run file that asks for it.
    """

    storage: Storage
    file: FileRecord
    digest: str
    end_of_document: int
    vocab_size: int
    chat: str | None = None
    chat_key: str = "chat_template"

    @classmethod
    def of(cls, storage: Storage, tokenizer: Artifact) -> Encoder:
        meta = TokenizerMeta(**tokenizer.meta)
        file = tokenizer.files["tokenizer.json"]
        return cls(storage, file, meta.digest, meta.end_of_document, meta.vocab_size)

    def for_pool(self, pool: Pool, tokenizer: Artifact) -> Encoder:
        """Return the encoder of a pool's texts."""
        if not pool.config.chat_template:
            return self
        return replace(self, chat=tokenizer.id, chat_key=pool.key("chat_template"))

    def encode(self, documents: Iterable[Document]) -> Iterator[tuple[Document, list[int]]]:
        """Yield every document with its token ids, in order. Memory holds one batch; one thread computes."""
        for batch in _batches(documents):
            yield from zip(batch, self._ids([document.text for document in batch]), strict=True)

    def encode_examples(self, documents: Iterable[Document]) -> Iterator[tuple[Document, list[int], int]]:
        """Yield every document with its token ids and how many of these, at the beginning, are its prompt's: 0 where it
        is no example.

        Prompt and completion are encoded as one text. A token that holds the end of the one and the beginning of the
        other belongs to the completion.
        """
        for batch in _batches(documents):
            pairs = [self._written(each.example) if each.example else ("", each.text) for each in batch]
            prompts = self._ids([prompt for prompt, _ in pairs])
            texts = self._ids([prompt + completion for prompt, completion in pairs])
            for document, prompt, ids in zip(batch, prompts, texts, strict=True):
                yield document, ids, shared_start(prompt, ids)

    def encode_answers(self, documents: Iterable[Document]) -> Iterator[tuple[Document, list[int]]]:
        """Yield every example with its token ids, of which those that are not trained on stand as -1 - id: its prompt's
        but, in a conversation, for all answers of the assistant. Examples whose completion has no token are left out.
        """
        for document, ids, context in self.encode_examples(documents):
            if len(ids) == context:
                continue
            marked = [*(~id for id in ids[:context]), *ids[context:]]
            if document.example is not None and any(role == ASSISTANT for role, _ in document.example.before):
                for index in self._earlier_answers(document.example):
                    marked[index] = ids[index]
            yield document, marked

    def _earlier_answers(self, example: Example) -> set[int]:
        """Return which tokens of a conversation end in an answer before the last one."""
        assert self.chat is not None, "conversations are written by a chat template"
        chat, text = _load_chat(self.storage.uri, self.chat), "".join(self._written(example))
        offsets = _load(self.storage.uri, self.file, True).encode(text, add_special_tokens=False).offsets
        spans = earlier_answers(chat, example, text, self.chat_key)
        return {index for index, (_, last) in enumerate(offsets) if any(begin < last <= end for begin, end in spans)}

    def encode_options(self, example: Example) -> list[tuple[list[int], int]]:
        """Return the prompt with every option of a multiple-choice item, as ``encode_examples`` does."""
        pairs = [self._written(example._replace(completion=option)) for option in example.options]
        prompt, *texts = self._ids([pairs[0][0], *(prompt + option for prompt, option in pairs)])
        return [(ids, shared_start(prompt, ids)) for ids in texts]

    def _written(self, example: Example) -> tuple[str, str]:
        """Return a prompt and its completion as they are written, with the chat template's words where there is one."""
        if self.chat is None:
            return example.prompt, example.completion
        return in_chat_template(_load_chat(self.storage.uri, self.chat), example, self.chat_key)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        tokenizer = _load(self.storage.uri, self.file, self.chat is not None)
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


@lru_cache(maxsize=1)
def _load_chat(storage_uri: str, id: str) -> Any:
    """Return the tokenizer of transformers that an artifact holds."""
    storage = Storage(storage_uri)
    with tempfile.TemporaryDirectory(prefix="mixray-") as folder:
        return load_existing(fetch_folder(storage, read_artifact(storage, KIND, id), Path(folder)), "tokenizer")


@lru_cache(maxsize=4)
def _load(storage_uri: str, file: FileRecord, has_special_tokens: bool) -> Any:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # tasks are the parallelism
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(Storage(storage_uri).read_record(file).decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # A document that spells out <|endoftext|> does not end there; a chat template spells its own special tokens.
    tokenizer.encode_special_tokens = not has_special_tokens
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
