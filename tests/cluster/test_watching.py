"""Whether a death counts, decided from Ray's own errors."""

from __future__ import annotations

from typing import Any

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo
from ray.exceptions import ActorDiedError, GetTimeoutError, OutOfMemoryError, RayError

from mixray.cluster.watching import was_preempted


def died(reason: str) -> ActorDiedError:
    """An actor's death with its node, whose end has a reason in Ray's words."""
    death = NodeDeathInfo(reason=NodeDeathInfo.Reason.Value(reason))
    return ActorDiedError(ActorDiedErrorContext(actor_id=b"0" * 16, error_message="gone", node_death_info=death))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (died("AUTOSCALER_DRAIN_PREEMPTED"), True),
        (died("UNEXPECTED_TERMINATION"), False),
        (died("EXPECTED_TERMINATION"), False),
        (ActorDiedError(), False),
        (OutOfMemoryError("too much memory"), False),
        (GetTimeoutError("no answer"), False),
    ],
)
def test_only_an_announced_end_of_the_machine_is_no_failure(error: RayError, expected: bool) -> None:
    actor: Any = None  # only one that may still be alive is asked
    assert was_preempted(error, actor) == expected
