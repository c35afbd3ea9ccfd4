"""Identity is content: the sha256 of a value's canonical JSON."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def fingerprint(value: Any) -> str:
    """64 hex digits for a value made of dicts with str keys, lists, str, int, float, bool and None.

    Raises TypeError or ValueError for anything without a stable form (sets, objects, NaN).
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
