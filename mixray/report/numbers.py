"""Numbers as people read them: shares in percent, counts with a prefix."""

from __future__ import annotations


def share_text(share: float) -> str:
    """A share of the mixture: one decimal; a small one as ``< 0.1 %``, none as ``0 %``."""
    if share == 0:
        return "0 %"
    return "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def percent(share: float) -> str:
    """A ratio: ``0.0041`` as ``0.41 %``; three significant digits below one percent, one decimal above."""
    return f"{100 * share:.1f} %" if share >= 0.01 else f"{100 * share:.3g} %"


def count_text(count: float) -> str:
    """A count with three significant digits and its prefix: ``2.00 M``."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:#.3g}".rstrip(".") + f" {prefix}"
    return f"{count:.0f}"
