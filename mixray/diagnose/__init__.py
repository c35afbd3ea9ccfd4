"""Signs that a mixture should not be trusted, or not for the reason that one thinks: pure functions of numbers."""

from mixray.diagnose.signs import (
    concentration,
    proxies_without_signal,
    retraining_against_prediction,
    target_out_of_reach,
    token_frequency_loss,
    weak_proxies,
)

__all__ = [
    "concentration",
    "proxies_without_signal",
    "retraining_against_prediction",
    "target_out_of_reach",
    "token_frequency_loss",
    "weak_proxies",
]
