"""The mixtures that need no search, by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mixray.errors import InputError
from mixray.methods import balanced, natural, temperature, unimax


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


# -------------------------------------------------------------------------------------------------- powers and UniMax


@pytest.mark.parametrize(("power", "wiki"), [(0.0, 0.5), (0.5, 0.75), (1.0, 0.9)])
def test_temperature_lies_between_balanced_and_natural(power: float, wiki: float) -> None:
    assert temperature({"wiki": 900, "code": 100}, power).weights == pytest.approx({"wiki": wiki, "code": 1 - wiki})


def test_an_empty_source_has_no_share_at_any_temperature() -> None:
    assert temperature({"wiki": 900, "empty": 0}, 0.0).weights == {"wiki": 1.0, "empty": 0.0}


@pytest.mark.parametrize(
    ("budget", "max_epochs", "parts"),
    [
        (90, 4, [30, 30, 30]),  # every source can give a third
        (600, 4, [40, 280, 280]),  # the smallest is read four times, the others share the rest
        (3000, 4, [40, 400, 2560]),
        (10**6, 4, [40, 400, 4000]),  # all epochs of all sources
        (600, 1, [10, 100, 490]),
    ],
)
def test_unimax_is_as_even_as_the_epochs_allow(budget: int, max_epochs: float, parts: list[float]) -> None:
    """By hand, from Algorithm 1 of the paper."""
    mixture = unimax({"small": 10, "middle": 100, "large": 1000}, budget, max_epochs)
    total = sum(parts)
    expected = dict(zip(["small", "middle", "large"], [part / total for part in parts], strict=True))
    assert mixture.weights == pytest.approx(expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: temperature({"a": 1}, 1.5), "temperature: the power is not valid\n  got: 1.5"),
        (lambda: temperature({"a": 0}), "temperature: no source has a token"),
        (lambda: unimax({"a": 1}, 0), "unimax: the budget is not valid\n  got: 0 tokens"),
        (lambda: unimax({"a": -1, "b": 2}, 5), "unimax: negative tokens for a"),
    ],
)
def test_refusals_of_sizes(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
