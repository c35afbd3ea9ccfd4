"""Devices and precisions."""

import pytest
import torch

from mixray.errors import InputError
from mixray.training import autocast, device_for


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
