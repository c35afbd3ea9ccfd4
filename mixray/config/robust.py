"""The run file of a robust comparison: classifiers of grouped rows under several objectives, side by side."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from mixray.config.data import ExampleColumns
from mixray.config.objective import GROUP_COLUMN, ALSOSettings, GroupDROSettings, Missing
from mixray.config.section import Globs, Misfit, Positive, RunFile, Section
from mixray.config.training import HeadConfig, OptimizerConfig, Precision, Resources

PositiveNumber = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Columns = Annotated[list[str], Field(min_length=1)]
RobustArm = Literal["erm", "balanced", "importance", "group_dro", "also"]
"""The mean over rows; batches with all groups alike; rows weighed by 1 / their group's share; the two objectives."""
Criterion = Literal["worst_group", "average"]
Estimator = Literal["gradient_boosting", "random_forest", "l1_logistic"]


class DigitsConfig(Section):
    """scikit-learn's 8 x 8 digits, 5 to 9 against 0 to 4, with a bright patch where the label's shortcut is.

    In training rows the patch tells the label in ``correlation`` of the cases, in the others in half of them.
    """

    correlation: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """How often the patch tells the label in training rows, from 0.5 (chance) to 1."""


class GroupedConfig(ExampleColumns):
    """Grouped rows: exactly one of ``parquet``, ``csv``, ``digits`` says where they are."""

    parquet: str | Globs | None = None
    """Parquet files by glob, or folders of them."""
    csv: str | Globs | None = None
    """CSV files by glob, each with a header line."""
    digits: DigitsConfig | None = None
    """Handwritten digits with a shortcut that is added to them, in place of files. Nothing is downloaded."""

    group: Columns | str | None = None
    """The columns whose values together are the group, e.g. [sex, income], or column:NAME for one column."""
    spurious: str | None = None
    """The column of the attribute that the model should not use. null: its use is not measured."""
    split: str | None = None
    """The column that says train, validation or test. null: rows are split at random for every seed, within each
    group."""
    validation: Fraction = 0.2
    """The fraction of the training rows that becomes the validation part, where `split` names none."""
    test: Fraction = 0.25
    """The fraction of all rows that becomes the test part, where there is no `split`."""

    @property
    def group_columns(self) -> list[str]:
        if isinstance(self.group, str):
            return [self.group.removeprefix(GROUP_COLUMN)]
        return list(self.group or [])

    @property
    def named_columns(self) -> dict[str, list[str]]:
        """Key of this section -> the columns that it names."""
        single = {key: getattr(self, key) for key in ("label", "spurious", "split")}
        roles = {key: [] if value is None else [value] for key, value in single.items()}
        return {key: list(names) for key, names in self.inputs.items()} | {"group": self.group_columns} | roles

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        places = [key for key in ("parquet", "csv", "digits") if getattr(self, key) is not None]
        if len(places) != 1:
            raise ValueError(f"exactly one of parquet, csv, digits; it has {', '.join(places) or 'none'}")
        if self.digits is not None:
            named = [key for key, columns in self.named_columns.items() if columns]
            if named:
                raise Misfit(named[0], "no column beside digits, which has its own label, group and features")
            return self
        for key in ("label", "group"):
            if not getattr(self, key):
                raise Misfit(key, "a column")
        if isinstance(self.group, str) and not self.group.removeprefix(GROUP_COLUMN):
            raise Misfit("group", "column:NAME or a list of columns")
        if isinstance(self.group, str) and not self.group.startswith(GROUP_COLUMN):
            raise Misfit("group", f"column:{self.group}, or a list: [{self.group}]")
        return self

    @model_validator(mode="after")
    def _inputs(self) -> Self:
        if self.digits is not None:
            return self
        self.check_inputs({"label": self.label, "split": self.split})
        return self


class GroupDROArm(GroupDROSettings):
    missing: Missing = "ema"
    """What to do about groups without rows in a step: inverse_presence, present_only or ema. Rows come in epochs, so
    uniform_sampling is not possible here."""


