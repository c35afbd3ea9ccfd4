"""Workers share a batch without gap or overlap."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixray.training.world import World


@given(batch=st.integers(1, 500), size=st.integers(1, 64))
def test_slices_partition_the_batch_evenly(batch: int, size: int) -> None:
    slices = [World(rank, size).slice(batch) for rank in range(size)]
    assert [start for start, _ in slices] == [0, *[stop for _, stop in slices[:-1]]]
    assert slices[-1][1] == batch
    sizes = [stop - start for start, stop in slices]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("rank", "size"), [(-1, 1), (1, 1), (0, 0)])
def test_a_rank_outside_the_world_is_our_bug(rank: int, size: int) -> None:
    with pytest.raises(AssertionError, match=f"rank {rank} of {size}"):
        World(rank, size)
