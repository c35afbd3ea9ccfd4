import itertools
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mixray.data.stream import MixtureStream


class Numbered:
    """Windows that say which they are: tokens (source, index)."""

    def __init__(self, count: int, source: int = 0) -> None:
        self.count, self.source = count, source

    def __len__(self) -> int:
        return self.count

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.stack([np.full_like(indices, self.source), indices], axis=1)


def stream(shares: list[float], sizes: list[int] | None = None, seed: int = 0) -> MixtureStream:
    names = [f"s{source}" for source in range(len(shares))]
    windows = {name: Numbered((sizes or [7] * len(names))[source], source) for source, name in enumerate(names)}
    return MixtureStream(windows, dict(zip(names, shares, strict=True)), seed)


def normalised(raw: list[int]) -> list[float]:
    return [value / sum(raw) for value in raw]


shares_strategy = st.lists(st.integers(0, 1000), min_size=1, max_size=12).filter(any).map(normalised)


@given(shares_strategy, st.integers(1, 300))
def test_every_prefix_keeps_the_shares(shares: list[float], length: int) -> None:
    mixture = stream(shares)
    sources, _ = mixture.locate(0, length)
    positive = [share for share in shares if share > 0]
    drawn = np.cumsum(np.eye(len(positive))[sources], axis=0)
    wanted = np.arange(1, length + 1)[:, None] * np.array(positive)
    bound = 0.5 + np.array(positive) * len(positive) / 2
    assert (np.abs(drawn - wanted) <= bound + 1e-9).all()


@given(shares_strategy, st.integers(0, 10**10), st.integers(0, 60), st.lists(st.integers(0, 60), max_size=4))
def test_a_block_is_its_pieces(shares: list[float], start: int, length: int, cuts: list[int]) -> None:
    mixture = stream(shares, [5 + source for source in range(len(shares))])
    whole = mixture.locate(start, start + length)
    ends = [start, *sorted(start + min(cut, length) for cut in cuts), start + length]
    pieces = [mixture.locate(low, high) for low, high in itertools.pairwise(ends)]
    for side in (0, 1):
        assert whole[side].tolist() == np.concatenate([piece[side] for piece in pieces]).tolist()


@given(shares_strategy, st.integers(0, 10**10))
def test_counts_say_what_was_drawn_before(shares: list[float], position: int) -> None:
    mixture = stream(shares)
    before, after = mixture.counts(position), mixture.counts(position + 20)
    sources, _ = mixture.locate(position, position + 20)
    assert sum(before.values()) == position
    drawn = np.bincount(sources, minlength=len(before)).tolist()
    assert [after[name] - before[name] for name in mixture.source_names] == drawn


def test_it_is_the_apportionment_of_webster() -> None:
    """Against the definition in exact arithmetic: the next window goes to the source with the largest
    share / (2 given + 1), ties to the first. Shares are dyadic, so that floats hold them exactly."""
    shares = [Fraction(1, 2), Fraction(5, 16), Fraction(1, 8), Fraction(1, 16)]
    given_, expected = [0] * 4, []
    for _ in range(400):
        chosen = max(range(4), key=lambda k: (shares[k] / (2 * given_[k] + 1), -k))
        given_[chosen] += 1
        expected.append(chosen)
    assert stream([float(share) for share in shares]).locate(0, 400)[0].tolist() == expected


def test_a_source_without_share_never_appears() -> None:
    mixture = stream([0.5, 0.0, 0.5, 1e-300])
    assert mixture.source_names == ["s0", "s2"]
    assert set(mixture.read(0, 100)[:, 0].tolist()) == {0, 2}


def test_a_source_keeps_its_order_in_every_mixture() -> None:
    def of_s1(shares: list[float]) -> list[int]:
        tokens = stream(shares, [9, 13, 4], seed=5).read(0, 300)
        return tokens[tokens[:, 0] == 1, 1].tolist()[:30]

    proxy = stream([0.0, 1.0, 0.0], [9, 13, 4], seed=5).read(0, 30)[:, 1].tolist()
    assert of_s1([0.2, 0.3, 0.5]) == of_s1([0.6, 0.1, 0.3]) == proxy


