"""Exports: a golden file each, and what a reader of the trainer's grammar makes of any mixture."""

from __future__ import annotations

import json
from math import fsum, isclose
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixray.errors import InputError
from mixray.export import TRAINERS
from mixray.export.recipe import Recipe, apportion, decimal_shares
from mixray.mixture import Mixture
from tests.export.conftest import PATHS
from tests.export.readers import READERS

GOLDEN = Path(__file__).parent / "golden"
"""Written by the exports, and read beside the trainers' documentation."""


def token_shares(mixture: Mixture, trainer: str, text: str, names: dict[str, str], *, packed: bool) -> dict[str, float]:
    """Return source -> the share of tokens that a trainer draws. ``names``: path or name in the file -> source."""
    numbers = {names[key]: number for key, number in READERS[trainer](text).items()}
    quantity = TRAINERS[trainer].quantity
    lengths = {name: mixture.sizes[name].mean_tokens for name in numbers}
    if quantity in ("tokens", "named") or packed:
        tokens = numbers
    elif quantity == "epochs":
        tokens = {name: number * mixture.sizes[name].all_tokens for name, number in numbers.items()}
    else:
        tokens = {name: number * lengths[name] for name, number in numbers.items()}
    total = fsum(tokens.values())
    return {name: amount / total for name, amount in tokens.items()}


def test_every_trainer_has_a_reader_and_a_golden_file() -> None:
    assert set(READERS) == set(TRAINERS) == {path.stem for path in GOLDEN.iterdir()}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_mixture_is_written_as_the_golden_file(mixture: Mixture, trainer: str) -> None:
    exported = mixture.export(trainer, paths=PATHS)
    assert exported.text == (GOLDEN / f"{trainer}.txt").read_text("utf-8")
    names = {path: name for name, path in PATHS.items()} | {name: name for name in PATHS}
    realised = token_shares(mixture, trainer, exported.text, names, packed=False)
    # Documents are whole, and the longest have 20,000 of 900,000 tokens.
    allowed = 0.02 if TRAINERS[trainer].quantity == "documents" else 1e-10
    assert list(realised) == list(PATHS)
    for name, share in realised.items():
        assert share == pytest.approx(mixture.weights[name], abs=allowed)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_quantity_is_stated(mixture: Mixture, trainer: str) -> None:
    exported = mixture.export(trainer, paths=PATHS)
    meanings = {
        "tokens": "each number is a share of training tokens",
        "examples": "each number is a share of documents",
        "epochs": "each number is the passes over the source in 900,000 tokens",
        "documents": "each number is a number of documents, which make up 900,000 tokens",
        "named": "each number is in the unit that it is named by",
    }
    meaning = meanings[TRAINERS[trainer].quantity]
    assert any(meaning in line for line in exported.statement)
    assert "left out, their share is 0: mail" in exported.statement
    has_no_room = trainer in ("megatron-file", "csv")
    assert has_no_room or meaning in exported.text


def test_half_of_the_tokens_of_short_documents_is_most_of_the_documents() -> None:
    sizes = {"long": {"documents": 10, "tokens": 20_000}, "short": {"documents": 10, "tokens": 2_000}}
    mixture = Mixture.from_weights({"long": 0.5, "short": 0.5}, sizes)
    numbers = mixture.export("trl", paths={"long": "a", "short": "b"}).numbers
    assert numbers == {"long": pytest.approx(1 / 11), "short": pytest.approx(10 / 11)}
    assert mixture.export("trl", paths={"long": "a", "short": "b"}, packed=True).numbers == {"long": 0.5, "short": 0.5}


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    count = draw(st.integers(1, 8))
    weights = np.array(draw(st.lists(st.floats(1e-4, 1), min_size=count, max_size=count)))
    dropped = draw(st.integers(0, 2))
    shares = [*(weights / fsum(weights)).tolist(), *[0.0] * dropped]
    names = [f"source {number}" for number in range(len(shares))]
    sizes = {
        name: {"documents": documents, "tokens": documents * draw(st.integers(1, 5_000))}
        for name, documents in ((name, draw(st.integers(1, 10**6))) for name in names)
    }
    return Mixture.from_weights(dict(zip(names, shares, strict=True)), sizes)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("trainer", sorted(TRAINERS))
@given(mixture=mixtures(), tokens=st.integers(10**5, 10**13))
@settings(max_examples=25, deadline=None)
def test_any_mixture_is_realised_within_rounding(trainer: str, packed: bool, mixture: Mixture, tokens: int) -> None:
    paths = {name: f"data/{name.replace(' ', '-')}" for name in mixture.sources}
    names = {path: name for name, path in paths.items()} | {name: name for name in paths}
    counts_documents = TRAINERS[trainer].quantity == "documents"
    try:
        text = mixture.export(trainer, paths=paths, tokens=tokens, packed=packed).text
    except InputError as error:
        refusal = error.what
    else:
        refusal = ""
    if refusal:
        assert (packed and counts_documents) or refusal.startswith(
            ("axolotl has no weights", "the budget is too small")
        )
        return
    as_rows = packed and TRAINERS[trainer].quantity == "examples"
    realised = token_shares(mixture, trainer, text, names, packed=as_rows)
    assert list(realised) == [name for name in mixture.sources if mixture.weights[name] > 0]
    longest = max(size.mean_tokens for size in mixture.sizes.values())
    allowed = 2 * len(realised) * longest / tokens if counts_documents else 1e-9
    for name, share in realised.items():
        assert share == pytest.approx(mixture.weights[name], abs=allowed)


