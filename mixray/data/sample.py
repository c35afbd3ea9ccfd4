"""A sample of a pool's documents, read by the code that the run reads them with: all of a small pool, pieces of others.

Of JSON lines the beginning, the middle and the end of every file are read (of a compressed file the beginning), of
thousands of files a thousand. Of text and Parquet files a few are opened. Nothing is downloaded from the hub.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from mixray.config.data import TokenizerConfig
from mixray.data.pools import Pool
from mixray.data.reading import hugging_face
from mixray.data.reading.files import check_json_lines, compression_of, decompressed, reading
from mixray.data.reading.locations import SourceFile, open_filesystem
from mixray.data.reading.parquet import open_parquet
from mixray.data.reading.parts import DatasetPart, FilePart, FileSlice, Listing, Part
from mixray.data.reading.row_texts import named_columns
from mixray.data.text.documents import read_documents
from mixray.data.text.tokenizer import existing_folder, load_existing, train_bpe
from mixray.errors import InputError

WHOLE_BYTES, WHOLE_FILES = 1 << 20, 64
"""A pool of at most so many stored bytes and files is read whole."""
COMPRESSED = 8
"""What a byte of a compressed file counts as there."""
JSONL_FILES, OTHER_FILES = 1000, 16
"""At most so many files of a pool are opened."""
PIECE_BYTES, LEAST_PIECE_BYTES = 64 << 10, 8 << 10
"""A piece of a file: the lines that start in it, or the first documents of a text or Parquet file."""
PIECES_BYTES = 32 << 20
"""All pieces of a pool's files of JSON lines together; many files have smaller pieces."""
LAST_LINE_BYTES = 4 << 20
"""How far before a file's end its last line is looked for."""
EXPANDED_BYTES, EXPANDED_FILES = 4 << 20, 8
"""How much is decompressed to learn how far a pool's compressed files expand."""
TEXT_CHARS = 1 << 18
"""Of a pool's text, to count tokens in."""
FILTERED_DATASET_BYTES = 64 << 20
"""In a larger local data set, rows that ``where`` keeps are not looked for."""
THREADS = 16


@dataclass(frozen=True)
class PoolSample:
    """What a look at a pool shows.

    ``text_bytes``: UTF-8 bytes of all of its documents, estimated unless the sample ``is_whole``; None where unknown.
    ``counts``: what became of the texts that were read, as ``read_documents`` counts them. ``ids``: of
    the documents, where the sample is whole. ``texts``: text to count tokens in. ``faults``: what is wrong in places
    that the run may never reach, because of ``max_tokens``.
    """

    text_bytes: int | None
    is_whole: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    ids: tuple[bytes, ...] = ()
    texts: tuple[str, ...] = ()
    faults: tuple[InputError, ...] = ()


@dataclass(frozen=True)
class _Piece:
    """A piece of a file, and how many bytes of it (decompressed) that is. ``is_read``: the run reads it for certain."""

    part: FilePart
    size: float
    is_read: bool


