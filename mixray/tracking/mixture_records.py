"""What MLflow shows of a search for mixtures: the settings and metrics that matter, two tables, and every arm's facts.

The whole configuration and the mixture files are published beside them, as files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mixray.config import RunConfig
from mixray.mixture import HeldOutLoss, Mixture
from mixray.store import ModelMeta
from mixray.tracking.records import flatten

SEARCHED = "mixmin"
SHARES_TABLE, COMPARISON_TABLE = "shares.json", "comparison.json"
Cell = str | int | float | None


@dataclass
class ArmFacts:
    """What an arm's MLflow run holds beside its training. ``held_out``: target -> loss, nats per token."""

    tags: dict[str, str]
    held_out: dict[str, float] = field(default_factory=dict)


def key_settings(config: RunConfig) -> dict[str, str]:
    """Return the dozen settings that tell runs apart in a list."""
    settings = {
        "seed": config.seed,
        "sources": ", ".join(config.sources),
        "targets": ", ".join(config.targets),
        "over": config.mixture.over,
        "unit": config.mixture.model_dump(mode="json")["unit"],
        "limits": config.mixture.model_dump(mode="json", include={"bounds", "groups", "max_epochs"}, exclude_none=True),
        "arms": ", ".join(config.retrain.named_arms),
        "objective": config.retrain.objective.kind,
        "replicates": config.retrain.replicates,
    }
    for name, training in (("proxy", config.proxy), ("retrain", config.retrain)):
        model = training.model.model_dump(mode="json", exclude_none=True)
        settings |= {f"{name}.tokens": training.tokens, f"{name}.model": json.dumps(model)}
    return flatten(settings)


def key_metrics(mixtures: Mapping[str, Mixture]) -> dict[str, float | None]:
    """Return each target's held-out loss on its mixture, the gains over the baselines, the gap and the search's cost.

    Losses, gains and gaps are in nats per token.
    """
    metrics: dict[str, float | None] = {}
    for name, mixture in mixtures.items():
        metrics[f"gap/{name}"] = mixture.gap
        metrics |= {f"predicted_gain/{name}/{baseline}": gain.estimate for baseline, gain in mixture.gain.items()}
        searched = _searched_arm(mixture)
        if searched is None:
            continue
        by_arm = {arm: _losses_by_target(mixture, result) for arm, result in mixture.retrain.items()}
        for target, loss in by_arm[searched].items():
            metrics[f"held_out/{target}"] = loss.nll
            for arm, losses in by_arm.items():
                if arm != searched and target in losses:
                    metrics[f"gain/{target}/{arm}"] = _minus(losses[target].nll, loss.nll)
        metrics[f"overhead/{name}"] = mixture.compute.overhead if mixture.compute else None
    return metrics


def _searched_arm(mixture: Mixture) -> str | None:
    """Return the arm on the mixture that was searched for: that of its name, or the first with another name."""
    if SEARCHED in mixture.retrain:
        return SEARCHED
    return next((arm for arm, result in mixture.retrain.items() if result.mixture == SEARCHED), None)


def tables(config: RunConfig, mixtures: Mapping[str, Mixture], models: Mapping[str, ModelMeta]) -> dict[str, bytes]:
    """Return the tables of shares and of arms as MLflow stores tables, by file name; those that have rows.

    ``models``: trained models by key, such as ``arm/balanced``.
    """
    shares = [row for name, mixture in mixtures.items() for row in _share_rows(config, name, mixture, models)]
    arms = [row for mixture in mixtures.values() for row in _arm_rows(mixture)]
    return {name: _table(rows) for name, rows in ((SHARES_TABLE, shares), (COMPARISON_TABLE, arms)) if rows}


def _table(rows: Sequence[Mapping[str, Cell]]) -> bytes:
    """Return rows as MLflow stores a table, to be read: numbers with six digits, where mixture files have all.

    A row has an empty cell for a column that only others have.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    data = [[_rounded(row.get(column)) for column in columns] for row in rows]
    return json.dumps({"columns": columns, "data": data}).encode()


def _rounded(cell: Cell) -> Cell:
    return float(f"{cell:.6g}") if isinstance(cell, float) else cell


def arm_facts(config: RunConfig, mixtures: Mapping[str, Mixture]) -> dict[str, ArmFacts]:
    """Return the tags and held-out losses of every retrained model, by its key, such as ``arm/mixmin-zoo``."""
    facts: dict[str, ArmFacts] = {}
    for arm, mixture_name, key, seed, replicate in _models(config):
        arm_config = config.retrain.named_arms[arm]
        targets = [mixture_name] if mixture_name in config.targets else list(config.targets)
        tags = {
            "role": "arm",
            "method": arm_config.mixture or "shares",
            "objective": arm_config.objective.kind if arm_config.objective else "erm",
            "target": ", ".join(targets if arm_config.is_searched or config.leaves_out else config.targets),
            "seed": str(seed),
        }
        model = facts.setdefault(key, ArmFacts(tags))
        mixture = mixtures.get(mixture_name)
        if mixture is None or arm not in mixture.retrain:
            continue
        for target, loss in _losses_by_target(mixture, mixture.retrain[arm]).items():
            nll = loss.nll_by_seed[replicate] if loss.nll_by_seed else loss.nll
            if nll is not None:
                model.held_out[target] = nll
    return facts


def _models(config: RunConfig) -> Iterator[tuple[str, str, str, int, int]]:
    """Yield arm, mixture, key, seed and number of the replicate, for every retrained model and mixture."""
    for arm, settings in config.retrain.named_arms.items():
        for mixture, model in settings.models(config.retrained_mixtures, apart=config.leaves_out).items():
            for replicate, (name, seed) in enumerate(config.replicate_seeds(model).items()):
                yield arm, mixture, f"arm/{name}", seed, replicate


def _losses_by_target(mixture: Mixture, result: HeldOutLoss) -> dict[str, HeldOutLoss]:
    """Return what an arm reached on each target of the mixture."""
    by_target: dict[str, HeldOutLoss] = getattr(result, "targets", {})
    return by_target or dict.fromkeys(mixture.targets[:1], result)


def _share_rows(
    config: RunConfig, name: str, mixture: Mixture, models: Mapping[str, ModelMeta]
) -> Iterable[dict[str, Cell]]:
    keys = {
        arm: f"arm/{settings.models([name], apart=config.leaves_out)[name]}"
        for arm, settings in config.retrain.named_arms.items()
        if arm != SEARCHED
    }
    trained = {arm: models[key].source_shares or {} for arm, key in keys.items() if key in models}
    for source, share in mixture.weights.items():
        low, high = mixture.interval.get(source, (None, None))
        row: dict[str, Cell] = {"mixture": name, "source": source, SEARCHED: share, "low": low, "high": high}
        row["epochs"] = mixture.epochs.get(source)
        yield row | {arm: shares.get(source) for arm, shares in trained.items()}


def _arm_rows(mixture: Mixture) -> Iterable[dict[str, Cell]]:
    for arm, result in mixture.retrain.items():
        for target, loss in _losses_by_target(mixture, result).items():
            yield {
                "target": target,
                "arm": arm,
                "held_out": loss.nll,
                "difference": loss.difference,
                "low": loss.difference_low,
                "high": loss.difference_high,
                "documents": loss.documents,
                "predicted": mixture.loss.get(arm),
                **{name: metric.value for name, metric in loss.metrics.items()},
            }


def _minus(loss: float | None, other: float | None) -> float | None:
    return None if loss is None or other is None else loss - other
