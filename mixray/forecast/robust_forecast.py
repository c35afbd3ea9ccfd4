"""The forecast of a comparison of robust training, whose rows are all read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from mixray.config import RobustConfig
from mixray.data import InputWarning
from mixray.data.tabular.grouped import GroupedTask
from mixray.models import classifier_size
from mixray.report import ModelsToTrain, ResourceForecast, cost_tables, new_table, titled


@dataclass(frozen=True)
class RobustForecast:
    """The forecast of a comparison of robust training.

    ``rows``: part -> encoded rows under the first seed; ``groups``: group -> its training rows.
    """

    run: str
    arms: list[str]
    seeds: list[int]
    rows: dict[str, int]
    groups: dict[str, int]
    features: int
    parameters: int
    steps: int
    """Optimizer steps of every arm under every seed."""
    batch: int
    arms_to_train: ModelsToTrain
    warnings: list[InputWarning]
    resources: ResourceForecast | None = None
    """Time, memory and disk; None where they were not asked for."""

    @property
    def training_flops(self) -> int:
        """Operations of the training of all arms under all seeds, as 6 x parameters x rows."""
        return 6 * self.parameters * self.steps * self.batch * len(self.arms) * len(self.seeds)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        fields = {"kind": "robust comparison"} | asdict(replace(self, resources=None))
        del fields["arms_to_train"]
        resources = None if self.resources is None else self.resources.to_dict()
        return fields | {"training_flops": self.training_flops, "resources": resources}

    def tables(self) -> list[RenderableType]:
        """Return a table of the groups and lines on the work."""
        table = new_table("group", "training rows", "share")
        for group, count in self.groups.items():
            table.add_row(group, f"{count:,}", f"{count / self.rows['train']:.1%}")
        parts = ", ".join(f"{count:,} {part}" for part, count in self.rows.items())
        lines = [
            f"rows: {parts}; {self.features:,} features",
            f"training: {len(self.arms)} arms x {len(self.seeds)} seeds x {self.steps:,} steps of {self.batch:,} rows, "
            f"{self.parameters:,} parameters each",
            f"estimate: {self.training_flops:.3g} FLOPs in all (6 x parameters x rows)",
        ]
        messages = [warning.message for warning in self.warnings]
        title = f"Forecast of {self.run}, a robust comparison"
        return [titled(title, table), *map(Text, lines), *cost_tables(self.resources, messages)]


def forecast_comparison(config: RobustConfig, task: GroupedTask) -> RobustForecast:
    """Return the forecast of a comparison of robust training. ``task``: that of the first seed."""
    features = task.train.features.shape[1]
    counts = task.training_counts.tolist()
    parameters = classifier_size(config.model, features=features, classes=len(task.label_names))
    steps, models = config.step_count(len(task.train)), len(config.arms) * config.seeds
    return RobustForecast(
        run=config.name,
        arms=list(config.arms),
        seeds=config.all_seeds,
        rows={name: len(part) for name, part in task.parts()},
        groups=dict(zip(task.group_names, counts, strict=True)),
        features=features,
        parameters=parameters,
        steps=steps,
        batch=config.batch,
        arms_to_train=ModelsToTrain(
            name="arms",
            models=models,
            parameters=parameters,
            tokens=steps * config.batch,
            scored_tokens=models * (config.evaluations * len(task.validation) + len(task.test)),
            workers=(1, 1),
            device_kind="GPU" if config.resources.gpus else "core",
            devices_per_worker=config.resources.gpus or config.resources.cpus,
            is_optimistic="also" in config.arms and config.also.mode == "optimistic",
        ),
        warnings=[InputWarning(warning["code"], warning["message"]) for warning in task.warnings],
    )
