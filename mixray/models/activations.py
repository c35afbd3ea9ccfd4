"""How much memory a forward pass keeps for the backward pass, computed without allocating any of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mixray.config.training import HeadConfig, TrainingConfig, TreesModel
from mixray.data import ExampleInputs, ModelInputs
from mixray.models.building import new_network
from mixray.models.classifier import Classifier

UNTRACEABLE = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, ImportError, AssertionError)
"""What an architecture raises that cannot be traced: because its code depends on the values of tensors, or because it
calls a kernel that does not support fake tensors."""


def activation_bytes(config: TrainingConfig, inputs: ModelInputs, *, workers: int, on_gpu: bool) -> int | None:
    """Return the bytes of the activations of one forward pass of one worker.

    Activations are the tensors that autograd keeps for the backward pass. The logits are not counted, because training
    computes them for a few tokens at a time; neither are the buffers of single operations. On a GPU, ``precision:
    auto`` is taken to be bfloat16. Returns None for models that cannot be traced.

    ``workers``: how many share a batch of ``config.batch`` rows. One forward pass has all rows of a worker, or
    ``config.micro_batch`` of them if that is fewer.
    """
    slice_of_batch = -(-config.batch // workers)
    rows = min(config.micro_batch or slice_of_batch, slice_of_batch)
    in_bfloat16 = config.precision == "bfloat16" or (config.precision == "auto" and on_gpu)
    try:
        # Fake tensors have shapes and types but no memory; an operation on them computes nothing.
        with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
            if isinstance(config.model, HeadConfig):
                assert isinstance(inputs, ExampleInputs), "a classifier reads examples"
                features = torch.zeros(rows, inputs.features)
                head = Classifier(config.model, features=inputs.features, classes=len(inputs.label_names), seed=0)
                return kept_bytes(head, lambda: head(features))
            assert not isinstance(inputs, ExampleInputs), "a language model reads texts"
            assert not isinstance(config.model, TreesModel), "boosted trees have no forward pass"
            model = new_network(config.model, inputs.vocab_size, inputs.window).train()
            ids = torch.zeros(rows, inputs.window, dtype=torch.int64)
            return kept_bytes(model, lambda: model.base_model(input_ids=ids, use_cache=False))
    except UNTRACEABLE:
        return None


def kept_bytes(network: nn.Module, forward: Callable[[], object]) -> int:
    """Return the bytes of all storages that autograd keeps of ``forward()``, without those of the parameters."""
    # ``_cdata`` is the address of a storage: tensors that share a storage are counted once.
    parameters = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            saved[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        output = forward()  # keeps the graph alive until the sum is taken, so that no address is used twice
        size = sum(storage.nbytes() for storage in saved.values())
    del output
    return size
