"""What a run tells MLflow and the person watching: each function takes one stage's results and says them.

Everything may be said again by a later run of the same file: the tracker leaves out what MLflow has.
"""

from __future__ import annotations

from collections.abc import Mapping

from mixray.cluster.watching import News
from mixray.config import RunConfig, dump_config
from mixray.config.data import PoolConfig
from mixray.data import Prepared
from mixray.errors import without_credentials
from mixray.mixture import Mixture
from mixray.progress import Progress, Stage
from mixray.report import convergence_figure, curves_figure, losses_figure, path_figure, summary_lines, weights_figure
from mixray.runs import RunFolder
from mixray.search import SolvedMixture
from mixray.store import Artifact
from mixray.tracking import Tracker, metric_names
from mixray.training import Progress as TrainingRecord


def begin(tracker: Tracker, folder: RunFolder) -> None:
    """The run itself: its config as parameters and as a file."""
    # Where results are kept and told may hold credentials; ``folder.location`` says it without.
    settings = folder.config.model_dump(mode="json", exclude={"storage", "tracking"})
    tracker.start("", params=settings, tags={"mixray.folder": folder.location})
    tracker.artifact("", "config.yaml", without_credentials(dump_config(folder.config)).encode())


def data(tracker: Tracker, progress: Progress, config: RunConfig, prepared: Prepared) -> None:
    """Sources and targets as data sets with digests and counts; warnings about them."""
    pools: list[tuple[str, Mapping[str, PoolConfig], Mapping[str, Artifact]]] = [
        ("source", config.sources, prepared.sources),
        ("target", config.targets, prepared.targets),
    ]
    for role, configs, artifacts in pools:
        for name, artifact in artifacts.items():
            tracker.dataset(
                "",
                name,
                digest=artifact.id,
                source=_source(configs[name]),
                context="training" if role == "source" else "evaluation",
                profile=prepared.counts[f"{role} {name}"],
            )
    for warning in prepared.warnings:
        progress.warn(warning["message"])


def _source(pool: PoolConfig) -> str:
    """Where a pool is, as MLflow links to it."""
    return f"hf://{pool.dataset}" if pool.dataset and "/" in pool.dataset else ", ".join(pool.locations)


def training(tracker: Tracker, stage: Stage, kind: str) -> News:
    """What to do with a training record that a worker has posted: a bar, and a point of the loss curve."""
    started: set[str] = set()

    def news(key: str, record: TrainingRecord) -> None:
        if key not in started:
            started.add(key)
            tracker.start(f"{kind}/{key}")
        stage.update(key, record.step, record.steps, loss=record.loss, tokens_per_second=record.tokens_per_second)
        points = {
            "loss": record.loss,
            "tokens_per_second": record.tokens_per_second,
            "learning_rate": record.learning_rate,
        }
        names = metric_names(record.group_weights or {})
        points |= {f"group_loss/{names[group]}": loss for group, loss in (record.group_losses or {}).items()}
        points |= {f"group_weight/{names[group]}": weight for group, weight in (record.group_weights or {}).items()}
        tracker.metrics(f"{kind}/{key}", [(name, value, record.tokens) for name, value in points.items()])

    return news


def trained(tracker: Tracker, stage: Stage, kind: str, models: Mapping[str, Artifact]) -> None:
    """The finished models of a stage: whole curves (a worker may have died before it posted), sizes, identities."""
    for name, model in models.items():
        key, meta = f"{kind}/{name}", model.meta
        tracker.start(
            key, params={"parameters": meta["parameters"], "tokens": meta["tokens"]}, tags={"artifact": model.id}
        )
        tracker.metrics(key, [("loss", loss, tokens) for tokens, loss in meta["curve"]])
        names = metric_names(meta.get("group_weights", {}))
        for metric, kind_of_curve in (("group_loss", "group_losses"), ("group_weight", "group_weights")):
            for group, curve in meta.get(kind_of_curve, {}).items():
                tracker.metrics(key, [(f"{metric}/{names[group]}", value, tokens) for tokens, value in curve])
        tracker.metrics(key, [("seconds", meta["seconds"], meta["tokens"])])
        tracker.finish(key)
        stage.update(name, 1, 1, loss=meta["curve"][-1][1])
    curves = {name: [(tokens, loss) for tokens, loss in model.meta["curve"]] for name, model in models.items()}
    title = "Training loss of the proxies" if kind == "proxy" else "Training loss of the arms"
    tracker.artifact("", f"{kind}_curves.png", curves_figure(curves, title=title))


def mixture(tracker: Tracker, stage: Stage, name: str, found: SolvedMixture) -> None:
    """One mixture (a target's, or mean, or worst): shares, certificate, predicted losses."""
    answer = found.mixture
    facts = {f"weight/{name}/{source}": share for source, share in answer.weights.items()}
    facts |= {f"predicted/{name}/{arm}": loss for arm, loss in answer.loss.items()}
    facts |= {f"gap/{name}": found.trace[-1, 1], f"rounds/{name}": float(found.mixture.rounds or 0)}
    facts |= {f"predicted/{name}/{target}": loss for target, loss in answer.target_loss.items()}
    if answer.effective_sources is not None:
        facts[f"effective_sources/{name}"] = answer.effective_sources
    tracker.metrics("", [(key, value, 0) for key, value in facts.items()])
    leaders = sorted(answer.weights.items(), key=lambda item: -item[1])[:3]
    shares = ", ".join(f"{source} {share:.1%}" for source, share in leaders)
    stage.update(name, 1, 1, gap=found.trace[-1, 1], shares=shares)


def report(
    tracker: Tracker,
    folder: RunFolder,
    mixtures: Mapping[str, Mixture],
    found: Mapping[str, SolvedMixture],
    arm_shares: Mapping[str, Mapping[str, float]],
) -> None:
    """Realised losses as metrics; mixture files and figures in the run folder and in MLflow."""
    baselines: dict[str, Mapping[str, float]] = {
        arm: arm_shares[arm] for arm in folder.config.retrain.arms if arm in arm_shares
    }
    for name, answer in mixtures.items():
        facts = {
            f"realised/{name}/{arm}": result.nll for arm, result in answer.retrain.items() if result.nll is not None
        }
        facts |= {
            f"realised/{name}/{arm}/{target}": loss.nll
            for arm, result in answer.retrain.items()
            for target, loss in result.targets.items()
            if loss.nll is not None
        }
        if answer.compute is not None:
            facts[f"overhead/{name}"] = answer.compute.overhead
        tracker.metrics("", [(key, value, 0) for key, value in facts.items()])
        loss, gap = found[name].trace.T
        settings = folder.config.mixture
        figures = {
            f"{name}_weights.png": weights_figure(answer, baselines),
            f"{name}_losses.png": losses_figure(answer),
            f"{name}_solver.png": convergence_figure(
                gap.tolist(), loss.tolist(), settings.tolerance, solver=answer.solver or settings.solver
            ),
        }
        if answer.path:
            figures[f"{name}_path.png"] = path_figure(answer)
        for filename, png in figures.items():
            folder.save_report(filename, png)
            tracker.artifact("", f"figures/{filename}", png)
        tracker.artifact("", f"mixtures/{name}.json", answer.to_json().encode())
    lines = [line for answer in mixtures.values() for line in summary_lines(answer)]
    tracker.start("", tags={"mlflow.note.content": "\n\n".join(lines)})
