"""The answer of mixray: a mixture file (schema ``mixray.mixture/1``) as a typed, frozen record that loads and saves it.

A ``Mixture`` gives the share of training tokens to draw from each source, with its unit, certificate and provenance. It
is checked when it is created: shares are nonnegative, sum to 1 within 1e-12 and name every source once. Floats keep
their full precision. ``sections.py`` has the sections of the file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WrapSerializer,
    model_validator,
)

from mixray.config.mixture import Unit
from mixray.errors import InputError
from mixray.mixture.sections import (
    ArmForecast,
    ArmResult,
    InterchangeableSources,
    Interval,
    LimitPrice,
    LocalMinima,
    MixtureChoice,
    MixtureWarning,
    PathMixture,
    PredictedGain,
    RealisableShares,
    RivalMixture,
    SearchCompute,
    SourceSize,
    SourceWorth,
)
from mixray.notebook import html_table
from mixray.numerics import NATS, TRAINING_TOKENS

if TYPE_CHECKING:
    from mixray.export import Export
    from mixray.training.mixture_rows import MixtureRows

SCHEMA: Literal["mixray.mixture/1"] = "mixray.mixture/1"
SUM_TOLERANCE = 1e-12

Share = Annotated[float, Field(ge=0.0, le=1.0 + SUM_TOLERANCE)]


def _none_if_empty(section: object) -> object:
    return None if section == {} else section


def _empty_if_none(section: object, serialize: Callable[[object], object]) -> object:
    return {} if section is None else serialize(section)


class Mixture(BaseModel):
    """One mixture. What it does not have (a baseline has no gap, an unbounded run no epochs) is None or empty."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    schema_name: Literal["mixray.mixture/1"] = Field(default=SCHEMA, alias="schema")
    run: str | None = None
    targets: list[str] = []
    over: Literal["mean", "worst"] | None = None
    """How several targets' losses are combined; None for one target."""
    unit: Unit | None = None
    """What the likelihood was taken over: document, window, token, or segments of so many tokens."""
    share_of: str = TRAINING_TOKENS
    sources: list[str]
    weights: dict[str, Share]
    """Source -> its share; in the order of ``sources``; the sum is 1 within 1e-12."""
    interval: dict[str, Interval] = {}
    """Source -> 95 % interval of its share, over documents."""
    loss_unit: str = NATS
    """The unit of every loss, gain and gap in the file; where numbers are predicted, the square of their unit."""
    loss: dict[str, float] = {}
    """Arm -> predicted loss on the fit part, in ``loss_unit``."""
    gain: dict[str, PredictedGain] = {}
    """Baseline -> what the mixture gains over it on fresh documents."""
    target_loss: dict[str, float] = {}
    """Of several targets, each one's predicted loss; then ``loss`` combines them."""
    target_weights: dict[str, float] = {}
    """Of several targets, how much each counts at the optimum."""
    gap: Annotated[float, Field(ge=0.0)] | None = None
    """A bound on how far the predicted loss (with a pull to a prior, the loss and the pull together) is above the
    smallest possible one, nats per token."""
    rounds: int | None = None
    solver: str | None = None
    solver_why: str | None = None
    """Why ``auto`` took this solver; None where the run file named it."""
    tolerance: float | None = None
    status: Literal["converged", "round_limit", "stalled", "local_minimum"] | None = None
    """How the solver ended; ``local_minimum``, and ``round_limit`` beside ``local_minima``, are no certificate."""
    local_minima: Annotated[LocalMinima | None, Field(exclude_if=lambda value: value is None)] = None
    """Of a problem that is not convex, what the solver reached; such an answer has no gap. None of a convex one."""
    epochs: dict[str, float] = {}
    """Source -> passes over it in the retraining budget."""
    budget: Annotated[int, Field(ge=1)] | None = None
    """Tokens (or examples) of the retraining, which ``epochs`` are of."""
    sizes: dict[str, SourceSize] = {}
    """Source -> how much data it holds: what shares of tokens are converted to other units with."""
    effective_sources: float | None = None
    """The exponential of the shares' entropy."""
    interchangeable: list[InterchangeableSources] = []
    worth: dict[str, SourceWorth | None] = {}
    """Source -> what it is worth; None where the limits allow no mixture without it."""
    prices: list[LimitPrice] = []
    """The limits that the mixture reaches, dearest first."""
    choice: Annotated[MixtureChoice | None, BeforeValidator(_none_if_empty), WrapSerializer(_empty_if_none)] = None
    """How the mixture was chosen among near-optimal ones; None (``{}`` in the file) where it is the optimum."""
    realisable: Annotated[RealisableShares | None, BeforeValidator(_none_if_empty), WrapSerializer(_empty_if_none)] = (
        None
    )
    """How shares too small to train on were settled; None (``{}`` in the file) where there were none."""
    path: list[PathMixture] = []
    """From the optimum to the prior."""
    rivals: dict[str, RivalMixture] = {}
    """Method -> what it chose from a swarm."""
    forecast: dict[str, ArmForecast] = {}
    """Arm -> what its difference to the first arm will be, estimated before the retraining."""
    retrain: dict[str, ArmResult] = {}
    """Arm -> what its retrained model reached."""
    compute: Annotated[SearchCompute | None, BeforeValidator(_none_if_empty), WrapSerializer(_empty_if_none)] = None
    """What the search cost beside one retraining; None (``{}`` in the file) before retraining."""
    warnings: list[MixtureWarning] = []

    @model_validator(mode="after")
    def _check_sources_and_sum(self) -> Self:
        if not self.sources or len(set(self.sources)) != len(self.sources):
            raise ValueError(f"sources: wanted at least one, each named once; got {self.sources}")
        for name in ("weights", "interval", "epochs", "sizes"):
            by_source = getattr(self, name)
            if (name == "weights" or by_source) and set(by_source) != set(self.sources):
                raise ValueError(f"{name}: wanted exactly the sources {self.sources}; got {list(by_source)}")
        total = math.fsum(self.weights.values())
        if abs(total - 1) > SUM_TOLERANCE:
            raise ValueError(f"weights: wanted shares that sum to 1 within {SUM_TOLERANCE:g}; they sum to {total!r}")
        return self

    @property
    def sampled(self) -> str:
        """What a target is a sample of, in the singular: ``document``, or ``example`` of a table."""
        return "document" if self.share_of == TRAINING_TOKENS else "example"

    @classmethod
    def from_weights(
        cls, source_shares: Mapping[str, float], sizes: Mapping[str, Mapping[str, int]] | None = None
    ) -> Mixture:
        """Return a mixture from source -> share, in that order.

        ``sizes``: source -> ``{"documents": ..., "tokens": ...}``, which exports that count anything but tokens need.
        Raises InputError where the shares or sizes are not valid.
        """
        weights = {source: float(share) for source, share in source_shares.items()}
        return _validated({"sources": list(weights), "weights": weights, "sizes": dict(sizes or {})}, where=None)

    @classmethod
    def from_json(cls, text: str, *, where: str | None = None) -> Mixture:
        """Read what ``to_json`` wrote. ``where`` names the text in errors. Raises InputError."""
        try:
            content = json.loads(text, parse_constant=_refuse_constant)
        except ValueError as error:
            raise InputError("this is not a valid mixture file: the JSON is broken", where=where, got=error) from None
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            got = content.get("schema") if isinstance(content, dict) else type(content).__name__
            raise InputError(
                "this is not a valid mixture file", where=where, got=f"schema {got!r}", wanted=f"schema {SCHEMA!r}"
            )
        return _validated(content, where=where)

    # ------------------------------------------------------------------------------------ use it in another trainer

    def export(
        self,
        trainer: str,
        *,
        tokens: int | None = None,
        paths: Mapping[str, str] | None = None,
        packed: bool = False,
    ) -> Export:
        """Return the mixture in a trainer's own format, in the unit that the trainer counts.

        ``trainer``: as ``mixray export --to``; ``tokens``: of the training, by default the budget of the retraining;
        ``paths``: source -> where the trainer finds it; ``packed``: every example that the trainer draws has the same
        number of tokens. Raises InputError for what the trainer cannot express, and for missing paths and sizes.
        """
        exported: Export = _load("export", "export_mixture")(
            self, trainer, tokens=tokens, paths=paths or {}, packed=packed
        )
        return exported

    def interleave(self, datasets: Mapping[str, Any], *, seed: int = 0, packed: bool = False) -> Any:
        """Return Hugging Face data sets, map-style or iterable, interleaved so that their tokens have these shares.

        ``datasets``: source -> data set; ``packed``: every example has the same number of tokens, else each is a
        document of its source. Sources repeat until all were read once. Raises InputError for missing data sets and
        sizes.
        """
        return _load("export", "interleave")(self, datasets, seed=seed, packed=packed)

    def stream(
        self,
        rows: Mapping[str, Any] | str,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        packed: bool | None = None,
    ) -> MixtureRows:
        """Return mixray's own endless stream of these shares as a torch ``IterableDataset`` that can be resumed.

        ``rows``: source -> its rows, anything with a length that is indexed by a number; or a run folder, for the
        windows that the run trained on. ``packed``: as in ``interleave``; by default where all are arrays of two axes.
        ``rank``, ``world_size``: the part of the stream to give. Raises InputError as ``interleave`` does.
        """
        stream: MixtureRows = _load("training.mixture_rows", "mixture_rows")(
            self, rows, seed=seed, rank=rank, world_size=world_size, packed=packed
        )
        return stream

    # -------------------------------------------------------------------------------------------------------- file

    def to_json(self) -> str:
        """Return the content of a mixture file: strict JSON (no NaN), indented, floats to the last digit."""
        content = self.model_dump(mode="json", by_alias=True)
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mixture file, either whole or not at all."""
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
        partial.write_text(self.to_json(), encoding="utf-8")
        partial.replace(final)

    def _repr_html_(self) -> str:
        """Return the shares, largest first, and the arms, lowest held-out loss first, as tables for notebooks."""
        return self._shares_table() + (self._arms_table() if self.loss or self.retrain else "")

    def _shares_table(self) -> str:
        columns = ["source", "share"] + ["95 % interval"] * bool(self.interval) + ["epochs"] * bool(self.epochs)
        rows = []
        for source in sorted(self.sources, key=lambda name: -self.weights[name]):
            row = [source, f"{100 * self.weights[source]:.1f} %"]
            if self.interval:
                low, high = self.interval[source]
                row.append(f"{100 * low:.1f} to {100 * high:.1f} %")
            if self.epochs:
                row.append(f"{self.epochs[source]:.2f}")
            rows.append(row)
        title = f"Mixture for {', '.join(self.targets)}" if self.targets else "Mixture"
        return html_table(columns, rows, caption=f"{title}: shares of {self.share_of}")

    def _arms_table(self) -> str:
        held_out = {arm: result.nll for arm, result in self.retrain.items() if result.nll is not None}
        rows = []
        for arm in sorted({**self.loss, **self.retrain}, key=lambda arm: held_out.get(arm, math.inf)):
            result = self.retrain.get(arm, ArmResult())
            interval = result.difference_interval
            rows.append(
                [
                    arm,
                    f"{self.loss[arm]:.4f}" if arm in self.loss else "",
                    f"{held_out[arm]:.4f}" if arm in held_out else "",
                    "" if result.difference is None else f"{result.difference:+.4f}",
                    "" if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}",
                ]
            )
        columns = ("arm", "predicted", "held-out", "difference", "95 % interval")
        return html_table(columns, rows, caption=f"Arms: loss in {self.loss_unit}")


def load_mixture(path: str | os.PathLike[str]) -> Mixture:
    """Read a mixture file from a local path. Raises InputError where it is missing or not valid."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the mixture file cannot be read", where=os.fspath(path), got=error) from None
    return Mixture.from_json(text, where=os.fspath(path))


def _validated(content: dict[str, Any], where: str | None) -> Mixture:
    try:
        return Mixture.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(step) for step in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(
            "this is not a valid mixture", where=where, got=f"{field}: {message}" if field else message
        ) from None


def _load(module: str, name: str) -> Callable[..., Any]:
    """Return a function of a module above this one, most of which load heavy packages, when it is called."""
    function: Callable[..., Any] = getattr(import_module(f"mixray.{module}"), name)
    return function


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not strict JSON")
