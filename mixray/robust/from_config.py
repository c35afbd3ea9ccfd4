"""The objective of a run file (``retrain.objective``) for an arm whose groups are its sources, or of a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from mixray.config.objective import ALSOConfig, ErmConfig, GroupObjective, ObjectiveConfig
from mixray.robust.also import ALSO
from mixray.robust.group_dro import GroupDRO
from mixray.robust.groups import PerGroup
from mixray.robust.objective import ALSOObjective, GroupDROObjective
from mixray.training.objective import Objective


def new_objective(
    config: ObjectiveConfig,
    group_shares: Mapping[str, float],
    *,
    windows: int,
    presence: Sequence[float],
    reference_losses: Mapping[str, float] | None,
) -> Objective | None:
    """None for ERM.

    group_shares: share of training tokens by group, in the order of the groups, all positive. windows: in the run.
    presence: P(a step has a window of the group), in the same order. reference_losses: nats per token, by source;
    needed where the config says ``excess: proxy``, whose groups are the sources.
    """
    if isinstance(config, ErmConfig):
        return None
    settings: dict[str, Any] = {
        "num_groups": len(group_shares),
        "step_size": config.step_size,
        "missing": config.missing,
        "tau": config.tau,
        "prior": _prior(config, group_shares),
    }
    references: list[float] | None = None
    if config.excess == "proxy":
        assert reference_losses is not None, "excess: proxy needs the proxies' losses"
        references = [reference_losses[source] for source in group_shares]
    if isinstance(config, ALSOConfig):
        settings |= {"mode": config.mode, "weighting": config.weighting}
        if config.missing == "inverse_presence" and config.weighting == "group_mean":
            settings["presence"] = presence
        return ALSOObjective(partial(ALSO, **settings), reference_losses=references)
    settings |= {
        "adjustment": config.adjustment,
        "alpha": config.alpha,
        "training_counts": [share * windows for share in group_shares.values()],
        "presence": presence if config.missing == "inverse_presence" else None,
    }
    return GroupDROObjective(GroupDRO(**settings), reference_losses=references)


def _prior(config: GroupObjective, group_shares: Mapping[str, float]) -> PerGroup | None:
    if config.prior == "uniform":
        return None
    weights = group_shares if config.prior == "shares" else config.prior
    return [weights[group] for group in group_shares]