def sample_pool(listing: Listing) -> PoolSample:
    """Read a sample of a pool of texts.

    Raises InputError for what stops the run: a file that cannot be read, a line that is not a JSON object, a column
    that is missing.
    """
    if listing.dataset is not None:
        return _sample_dataset(listing)
    if listing.pool.config.reader == "jsonl":
        check_json_lines(listing.files[0], listing.pool)
    size = sum(file.size * (COMPRESSED if compression_of(file) else 1) for file in listing.files)
    if size <= WHOLE_BYTES and len(listing.files) <= WHOLE_FILES:
        counts: Counter[str] = Counter()
        documents = [each for part in listing.parts for each in read_documents(listing.pool, part, counts)]
        texts = [each.text for each in documents[:: 1 + counts["bytes"] // TEXT_CHARS]]
        return PoolSample(counts["bytes"], True, counts, tuple(each.id for each in documents), tuple(texts))
    if listing.pool.config.reader == "jsonl":
        return _sample_json_lines(listing)
    return _sample_files(listing)


def bytes_per_token(config: TokenizerConfig, samples: Mapping[str, PoolSample]) -> dict[str, float]:
    """Return how many bytes of text make a token, for each pool with text in its sample ("source NAME", ...).

    Counted with the run's tokenizer, or, where the run trains one, with one that is trained on the sources' samples.
    Raises InputError where the tokenizer does not exist, HubUnreachableError where there is no telling.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # Ray forks this process later
    texts = {label: sample.texts for label, sample in samples.items() if sample.texts}
    if config.train is not None:
        trained_on = [f"source {name}" for name in config.train.sources or ()] or [
            label for label in texts if label.startswith("source ")
        ]
        sampled = [text for label in trained_on for text in texts.get(label, ())]
        if not sampled:
            return {}
        tokenizer = train_bpe(sampled, config.train.vocab_size)
    else:
        key = "tokenizer.hub" if config.hub else "tokenizer.path"
        tokenizer = load_existing(existing_folder(config), key).backend_tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
    ratios = {}
    for label, pool_texts in texts.items():
        encodings = tokenizer.encode_batch_fast(list(pool_texts), add_special_tokens=False)
        tokens = sum(len(encoding.ids) for encoding in encodings)
        ratios[label] = sum(len(text.encode()) for text in pool_texts) / max(1, tokens)
    return ratios


# ------------------------------------------------------------------------------------------------------- JSON lines


def _sample_json_lines(listing: Listing) -> PoolSample:
    files = _spread(listing.files, JSONL_FILES)
    compressed = [file for file in listing.files if compression_of(file)]
    expansion = _expansion(_spread(compressed, EXPANDED_FILES), listing.pool) if compressed else 1.0
    size = min(PIECE_BYTES, max(LEAST_PIECE_BYTES, PIECES_BYTES // (3 * len(files))))
    pieces = [piece for file in files for piece in _json_pieces(file, size, expansion, listing)]
    sample, read_bytes = _read_pieces(listing.pool, pieces)
    stored = sum(file.size * (expansion if compression_of(file) else 1.0) for file in listing.files)
    share_of_text = sample.counts["bytes"] / max(1.0, read_bytes)
    return replace(sample, text_bytes=round(share_of_text * stored))


def _json_pieces(file: SourceFile, length: int, expansion: float, listing: Listing) -> list[_Piece]:
    if compression_of(file):
        ranges: list[tuple[int, int | None, float]] = [(0, length, min(length, file.size * expansion))]
    elif file.size <= 3 * length:
        ranges = [(0, None, file.size)]
    else:
        starts = (0, (file.size - length) // 2, file.size - length)
        ranges = [(start, start + length, length) for start in starts]
    reads_all = listing.pool.is_read_whole
    return [
        _Piece(
            FilePart((FileSlice(file, start, stop),), None),
            size,
            is_read=reads_all or (file == listing.files[0] and start == 0),
        )
        for start, stop, size in ranges
    ]


def _expansion(files: Sequence[SourceFile], pool: Pool) -> float:
    """Return how many bytes the first stored bytes of compressed files expand to, a byte."""
    stored, expanded = 0, 0
    for file in files:
        with reading(file, pool.files_key), open_filesystem(file.filesystem)[0].open_input_file(file.path) as raw:
            stream = decompressed(raw, file)
            expanded += len(stream.read(EXPANDED_BYTES))
            stored += raw.tell()
    return expanded / max(1, stored)


# ------------------------------------------------------------------------------------------ text files and Parquet


def _sample_files(listing: Listing) -> PoolSample:
    pool, stored = listing.pool, sum(file.size for file in listing.files)
    if pool.config.reader == "files":
        # A text file is its document; a long one would be decoded whole.
        files = _spread([file for file in listing.files if file.size <= WHOLE_BYTES], OTHER_FILES)
        text_bytes = stored
        slices = [FileSlice(file) for file in files]
    else:
        files = _spread(listing.files, OTHER_FILES if not pool.config.where else 2)
        footers = [_footer(file, pool) for file in files]
        text_bytes = round(stored * sum(size for _, size in footers) / max(1, sum(file.size for file in files)))
        slices = [FileSlice(file, 0, min(1, groups)) for file, (groups, _) in zip(files, footers, strict=True)]
    reads_all = pool.is_read_whole
    pieces = [
        _Piece(FilePart((each,), PIECE_BYTES), PIECE_BYTES, is_read=reads_all or each.file == listing.files[0])
        for each in slices
    ]
    sample, _ = _read_pieces(pool, pieces)
    return replace(sample, text_bytes=text_bytes)


def _footer(file: SourceFile, pool: Pool) -> tuple[int, int]:
    """Return the number of row groups of a Parquet file, and the uncompressed bytes of the columns of its text."""
    # A prompt does not count as text: it is read, not predicted.
    names = [path for key, path in named_columns(pool) if key not in ("where", "system", "prompt")]
    with reading(file, pool.files_key), open_parquet(file) as parquet:
        metadata = parquet.metadata
    total = 0
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            if any(f"{column.path_in_schema}.".startswith(f"{name}.") for name in names):
                total += column.total_uncompressed_size
    return metadata.num_row_groups, total


# ----------------------------------------------------------------------------------------------------- local data sets


def _sample_dataset(listing: Listing) -> PoolSample:
    dataset, pool = listing.dataset, listing.pool
    assert dataset is not None
    if not dataset.is_local:
        return PoolSample(None)
    hugging_face.check_local(dataset, pool)
    size = listing.size_bytes or 0
    if pool.config.where and size > FILTERED_DATASET_BYTES:
        return PoolSample(size)
    part = DatasetPart(replace(dataset, streaming=True), 0, 1, PIECE_BYTES)
    counts, ids, texts = _read(pool, part)
    is_whole = counts["bytes"] < PIECE_BYTES and len(hugging_face.row_ranges(part.dataset, pool, 0)) == 1
    if not is_whole:
        return PoolSample(size, counts=counts, texts=tuple(texts))
    return PoolSample(counts["bytes"], True, counts, tuple(ids), tuple(texts))


# ------------------------------------------------------------------------------------------------------------- reading


def _read_pieces(pool: Pool, pieces: Sequence[_Piece]) -> tuple[PoolSample, float]:
    """Return what the pieces hold, and how many (decompressed) bytes of their files that stands for."""
    chars = max(256, TEXT_CHARS // max(1, len(pieces)))

    def read(piece: _Piece) -> tuple[Counter[str], str, float] | InputError:
        size = piece.size
        try:
            counts, _, texts = _read(pool, piece.part)
            (span,) = piece.part.slices
            if not span.start:
                # There is always a line that starts with the file, also where lines are longer than the piece.
                size = max(size, counts["bytes"])
            elif span.stop == span.file.size and not counts.total():
                start = max(0, span.file.size - LAST_LINE_BYTES)
                counts, _, texts = _read(pool, FilePart((FileSlice(span.file, start),), None))
                size = span.file.size - start
        except InputError as error:
            if piece.is_read:
                raise
            return error
        return counts, "\n".join(texts)[:chars], size

    with ThreadPoolExecutor(THREADS) as threads:
        results = list(threads.map(read, pieces))
    counts: Counter[str] = Counter()
    texts: list[str] = []
    read_bytes = 0.0
    for result in results:
        if not isinstance(result, InputError):
            counts.update(result[0])
            texts.append(result[1])
            read_bytes += result[2]
    faults = tuple(result for result in results if isinstance(result, InputError))
    return PoolSample(None, counts=counts, texts=tuple(filter(None, texts)), faults=faults), read_bytes


def _read(pool: Pool, part: Part) -> tuple[Counter[str], list[bytes], list[str]]:
    """Return the counts, the ids and the texts of a part's documents."""
    counts: Counter[str] = Counter()
    documents = list(read_documents(pool, part, counts))
    return counts, [each.id for each in documents], [each.text for each in documents]


def _spread(files: Iterable[Any], most: int) -> list[Any]:
    """Return at most ``most`` elements, the first and the last among them, evenly spread between."""
    elements = list(files)
    if len(elements) <= most:
        return elements
    return [elements[index * (len(elements) - 1) // (most - 1)] for index in range(most)]
