import numpy as np
import pytest

from mixray.data.draws import Permutation


def order(permutation: Permutation, epoch: int) -> list[int]:
    positions = np.arange(permutation.size)
    return permutation(np.full_like(positions, epoch), positions).tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 63, 64, 65, 100, 1000, 4097, 65_537])
def test_it_is_a_bijection(size: int) -> None:
    assert sorted(order(Permutation(0, "python", size), 0)) == list(range(size))


def test_every_small_size_and_epoch_is_a_bijection() -> None:
    for size in range(1, 70):
        for epoch in range(4):
            assert sorted(order(Permutation(3, "x", size), epoch)) == list(range(size))


def test_epochs_seeds_and_names_give_other_orders() -> None:
    orders = [
        order(Permutation(seed, name, 50), epoch) for seed in (0, 1) for name in ("a", "b") for epoch in (0, 1, 2**40)
    ]
    assert len({tuple(each) for each in orders}) == len(orders)


def test_one_call_may_mix_epochs() -> None:
    permutation = Permutation(0, "a", 11)
    epochs, positions = np.divmod(np.arange(5, 60), 11)
    expected = [
        order(permutation, int(epoch))[int(position)] for epoch, position in zip(epochs, positions, strict=True)
    ]
    assert permutation(epochs, positions).tolist() == expected


def test_random_access_into_a_huge_source() -> None:
    permutation = Permutation(0, "a", 10**12 + 39)
    values = permutation(np.zeros(2000, np.int64), np.arange(2000) + 10**11)
    assert len(set(values.tolist())) == 2000
    assert values.min() >= 0
    assert values.max() < 10**12 + 39


def test_orders_look_uniform() -> None:
    """Each of 8 items stands first about equally often: 4000 epochs, chi-square with 7 degrees of freedom < 30."""
    first = Permutation(0, "a", 8)(np.arange(4000), np.zeros(4000, np.int64))
    counts = np.bincount(first, minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 30


def test_golden_order() -> None:
    """Computed once by this code; a change would silently reorder every training run."""
    assert order(Permutation(0, "python", 10), 0) == [0, 1, 8, 5, 2, 3, 9, 4, 7, 6]
