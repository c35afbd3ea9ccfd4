"""The run file on what a retrained model minimises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from mixray.config.section import Misfit, Section

GROUP_COLUMN = "column:"
"""``column:NAME`` says that NAME holds the groups themselves."""
Missing = Literal["inverse_presence", "present_only", "ema"]
"""What to do about groups that a step has no rows of."""


class ErmConfig(Section):
    """The mean over rows."""

    kind: Literal["erm"] = "erm"


class GroupWeights(Section):
    """How group weights climb, whatever the groups are."""

    step_size: Annotated[float, Field(ge=0)] = 0.01
    """Of the group weights, per optimiser step and nat."""
    tau: Annotated[float, Field(ge=0)] = 0.0
    """Nats. Pull of the group weights towards the prior: - tau KL(weights || prior)."""
    missing: Literal[Missing, "uniform_sampling"] = "inverse_presence"


class GroupDROSettings(GroupWeights):
    """As ``mixray.robust.GroupDRO`` takes them."""

    adjustment: Annotated[float, Field(ge=0)] = 0.0
    """C: a group's loss is raised by C / sqrt(its rows in training) when the weights are found."""
    alpha: Annotated[float, Field(gt=0, le=1)] | None = None
    """CVaR over groups: no weight is above share / alpha, and there is no climbing."""

    @model_validator(mode="after")
    def _alpha_or_tau(self) -> Self:
        if self.alpha is not None and self.tau:
            raise Misfit("tau", "left out beside alpha, which limits the weights by the groups' shares")
        return self


class ALSOSettings(GroupWeights):
    """As ``mixray.robust.ALSO`` takes them."""

    tau: Annotated[float, Field(ge=0)] = 0.01
    mode: Literal["optimistic", "descent_ascent"] = "optimistic"


class GroupObjective(GroupWeights):
    """What the objectives of retrained models say beside. Their groups are the sources of the arm, or of a column."""

    groups: str = "source"
    """``source``, or for examples ``column:NAME``."""
    prior: Literal["uniform", "shares"] | dict[str, Annotated[float, Field(gt=0)]] = "uniform"
    """Where the group weights start and what they are pulled to; ``shares``: the arm's; else group -> weight."""
    excess: Literal["none", "proxy"] = "none"
    """``proxy``: judge a source by its loss above what its own proxy reached on it in training."""

    @property
    def group_column(self) -> str | None:
        """The column that holds the groups; None where they are the sources."""
        return None if self.groups == "source" else self.groups.removeprefix(GROUP_COLUMN)

    @model_validator(mode="after")
    def _groups_are_known(self) -> Self:
        column = self.group_column
        if column is not None and not (column and self.groups.startswith(GROUP_COLUMN)):
            raise Misfit("groups", "source or column:NAME")
        if column is not None and self.excess == "proxy":
            raise Misfit("excess", "none beside groups of a column: proxies are models of sources")
        if column is not None and self.prior == "shares":
            raise Misfit("prior", "uniform, or a weight for every group, beside groups of a column")
        return self


class GroupDROConfig(GroupObjective, GroupDROSettings):
    kind: Literal["group_dro"] = "group_dro"

    @model_validator(mode="after")
    def _alpha_or_prior(self) -> Self:
        if self.alpha is not None and self.prior != "uniform":
            raise Misfit("prior", "left out beside alpha, which limits the weights by the sources' shares")
        return self


class ALSOConfig(GroupObjective, ALSOSettings):
    """With the optimizer's settings."""

    kind: Literal["also"] = "also"
    weighting: Literal["group_mean", "group_sum"] = "group_mean"
    """Whether a source's loss is the mean over its windows in the step or, as in the paper's code, their sum."""

    @model_validator(mode="after")
    def _sums_miss_nothing(self) -> Self:
        if self.weighting == "group_sum" and self.missing != "inverse_presence":
            raise Misfit("missing", "left out beside weighting: group_sum, where an absent source's sum is 0")
        return self


OBJECTIVES: dict[str, type[Section]] = {"erm": ErmConfig, "group_dro": GroupDROConfig, "also": ALSOConfig}


def _own_keys(raw: Any) -> Any:
    """Refuses a kind that there is not, and keys that belong to other kinds alone."""
    if not isinstance(raw, Mapping):
        return raw
    kind = raw.get("kind", "erm")
    if not isinstance(kind, str) or kind not in OBJECTIVES:
        raise Misfit("kind", " | ".join(OBJECTIVES))
    for key in raw:
        owners = [name for name, section in OBJECTIVES.items() if key in section.model_fields]
        if owners and kind not in owners:
            raise Misfit(str(key), f"kind: {' or '.join(owners)} beside it; {kind} has no {key}")
    return raw


def _kind_of(raw: Any) -> str:
    kind = raw.get("kind") if isinstance(raw, Mapping) else getattr(raw, "kind", None)
    return kind if isinstance(kind, str) and kind in OBJECTIVES else "erm"


ObjectiveConfig = Annotated[
    Annotated[ErmConfig, Tag("erm")] | Annotated[GroupDROConfig, Tag("group_dro")] | Annotated[ALSOConfig, Tag("also")],
    Discriminator(_kind_of),
    BeforeValidator(_own_keys),
]
