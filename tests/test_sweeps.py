"""Which runs a sweep consists of, and what is refused before the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mixray.errors import InputError
from mixray.sweeps import sweep

QUICKSTART = Path(__file__).parents[1] / "jobs" / "quickstart.yaml"


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        ({"seed": 1}, "needs values to choose from"),
        ({}, "needs values to choose from"),
        ({"seed": []}, "no values of a key"),
        ({"storage": ["/a", "/b"]}, "one storage"),
        ({"tracking.uri": ["a"]}, "one storage"),
        ({"seed": [0, "one"]}, "seed"),
        ({"proxy.token": [1, 2]}, "proxy.token"),
        ({"retrain.arms": ["mixmin"]}, "arms"),  # a list of lists is needed
    ],
)
def test_wrong_sweeps_are_refused_before_anything_runs(tmp_path: Path, overrides: dict[str, Any], match: str) -> None:
    storage = tmp_path / "storage"
    with pytest.raises(InputError, match=match):
        sweep(QUICKSTART, {"storage": str(storage), **overrides})
    assert not storage.exists()
