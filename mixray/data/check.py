"""Everything about the inputs that can be checked by looking, before anything is started.

What a run would certainly fail at is an error. What it may fail at, or would do without sense, is a warning.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import TypeVar

from mixray.config.data import ExamplesConfig, SourceConfig, TargetConfig
from mixray.config.schema import RunConfig
from mixray.config.training import PretrainedModel
from mixray.data.pools import ExampleInputs, Pool, pools_of
from mixray.data.reading.hugging_face import HubUnreachableError, snapshot
from mixray.data.reading.locations import LOCAL, SourceFile
from mixray.data.reading.parts import Listing, list_pool
from mixray.data.sample import PoolSample, bytes_per_token, sample_pool
from mixray.data.tabular.example_steps import TOO_FEW, file_parts, highest_rank, row_ranks
from mixray.data.tabular.examples import columns_of_pool, look_ahead, split_of
from mixray.data.tabular.tables import read_part
from mixray.data.target_rows import check_split, part_of
from mixray.data.text.deduplicate import no_documents
from mixray.data.text.tokenizer import existing_folder, require_chat_template
from mixray.errors import InputError
from mixray.store.target_parts import PARTS

Item = TypeVar("Item")
Result = TypeVar("Result")

BYTES_PER_TOKEN = 4.0
"""Of text of which there is no sample: as common tokenizers cut English."""
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class InputWarning:
    """What may be wrong with the inputs. ``code`` names the kind of warning for programs."""

    code: str
    message: str


@dataclass(frozen=True)
class InputCheck:
    """What the checks learn about the pools. Keys are "source NAME" and "target NAME".

    ``stored_bytes``: the sizes of the files, None where only reading would tell; ``tokens``: estimated from a sample,
    without regard to ``max_tokens``, None where unknown; of examples their number; ``bytes_per_token``: of text, for
    pools that a sample was read of; ``reads``: for each token that is scored, how many a model reads, prompts and all,
    and ``options``: how many options an item has, both of targets of prompts; ``examples``: what models of examples
    will read; None for texts; ``molecules``: as of ``RowsAhead``.
    """

    stored_bytes: dict[str, int | None]
    tokens: dict[str, int | None]
    bytes_per_token: dict[str, float]
    warnings: list[InputWarning]
    examples: ExampleInputs | None = None
    reads: dict[str, float] = field(default_factory=dict)
    options: dict[str, float] = field(default_factory=dict)
    molecules: int = 0


def check_inputs(config: RunConfig) -> InputCheck:
    """Check every pool and the tokenizer: files, columns, lines, documents, names on the hub.

    Of every file a bounded number of bytes is read. A data set on the hub is looked up, not downloaded; where the hub
    cannot be reached, a warning says what was not checked.
    Raises InputError: the one there is, or one that holds all.
    """
    checks, pools = _Checks(), pools_of(config)
    listings: dict[str, Listing] = {}
    samples: dict[str, PoolSample] = {}
    for pool in pools:
        if (listing := checks.one(_list, pool, str(pool.config.dataset))) is not None:
            listings[pool.label] = listing
            if config.examples is None and (sample := checks.one(_sample, listing)) is not None:
                samples[pool.label] = sample
    ratios: dict[str, float] = {}
    if (tokenizer := config.tokenizer) is not None:
        is_trained = tokenizer.train is not None
        is_there = is_trained or checks.one(existing_folder, tokenizer, f"the tokenizer {tokenizer.hub}") is not None
        chat_pools = [pool for pool in pools if pool.config.chat_template]
        if is_there and not is_trained:
            attention = config.document_attention_key
            checks.one(
                lambda pools: require_chat_template(tokenizer, pools, attention),
                chat_pools,
                f"the tokenizer {tokenizer.hub}",
            )
        if is_there and not checks.errors:
            ratios = bytes_per_token(tokenizer, samples)
    warnings = [warning for label, sample in samples.items() for warning in _faults(label, sample)]
    warnings += _foreign_tokenizer(config)
    by_role = {role: [each for each in listings.values() if each.pool.role == role] for role in ("source", "target")}
    for pair in product(by_role["source"], by_role["target"]):
        if warning := checks.one(lambda pair: _shared_files(*pair, config.examples), pair):
            warnings.append(warning)
    checks.end()
    if checks.unchecked:
        names = ", ".join(dict.fromkeys(checks.unchecked))
        message = f"the Hugging Face hub cannot be reached, so these names were not checked: {names}"
        warnings.append(InputWarning("hub_not_checked", message))
    stored = {pool.label: listings[pool.label].size_bytes if pool.label in listings else None for pool in pools}
    if config.examples is not None:
        ahead = look_ahead(config, config.examples)
        for target in by_role["target"]:
            _check_rows_split(target, config.examples, config)
        return InputCheck(stored, dict(ahead.rows), {}, warnings, ahead.inputs, molecules=ahead.molecules)
    tokens = {label: _tokens(samples.get(label), ratios.get(label)) for label in stored}
    for pool in pools:
        if pool.role == "source" and pool.config.has_completions:
            sample, ratio = samples.get(pool.label), ratios.get(pool.label)
            tokens[pool.label] = _packed_tokens(sample, ratio, config.row_tokens)
    prompted = {label: sample for label, sample in samples.items() if sample.counts["prompt_bytes"]}
    reads = {label: _reads(sample, ratios.get(label), config.row_tokens) for label, sample in prompted.items()}
    options = {label: sample.counts["options"] / sample.counts["documents"] for label, sample in prompted.items()}
    return InputCheck(stored, tokens, ratios, warnings, reads=reads, options=options)


class _Checks:
    """Calls checks and gathers their errors, and the names that were not checked because the hub did not answer."""

    def __init__(self) -> None:
        self.errors: list[InputError] = []
        self.unchecked: list[str] = []

    def one(self, check: Callable[[Item], Result], item: Item, name: str = "") -> Result | None:
        """Return the result of a check, or None where it fails. ``name``: what it looks up on the hub."""
        try:
            return check(item)
        except HubUnreachableError:
            self.unchecked.append(name)
        except InputError as error:
            self.errors.append(error)
        return None

    def end(self) -> None:
        """Raise the only error as it is, or one InputError that holds all."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise InputError("\n\n".join([f"{len(self.errors)} inputs are wrong", *map(str, self.errors)]))


