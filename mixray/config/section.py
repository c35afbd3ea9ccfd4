"""What all parts of a run file are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Positive = Annotated[int, Field(gt=0)]
Globs = Annotated[list[str], Field(min_length=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
SHARE_ROUNDING = 1e-12
"""How far from 1 a sum of shares may be."""
PRIOR_ROUNDING = 1e-6
"""The same for shares that a person has written down."""
KEY_COLUMNS = ("document", "window", "count")
"""Of the prediction cache, whose other columns are named as the sources."""


class Misfit(ValueError):
    """A value that does not fit others; ``key``: where it stands, dotted, seen from the section that found it."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class Section(BaseModel):
    """A part of the run file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
