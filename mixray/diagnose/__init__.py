"""Signs that a mixture should not be trusted, or not for the reason that one thinks: pure functions of numbers."""

from mixray.diagnose.covariate_shift import (
    MOST_PAIRED,
    InputShift,
    Separation,
    fold_auc,
    input_shift,
    shift_warnings,
)
from mixray.diagnose.signs import (
    concentration,
    proxies_without_signal,
    retraining_against_prediction,
    target_out_of_reach,
    token_frequency_loss,
    weak_proxies,
)
from mixray.diagnose.source_classifier import CrossFitted, cross_fitted, log_densities_at

__all__ = [
    "MOST_PAIRED",
    "CrossFitted",
    "InputShift",
    "Separation",
    "concentration",
    "cross_fitted",
    "fold_auc",
    "input_shift",
    "log_densities_at",
    "proxies_without_signal",
    "retraining_against_prediction",
    "shift_warnings",
    "target_out_of_reach",
    "token_frequency_loss",
    "weak_proxies",
]
