"""What no mixture of proxies can be below, as the prediction cache shows it."""

from __future__ import annotations

import numpy as np
import pytest

from mixray.cache import PredictionCache
from mixray.search.diagnosis import _least_loss


def cache(segments: np.ndarray | None) -> PredictionCache:
    """Two documents of three windows under the proxies of two sources."""
    return PredictionCache(
        models=("a", "b"),
        documents=np.array([0, 0, 1]),
        document_ids=np.array([b"x" * 16, b"y" * 16], dtype="V16"),
        windows=np.array([0, 1, 0], np.int32),
        counts=np.array([4, 2, 4]),
        log_probs=np.array([[-8.0, -9.0], [-4.0, -2.0], [-8.0, -8.0]]),
        segments=segments,
        segment=None if segments is None else 2,
    )


def test_the_least_loss_takes_the_best_proxy_for_each_piece() -> None:
    pieces = np.array([[-2.0, -6.0], [-6.0, -3.0], [-4.0, -2.0], [-3.0, -6.0], [-5.0, -2.0]], np.float32)
    assert _least_loss(cache(None), ["a", "b"]) == pytest.approx((8 + 2 + 8) / 10)
    assert _least_loss(cache(pieces), ["a", "b"]) == pytest.approx((2 + 3 + 2 + 3 + 2) / 10)
    assert _least_loss(cache(pieces), ["b"]) == pytest.approx(19 / 10)
    assert _least_loss(cache(pieces), []) is None


def test_a_documents_loss_is_the_sum_over_its_windows() -> None:
    assert cache(None).document_losses().tolist() == [[12.0, 11.0], [8.0, 8.0]]
