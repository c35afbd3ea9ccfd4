"""What retraining will bring: a difference of two mixtures that cheap models showed, carried to the retraining's size.

    realised = true difference at the cheap size * ratio ^ growth + drift * log(ratio) * spread of the losses + noise
    ratio    = tokens of a retrained model / tokens of a cheap one

What is not known is drawn: the true difference, from the measured one, its documents and its seeds; the noise of the
retrained models' seeds, as large as that of the cheap ones; and growth and drift, which differ from target to target.
The drift lets a mixture that is better for little training be worse for much: one of few sources often is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mixray.errors import InputError

GROWTH, GROWTH_SD = 0.1, 0.45
"""Mean and standard deviation of the growth, assumed to be normal. Measured on text at 4 and 12 times the tokens
(``jobs/forecast_calibration.py``), differences grew with the 0.3rd to 0.6th power for two targets of questions, and
with powers from -0.5 to 0.3 for two of source code; on texts of random words, which little training exhausts, they fell
with the 0.9th and 1.3rd, which this leaves nearly out."""
DRIFT_SD = 0.15
"""The standard deviation of the drift, of mean 0, in standard deviations of the losses over mixtures for each factor e
of the tokens. This is an assumption: no measurement is behind it."""
DRAWS = 20_000
LEVEL = 0.9


@dataclass(frozen=True)
class MeasuredDifference:
    """The loss of one mixture's cheap models minus that of another's, nats per token.

    ``value``: mean over ``replicates`` seeds; ``document_se``: its standard error over the choice of documents;
    ``seed_sd``: the standard deviation of such a difference over seeds, known from so many ``degrees`` of freedom;
    ``spread``: the standard deviation of the losses over all mixtures that were tried.
    """

    value: float
    document_se: float
    seed_sd: float
    degrees: int
    replicates: int
    spread: float = 0.0

    def __post_init__(self) -> None:
        if self.degrees < 1 or self.replicates < 1 or min(self.document_se, self.seed_sd, self.spread) < 0:
            raise InputError("a measured difference needs noise from at least two seeds and mixtures", got=self)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the true difference at the cheap models' size, over documents and seeds.

        Student's quantile with the seeds' degrees of freedom makes it too wide rather than too narrow.
        """
        from scipy.special import stdtrit  # start-up is lazy: only forecasts need it

        error = math.hypot(self.document_se, self.seed_sd / math.sqrt(self.replicates))
        half = float(stdtrit(self.degrees, 0.975)) * error
        return self.value - half, self.value + half


@dataclass(frozen=True)
class Outlook:
    """What two retrained models will differ by, nats per token: the median, and the ends of the 90 % interval, of the
    difference that will be measured. ``probability``: that the true difference is above 0."""

    expected: float
    low: float
    high: float
    probability: float

    @property
    def covers_zero(self) -> bool:
        """Whether the interval says that there may be no difference."""
        return self.low <= 0 <= self.high


def outlook(measured: MeasuredDifference, *, token_ratio: float, replicates: int, seed: int = 0) -> Outlook:
    """Forecast a difference of retrained models.

    Args:
        measured: by the cheap models.
        token_ratio: training tokens of a retrained model per token of a cheap one, > 0.
        replicates: models that each retrained arm will have.
        seed: the same seed gives the same bits.

    Raises:
        InputError: for a ratio or replicates that are not positive.
    """
    if not token_ratio > 0 or replicates < 1:
        raise InputError("a forecast needs positive budgets", got=f"ratio {token_ratio:g}, {replicates} replicates")
    draw = np.random.default_rng(seed)
    seed_sd = measured.seed_sd * np.sqrt(measured.degrees / draw.chisquare(measured.degrees, DRAWS))
    true = measured.value + measured.document_se * draw.standard_normal(DRAWS)
    true = true + seed_sd / math.sqrt(measured.replicates) * draw.standard_normal(DRAWS)
    growth = GROWTH + GROWTH_SD * draw.standard_normal(DRAWS)
    drift = DRIFT_SD * measured.spread * draw.standard_normal(DRAWS)
    grown = true * np.exp(growth * math.log(token_ratio)) + drift * math.log(token_ratio)
    realised = grown + seed_sd / math.sqrt(replicates) * draw.standard_normal(DRAWS)
    low, expected, high = np.quantile(realised, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    return Outlook(float(expected), float(low), float(high), float((grown > 0).mean()))