class ALSOArm(ALSOSettings):
    missing: Missing = "ema"
    """What to do about groups without rows in a step: inverse_presence, present_only or ema. Rows come in epochs, so
    uniform_sampling is not possible here."""


class MeasuresConfig(Section):
    """What explains a robust head, beside its accuracy."""

    l2: tuple[PositiveNumber, ...] = (0.001, 0.01, 0.1, 1.0)
    """Strengths of the penalty at which exact ERM and Group DRO heads on the inputs are compared. []: none are
    computed."""
    rows: Positive = 4000
    """The largest number of training rows for the exact heads and the completeness, drawn at random by the seed."""
    estimator: Estimator = "random_forest"
    """The model whose feature importance measures completeness."""
    pca: Annotated[int, Field(ge=2)] | None = None
    """Reduce the representation to this many principal components first. null: keep all of it."""


class RobustConfig(RunFile):
    """A run file that trains every one of ``arms`` on the grouped rows of ``data`` and compares them."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """The first seed. A seed determines splits, batches, first weights and the patches of digits."""
    seeds: Positive = 3
    """Number of seeds, counted up from `seed`. Every arm is trained once per seed."""
    data: GroupedConfig
    """The grouped rows: where they are, and what their columns mean."""
    model: HeadConfig = HeadConfig()
    """The classifier that every arm trains."""
    l2: Annotated[float, Field(ge=0)] = 0.01
    """Penalty mu: adds mu / 2 x |parameters|^2, biases included, to every group's loss in every arm."""
    batch: Positive = 64
    """Rows per optimizer step."""
    epochs: PositiveNumber | None = None
    """Passes over the training rows. Every arm takes the same number of steps. Give either `epochs` or `steps`."""
    steps: Positive | None = None
    """Optimizer steps of every arm. Give either `epochs` or `steps`."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=3e-3, betas=(0.9, 0.999), weight_decay=0.0, clip=None)
    """Adam's settings. Its weight decay must be 0, because `l2` is the penalty."""
    precision: Precision = "auto"
    """auto: bfloat16 autocast on a GPU that supports it, float32 elsewhere."""
    evaluations: Annotated[int, Field(ge=1, le=100)] = 20
    """How often each arm is measured on the validation part. The best of these models is the arm's."""
    select_by: Criterion = "worst_group"
    """The measure on the validation part that selects the model: accuracy of the worst group, or on average."""
    arms: Annotated[tuple[RobustArm, ...], Field(min_length=1)] = get_args(RobustArm)
    """The methods to compare. erm: mean loss over rows; balanced: batches with all groups alike; importance: rows
    weighted by 1 / their group's share; group_dro and also: the loss of the worst groups."""
    group_dro: GroupDROArm = GroupDROArm()
    """Settings of the arm group_dro."""
    also: ALSOArm = ALSOArm()
    """Settings of the arm also."""
    measures: MeasuresConfig = MeasuresConfig()
    """Measures that explain the trained models, besides their accuracy."""
    resources: Resources = Resources()
    """CPUs and GPUs of one arm under one seed."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_sections(cls, raw: Any) -> Any:
        """Let an ``optimizer`` section change this kind's defaults, not those of language models."""
        if isinstance(raw, dict) and isinstance(raw.get("optimizer"), dict):
            plain = cls.model_fields["optimizer"].default.model_dump()
            return raw | {"optimizer": plain | raw["optimizer"]}
        return raw

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("exactly one of epochs, steps")
        if len(set(self.arms)) != len(self.arms):
            raise Misfit("arms", "every arm named once")
        if self.optimizer.weight_decay:
            raise Misfit("optimizer.weight_decay", "0: the penalty of this job is l2, part of what is minimised")
        return self

    @property
    def all_seeds(self) -> list[int]:
        return list(range(self.seed, self.seed + self.seeds))

    def step_count(self, training_rows: int) -> int:
        """Return the number of optimizer steps of every arm."""
        return self.steps or max(1, round((self.epochs or 0) * training_rows / self.batch))
