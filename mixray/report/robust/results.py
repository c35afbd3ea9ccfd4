"""The results of a comparison of robust methods: typed records, stored as ``results.json`` in the run folder.

The artifacts of single arms and of exact heads carry ``SeedResult`` and ``SeedHeads`` as their metadata. A field that
an earlier version did not write has a default, so that every results file can still be read.
"""

from __future__ import annotations

import json
from typing import Self

from pydantic import BaseModel, ConfigDict

SCHEMA = "mixray.robust/1"


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class Spread(Record):
    """A number over seeds: its mean, standard deviation, value for each seed and 95 % interval.

    The interval covers the choice of test rows as well as the seeds. It is None for numbers that are not accuracies,
    and where the rows are not stored.
    """

    mean: float
    sd: float | None
    """Over seeds only; None for one seed."""
    values: tuple[float, ...]
    """In the order of the seeds."""
    interval: tuple[float, float] | None = None


# ------------------------------------------------------------------------------------------------- one arm, one seed


class Accuracy(Record):
    """How often one model is right on one part of the rows (test or validation), by group and on average."""

    accuracy: tuple[float | None, ...]
    """Of each group, in the order of the group ids; None for a group without rows."""
    counts: tuple[int, ...]
    """The rows of each group in this part."""
    worst_group: int
    """The id of the group with the lowest accuracy."""
    worst: float
    """The accuracy of that group."""
    average_test: float
    """Over all rows of this part."""
    average_training_share: float | None
    """Over groups, weighted by their shares of the training rows; None where one of them has no rows here."""


class SelectedModel(Record):
    """The step whose model was selected, by which criterion, and its score on the validation part."""

    by: str
    step: int
    score: float


class TrainingPoint(Record):
    """The training loss at one step; by group, with the groups' weights, where the arm weights groups."""

    step: int
    loss: float
    group_losses: dict[str, float] | None
    group_weights: dict[str, float] | None


class TaskWarning(Record):
    """A warning about the rows or the results, and which part and column of how many rows it is about."""

    code: str
    message: str
    part: str | None = None
    column: str | None = None
    rows: int | None = None


class Cosines(Record):
    """The cosines of the angles between a head and two exact heads: the oracle, and the one that predicts the spurious
    attribute. ``mixray.study.mechanism`` says what these heads are. ``spurious`` is None without such an attribute."""

    oracle: float
    spurious: float | None


class BoundSides(Record):
    """Both sides of R(w) - R(w_G) >= mu/2 |w - w_G|^2, in nats, as ``mixray.robust.alignment.Bound`` computes them.

    R is the worst group's loss with its penalty, w_G its exact minimiser and mu the strength of L2. ``gap`` is the left
    side, ``distance`` the right side and ``slack`` their difference. The bound holds if the slack is at least
    -``tolerance``, because the exact minimiser is known only up to an error.
    """

    gap: float
    distance: float
    tolerance: float
    slack: float
    holds: bool
    l2: float | None = None


class CompletenessResult(Record):
    """How far single dimensions of a representation hold all that it knows of a factor (1: one dimension holds it all),
    and the settings of the measure, which ``mixray.robust.completeness`` explains."""

    completeness: float
    per_factor: tuple[float, ...]
    dimensions: int
    estimator: str
    kept_variance: float | None


class Measures(Record):
    """What explains one trained model, each None if it was not measured.

    ``bound`` and ``alignment`` need exact heads, which exist only with L2; ``completeness`` needs at least two
    dimensions that vary.
    """

    completeness: CompletenessResult | None = None
    bound: BoundSides | None = None
    alignment: Cosines | None = None

    def numbers(self) -> dict[str, float | None]:
        """Return name -> number, None for what was not measured."""
        alignment, bound, completeness = self.alignment, self.bound, self.completeness
        return {
            "alignment_spurious": alignment.spurious if alignment else None,
            "alignment_oracle": alignment.oracle if alignment else None,
            "bound_gap": bound.gap if bound else None,
            "bound_distance": bound.distance if bound else None,
            "bound_slack": bound.slack if bound else None,
            "completeness": completeness.completeness if completeness else None,
        }


