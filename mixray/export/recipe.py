"""What every export starts from: the sources that have a share, in the unit that a trainer counts.

A mixture's number is a share of training tokens. With t_i tokens per document, T_i tokens in source i and a budget of
B tokens, a share s_i is a share of documents proportional to s_i / t_i, s_i B / T_i epochs, or s_i B / t_i documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from math import fsum
from typing import Literal, Self

from mixray.errors import InputError
from mixray.mixture import Mixture, SourceSize

Quantity = Literal["tokens", "examples", "epochs", "documents", "named"]
"""What a trainer's number is: a share of tokens, a share of examples, passes over a source, or a count of documents; or
a share of tokens beside other numbers, each with its unit as its name."""
DECIMALS = 15
"""Of every share that is written: as many as a float64 always keeps."""


@dataclass(frozen=True)
class Ingredient:
    """A source with a share. ``path``: where the trainer finds it; its name where no path was stated."""

    name: str
    share: float
    path: str
    size: SourceSize | None


@dataclass(frozen=True)
class Recipe:
    """A mixture without its sources of share 0, which are ``dropped``.

    ``share_of``: what the shares are of; ``budget``: tokens of the training; ``packed``: whether all examples that the
    trainer draws have the same number of tokens, so that a share of them is one of tokens.
    """

    title: str
    share_of: str
    ingredients: tuple[Ingredient, ...]
    dropped: tuple[str, ...]
    budget: int | None
    packed: bool

    @classmethod
    def of(
        cls, mixture: Mixture, *, tokens: int | None, paths: Mapping[str, str], packed: bool, needs_paths: bool
    ) -> Self:
        """Return the recipe of a mixture. Raises InputError for paths of other sources, or missing ones."""
        if tokens is not None and tokens < 1:
            raise InputError("the budget is not a valid number of tokens", where="--tokens", got=tokens, wanted="1 up")
        unknown = [source for source in paths if source not in mixture.sources]
        if unknown:
            near = get_close_matches(unknown[0], mixture.sources, 1)
            raise InputError(
                f"the mixture has no source {unknown[0]}",
                where="--map",
                got=f"{unknown[0]}={paths[unknown[0]]}",
                wanted=f"one of {', '.join(mixture.sources)}",
                remedy=f"did you mean '{near[0]}'?" if near else None,
            )
        # What rounds to zero below is dropped with the zeros.
        shares = dict(zip(mixture.sources, decimal_shares([mixture.weights[s] for s in mixture.sources]), strict=True))
        used = [source for source, share in shares.items() if share > 0]
        lacking = [source for source in used if source not in paths]
        if needs_paths and lacking:
            raise InputError(
                "the trainer needs a path for every source that has a share",
                where="--map",
                got=f"none for {', '.join(lacking)}",
                wanted="SOURCE=PATH for each",
                remedy=" ".join(f"--map {source}=PATH" for source in lacking),
            )
        places = {source: paths.get(source, source) for source in used}
        if len(set(places.values())) < len(used):
            raise InputError(
                "two sources have the same path",
                where="--map",
                got=", ".join(f"{source}={path}" for source, path in places.items()),
                wanted="a path of its own for each",
            )
        return cls(
            title=" ".join(["mixture", *([f"for {', '.join(mixture.targets)}"] if mixture.targets else [])])
            + (f" of run {mixture.run}" if mixture.run else ""),
            share_of=mixture.share_of,
            ingredients=tuple(
                Ingredient(source, shares[source], places[source], mixture.sizes.get(source)) for source in used
            ),
            dropped=tuple(source for source in mixture.sources if source not in used),
            budget=tokens or mixture.budget,
            packed=packed,
        )

    @property
    def shares(self) -> list[float]:
        """The shares of training tokens."""
        return [each.share for each in self.ingredients]

    def numbers(self, quantity: Quantity) -> list[float]:
        """Return the ingredients' numbers in a trainer's quantity.

        Raises InputError where the mixture lacks what it takes, or a source would get no document at all.
        """
        if quantity in ("tokens", "named") or (quantity == "examples" and self.packed):
            return self.shares
        if quantity == "examples":
            return self._example_shares()
        if quantity == "epochs":
            return self.require_epochs()
        if self.packed:
            raise InputError(
                "this trainer counts documents, which rows of equal length are not",
                where="--packed",
                remedy="export without it",
            )
        return [float(count) for count in self.document_counts()]

    def _example_shares(self) -> list[float]:
        rates = [
            each.share / size.mean_tokens for each, size in zip(self.ingredients, self.require_sizes(), strict=True)
        ]
        shares = decimal_shares(rates)
        if 0 in shares:
            name = self.ingredients[shares.index(0)].name
            raise InputError(
                "a source's share of the documents is too small to be written",
                where=name,
                got=f"{rates[shares.index(0)] / fsum(rates):.3g}",
                wanted=f"at least 1e-{DECIMALS}",
                remedy="--packed, where the trainer draws rows of equal length",
            )
        return shares

    @property
    def has_sizes(self) -> bool:
        """Whether the mixture states how much data its sources hold."""
        return all(each.size is not None for each in self.ingredients)

    def epochs(self) -> list[float] | None:
        """Return the passes over each source in the budget; None where the mixture states no sizes or no budget."""
        return self.require_epochs() if self.has_sizes and self.budget is not None else None

    def require_epochs(self) -> list[float]:
        """Return the passes over each source in the budget. Raises InputError where they are unknown."""
        budget = self.require_budget()
        return [
            each.share * budget / size.all_tokens
            for each, size in zip(self.ingredients, self.require_sizes(), strict=True)
        ]

    def document_counts(self) -> list[int]:
        """Return how many documents of each source the budget holds, each within one of share x budget / length."""
        budget = self.require_budget()
        amounts = [
            each.share * budget / size.mean_tokens
            for each, size in zip(self.ingredients, self.require_sizes(), strict=True)
        ]
        counts = apportion(amounts, round(fsum(amounts)))
        if 0 in counts:
            place = counts.index(0)
            raise InputError(
                "the budget is too small for a document of every source",
                where=self.ingredients[place].name,
                got=f"{amounts[place]:.3g} documents in {budget:,} tokens",
                wanted="at least one",
                remedy="--tokens with a larger budget",
            )
        return counts

    def require_budget(self) -> int:
        """Return the budget. Raises InputError where there is none."""
        if self.budget is None:
            raise InputError(
                "this trainer's numbers depend on the number of training tokens, and the mixture states none",
                where="--tokens",
                wanted="the tokens of the training",
            )
        return self.budget

    def require_sizes(self) -> list[SourceSize]:
        """Return the ingredients' sizes. Raises InputError where the mixture does not state them."""
        sizes = [each.size for each in self.ingredients if each.size is not None]
        if len(sizes) < len(self.ingredients):
            lacking = ", ".join(each.name for each in self.ingredients if each.size is None)
            raise InputError(
                "this trainer does not count tokens, and the mixture does not state how long the documents are",
                where="sizes",
                got=f"none for {lacking}",
                wanted='documents and tokens, such as "sizes": {"web": {"documents": 1000, "tokens": 700000}}',
                remedy="mixray run writes them; --packed, where the trainer draws rows of equal length, needs none",
            )
        return sizes


def apportion(amounts: Sequence[float], total: int) -> list[int]:
    """Return whole numbers in proportion to ``amounts`` whose sum is ``total``: Hamilton's method, in exact arithmetic.

    Every number is within one of its exact quota; ties go to the first.
    """
    exact = [Fraction(amount) for amount in amounts]
    whole = sum(exact)
    quotas = [amount * total / whole for amount in exact]
    counts = [int(quota) for quota in quotas]
    order = sorted(range(len(counts)), key=lambda place: counts[place] - quotas[place])
    for place in order[: total - sum(counts)]:
        counts[place] += 1
    return counts


def decimal_shares(amounts: Sequence[float]) -> list[float]:
    """Return shares in proportion to ``amounts``, of ``DECIMALS`` decimals each, whose decimals sum to exactly 1.

    Such a share is written with at most ``DECIMALS`` digits and read back as the same float64; the floats' sum is 1
    within the rounding of the sum itself, in whatever order a trainer adds them.
    """
    return [units / 10**DECIMALS for units in apportion(amounts, 10**DECIMALS)]
