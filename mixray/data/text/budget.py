"""Which documents of a target are used where ``max_tokens`` asks for fewer than there are: a sample of all of them.

Every document has a rank, a uniform number that its text alone decides, and documents are used from the lowest rank on
until the tokens are enough. The document that reaches the number is the last one: the number of documents is then a
stopping time, so that the sample has as many long ones as the pool (Wald's identity). To leave it out would favour
short ones. The rank is the half of the text's hash that the split into parts does not look at.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixray.store.target_parts import PARENT_BYTES, hash_bytes

Size = tuple[int, int]
"""The rank of a document, and its size in tokens or in bytes."""


def sample(documents: Iterable[Size], total: int) -> list[Size]:
    """Return the documents of the lowest ranks that together have the size ``total``, in the order of their ranks; all
    if they have less. A rank that occurs again is that of a duplicate, which counts once."""
    by_rank = sorted(dict(documents).items())
    sizes = accumulate((size for _, size in by_rank), initial=0)  # of the documents before each
    return [document for document, before in zip(by_rank, sizes, strict=False) if before < total]


def last_rank(documents: Iterable[Size], total: int) -> int:
    """Return the highest rank that is used, where all documents together shall have the size ``total``."""
    return max((rank for rank, _ in sample(documents, total)), default=0)


def rank(content: bytes) -> int:
    """Return the rank of a document from the hash of its text."""
    return int.from_bytes(content[PARENT_BYTES:], "little")


def ranks(contents: Any) -> NDArray[np.uint64]:
    """Return the rank of every hash of an Arrow column, uint64, shape (rows,)."""
    return np.ascontiguousarray(hash_bytes(contents)[:, PARENT_BYTES:]).view("<u8").ravel()
