"""The section ``retrain.objective`` of a run file: what a retrained model minimises.

It is one of three kinds: the mean loss (``ErmConfig``), Group DRO or ALSO. The settings of the last two that do not
depend on what a group is (``GroupDROSettings``, ``ALSOSettings``) are also those of the arms of a comparison of robust
training, where ``mixray.config.robust`` uses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from mixray.config.section import Misfit, Section

GROUP_COLUMN = "column:"
"""``groups: column:NAME`` takes the values of the column NAME as groups."""
Missing = Literal["inverse_presence", "present_only", "ema"]
"""What to do about groups that have no rows in a step; ``GroupWeightsSettings.missing`` explains each choice."""
MissingGroups = Literal[Missing, "uniform_sampling"]
"""The same choices, and one for training data in which every group is drawn equally often."""


class ErmConfig(Section):
    """Minimise the mean loss over rows (empirical risk minimisation)."""

    kind: Literal["erm"] = "erm"
    """erm, the default: minimise the mean loss over rows."""


class GroupWeightsSettings(Section):
    """How the weights of groups change in training. Group DRO and ALSO share these settings."""

    step_size: Annotated[float, Field(ge=0)] = 0.01
    """Step size of the group weights, per optimizer step and nat of loss."""
    tau: Annotated[float, Field(ge=0)] = 0.0
    """How strongly the group weights are pulled to the prior, in nats: subtracts tau x KL(weights || prior)."""
    missing: MissingGroups = "ema"
    """What to do about groups without rows in a step. inverse_presence: divide a group's loss by how often it is
    present; present_only: leave the others' weights unchanged; ema: use a moving average of their losses;
    uniform_sampling: the plain rule, for training data in which every group is drawn equally often."""


class GroupDROSettings(GroupWeightsSettings):
    """The settings of ``mixray.robust.GroupDRO``."""

    adjustment: Annotated[float, Field(ge=0)] = 0.0
    """C: a group's loss is raised by C / sqrt(number of its training rows) when the weights are updated."""
    alpha: Annotated[float, Field(gt=0, le=1)] | None = None
    """CVaR over groups: no weight exceeds share / alpha, and the weights are the maximum rather than steps to it. null:
    ordinary Group DRO."""

    @model_validator(mode="after")
    def _alpha_or_tau(self) -> Self:
        if self.alpha is not None and self.tau:
            raise Misfit("tau", "left out beside alpha, which limits the weights by the groups' shares")
        return self


class ALSOSettings(GroupWeightsSettings):
    """The settings of ``mixray.robust.ALSO``."""

    tau: Annotated[float, Field(ge=0)] = 0.01
    """How strongly the group weights are pulled to the prior, in nats: subtracts tau x KL(weights || prior)."""
    mode: Literal["optimistic", "descent_ascent"] = "optimistic"
    """optimistic: the optimistic update of the paper. descent_ascent: plain simultaneous steps."""


class GroupObjective(GroupWeightsSettings):
    """The settings that only retrained models have: what a group is, and what its loss is compared with."""

    groups: str = "source"
    """What a group is: source, or column:NAME for the values of a column of examples."""
    prior: Literal["uniform", "shares"] | dict[str, Annotated[float, Field(gt=0)]] = "uniform"
    """The group weights at the start, which tau pulls to: uniform, shares (those of the arm's mixture), or a weight for
    every group."""
    excess: Literal["none", "proxy"] = "none"
    """proxy: judge a source by its loss above the loss that its own proxy reached on it in training. none: by its
    loss."""

    @property
    def group_column(self) -> str | None:
        """The column that holds the groups; None where they are the sources."""
        return None if self.groups == "source" else self.groups.removeprefix(GROUP_COLUMN)

    @model_validator(mode="after")
    def _groups_fit_the_rest(self) -> Self:
        column = self.group_column
        if column is not None and not (column and self.groups.startswith(GROUP_COLUMN)):
            raise Misfit("groups", "source or column:NAME")
        if column is not None and self.excess == "proxy":
            raise Misfit("excess", "none beside groups of a column: proxies are models of sources")
        if column is not None and self.prior == "shares":
            raise Misfit("prior", "uniform, or a weight for every group, beside groups of a column")
        return self


class GroupDROConfig(GroupObjective, GroupDROSettings):
    """Retrain with Group DRO."""

    kind: Literal["group_dro"] = "group_dro"
    """group_dro: minimise the loss of the worst groups."""

    @model_validator(mode="after")
    def _alpha_or_prior(self) -> Self:
        if self.alpha is not None and self.prior != "uniform":
            raise Misfit("prior", "left out beside alpha, which limits the weights by the sources' shares")
        return self


class ALSOConfig(ALSOSettings, GroupObjective):
    """Retrain with ALSO, an optimizer that takes the settings of ``retrain.optimizer``."""

    kind: Literal["also"] = "also"
    """also: minimise the loss of the worst groups with an optimistic optimizer."""
    weighting: Literal["group_mean", "group_sum"] = "group_mean"
    """Whether a source's loss in a step is the mean over its windows (group_mean) or, as in the paper's code, their sum
    (group_sum)."""

    @model_validator(mode="after")
    def _missing_or_group_sum(self) -> Self:
        if self.weighting == "group_sum" and self.missing != "ema":
            raise Misfit("missing", "left out beside weighting: group_sum, where an absent source's sum is 0")
        return self


OBJECTIVES: dict[str, type[Section]] = {"erm": ErmConfig, "group_dro": GroupDROConfig, "also": ALSOConfig}


def _refuse_keys_of_other_kinds(raw: Any) -> Any:
    """Return the section unchanged. Raises Misfit for an unknown kind, and for a key that only other kinds have."""
    if not isinstance(raw, Mapping):
        return raw
    kind = raw.get("kind", "erm")
    if not isinstance(kind, str) or kind not in OBJECTIVES:
        raise Misfit("kind", " | ".join(OBJECTIVES))
    for key in raw:
        kinds_with_key = [name for name, section in OBJECTIVES.items() if key in section.model_fields]
        if kinds_with_key and kind not in kinds_with_key:
            raise Misfit(str(key), f"kind: {' or '.join(kinds_with_key)} beside it; {kind} has no {key}")
    return raw


def _kind_of(raw: Any) -> str:
    kind = raw.get("kind") if isinstance(raw, Mapping) else getattr(raw, "kind", None)
    return kind if isinstance(kind, str) and kind in OBJECTIVES else "erm"


ObjectiveConfig = Annotated[
    Annotated[ErmConfig, Tag("erm")] | Annotated[GroupDROConfig, Tag("group_dro")] | Annotated[ALSOConfig, Tag("also")],
    Discriminator(_kind_of),
    BeforeValidator(_refuse_keys_of_other_kinds),
]
