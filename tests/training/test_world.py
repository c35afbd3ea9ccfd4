"""Workers share a batch without gap or overlap; devices and precisions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixray.errors import InputError
from mixray.training import World, autocast, device_for


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


def test_no_gpu_asked_for_is_the_cpu() -> None:
    assert device_for(0) == torch.device("cpu")


@pytest.mark.parametrize("gpus", [0.25, 1])
def test_a_gpu_that_is_not_there_is_an_error(gpus: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="a GPU was asked for and torch sees none") as caught:
        device_for(gpus)
    assert f"gpus: {gpus}" in str(caught.value)


def test_a_gpu_that_is_there_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_for(0.5) == torch.device("cuda")


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_precision_on_a_cpu(precision: str, expected: torch.dtype) -> None:
    with autocast(torch.device("cpu"), precision):  # type: ignore[arg-type]
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