def test_an_epoch_holds_every_window_once_and_the_next_in_another_order() -> None:
    indices = stream([1.0], [13]).locate(0, 39)[1].reshape(3, 13)
    assert (np.sort(indices, axis=1) == np.arange(13)).all()
    assert len({tuple(epoch) for epoch in indices.tolist()}) == 3


def test_seeds_differ() -> None:
    assert (
        stream([1.0], [40], seed=0).locate(0, 40)[1].tolist() != stream([1.0], [40], seed=1).locate(0, 40)[1].tolist()
    )


def test_reading_resumes_at_any_position() -> None:
    mixture = stream([0.7, 0.2, 0.1], [5, 50, 500])
    whole = mixture.read(0, 200)
    resumed = pickle.loads(pickle.dumps(mixture))
    for position in range(0, 200, 17):
        assert (resumed.read(position, 200) == whole[position:]).all()


def test_an_empty_block_has_a_shape() -> None:
    assert stream([0.5, 0.5]).read(7, 7).shape == (0, 2)


@pytest.mark.parametrize("shares", [[0.5, 0.4], [1.5, -0.5], [float("nan"), 1.0]])
def test_shares_that_are_no_shares_are_refused(shares: list[float]) -> None:
    with pytest.raises(AssertionError):
        stream(shares)


def test_golden_positions() -> None:
    """Computed once by this code; a change would silently reorder every training run."""
    sources, indices = stream([0.55, 0.25, 0.2], [4, 3, 10], seed=7).locate(0, 12)
    assert sources.tolist() == [0, 1, 2, 0, 0, 1, 0, 2, 0, 0, 1, 0]
    assert indices.tolist() == [0, 0, 4, 2, 3, 1, 1, 2, 2, 1, 2, 3]


@given(shares_strategy, st.integers(1, 40), st.integers(1, 60), st.sampled_from([1, 16, 1 << 20]))
def test_presence_is_what_batches_have(shares: list[float], batch: int, steps: int, at_once: int) -> None:
    mixture = stream(shares)
    has = np.zeros(len(mixture.source_names))
    for step in range(steps):
        _, sources = mixture.read_with_sources(step * batch, (step + 1) * batch)
        has[np.unique(sources)] += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mixray.data.stream.COUNTED_AT_ONCE", at_once)
        assert mixture.presence(batch, steps).tolist() == (np.maximum(has, 1) / steps).tolist()


@given(shares_strategy, st.integers(1, 20), st.integers(1, 40), st.sampled_from([1, 1 << 20]))
def test_presence_of_groups_is_what_batches_have(shares: list[float], batch: int, steps: int, at_once: int) -> None:
    """Every source has windows of its own group and of one that all have; a group that no batch has counts once."""
    mixture = stream(shares)
    groups = {name: 1 + number * (np.arange(7) % 3 > 0) for number, name in enumerate(mixture.source_names)}
    has = np.zeros(1 + max(ids.max() for ids in groups.values()))
    for step in range(steps):
        sources, indices = mixture.locate(step * batch, (step + 1) * batch)
        drawn = [groups[mixture.source_names[source]][index] for source, index in zip(sources, indices, strict=True)]
        has[np.unique(drawn)] += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mixray.data.stream.COUNTED_AT_ONCE", at_once)
        assert mixture.presence(batch, steps, groups).tolist() == (np.maximum(has, 1) / steps).tolist()


def test_batches_miss_a_source_more_rarely_than_independent_draws() -> None:
    found = stream([0.8, 0.15, 0.05]).presence(10, 2000)
    assert found == pytest.approx([1, 1, 0.5], abs=0.01)
    assert 1 - 0.95**10 < 0.41


def test_windows_come_with_their_sources() -> None:
    mixture = stream([0.5, 0.0, 0.3, 0.2])
    windows, sources = mixture.read_with_sources(3, 50)
    assert windows.tolist() == mixture.read(3, 50).tolist()
    names = [mixture.source_names[source] for source in sources]
    assert names == [f"s{number}" for number in windows[:, 0]]
