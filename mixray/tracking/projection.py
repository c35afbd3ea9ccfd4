"""From a run's stored results to its MLflow runs: pure functions, so that any later command can publish the same.

Names of runs, metrics, parameters, tags and files stand here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mixray.config import RunConfig, RunFile, dump_config
from mixray.errors import without_credentials
from mixray.mixture import Mixture
from mixray.store import Artifact, ModelMeta
from mixray.tracking.mixture_records import ArmFacts, arm_facts, key_metrics, key_settings, tables
from mixray.tracking.records import (
    Point,
    TrackedDataset,
    TrackedModel,
    TrackedRun,
    flatten,
    metric_names,
    numbered_name,
)

CURVE_FIGURES = ("proxy_curves.png", "arm_curves.png")
"""Figures that stand at the top in MLflow; the others stand in the folder ``figures``."""
HELD_OUT_SAMPLE = "held_out_sample"
"""The metric of an arm's losses on a sample of a target while it trains; ``held_out`` is the loss on the whole part, at
the end."""


@dataclass(frozen=True)
class RunContents:
    """What a run folder holds so far, and the folder's ``location`` as a person types it.

    ``pools``: ``source/NAME`` or ``target/NAME`` -> the artifact's id and the pool's counts. ``models``: key, such as
    ``proxy/python``, ``arm/mixmin-zoo`` or (in a robust comparison) ``arm/erm-0`` -> artifact. ``model_places``: the
    same keys -> the folder of the model's files, a path or URI. ``figures``: name -> content of the files in
    ``report/``. ``summary``: the answer in Markdown. ``results``: ``results.json`` of a robust comparison.
    """

    location: str
    pools: Mapping[str, tuple[str, Mapping[str, int]]] = field(default_factory=dict)
    models: Mapping[str, Artifact] = field(default_factory=dict)
    model_places: Mapping[str, str] = field(default_factory=dict)
    mixtures: Mapping[str, Mixture] = field(default_factory=dict)
    figures: Mapping[str, bytes] = field(default_factory=dict)
    summary: str = ""
    results: bytes | None = None


def records_of_run(config: RunFile, contents: RunContents) -> list[TrackedRun]:
    """Return what MLflow should hold of a run: the run itself first, then its models."""
    files = {"config.yaml": without_credentials(dump_config(config)).encode()}
    files |= {f"mixtures/{name}.json": mixture.to_json().encode() for name, mixture in contents.mixtures.items()}
    for name, data in contents.figures.items():
        files[name if name in CURVE_FIGURES else f"figures/{name}"] = data
    tags = {"mixray.folder": contents.location, "role": "run"}
    if contents.summary:
        tags["mlflow.note.content"] = contents.summary
    if isinstance(config, RunConfig):
        return _records_of_search(config, contents, tags, files)
    points: list[Point] = []
    if contents.results is not None:
        files["results.json"] = contents.results
        points += _comparison_points(json.loads(contents.results))
    # Where results are kept and published may hold credentials; the tag says where without them.
    settings = config.model_dump(mode="json", exclude={"storage", "tracking"})
    run = TrackedRun("", flatten(settings), tags, tuple(points), files=files)
    return [run, *(_classifier_record(key, model) for key, model in contents.models.items())]


def _records_of_search(
    config: RunConfig, contents: RunContents, tags: Mapping[str, str], files: Mapping[str, bytes]
) -> list[TrackedRun]:
    """Return the record of a search for mixtures, then those of its proxies and arms."""
    datasets = {pool: _dataset(config, pool, *facts) for pool, facts in contents.pools.items()}
    meta = {key: ModelMeta.from_artifact(model) for key, model in contents.models.items()}
    as_tables = tables(config, contents.mixtures, meta)
    points = _present(0, key_metrics(contents.mixtures))
    run = TrackedRun(
        "",
        key_settings(config),
        tags,
        tuple(points),
        tuple(datasets.values()),
        {**files, **as_tables},
        tables=tuple(as_tables),
    )
    arms = arm_facts(config, contents.mixtures)
    targets = {
        pool.removeprefix("target/"): id for pool, (id, _) in contents.pools.items() if pool.startswith("target/")
    }
    models = []
    for key, model in contents.models.items():
        role, _, name = key.partition("/")
        facts = arms.get(key) or ArmFacts({"role": role, "source": name, "seed": str(config.seed)})
        read = [source for source, share in (meta[key].source_shares or {name: 1.0}).items() if share]
        pools = [f"source/{source}" for source in read] + [f"target/{target}" for target in facts.held_out]
        record = _model_record(key, model, targets)
        shares = meta[key].source_shares
        mixture = {} if shares is None else {source: shares.get(source, 0.0) for source in config.sources}
        models.append(
            replace(
                record,
                params={**record.params, **flatten({"share": mixture})},
                tags={**record.tags, **facts.tags},
                points=(*record.points, *_present(meta[key].tokens, _held_out(facts))),
                datasets=tuple(datasets[pool] for pool in pools if pool in datasets),
                model=TrackedModel(key.replace("/", "-"), contents.model_places.get(key, "")),
            )
        )
    return [run, *models]


def _held_out(facts: ArmFacts) -> dict[str, float | None]:
    return {f"held_out/{target}": loss for target, loss in facts.held_out.items()}


def _dataset(config: RunConfig, pool: str, artifact_id: str, counts: Mapping[str, int]) -> TrackedDataset:
    role, _, name = pool.partition("/")
    files = config.sources[name] if role == "source" else config.targets[name]
    place = f"hf://{files.dataset}" if files.dataset and "/" in files.dataset else ", ".join(files.locations)
    return TrackedDataset(name, artifact_id, place, "training" if role == "source" else "evaluation", counts)


# ------------------------------------------------------------------------------------------------------------ models


def training_points(record: Any, targets: Mapping[str, str] | None = None) -> tuple[Point, ...]:
    """Return one training record as points over training tokens.

    ``record``: of ``mixray.training``; ``targets``: name of each target -> the id of its rows.
    """
    values = {
        "loss": record.loss,
        "tokens_per_second": record.tokens_per_second,
        "learning_rate": record.learning_rate,
        "gradient_norm": record.gradient_norm,
    }
    names = metric_names(record.group_weights or record.group_losses or {})
    values |= {f"group_loss/{names[group]}": loss for group, loss in (record.group_losses or {}).items()}
    values |= {f"group_weight/{names[group]}": weight for group, weight in (record.group_weights or {}).items()}
    values |= {f"{HELD_OUT_SAMPLE}/{target}": (record.held_out or {}).get(id) for target, id in (targets or {}).items()}
    measured = {metric: value for metric, value in values.items() if value is not None}
    return tuple(Point(metric, value, record.tokens, record.time) for metric, value in measured.items())


def _model_record(key: str, model: Artifact, targets: Mapping[str, str] | None = None) -> TrackedRun:
    """Return the finished training of a proxy or an arm, with its whole curves.

    ``targets``: see ``training_points``.
    """
    meta = ModelMeta.from_artifact(model)
    steps = [tokens for tokens, _ in meta.curve]
    # Artifacts of earlier versions have neither times nor rates.
    times = dict(zip(steps, meta.times or [], strict=False))
    curves = {"loss": meta.curve}
    for metric in ("tokens_per_second", "learning_rate", "gradient_norm"):
        curves[metric] = list(zip(steps, getattr(meta, metric) or [], strict=False))
    names = metric_names(meta.group_weights or meta.group_losses or {})
    for metric, group_curves in (("group_loss", meta.group_losses), ("group_weight", meta.group_weights)):
        curves |= {f"{metric}/{names[group]}": curve for group, curve in (group_curves or {}).items()}
    held_out = meta.held_out_curves or {}
    curves |= {
        f"{HELD_OUT_SAMPLE}/{target}": held_out[id].curve for target, id in (targets or {}).items() if id in held_out
    }
    points = [
        Point(metric, value, step, times.get(step))
        for metric, curve in curves.items()
        for step, value in curve
        if value is not None
    ]
    points.append(Point("seconds", meta.seconds, meta.tokens, times.get(meta.tokens)))
    return TrackedRun(
        key,
        params=flatten({"parameters": meta.parameters, "tokens": meta.tokens}),
        tags={"artifact": model.id},
        points=tuple(points),
        status="FINISHED",
        started=times.get(steps[0]),
        ended=times.get(steps[-1]),
    )


def _classifier_record(key: str, model: Artifact) -> TrackedRun:
    """Return one arm of a robust comparison under one seed, over training steps."""
    meta = model.meta
    names = [numbered_name(number, name) for number, name in enumerate(meta["group_names"])]
    name_of = dict(zip(meta["group_names"], names, strict=True))
    points: list[Point] = []
    for record in meta["training_curve"]:
        step = record["step"]
        points.append(Point("loss", record["loss"], step))
        for metric, by_group in (("group_loss", record["group_losses"]), ("group_weight", record["group_weights"])):
            points += [Point(f"{metric}/{name_of[group]}", value, step) for group, value in (by_group or {}).items()]
    for step, accuracies in meta["validation_curve"]:
        points += _present(
            step, {f"validation_accuracy/{name}": value for name, value in zip(names, accuracies, strict=True)}
        )
    test, selected = meta["test"], meta["selected"]["step"]
    results = {"test/worst": test["worst"], "test/average_test": test["average_test"]}
    results |= {f"test/accuracy/{name}": value for name, value in zip(names, test["accuracy"], strict=True)}
    points += _present(selected, results)
    params = flatten({"arm": meta["arm"], "seed": meta["seed"]})
    return TrackedRun(key, params, {"artifact": model.id}, tuple(points), status="FINISHED")


def _comparison_points(results: Mapping[str, Any]) -> Iterator[Point]:
    """Return every arm's accuracies, mean over seeds."""
    for arm, result in results["arms"].items():
        for name in ("worst", "average_test", "average_training_share"):
            if result["summary"][name] is not None:
                yield Point(f"{name}/{arm}", result["summary"][name]["mean"], 0)


def _present(step: int, values: Mapping[str, float | None]) -> list[Point]:
    """Return the values that there are: a group without rows has no accuracy, a baseline no gap."""
    return [Point(metric, value, step) for metric, value in values.items() if value is not None]
