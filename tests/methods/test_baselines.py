"""Balanced and natural, by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mixray.errors import InputError
from mixray.methods import balanced, natural


def test_balanced_gives_every_source_the_same() -> None:
    mixture = balanced(["wiki", "code", "books"])
    assert mixture.weights == {"wiki": 1 / 3, "code": 1 / 3, "books": 1 / 3}
    assert mixture.sources == ["wiki", "code", "books"]
    assert mixture.gap is None


def test_natural_is_in_proportion_to_tokens() -> None:
    assert natural({"wiki": 300, "code": 100, "empty": 0}).weights == {"wiki": 0.75, "code": 0.25, "empty": 0.0}


@pytest.mark.parametrize("sources", [1, 3, 7, 49, 1000])
def test_shares_sum_to_1_for_any_number_of_sources(sources: int) -> None:
    names = [str(number) for number in range(sources)]
    assert abs(sum(balanced(names).weights.values()) - 1) <= 1e-12
    assert abs(sum(natural({name: 10**15 + 7 * int(name) for name in names}).weights.values()) - 1) <= 1e-12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: balanced([]), "balanced: there are no sources"),
        (lambda: balanced(["a", "a"]), "balanced: a source is named twice\n  got: a, a"),
        (lambda: natural({}), "natural: no source has a token"),
        (lambda: natural({"a": 0}), "natural: no source has a token"),
        (lambda: natural({"a": 2, "b": -1}), "natural: negative tokens for b"),
    ],
)
def test_refusals(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
