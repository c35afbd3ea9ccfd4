"""The answer: the share of training tokens to draw from each source, with its unit, certificate and provenance.

A ``Mixture`` is what a mixture file (schema ``mixray.mixture/1``) holds, field by field. It is frozen and checked at
creation: shares are nonnegative, sum to 1 within 1e-12 and name every source once. Floats keep their full precision.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mixray.errors import InputError

SCHEMA: Literal["mixray.mixture/1"] = "mixray.mixture/1"
SUM_TOLERANCE = 1e-12
TRAINING_TOKENS = "training tokens"

Share = Annotated[float, Field(ge=0.0, le=1.0 + SUM_TOLERANCE)]


class Mixture(BaseModel):
    """One mixture. What a mixture has not (a baseline has no gap, an unbounded run no epochs) is None or empty."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    schema_name: Literal["mixray.mixture/1"] = Field(default=SCHEMA, alias="schema")
    run: str | None = None
    targets: list[str] = []
    over: Literal["mean", "worst"] | None = None
    """What several targets' losses come to; None for one target."""
    unit: Literal["document", "window", "token"] | None = None
    """What the likelihood was taken over."""
    share_of: str = TRAINING_TOKENS
    sources: list[str]
    weights: dict[str, Share]
    """Source -> its share; in the order of ``sources``; the sum is 1 within 1e-12."""
    interval: dict[str, tuple[float, float]] = {}
    """Source -> 95 % interval of its share, by a bootstrap over documents."""
    loss: dict[str, float] = {}
    """Arm -> predicted loss on the fit part, nats per token."""
    target_loss: dict[str, float] = {}
    """Target -> the mixture's predicted loss on it, of several targets; then ``loss`` is what they come to."""
    target_weights: dict[str, float] = {}
    """Target -> how much it counts at the optimum, of several targets."""
    gap: Annotated[float, Field(ge=0.0)] | None = None
    """How far the loss (with a pull to a prior, both together) is above the best possible one at most, nats per token.
    """
    rounds: int | None = None
    solver: str | None = None
    solver_why: str | None = None
    """Where the choice was left to ``auto``."""
    tolerance: float | None = None
    status: Literal["converged", "round_limit", "stalled"] | None = None
    epochs: dict[str, float] = {}
    """Source -> passes over it in the retraining budget."""
    effective_sources: float | None = None
    """The exponential of the shares' entropy."""
    interchangeable: list[dict[str, Any]] = []
    """Pairs of sources whose shares the data hardly tell apart."""
    worth: dict[str, dict[str, Any] | None] = {}
    """Source -> by how much the best loss rises without it, with its 95 % interval; None where it is needed."""
    prices: list[dict[str, Any]] = []
    """Active limits, and what loosening each would bring, nats per token per unit of share."""
    choice: dict[str, Any] = {}
    """How the mixture was chosen among near-optimal ones, and the optimum; empty where it is the optimum."""
    path: list[dict[str, Any]] = []
    """From the optimum to the prior: strength of the pull, shares, loss, effective number of sources."""
    retrain: dict[str, dict[str, Any]] = {}
    """Arm -> what its retrained model reached: nll in nats per token, tokens, seconds, ..."""
    compute: dict[str, float] = {}
    warnings: list[dict[str, Any]] = []

    @model_validator(mode="after")
    def _is_a_mixture(self) -> Self:
        if not self.sources or len(set(self.sources)) != len(self.sources):
            raise ValueError(f"sources: wanted at least one, each named once; got {self.sources}")
        for name in ("weights", "interval", "epochs"):
            given = getattr(self, name)
            if (name == "weights" or given) and set(given) != set(self.sources):
                raise ValueError(f"{name}: wanted exactly the sources {self.sources}; got {list(given)}")
        total = math.fsum(self.weights.values())
        if abs(total - 1) > SUM_TOLERANCE:
            raise ValueError(f"weights: wanted shares that sum to 1 within {SUM_TOLERANCE:g}; they sum to {total!r}")
        return self

    @classmethod
    def from_weights(cls, source_shares: Mapping[str, float], **fields: Any) -> Mixture:
        """A mixture from source -> share, in that order; ``fields`` are the other fields of the mixture file.

        Raises InputError where they make no mixture.
        """
        weights = {source: float(share) for source, share in source_shares.items()}
        return _checked({"sources": list(weights), "weights": weights, **fields}, where=None)

    @classmethod
    def from_json(cls, text: str, *, where: str | None = None) -> Mixture:
        """Read what ``to_json`` wrote. ``where`` names the text in errors. Raises InputError."""
        try:
            content = json.loads(text, parse_constant=_refuse_constant)
        except ValueError as error:
            raise InputError("this is not a mixture file: the JSON is broken", where=where, got=error) from None
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            got = content.get("schema") if isinstance(content, dict) else type(content).__name__
            wanted = f"schema {SCHEMA!r}"
            raise InputError("this is not a mixture file", where=where, got=f"schema {got!r}", wanted=wanted)
        return _checked(content, where=where)

    def to_json(self) -> str:
        """Strict JSON (no NaN), indented, floats to the last digit."""
        content = self.model_dump(mode="json", by_alias=True)
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mixture file: whole or not at all."""
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
        partial.write_text(self.to_json(), encoding="utf-8")
        partial.replace(final)


def load_mixture(path: str | os.PathLike[str]) -> Mixture:
    """Read a mixture file from a local path. Raises InputError when it is missing or wrong."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the mixture file cannot be read", where=os.fspath(path), got=error) from None
    return Mixture.from_json(text, where=os.fspath(path))


def _checked(content: dict[str, Any], where: str | None) -> Mixture:
    try:
        return Mixture.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise InputError("this is no mixture", where=where, got=f"{field}: {message}" if field else message) from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not strict JSON")
