"""Building the prediction cache with Ray Data: a pool of actors scores a target's rows, file by file.

The unit of work is one model on one file of rows; its result is one file of the model's column, under a name that
depends on nothing else. So a task that is run again writes the same file again, and no row ever stands twice.
"""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from mixray.cache import PREDICTIONS_FILE, column_id, column_table
from mixray.cluster.mapping import run_on_actors
from mixray.cluster.session import Session
from mixray.config.training import CacheConfig, NewModel, PretrainedModel, TrainingConfig
from mixray.data import molecule_features
from mixray.models import BoostedTrees, ExampleClassifier, Model, load_model
from mixray.store import Artifact, Artifacts, Draft, FileRecord, encode, fingerprint
from mixray.store.artifacts import fetch_folder
from mixray.store.target_parts import MOLECULES, ROW_KEY, RowGroup, part_files
from mixray.training import use_resources

ScoringProgress = Callable[[str, int, int], None]
"""Called with (model, its files scored, its files to score)."""


@dataclass(frozen=True)
class ScoringTask:
    """One model, one file of rows, and the draft of the column that the result belongs to."""

    model: str
    model_artifact: Artifact
    target: str
    rows_file: FileRecord
    name: str
    draft: Draft


@dataclass(frozen=True)
class MoleculeTask:
    """One model, the fingerprints of molecules (an artifact's id), and the draft of the column of predictions."""

    model: str
    model_artifact: Artifact
    molecules: str
    draft: Draft


class Scorer:
    """Scores one file of rows at a time; keeps the last model loaded, for tasks come model by model."""

    def __init__(self, config: CacheConfig, training: TrainingConfig) -> None:
        self._config, self._training = config, training
        self._device = use_resources(config.resources)
        self._loaded: tuple[str, Model] | None = None

    def __call__(self, task: ScoringTask) -> FileRecord:
        model = self._model(task)
        rows = pq.read_table(task.draft.storage.fetch(task.rows_file), columns=[*ROW_KEY, *model.row_columns])
        segment = _segment(self._config, self._training)
        scores = model.log_probs(model.rows_of(rows), batch_tokens=self._config.batch_tokens, segment=segment)
        table = column_table(
            rows, scores.totals, scores.segments, model=task.model, target=task.target, value=model.value
        )
        return task.draft.write(task.name, encode(table))

    def _model(self, task: ScoringTask | MoleculeTask) -> Model:
        artifact = task.model_artifact
        if self._loaded is None or self._loaded[0] != artifact.id:
            with tempfile.TemporaryDirectory(prefix="mixray-") as folder:
                fetch_folder(task.draft.storage, artifact, Path(folder))
                self._loaded = artifact.id, load_model(self._training, Path(folder), device=self._device)
        return self._loaded[1]


class MoleculeScorer(Scorer):
    """Predicts every label of every molecule, with one model at a time."""

    def __call__(self, task: MoleculeTask) -> FileRecord:  # type: ignore[override]
        model = self._model(task)
        assert isinstance(model, BoostedTrees | ExampleClassifier), "molecules are examples"
        fingerprints = molecule_features(task.draft.storage, task.molecules)
        sink = io.BytesIO()
        np.save(sink, model.predictions(fingerprints, batch_tokens=self._config.batch_tokens))
        return task.draft.write(PREDICTIONS_FILE, sink.getvalue())