@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=300))
def test_written_shares_sum_to_one_in_the_arithmetic_of_every_trainer(amounts: list[float]) -> None:
    shares = decimal_shares(amounts)
    assert sum(round(share * 10**15) for share in shares) == 10**15
    assert all(float(repr(share)) == share for share in shares)
    assert isclose(sum(shares), 1.0)  # Oumi
    assert np.allclose(np.sum(shares), 1.0)  # OLMo-core
    np.random.default_rng(0).choice(len(shares), p=shares)  # Hugging Face datasets


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=30).filter(any), st.integers(0, 10**12))
def test_apportionment_keeps_the_total_and_every_quota(amounts: list[float], total: int) -> None:
    counts = apportion(amounts, total)
    assert sum(counts) == total
    whole = fsum(amounts)
    for count, amount in zip(counts, amounts, strict=True):
        assert abs(count - amount / whole * total) <= 1 + 1e-3


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown trainer": ("megatorn", {}, r"unknown trainer[\s\S]*got: megatorn[\s\S]*did you mean 'megatron'\?"),
    "no path": ("megatron", {"paths": {"web": "a"}}, r"needs a path[\s\S]*none for code:python, books, größe"),
    "unknown source": ("json", {"paths": {"wev": "a"}}, r"no source wev[\s\S]*did you mean 'web'\?"),
    "one path twice": ("megatron", {"paths": dict.fromkeys(PATHS, "a")}, "two sources have the same path"),
    "path like a name": ("lingua", {"paths": {"web": "books"}}, "two sources have the same path"),
    "white space": ("megatron-file", {"paths": PATHS | {"web": "my web"}}, r"white space[\s\S]*megatron-json"),
    "comma": ("llama-factory", {"paths": {"web": "a,b"}}, "separates data sets by commas"),
    "repetition": ("axolotl", {"paths": PATHS, "tokens": 1_500_000}, r"code:python 1.25 times[\s\S]*at most 1,200,300"),
    "no budget": ("energon-epochs", {"paths": PATHS, "tokens": 0}, "the budget is not a valid number of tokens"),
    "few documents": ("axolotl", {"paths": PATHS, "tokens": 10_000}, "too small for a document of every source"),
    "packed": ("open-instruct", {"paths": PATHS, "packed": True}, "counts documents, which rows of equal length"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_trainer_cannot_express_is_refused(mixture: Mixture, name: str) -> None:
    trainer, arguments, message = BAD[name]
    with pytest.raises(InputError, match=message):
        mixture.export(trainer, **arguments)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_mixture_without_sizes_goes_to_trainers_that_count_tokens(trainer: str) -> None:
    mixture = Mixture.from_weights({"a": 0.25, "b": 0.75})
    if TRAINERS[trainer].quantity in ("tokens", "named"):
        assert mixture.export(trainer, paths={"a": "x", "b": "y"}).numbers == {"a": 0.25, "b": 0.75}
        return
    with pytest.raises(InputError, match=r"does not state how long|mixture states none"):
        mixture.export(trainer, paths={"a": "x", "b": "y"})


def test_epochs_need_a_budget() -> None:
    mixture = Mixture.from_weights({"a": 1.0}, {"a": {"documents": 1, "tokens": 10}})
    with pytest.raises(InputError, match="depend on the number of training tokens, and the mixture states none"):
        mixture.export("energon-epochs", paths={"a": "x"})
    assert mixture.export("energon-epochs", paths={"a": "x"}, tokens=25).numbers == {"a": 2.5}


def test_what_goes_wrong_is_warned_of_with_its_number(mixture: Mixture) -> None:
    (_, cap) = mixture.export("trl", paths=PATHS, tokens=3_000_000).warnings
    assert "größe" not in cap
    assert "code:python is used up after 1,200,300 tokens, so that 3,000,000 tokens are 2.499 epochs" in cap
    assert len(mixture.export("trl", paths=PATHS, tokens=1_200_000).warnings) == 1
    (repeated,) = mixture.export("open-instruct", paths=PATHS, tokens=1_500_000).warnings
    assert repeated.endswith("refuse code:python 1.25 times")
    bare = Mixture.from_weights({"a": 1.0})
    assert "limits on repetition are 1" in bare.export("olmix").warnings[0]
    assert mixture.export("olmix").warnings == []


def test_the_limit_on_repetition_has_room_for_rounding(mixture: Mixture) -> None:
    limits = {"web": 1.69, "code:python": 2.53, "books": 1.01, "größe": 1.0}
    text = mixture.export("olmo-core", paths=PATHS, tokens=3_000_000).text
    for name, limit in limits.items():
        assert f"source_name: {name}\n" in text
        assert f"max_repetition_ratio: {limit}\n" in text.partition(f"source_name: {name}\n")[2].partition("- ")[2]


def test_a_share_of_documents_that_cannot_be_written_is_refused() -> None:
    sizes = {"a": {"documents": 1, "tokens": 10**10}, "b": {"documents": 10**6, "tokens": 10**6}}
    mixture = Mixture.from_weights({"a": 1e-7, "b": 1 - 1e-7}, sizes)
    with pytest.raises(InputError, match="share of the documents is too small to be written"):
        mixture.export("oumi", paths={"a": "x", "b": "y"})


def test_a_line_break_in_a_name_does_not_end_a_comment() -> None:
    text = Mixture.from_weights({"a\n--seed 3": 1.0}).export("levanter").text
    assert READERS["levanter"](text) == {"a\n--seed 3": 1.0}
    assert text.count("\n#") == 2


def test_the_neutral_formats_hold_every_unit(mixture: Mixture) -> None:
    rows = json.loads(mixture.export("json").text)["sources"]
    assert rows["code:python"]["epochs"] == pytest.approx(mixture.weights["code:python"] * 900_000 / 400_100)
    recipe = Recipe.of(mixture, tokens=None, paths={}, packed=False, needs_paths=False)
    assert [row["share_of_documents"] for row in rows.values()] == recipe.numbers("examples")