class SeedResult(Record):
    """One arm under one seed."""

    arm: str
    seed: int
    label_names: tuple[str, ...]
    group_names: tuple[str, ...]
    spurious_names: tuple[str, ...]
    feature_names: tuple[str, ...]
    selected: SelectedModel
    test: Accuracy
    validation: Accuracy
    training_counts: tuple[int, ...]
    steps: int
    rows_seen: int
    parameters: int
    seconds: float
    validation_curve: tuple[tuple[int, tuple[float | None, ...]], ...]
    """(step, accuracy of each group on the validation part)."""
    training_curve: tuple[TrainingPoint, ...]
    measures: Measures
    warnings: tuple[TaskWarning, ...]


# ------------------------------------------------------------------------------------------------------- exact heads


class ErmAndRobust(Record):
    """One number for the exact ERM head and one for the exact Group DRO head."""

    erm: float
    group_dro: float


class ExactHeads(Record):
    """The exact heads on one seed's inputs at one strength of L2.

    ``certificate`` bounds how far the Group DRO head's objective is above the smallest one, in nats. ``oracle`` and
    ``spurious`` are cosines (see ``Cosines``), of the ERM and of the Group DRO head.
    """

    l2: float
    bound: BoundSides
    worst_loss: ErmAndRobust
    worst_test_accuracy: ErmAndRobust
    certificate: float
    oracle: ErmAndRobust
    spurious: ErmAndRobust | None


class SeedHeads(Record):
    """The exact heads of one seed, one entry for each strength of L2; ``rows``: how many rows they were fitted on."""

    seed: int
    rows: int
    heads: tuple[ExactHeads, ...]


# --------------------------------------------------------------------------------------------------------- all seeds


class WorstGroup(Record):
    """The group that has the lowest accuracy in most seeds, and in how many seeds it has."""

    name: str
    seeds: int


class ArmSummary(Record):
    """An arm over seeds: accuracies on the test part, measures, and whether the bound holds in each seed."""

    worst_group: WorstGroup
    worst: Spread
    average_test: Spread
    average_training_share: Spread | None
    groups: dict[str, Spread | None]
    measures: dict[str, Spread | None]
    bound_holds: tuple[bool, ...]


class ComparedArm(Record):
    summary: ArmSummary
    seeds: tuple[SeedResult, ...]


class WorstGroupDifference(Record):
    """Worst-group accuracy of ``arm`` minus that of ``against``, paired by seed and by test row."""

    arm: str
    against: str
    mean: float
    interval: tuple[float, float] | None

    @property
    def is_separated(self) -> bool:
        """Whether the interval lies above 0."""
        return self.interval is not None and self.interval[0] > 0


class SpreadPair(Record):
    erm: Spread
    group_dro: Spread


class HeadsSummary(Record):
    """The exact heads at one strength of L2 over seeds. The bound holds in ``holds`` of ``of`` seeds."""

    l2: float
    spurious: SpreadPair | None
    oracle: SpreadPair
    worst_loss: SpreadPair
    worst_test_accuracy: SpreadPair
    gap: Spread
    distance: Spread
    slack: Spread
    holds: int
    of: int


class Claim(Record):
    """A claim about why Group DRO is robust, from the paper that ``mixray/robust/README.md`` names, and whether the
    paired differences over seeds support it. ``where``: the heads or arms that it was tested on."""

    claim: str
    where: str
    estimate: float | str
    interval: tuple[float, float] | None
    verdict: str
    note: str | None = None


class RobustResults(Record):
    """Everything that ``results.json`` holds. ``counts``: part -> group -> number of rows. ``l2``: the penalty of every
    arm. ``heads``: one entry for each strength of L2."""

    run: str
    seeds: tuple[int, ...]
    select_by: str
    steps: int
    batch: int
    l2: float
    group_names: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    arms: dict[str, ComparedArm]
    differences: tuple[WorstGroupDifference, ...] = ()
    """Every arm against ERM and against importance weights, and the best arm against the next one."""
    completeness: CompletenessResult | None
    heads: tuple[HeadsSummary, ...]
    claims: tuple[Claim, ...]
    warnings: tuple[TaskWarning, ...]

    def to_json(self) -> str:
        return json.dumps({"schema": SCHEMA} | self.model_dump(mode="json"), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        return cls.model_validate_json(data)
