"""How much memory a forward pass keeps for its backward pass, found without allocating any of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mixray.config.training import HeadConfig, TrainingConfig
from mixray.data import ExampleInputs, ModelInputs
from mixray.models.building import new_network
from mixray.models.classifier import Classifier

UNTRACEABLE = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, ImportError, AssertionError)
"""How architectures fail that look at values, or compute by kernels that know no fake tensors."""


def activation_bytes(config: TrainingConfig, inputs: ModelInputs, *, workers: int, on_gpu: bool) -> int | None:
    """Return the bytes of the activations of one forward pass of one worker.

    They are the tensors that autograd keeps, without the logits, which exist for a few tokens at a time, and without
    the buffers of single operations. On a GPU, ``precision: auto`` is taken for bfloat16. Returns None for models that
    cannot be traced.
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
            model = new_network(config.model, inputs.vocab_size, inputs.window).train()
            ids = torch.zeros(rows, inputs.window, dtype=torch.int64)
            return kept_bytes(model, lambda: model.base_model(input_ids=ids, use_cache=False))
    except UNTRACEABLE:
        return None


def kept_bytes(network: nn.Module, forward: Callable[[], object]) -> int:
    """Return the bytes of all tensors that autograd keeps of a forward pass, but for the network's parameters."""
    parameters = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = forward()  # its graph lives until the sum is taken, so that no storage is used twice
        size = sum(storage.nbytes() for storage in kept.values())
    del output
    return size