def score(
    session: Session,
    artifacts: Artifacts,
    config: CacheConfig,
    training: TrainingConfig,
    models: Mapping[str, Artifact],
    targets: Mapping[str, Artifact],
    part: RowGroup,
    progress: ScoringProgress,
) -> dict[str, dict[str, Artifact]]:
    """Every model's column on one part (fit, held_out) of every target, or on the options of items: target -> model ->
    column artifact.

    ``training``: how the models were trained; they are run in the same precision.
    Columns that exist are not made again; each new one is published as soon as its last file is in. Of molecules, every
    model has one column for all targets and both parts.
    """
    if any(MOLECULES in rows.meta for rows in targets.values()):
        return _score_molecules(session, artifacts, config, training, models, targets, progress)
    columns: dict[str, dict[str, Artifact]] = {target: {} for target in targets}
    tasks: list[ScoringTask] = []
    drafts = {
        (model, target): artifacts.draft("column", _column_id(model_artifact, rows, part, config, training))
        for model, model_artifact in models.items()
        for target, rows in targets.items()
    }
    stored = artifacts.find_all((draft.kind, draft.id) for draft in drafts.values())
    for model, model_artifact in models.items():
        for target, rows in targets.items():
            draft = drafts[model, target]
            if (draft.kind, draft.id) in stored:
                columns[target][model] = stored[draft.kind, draft.id]
                continue
            names = part_files(rows, part)
            tasks += [ScoringTask(model, model_artifact, target, rows.files[name], name, draft) for name in names]
    done: dict[tuple[str, str], dict[str, FileRecord]] = {}
    scored, due = Counter[str](), Counter(task.model for task in tasks)
    for model, files_due in due.items():
        progress(model, 0, files_due)  # so that the time left counts all of them from the beginning
    for task, record in zip(tasks, _run(session, config, training, tasks), strict=True):
        files = done.setdefault((task.target, task.model), {})
        files[task.name] = record
        rows = targets[task.target]
        if len(files) == len(part_files(rows, part)):
            facts = {"model": task.model, "target": task.target, "split": part, "rows": rows.id}
            meta = facts | {"segment": _segment(config, training)}
            columns[task.target][task.model] = task.draft.publish(files, meta)
        scored[task.model] += 1
        progress(task.model, scored[task.model], due[task.model])
    return {target: {model: by_model[model] for model in models} for target, by_model in columns.items()}


def _score_molecules(
    session: Session,
    artifacts: Artifacts,
    config: CacheConfig,
    training: TrainingConfig,
    models: Mapping[str, Artifact],
    targets: Mapping[str, Artifact],
    progress: ScoringProgress,
) -> dict[str, dict[str, Artifact]]:
    """Return target -> model -> what the model predicts for all molecules of the target's files."""
    molecules = {target: str(rows.meta[MOLECULES]) for target, rows in targets.items()}
    settings = [training.precision, config.batch_tokens, *config.resources.arithmetic]
    drafts = {
        (model, artifact_id): artifacts.draft(
            "column", fingerprint(["predictions", 1, artifact.id, artifact_id, *settings])
        )
        for model, artifact in models.items()
        for artifact_id in dict.fromkeys(molecules.values())
    }
    stored = artifacts.find_all((draft.kind, draft.id) for draft in drafts.values())
    columns = {key: stored[draft.kind, draft.id] for key, draft in drafts.items() if (draft.kind, draft.id) in stored}
    tasks = [
        MoleculeTask(model, models[model], artifact_id, draft)
        for (model, artifact_id), draft in drafts.items()
        if (model, artifact_id) not in columns
    ]
    results = _run(session, config, training, tasks, MoleculeScorer)
    for done, (task, record) in enumerate(zip(tasks, results, strict=True), start=1):
        meta = {"model": task.model, MOLECULES: task.molecules}
        columns[task.model, task.molecules] = task.draft.publish({PREDICTIONS_FILE: record}, meta)
        progress("molecules", done, len(tasks))
    return {
        target: {model: columns[model, artifact_id] for model in models} for target, artifact_id in molecules.items()
    }


def _column_id(model: Artifact, rows: Artifact, part: RowGroup, config: CacheConfig, training: TrainingConfig) -> str:
    return column_id(
        model.id,
        rows.id,
        part,
        precision=training.precision,
        on_gpu=config.resources.gpus > 0,
        batch_tokens=config.batch_tokens,
        segment=_segment(config, training),
        threads=config.resources.threads,
    )


def _segment(config: CacheConfig, training: TrainingConfig) -> int | None:
    """Return the tokens of the segments that columns hold; an example is one token, and its column has none."""
    return config.segment if isinstance(training.model, NewModel | PretrainedModel) else None


def _run(
    session: Session,
    config: CacheConfig,
    training: TrainingConfig,
    tasks: Sequence[ScoringTask] | Sequence[MoleculeTask],
    scorer: type[Scorer] = Scorer,
) -> Iterator[FileRecord]:
    if not tasks:
        return
    fewest = config.actors or 1
    jobs = min(config.actors or len(tasks), len(tasks))
    most = session.at_once(config.resources, where="cache.resources", jobs=jobs, count=fewest)
    yield from run_on_actors(session, scorer, (config, training), tasks, config.resources, (fewest, most))
