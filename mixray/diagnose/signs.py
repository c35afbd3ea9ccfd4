"""The signs, one function each. Every function returns warnings for the mixture file, none where all is well.

Other signs are worked out where the problem is solved: too few documents, a predicted gain that may be zero, sources
that are interchangeable (``mixray.search.explanation``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixray.mixture import Mixture, MixtureWarning

SMOOTHING = 0.5
"""Added to the count of every token, so that one that the other half lacks has a probability."""
LEAST_ADVANTAGE = 0.02
"""Of the loss: a model that is not so much better than token frequencies has learned little beside them."""
CONCENTRATED = 0.9
"""The share from which on one source is nearly the whole mixture."""
CLEAR_MAJORITY = 0.8
"""Of the documents: a source that predicts so many of them best deserves to be nearly the whole mixture."""
LONG_DOCUMENT = 100
"""Tokens from which on the likelihood of a whole document is decided by the best source, whatever the others say."""


def token_frequency_loss(rows: NDArray[np.integer[Any]], vocabulary: int) -> float:
    """Return the loss of predicting every token by its frequency alone, nats per token.

    ``rows``: token ids below ``vocabulary``, (rows, tokens) or (rows,) of ids; those below 0 are read only and do not
    count. Every other row is predicted with the frequencies of the rest, and the reverse, so that rare tokens do not
    make the loss too small. At least two rows.
    """
    halves = [half[half >= 0] for half in (rows[::2].ravel(), rows[1::2].ravel())]
    counts = [np.bincount(half, minlength=vocabulary) for half in halves]
    total = 0.0
    for taught, judged in (counts, counts[::-1]):
        log_probs = np.log((taught + SMOOTHING) / (taught.sum() + SMOOTHING * vocabulary))
        total -= float(judged @ log_probs)
    return total / sum(half.size for half in halves)


def weak_proxies(proxy_losses: Mapping[str, float], frequency_losses: Mapping[str, float]) -> list[str]:
    """Return the sources whose proxies have hardly learned more than how frequent each token of the source is.

    ``proxy_losses``: source -> the last loss of its proxy's training; ``frequency_losses``: source -> that of token
    frequencies.
    """
    return [
        source
        for source, loss in proxy_losses.items()
        if source in frequency_losses and loss > (1 - LEAST_ADVANTAGE) * frequency_losses[source]
    ]


def proxies_without_signal(
    proxy_losses: Mapping[str, float], frequency_losses: Mapping[str, float], unit: str
) -> list[MixtureWarning]:
    """Return a warning where there are weak proxies. Their mixtures compare sources by vocabulary alone.

    Arguments: see ``weak_proxies``; both in ``unit``, nats per token.
    """
    weak = weak_proxies(proxy_losses, frequency_losses)
    if not weak:
        return []
    named = ", ".join(f"{source} {proxy_losses[source]:.2f} ({frequency_losses[source]:.2f})" for source in weak[:5])
    message = (
        f"{len(weak)} of {len(proxy_losses)} proxies have hardly learned more than how frequent each token is: their "
        f"loss, and in brackets that of token frequencies, in {unit}: {named}. More proxy.tokens or a higher learning "
        "rate would make the mixture more reliable"
    )
    return [MixtureWarning(code="proxies_without_signal", message=message, unit=unit)]


def target_out_of_reach(target: str, least_loss: float, frequency_loss: float, unit: str) -> list[MixtureWarning]:
    """Return a warning where no mixture of the proxies predicts a target better than its own token frequencies do.

    ``least_loss``: that of the best proxy for each piece of the target, which no mixture's can be below;
    ``frequency_loss``: that of the target's own token frequencies; nats per token.
    """
    if least_loss < frequency_loss:
        return []
    message = (
        f"no mixture of the proxies comes near {target}: even the best one for each piece of it has a loss of "
        f"{least_loss:.2f} {unit}, where the target's own token frequencies have {frequency_loss:.2f}. Look for a "
        "source that is more like the target, or train the proxies longer"
    )
    return [MixtureWarning(code="target_out_of_reach", message=message, unit=unit)]


def concentration(
    mixture: Mixture, document_losses: NDArray[np.float64], document_tokens: NDArray[np.int64]
) -> list[MixtureWarning]:
    """Return a warning where nearly all of a mixture is one source though the documents do not all speak for it.

    ``document_losses``: of every document under every proxy, (documents, sources), in the order of the mixture's
    sources; ``document_tokens``: (documents,).
    """
    source = max(mixture.weights, key=lambda name: mixture.weights[name])
    share = mixture.weights[source]
    if share < CONCENTRATED or len(mixture.sources) < 2:
        return []
    place = mixture.sources.index(source)
    best_part = float((document_losses.argmin(1) == place).mean())
    if best_part >= CLEAR_MAJORITY:
        return []
    message = f"{source} has {share:.1%} of the mixture, but predicts only {best_part:.0%} of the documents best"
    length = int(np.median(document_tokens))
    if mixture.unit == "document" and length >= LONG_DOCUMENT:
        message += (
            f". The documents are long ({length} tokens in the median), and the likelihood of a long document hardly "
            "changes with the shares of the sources beside the best one: mixture.unit={segment: 16} judges short pieces"
        )
    else:
        message += ": its proxy may suit their format or length rather than their content"
    return [MixtureWarning(code="concentrated", message=f"{message}; mixture.choose spreads near-optimal shares")]


def retraining_against_prediction(mixture: Mixture, baseline: str = "balanced") -> list[MixtureWarning]:
    """Return a warning where the retrained model lost to a baseline that it was predicted to beat, beyond noise."""
    gain, result = mixture.gain.get(baseline), mixture.retrain.get(baseline)
    if gain is None or gain.interval is None or gain.interval[0] <= 0 or "mixmin" not in mixture.retrain:
        return []
    interval = None if result is None else result.difference_interval
    if result is None or interval is None or interval[1] >= 0 or mixture.retrain["mixmin"].difference is not None:
        return []
    message = (
        f"the proxies predicted a gain of {gain.estimate:.4f} {mixture.loss_unit} over {baseline}, but the retrained "
        f"model is {-interval[1]:.4f} to {-interval[0]:.4f} above it on the held-out {mixture.sampled}s: the "
        "retrained model may be too small or trained too briefly to use what the mixture offers, or the "
        "proxies too weak"
    )
    return [MixtureWarning(code="against_prediction", message=message, interval=interval, unit=mixture.loss_unit)]