def _tokens(sample: PoolSample | None, ratio: float | None) -> int | None:
    if sample is None or sample.text_bytes is None:
        return None
    return int(sample.text_bytes / (ratio or BYTES_PER_TOKEN))


def _packed_tokens(sample: PoolSample | None, ratio: float | None, window: int) -> int | None:
    """Return how many tokens the windows of a source of prompts with completions hold, padding included, where all
    examples have the mean length."""
    if sample is None or sample.text_bytes is None or not sample.counts["documents"]:
        return None
    count = sample.counts["documents"]
    scored, prompt = (sample.counts[name] / count / (ratio or BYTES_PER_TOKEN) for name in ("bytes", "prompt_bytes"))
    length = scored + prompt + 1  # and the end of the document, which the next one begins with
    windows = 1 / max(1, (window - 1) // length) if length < window else max(1.0, scored / (window - 1))
    return round(sample.text_bytes / sample.counts["bytes"] * count * windows) * window


def _reads(sample: PoolSample, ratio: float | None, window: int) -> float:
    """Return how many tokens a model reads for each that is scored, of a prompt and a completion of mean length."""
    documents = sample.counts["documents"] * (ratio or BYTES_PER_TOKEN)
    scored, prompt = (max(1.0, sample.counts[name] / documents) for name in ("bytes", "prompt_bytes"))
    room = window - scored if scored <= window else window / 2
    return 1 + min(prompt, room) / scored


# -------------------------------------------------------------------------------------------------------- single pools


def _list(pool: Pool) -> Listing:
    """Return the pool's files. Raises HubUnreachableError where the hub does not answer."""
    listing = list_pool(pool)
    revision = pool.config.revision
    if listing.dataset is not None and not listing.dataset.is_local and revision and COMMIT.fullmatch(revision):
        # Listing takes a whole commit at its word.
        snapshot(listing.dataset.path, "dataset", revision, ["README.md"], pool.files_key)
    return listing


def _sample(listing: Listing) -> PoolSample:
    """Return a sample of a pool of texts.

    Raises InputError where the pool has no documents, or where a target cannot be split into its two parts.
    """
    sample, pool = sample_pool(listing), listing.pool
    if not sample.is_whole:
        return sample
    if not sample.ids:
        raise no_documents(pool, sample.counts)
    if isinstance(pool.config, TargetConfig):
        parts = Counter(part_of(document, pool.config.held_out) for document in set(sample.ids))
        check_split(pool, {part: parts[part] for part in PARTS})
    return sample


def _faults(label: str, sample: PoolSample) -> Iterator[InputWarning]:
    for fault in sample.faults[:1]:
        others = f" (and {len(sample.faults) - 1} more like it)" if len(sample.faults) > 1 else ""
        message = f"{label}: {fault.what}: {fault.got}{others}; max_tokens may end the reading before it"
        yield InputWarning("malformed_text", message)
    if not sample.is_whole and sample.counts.total() and not sample.counts["documents"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sample.counts.items() if count)
        message = f"{label}: a sample of its files has no document ({reasons}); it may be empty"
        yield InputWarning("no_documents_in_sample", message)


def _foreign_tokenizer(config: RunConfig) -> Iterator[InputWarning]:
    """Yield a warning for each pretrained model that would read the ids of a tokenizer that is trained here."""
    if config.tokenizer is None or config.tokenizer.train is None:
        return
    for section, model in (("proxy", config.proxy.model), ("retrain", config.retrain.model)):
        if isinstance(model, PretrainedModel):
            message = (
                f"{section}.model continues {model.pretrained}, and tokenizer.train makes other tokens than it knows: "
                "name its own by tokenizer.hub or tokenizer.path"
            )
            yield InputWarning("foreign_tokenizer", message)


def _check_rows_split(listing: Listing, examples: ExamplesConfig, config: RunConfig) -> None:
    """Raise InputError where all rows of a small target of examples fall into one of its parts."""
    pool, parts = listing.pool, file_parts(listing)
    assert isinstance(pool.config, TargetConfig)
    split = split_of(pool, config)
    if len(parts) > 1 or examples.smiles is not None or split is None:  # how molecules fall is known once they are read
        return
    table, limit = read_part(parts[0], columns_of_pool(pool, examples, config), None), pool.config.max_tokens
    if limit is not None and (last_rank := highest_rank(ranks := row_ranks(table, 0), limit)) is not None:
        table = table.take(ranks <= last_rank)
    held_out = int(split.is_held_out(table).sum())
    check_split(pool, {"held_out": held_out, "fit": len(table) - held_out}, TOO_FEW)


# ----------------------------------------------------------------------------------------- a source that is a target


def _shared_files(source: Listing, target: Listing, examples: ExamplesConfig | None) -> InputWarning | None:
    """Return a warning where a source and a target share files.

    Raises InputError where the source has nothing else: documents that occur in a target are dropped from sources.
    """
    one, other = source.pool.config, target.pool.config
    if one.label != other.label:
        return None  # rows of other labels, which no model is judged by
    if isinstance(one, SourceConfig) and one.without_held_out_of == target.pool.name:
        return None
    if any(one.where[column] != other.where[column] for column in one.where.keys() & other.where.keys()):
        return None
    count, shared = _shared(source, target)
    if not shared:
        return None
    place = f"{shared}, also in {target.pool.files_key}"
    settings = ("templates", "answer", "where", "split")
    same_documents = all(getattr(one, name) == getattr(other, name) for name in settings)
    everything = count == max(1, len(source.files))
    if examples is None and everything and same_documents and one.reader == other.reader and other.max_tokens is None:
        raise InputError(
            f"the {source.pool.label} holds nothing but documents of the {target.pool.label}",
            where=source.pool.files_key,
            got=place,
            wanted="other documents: those of a target are dropped from the sources",
            remedy="split the data, or leave the target's files out by 'exclude'",
        )
    effect = (
        "documents that occur in a target are dropped from the sources"
        if examples is None
        else "models are judged by rows that they have learned"
    )
    files = f"{count} of its {len(source.files)} files" if source.files else "its data set"
    message = f"{source.pool.label} shares {files} with {target.pool.label} ({place}): {effect}"
    return InputWarning("source_is_target", message)


def _shared(source: Listing, target: Listing) -> tuple[int, str]:
    """Return how many of the source's files are files of the target, however they are spelled, and the first one."""
    if source.dataset is not None or target.dataset is not None:
        if source.dataset is None or target.dataset is None:
            return 0, ""
        one, other = (
            (os.path.realpath(dataset.path) if dataset.is_local else dataset.path, dataset.subset, dataset.split)
            for dataset in (source.dataset, target.dataset)
        )
        return (max(1, len(source.files)), source.dataset.path) if one == other else (0, "")
    # Equal files have equal sizes and times: only such paths are looked into for links.
    stamps = {(file.size, file.mtime_ns) for file in target.files}
    candidates = [file for file in source.files if (file.size, file.mtime_ns) in stamps]
    if not candidates:
        return 0, ""
    places = {_place(file) for file in target.files}
    shared = [file for file in candidates if _place(file) in places]
    return len(shared), shared[0].location if shared else ""


def _place(file: SourceFile) -> tuple[str, str]:
    """Return what is the same for all paths of a local file, and for all options of a URI."""
    if file.filesystem == LOCAL:
        return LOCAL, os.path.realpath(file.path)
    return "", file.location
