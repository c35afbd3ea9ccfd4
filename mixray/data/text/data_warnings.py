"""What is allowed but odd about the data: records of {code, message, ...} that end up in the mixture file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mixray.data.text.selection import overlaps
from mixray.store import Artifact

OVERLAP = 0.1
"""Share of the smaller pool's documents from which on two pools are said to overlap."""
IN_TARGET = 0.01
NOT_UTF8 = 0.01


def data_warnings(selections: Mapping[str, Artifact], counts: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """``selections``, ``counts``: by pool label, e.g. ``source python``."""
    roles = [
        {label: kept for label, kept in selections.items() if label.startswith(role)} for role in ("source", "target")
    ]
    return [warning for role in roles for warning in _overlapping(role)] + list(_left_out(counts))


def _overlapping(selections: Mapping[str, Artifact]) -> Iterator[dict[str, Any]]:
    for one, other, share in overlaps(selections, OVERLAP):
        pools = {"pools": [one, other]}
        if selections[one].meta["digest"] == selections[other].meta["digest"]:
            message = f"{one} and {other} hold the same documents: shares between them mean nothing"
            yield {"code": "identical_pools", "message": message, **pools}
        else:
            message = f"about {share:.0%} of the documents of the smaller of {one} and {other} stand in both"
            yield {"code": "overlapping_pools", "message": message, "share": share, **pools}


def _left_out(counts: Mapping[str, Mapping[str, int]]) -> Iterator[dict[str, Any]]:
    for label, count in counts.items():
        distinct = count["documents"] + count["in_target"]
        if count["in_target"] > IN_TARGET * distinct:
            message = f"{count['in_target']} of {distinct} documents of {label} stand in a target and were dropped"
            yield {"code": "source_in_target", "message": message, "pools": [label], "documents": count["in_target"]}
        found = count["documents_read"] + count["skipped_not_utf8"]
        if count["skipped_not_utf8"] > NOT_UTF8 * found:
            message = f"{count['skipped_not_utf8']} of {found} documents of {label} are not UTF-8 and were skipped"
            yield {"code": "not_utf8", "message": message, "pools": [label], "documents": count["skipped_not_utf8"]}
