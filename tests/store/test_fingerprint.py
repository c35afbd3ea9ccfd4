from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mixray.store import fingerprint, fingerprint_each


@pytest.mark.parametrize(
    ("value", "text", "digest"),
    # printf '%s' TEXT | sha256sum
    [
        ({}, "{}", "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
        (
            {"b": [1, 2.5, None, True], "a": {"é": "x"}},
            r'{"a":{"\u00e9":"x"},"b":[1,2.5,null,true]}',
            "6a432034964912ec1cd08079165f96a6a2134a17a14427b5e5de55c8a9d7b70b",
        ),
        (1e-08, "1e-08", "9b1121f511b4c3712192d56200892fade81d8efc3d70705915d3baf1a2ea0ece"),
    ],
)
def test_it_is_the_sha256_of_canonical_json(value: Any, text: str, digest: str) -> None:
    assert fingerprint(value) == digest, text


@pytest.mark.parametrize("values", [[], [1], [["a", 1], {"b": None}, "é"]])
def test_values_one_by_one_have_the_fingerprint_of_their_list(values: list[Any]) -> None:
    assert fingerprint_each(iter(values)) == fingerprint(values)


def test_the_order_of_keys_does_not_matter_and_that_of_lists_does() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, "1"),
        (1, True),
        (None, "null"),
        ([], {}),
        ("a", ["a"]),
        (["ab"], ["a", "b"]),
        (0.1, 0.1 + 1e-17 + 2e-17),
    ],
)
def test_different_values_have_different_fingerprints(one: Any, other: Any) -> None:
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        Ellipsis,
        b"bytes",
        float("nan"),
        float("inf"),
        np.int64(1),
        np.zeros(2),
        {1: "a"},
        [{"a": {None: 1}}],
        [{1}],
    ],
    ids=repr,
)
def test_a_value_without_a_stable_form_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        fingerprint(value)
