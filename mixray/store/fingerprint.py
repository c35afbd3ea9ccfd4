"""Identity is content: the sha256 of a value's canonical JSON."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def fingerprint(value: Any) -> str:
    """64 hex digits for a value made of dicts with str keys, lists, str, int, float, bool and None.

    Raises TypeError or ValueError for anything without a stable form (sets, objects, NaN).
    """
    _refuse_other_keys(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse_other_keys(value: Any) -> None:
    """JSON writes the keys 1 and "1" alike; here they would be one identity."""
    if isinstance(value, dict):
        for key, child in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a fingerprint is of dicts with str keys, not {key!r}")
            _refuse_other_keys(child)
    elif isinstance(value, list | tuple):
        for child in value:
            _refuse_other_keys(child)
