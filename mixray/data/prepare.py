"""The data stage: scan, deduplicate, tokenizer, windows and rows. A step runs only where the store lacks its artifact.

Identity is content. The listing of a pool's files only saves scanning them again; the tokenizer, the windows and the
rows depend on digests of the text that is used. So touching a file, moving a folder, or adding a source or a target
that overlaps nothing leaves every other artifact as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from mixray.config.schema import RunConfig
from mixray.data.pools import DataWarning, Notify, Prepared, TextInputs, pools_of
from mixray.data.reading.parts import TOKEN_BYTES, Listing, list_pool
from mixray.data.tabular.examples import prepare_examples
from mixray.data.target_rows import TargetRows
from mixray.data.text import windows
from mixray.data.text.deduplicate import Deduplicate, overlaps
from mixray.data.text.scan import Scan
from mixray.data.text.tokenizer import Encoder, LearnTokenizer, import_tokenizer
from mixray.data.text.windows import WriteWindows
from mixray.store import Artifact, Artifacts, RunTasks, Step, find_or_make
from mixray.store.retrying import retried
from mixray.store.target_parts import PARTS

OVERLAP = 0.1
"""Two pools are reported from this share of the smaller pool's documents on."""
IN_TARGET = 0.01
NOT_UTF8 = 0.01

Selections = Mapping[str, Artifact]
"""A selection for each pool's label, e.g. ``source python``."""


def prepare(config: RunConfig, artifacts: Artifacts, run_tasks: RunTasks, notify: Notify) -> Prepared:
    """Find or make everything that training and scoring read.

    ``run_tasks`` is called once for all pools in each step that something is missing of, and beforehand by steps that
    need results to list their tasks, such as those of a target with ``max_tokens``. ``notify`` gets one line an event.
    Raises InputError for what is wrong with the user's data.
    """
    if config.examples is not None:
        return prepare_examples(config, config.examples, artifacts, run_tasks, notify)
    return _prepare_texts(config, artifacts, run_tasks, notify)


def _prepare_texts(config: RunConfig, artifacts: Artifacts, run_tasks: RunTasks, notify: Notify) -> Prepared:
    listings = {pool.label: retried(partial(list_pool, pool), notify) for pool in pools_of(config)}
    scans = find_or_make({label: Scan(listing) for label, listing in listings.items()}, artifacts, run_tasks, "scan")
    targets = tuple(scans[label] for label, listing in listings.items() if listing.pool.role == "target")
    selecting = {
        label: Deduplicate(listing.pool, scans[label], targets if listing.pool.role == "source" else (), run_tasks)
        for label, listing in listings.items()
    }
    selections = find_or_make(selecting, artifacts, run_tasks, "select")
    for label, selection in selections.items():
        notify(f"{label}: {selection.meta['documents']} documents, {selection.meta['bytes'] / 1e6:.1f} MB")
    tokenizer = _tokenizer(config, listings, selections, artifacts, run_tasks)
    encoder = Encoder.of(artifacts.storage, tokenizer)
    notify(f"tokenizer: {encoder.vocab_size} tokens")
    encoders = {label: encoder.for_pool(listing.pool, tokenizer) for label, listing in listings.items()}
    encoding: dict[str, Step[Any, Any]] = {
        label: WriteWindows(listing, selections[label], encoders[label], config.row_tokens)
        if listing.pool.role == "source"
        else TargetRows(listing, selections[label], encoders[label], config.row_tokens, run_tasks)
        for label, listing in listings.items()
    }
    encoded = find_or_make(encoding, artifacts, run_tasks, "tokens")
    counts = {label: _counts(scans[label], selections[label], encoded[label]) for label in listings}
    for label in listings:
        trained = counts[label].get("trained_tokens")
        of_completions = "" if trained is None else f", of which {trained} are trained on"
        notify(f"{label}: {counts[label]['tokens']} tokens{of_completions}")
    return Prepared(
        inputs=TextInputs(config.row_tokens, encoder.vocab_size, encoder.end_of_document),
        tokenizer=tokenizer,
        sources={name: encoded[f"source {name}"] for name in config.sources},
        targets={name: encoded[f"target {name}"] for name in config.targets},
        counts=counts,
        warnings=[
            *_overlapping(selections, "source"),
            *_overlapping(selections, "target"),
            *_left_out(counts),
            *_too_short(config, counts),
        ],
    )


