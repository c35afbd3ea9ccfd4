"""The data stage: list, scan, select, tokenizer, tokens and rows, each made only where the store does not have it.

Identity is content. The listing of files only saves scanning again; the tokenizer, the tokens and the rows hang on
digests of the text that was kept. So touching a file, moving a folder, or adding a source or a target that overlaps
nothing leaves every other artifact as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from mixray.config.data import TargetConfig, TrainTokenizer
from mixray.config.schema import RunConfig
from mixray.data import target_rows as rows
from mixray.data.inputs import TextInputs
from mixray.data.pools import source_pools, target_pools
from mixray.data.prepared import Made, Notify, PoolInput, Prepared, by_label
from mixray.data.steps import RunTasks, Wanted, make_all
from mixray.data.tabular.prepare_examples import prepare_examples
from mixray.data.text import scan, selection, tokenizer, tokens
from mixray.data.text.data_warnings import data_warnings
from mixray.data.text.encoding import Encoder
from mixray.data.text.sample import SampleTask, sample
from mixray.store import Artifact, Artifacts, Draft


def prepare(config: RunConfig, artifacts: Artifacts, run_tasks: RunTasks, notify: Notify) -> Prepared:
    """Make, or find, everything that training and scoring read.

    ``run_tasks`` is called at most once a step, with a task a part (scan, tokens and rows) or a pool (select, sample);
    not at all where every artifact exists. ``notify`` gets one line an event. Raises InputError for what is wrong with
    the user's data.
    """
    if config.examples is not None:
        return prepare_examples(config, config.examples, artifacts, run_tasks, notify)
    return _prepare_texts(config, artifacts, run_tasks, notify)


def _prepare_texts(config: RunConfig, artifacts: Artifacts, run_tasks: RunTasks, notify: Notify) -> Prepared:
    inputs = [PoolInput(pool) for pool in [*source_pools(config), *target_pools(config)]]
    scans = _scan(inputs, artifacts, run_tasks)
    selections = _select(inputs, scans, artifacts, run_tasks)
    for label, selected in selections.items():
        notify(f"{label}: {selected.meta['documents']} documents, {selected.meta['bytes'] / 1e6:.1f} MB")
    learned = _tokenizer(config, inputs, selections, artifacts, run_tasks)
    encoder = Encoder.of(artifacts.storage, learned)
    notify(f"tokenizer: {encoder.vocab_size} tokens")
    made = _encode(config, inputs, selections, encoder, artifacts, run_tasks)
    counts = {label: _counts(scans[label], selections[label], made[label]) for label in made}
    for label in made:
        notify(f"{label}: {counts[label]['tokens']} tokens")
    return Prepared(
        inputs=TextInputs(config.row_tokens, encoder.vocab_size, encoder.end_of_document),
        tokenizer=learned,
        sources={name: made[f"source {name}"] for name in config.sources},
        targets={name: made[f"target {name}"] for name in config.targets},
        counts=counts,
        warnings=data_warnings(selections, counts),
    )


def _scan(inputs: Sequence[PoolInput], artifacts: Artifacts, run_tasks: RunTasks) -> Made:
    def wanted(item: PoolInput) -> Wanted:
        def tasks(draft: Draft) -> list[scan.ScanTask]:
            return [scan.ScanTask(item.pool, part, index, draft) for index, part in enumerate(item.parts)]

        return Wanted(scan.KIND, scan.scan_id(item.listing), scan.scan_part, tasks, scan.publish_scan)

    return by_label(inputs, make_all([wanted(item) for item in inputs], artifacts, run_tasks, "scan"))


def _select(inputs: Sequence[PoolInput], scans: Made, artifacts: Artifacts, run_tasks: RunTasks) -> Made:
    targets = tuple(scans[item.pool.label] for item in inputs if item.pool.role == "target")

    def wanted(item: PoolInput) -> Wanted:
        own, dropped = scans[item.pool.label], targets if item.pool.role == "source" else ()

        def tasks(draft: Draft) -> list[selection.SelectTask]:
            return [selection.SelectTask(own, dropped, draft)]

        id = selection.selection_id(own, dropped)
        return Wanted(selection.KIND, id, selection.select, tasks, selection.publish_selection)

    made = by_label(inputs, make_all([wanted(item) for item in inputs], artifacts, run_tasks, "select"))
    for item in inputs:
        selection.check_selection(item.pool, scans[item.pool.label], made[item.pool.label])
    return made


def _tokenizer(
    config: RunConfig, inputs: Sequence[PoolInput], selections: Made, artifacts: Artifacts, run_tasks: RunTasks
) -> Artifact:
    assert config.tokenizer is not None
    settings = config.tokenizer.train
    if settings is not None:
        return _trained(settings, config, inputs, selections, artifacts, run_tasks)
    folder = tokenizer.existing_folder(config.tokenizer)
    id = tokenizer.existing_id(folder)
    found = artifacts.find(tokenizer.KIND, id)
    if found is not None:
        return found
    draft = artifacts.draft(tokenizer.KIND, id)
    imported = tokenizer.import_existing(folder, draft, "tokenizer.hub" if config.tokenizer.hub else "tokenizer.path")
    return draft.publish(imported.files, imported.meta)


def _trained(
    settings: TrainTokenizer,
    config: RunConfig,
    inputs: Sequence[PoolInput],
    selections: Made,
    artifacts: Artifacts,
    run_tasks: RunTasks,
) -> Artifact:
    names = settings.sources or list(config.sources)
    chosen = [item for item in inputs if item.pool.role == "source" and item.pool.name in names]
    chosen.sort(key=lambda item: str(selections[item.pool.label].meta["digest"]))
    digests = [str(selections[item.pool.label].meta["digest"]) for item in chosen]
    quota = max(1, settings.sample_bytes // len(chosen))

    def tasks(draft: Draft) -> list[tokenizer.TrainTask]:
        samples = [
            SampleTask(
                item.pool, tuple(item.parts), selections[item.pool.label], quota, config.seed, draft, f"sample-{index}"
            )
            for index, item in enumerate(chosen)
        ]
        return [tokenizer.TrainTask(tuple(run_tasks(sample, samples, "sample")), settings.vocab_size, draft)]

    id = tokenizer.trained_id(settings, config.seed, digests)
    wanted = Wanted(tokenizer.KIND, id, tokenizer.train, tasks, tokenizer.publish_trained)
    return make_all([wanted], artifacts, run_tasks, "tokenizer")[0]


def _encode(
    config: RunConfig,
    inputs: Sequence[PoolInput],
    selections: Made,
    encoder: Encoder,
    artifacts: Artifacts,
    run_tasks: RunTasks,
) -> Made:
    """Tokens of the sources and rows of the targets, all by one call."""

    def wanted(item: PoolInput) -> Wanted:
        kept = selections[item.pool.label]
        make = _wanted_rows if isinstance(item.pool.config, TargetConfig) else _wanted_tokens
        return make(item, kept, encoder, config.row_tokens)

    made = by_label(inputs, make_all([wanted(item) for item in inputs], artifacts, run_tasks, "tokens"))
    for item in inputs:
        check = rows.check_rows if item.pool.role == "target" else tokens.check_tokens
        check(item.pool, made[item.pool.label])
    return made


def _wanted_tokens(item: PoolInput, kept: Artifact, encoder: Encoder, window: int) -> Wanted:
    limit = item.pool.config.max_tokens

    def tasks(draft: Draft) -> list[tokens.TokensTask]:
        quotas = tokens.window_quotas(limit, window, len(item.parts))
        return [
            tokens.TokensTask(item.pool, part, index, selection.part_of(kept, index), encoder, window, quota, draft)
            for index, (part, quota) in enumerate(zip(item.parts, quotas, strict=True))
        ]

    id = tokens.tokens_id(encoder, window, kept, limit)
    return Wanted(tokens.KIND, id, tokens.write_tokens, tasks, tokens.publish_tokens)


def _wanted_rows(item: PoolInput, kept: Artifact, encoder: Encoder, window: int) -> Wanted:
    config = item.pool.config
    assert isinstance(config, TargetConfig)
    limit, held_out = config.max_tokens, config.held_out

    def tasks(draft: Draft) -> list[rows.RowsTask]:
        quotas = rows.token_quotas(limit, len(item.parts))
        return [
            rows.RowsTask(
                item.pool, part, index, selection.part_of(kept, index), encoder, window, held_out, quota, draft
            )
            for index, (part, quota) in enumerate(zip(item.parts, quotas, strict=True))
        ]

    id = rows.rows_id(encoder, window, kept, held_out, limit)
    return Wanted(rows.KIND, id, rows.write_target_rows, tasks, rows.publish_rows)


def _counts(scanned: Artifact, selected: Artifact, made: Artifact) -> dict[str, int]:
    """What became of a pool's documents; ``documents_read`` and ``bytes_read`` are before duplicates are removed."""
    counts = {name: int(scanned.meta[name]) for name in ("skipped_not_utf8", "skipped_empty", "filtered", "split")}
    counts |= {"documents_read": int(scanned.meta["documents"]), "bytes_read": int(scanned.meta["bytes"])}
    counts |= {name: int(selected.meta[name]) for name in ("documents", "bytes", "duplicates", "in_target")}
    if made.kind == tokens.KIND:
        return counts | {name: int(made.meta[name]) for name in ("windows", "tokens", "tail_tokens")}
    sides = {f"{side}_{name}": int(made.meta[side][name]) for side in rows.SIDES for name in ("documents", "tokens")}
    return counts | sides | {"tokens": sides["fit_tokens"] + sides["held_out_tokens"]}