def _tokenizer(
    config: RunConfig,
    listings: Mapping[str, Listing],
    selections: Selections,
    artifacts: Artifacts,
    run_tasks: RunTasks,
) -> Artifact:
    assert config.tokenizer is not None
    settings = config.tokenizer.train
    if settings is None:
        chat_pools = [pool for pool in pools_of(config) if pool.config.chat_template]
        return import_tokenizer(
            config.tokenizer, artifacts, chat_pools=chat_pools, attention=config.document_attention_key
        )
    labels = [f"source {name}" for name in config.sources if not settings.sources or name in settings.sources]
    sources = tuple((listings[label], selections[label]) for label in labels)
    step = LearnTokenizer(settings, config.seed, sources, run_tasks)
    return find_or_make({"tokenizer": step}, artifacts, run_tasks, "tokenizer")["tokenizer"]


def _counts(scan: Artifact, selection: Artifact, encoded: Artifact) -> dict[str, int]:
    """Return what became of a pool's documents; ``documents_read`` and ``bytes_read`` include duplicates."""
    counts = {name: int(scan.meta[name]) for name in ("skipped_not_utf8", "skipped_empty", "filtered", "split")}
    counts |= {"documents_read": int(scan.meta["documents"]), "bytes_read": int(scan.meta["bytes"])}
    counts |= {name: int(selection.meta[name]) for name in ("documents", "bytes", "duplicates", "in_target")}
    if encoded.kind == windows.KIND:
        names = ("windows", "tokens", "tail_tokens", "trained_tokens")
        return counts | {name: int(encoded.meta[name]) for name in names if name in encoded.meta}
    parts = {f"{part}_{name}": int(encoded.meta[part][name]) for part in PARTS for name in ("documents", "tokens")}
    sums = {name: sum(int(encoded.meta[part][name]) for part in PARTS) for name in ("documents", "bytes", "tokens")}
    return counts | parts | sums


def _overlapping(selections: Selections, role: str) -> Iterator[DataWarning]:
    """Yield a warning for each two pools of a role that share documents."""
    of_role = {label: selection for label, selection in selections.items() if label.startswith(role)}
    for one, other, share in overlaps(of_role, OVERLAP):
        pools = {"pools": [one, other]}
        if of_role[one].meta["digest"] == of_role[other].meta["digest"]:
            message = f"{one} and {other} hold the same documents: shares between them mean nothing"
            yield {"code": "identical_pools", "message": message, **pools}
        else:
            message = f"about {share:.0%} of the documents of the smaller of {one} and {other} stand in both"
            yield {"code": "overlapping_pools", "message": message, "share": share, **pools}


def _left_out(counts: Mapping[str, Mapping[str, int]]) -> Iterator[DataWarning]:
    """Yield a warning for each pool that many documents are left out of."""
    for label, count in counts.items():
        distinct = count["documents"] + count["in_target"]
        if count["in_target"] > IN_TARGET * distinct:
            message = f"{count['in_target']} of {distinct} documents of {label} stand in a target and were dropped"
            yield {"code": "source_in_target", "message": message, "pools": [label], "documents": count["in_target"]}
        read = count["documents_read"] + count["skipped_not_utf8"]
        if count["skipped_not_utf8"] > NOT_UTF8 * read:
            message = f"{count['skipped_not_utf8']} of {read} documents of {label} are not UTF-8 and were skipped"
            yield {"code": "not_utf8", "message": message, "pools": [label], "documents": count["skipped_not_utf8"]}


def _too_short(config: RunConfig, counts: Mapping[str, Mapping[str, int]]) -> Iterator[DataWarning]:
    """Yield a warning for each target that has fewer tokens than its ``max_tokens``."""
    for name, target in config.targets.items():
        count = counts[f"target {name}"]
        if target.max_tokens is not None and count["tokens"] < target.max_tokens:
            distinct = count["documents_read"] - count["duplicates"]
            reason = f"its {distinct:,} different documents have no more"
            if count["documents"] < distinct:
                reason = f"of texts with more than {TOKEN_BYTES} bytes a token no more are read"
            message = f"target {name}: max_tokens is {target.max_tokens:,}, but {count['tokens']:,} are used: {reason}"
            yield {"code": "short_target", "message": message, "pools": [f"target {name}"], "tokens": count["tokens"]}
