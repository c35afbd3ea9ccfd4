"""The negative log-likelihood of next tokens, without ever holding the logits of a whole batch.

A language model is a trunk and, last, a linear map from hidden states to one logit per word of the vocabulary. The
logits, and in training their gradients, are by far its largest tensors. Here they exist for a few tokens at a time, on
a CPU within its cache; in training a block's gradients are taken at once, so that nothing is computed twice. Models
with more behind the linear map than that (capped or scaled logits) are found out and take the plain way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear, log_softmax, pad

from mixray.errors import InputError

IGNORED = -100
"""The label of a position that predicts nothing."""

CPU_LOGITS, GPU_LOGITS = 1 << 21, 1 << 26


class RowLoss(nn.Module):
    """A model as the losses of rows, which is what the training loop minimises.

    ``forward(*inputs, row_weights)`` takes a batch's inputs as tensors and returns

    * what to differentiate: the sum over rows of weight x loss, or of the losses where ``row_weights`` is None;
    * the rows' losses, float32 (rows,), nats, without a graph and without the weights.

    A model whose losses come with a graph, one per row, needs no more than ``weighted_sum`` for both.
    """


def weighted_sum(losses: torch.Tensor, row_weights: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a ``RowLoss`` does, for losses (rows,) with their graph and row_weights (rows,) or None."""
    losses = losses.float()
    return (losses if row_weights is None else losses * row_weights).sum(), losses.detach()


class NextTokenLoss(RowLoss):
    """A Hugging Face causal language model as losses of windows; inputs: ids, int64 (windows, window), and optionally
    which of them are trained on, bool (windows, window); by default all.

    A window's loss is the mean negative log-likelihood of its predicted tokens, ids[:, 1:], that are trained on, in
    nats. To what is differentiated a mixture of experts whose config says ``output_router_logits`` adds its
    load-balancing loss, once for every window; the windows' losses are without it.

    ``end_of_document``: where given, every such token begins a document, whose tokens see no other document and whose
    positions start at 0. That token is then the context from which the first token of its document is predicted.

    ``reference``: where given, the windows' losses are how far the tokens' are above those of that model on average,
    where those below count as 0 (DoReMi, arXiv 2305.10429). What is differentiated does not change.

    Raises InputError where a mixture of experts does not say what its load-balancing loss weighs, and for a model that
    cannot keep documents apart.
    """

    def __init__(
        self, model: nn.Module, *, end_of_document: int | None = None, reference: NextTokenNll | None = None
    ) -> None:
        super().__init__()
        self._reference = reference
        self.router_coefficient = _router_coefficient(model)
        self.trunk, self.head = split(model) if self.router_coefficient is None else (model, None)
        self._forward: Callable[..., Any] = self.trunk
        self.end_of_document = end_of_document
        if end_of_document is not None:
            _require_separate_documents(model, end_of_document)

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compile the trunk: what follows it is already done in blocks."""
        self._forward = torch.compile(self.trunk, *arguments, **options)

    def forward(
        self, ids: torch.Tensor, is_trained: torch.Tensor | None = None, row_weights: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # ``predicted``: the tokens of each window's loss. Where windows differ in it, it is part of the weights.
        predicted: int | torch.Tensor = ids.shape[1] - 1
        labels, token_weights = ids[:, 1:], row_weights
        if is_trained is not None:
            predicted = is_trained[:, 1:].sum(1).clamp(min=1)
            labels = labels.masked_fill(~is_trained[:, 1:], IGNORED)
            token_weights = (1.0 if row_weights is None else row_weights) / predicted
        labels = pad(labels, (0, 1), value=IGNORED).flatten()
        weights = None if token_weights is None else token_weights.repeat_interleave(ids.shape[1])
        end = self.end_of_document
        positions = {} if end is None else {"position_ids": document_positions(ids, end)}
        output = self._forward(input_ids=ids, use_cache=False, **positions)
        if self.head is None:
            logits = output.logits.flatten(0, 1).float()
            total, nll = weighted_sum(cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none"), weights)
        else:
            hidden = output.last_hidden_state.flatten(0, 1)
            head = self.head
            total, nll = _BlockwiseLoss.apply(hidden, head.weight, head.bias, labels, weights)  # type: ignore[no-untyped-call]
        loss = total / predicted if isinstance(predicted, int) else total
        if self.router_coefficient is not None:
            windows = len(ids) if row_weights is None else row_weights.sum()
            loss = loss + windows * self.router_coefficient * output.aux_loss
        if self._reference is not None:
            with torch.no_grad():
                nll = (nll - self._reference(ids, labels.view(ids.shape), **positions).flatten()).clamp(min=0)
        return loss, nll.view(ids.shape).sum(1) / predicted


class NextTokenNll:
    """A Hugging Face causal language model as the negative log-likelihood of labels, without gradients."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.trunk, self.head = split(model)
        self.device = device

    def __call__(self, inputs: torch.Tensor, labels: torch.Tensor, **positions: torch.Tensor) -> torch.Tensor:
        """Return the labels' losses in nats, float32, on the device; 0 where a label is IGNORED.

        ``inputs``, ``labels``: int64, shape (rows, length), usually on the CPU; ``positions``: ``position_ids``, where
        documents are kept apart.
        """
        places = (labels.flatten() != IGNORED).nonzero().flatten()
        targets = labels.flatten()[places].to(self.device, non_blocking=True)
        places = places.to(self.device, non_blocking=True)
        output = self.trunk(input_ids=inputs.to(self.device, non_blocking=True), use_cache=False, **positions)
        states = (output.logits if self.head is None else output.last_hidden_state).flatten(0, 1)
        if len(places) < len(states):
            states = states[places]
        vocabulary = states.shape[1] if self.head is None else self.head.out_features
        nll = [
            cross_entropy((block if self.head is None else self.head(block)).float(), part, reduction="none")
            for block, part in _blocks(vocabulary, states, targets)
        ]
        return torch.zeros(labels.numel(), device=self.device).index_copy_(0, places, torch.cat(nll)).view(labels.shape)


def _router_coefficient(model: nn.Module) -> float | None:
    """Return what the load-balancing loss of a mixture of experts weighs; None where the model has none to add."""
    config = getattr(model, "config", None)
    if not getattr(config, "output_router_logits", False):
        return None
    for name in ("router_aux_loss_coef", "aux_loss_coef"):
        if (coefficient := getattr(config, name, None)) is not None:
            return float(coefficient)
    raise InputError(
        "the model has a load-balancing loss of unknown weight",
        where="model.output_router_logits",
        got=f"a config of {type(model).__name__} without router_aux_loss_coef or aux_loss_coef",
        remedy="leave output_router_logits out: the model is then trained without that loss",
    )


def document_positions(ids: torch.Tensor, end_of_document: int) -> torch.Tensor:
    """Return every token's position in its document, int64 (windows, window); ``end_of_document`` begins one.

    ``ids``: int64 (windows, window). Models of transformers let tokens see each other only where positions go on.
    """
    index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return index - torch.where(ids == end_of_document, index, 0).cummax(dim=1).values


def _require_separate_documents(model: nn.Module, end_of_document: int) -> None:
    """Raise InputError where what stands in one document changes the logits of the next one."""
    one, other = [token for token in range(3) if token != end_of_document][:2]
    ids = torch.tensor([[end_of_document, first, end_of_document, one] for first in (one, other)])
    ids = ids.to(next(model.parameters()).device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, position_ids=document_positions(ids, end_of_document), use_cache=False).logits
            alone = model(input_ids=ids[:, 2:], use_cache=False).logits
        separate = torch.allclose(logits[:, 2:], alone, rtol=1e-3, atol=1e-4)
    except TypeError:  # the model takes no position_ids
        separate = False
    finally:
        model.train(training)
    if not separate:
        raise InputError(
            "the model cannot keep the documents of a window apart",
            where="attention",
            got=f"{type(model).__name__}, whose logits depend on the document before",
            wanted="a model that attends by position_ids, such as llama or gpt_neox",
            remedy="leave attention out",
        )


def split(model: nn.Module) -> tuple[nn.Module, nn.Linear | None]:
    """Return trunk and head where head(trunk's last hidden state) is the model's logits; else (model, None).

    Not by the architecture's name: in a forward pass, the logits must be the very tensor that the head returned for
    the trunk's very output.
    """
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    trunk: Any = getattr(model, "base_model", model)
    if trunk is model or type(head) is not nn.Linear:
        return model, None
    outputs: dict[str, Any] = {}
    hooks = [
        trunk.register_forward_hook(lambda _, __, output: outputs.update(hidden=output[0])),
        head.register_forward_hook(
            lambda _, args, output: outputs.update(args=args, out=output, version=output._version)
        ),
    ]
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(False), torch.no_grad():  # inference mode counts no versions
            ids = torch.zeros(1, 2, dtype=torch.int64, device=head.weight.device)
            logits = model(input_ids=ids, use_cache=False).logits
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return (trunk, head) if _is_plain(outputs, logits) else (model, None)


def _is_plain(outputs: dict[str, Any], logits: torch.Tensor) -> bool:
    if (
        not {"hidden", "args"} <= outputs.keys()
        or logits is not outputs["out"]
        or logits._version != outputs["version"]
    ):
        return False
    return len(outputs["args"]) == 1 and _same_memory(outputs["args"][0], outputs["hidden"])


def _same_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()


class _BlockwiseLoss(torch.autograd.Function):
    """Sum of the cross-entropies of a linear map's outputs, with its gradients made on the way.

    Linear maps run in the autocast precision, everything else and all sums in float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        token_weights: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden (tokens, width), weight (vocabulary, width), bias (vocabulary), labels, token_weights (tokens).

        Returns the sum of weight x cross-entropy, and the cross-entropies (tokens,), constants; both float32.
        """
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        total, nll = torch.zeros((), device=hidden.device), []
        gradient = torch.empty_like(hidden)
        # The output layer may be frozen.
        weight_gradient = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        bias_gradient = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        with torch.autocast(device, enabled=False):
            narrow, narrow_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
            starts = iter(_blocks(len(weight), gradient))
            scale = (labels != IGNORED) if token_weights is None else (labels != IGNORED) * token_weights
            for block, label, factor in _blocks(len(weight), hidden.to(dtype), labels, scale.unsqueeze(1)):
                target = label.clamp(min=0).unsqueeze(1)
                log_probs = log_softmax(linear(block, narrow, narrow_bias).float(), dim=1)
                picked = log_probs.gather(1, target)
                total -= (picked * factor).sum()
                nll.append(picked)
                # The gradient of -log p[target] by the logits is p - onehot(target).
                slope = log_probs.exp_().scatter_add_(1, target, torch.full_like(target, -1.0, dtype=torch.float32))
                slope = slope.mul_(factor).to(dtype)
                next(starts)[0].copy_(slope @ narrow)
                if weight_gradient is not None and dtype == weight.dtype:
                    weight_gradient.addmm_(slope.t(), block)
                elif weight_gradient is not None:
                    weight_gradient += slope.t() @ block
                if bias_gradient is not None:
                    bias_gradient += slope.sum(0, dtype=torch.float32)
        ctx.save_for_backward(gradient, weight_gradient, bias_gradient)
        cross_entropies = -torch.cat(nll).squeeze(1) * (labels != IGNORED)
        ctx.mark_non_differentiable(cross_entropies)
        return total, cross_entropies

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients = [None if gradient is None else gradient * outputs[0] for gradient in ctx.saved_tensors]
        return (*gradients, None, None)


def _blocks(vocabulary: int, *of_tokens: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield views of a few tokens of each at a time."""
    tokens = block_tokens(of_tokens[0].device, vocabulary)
    return zip(*(torch.split(tensor, tokens) for tensor in of_tokens), strict=True)


def block_tokens(device: torch.device, vocabulary: int) -> int:
    """Return the tokens per block: on a CPU few enough for its cache and allocator, on a GPU enough to fill it."""
    return max(64, (CPU_LOGITS if device.type == "cpu" else GPU_LOGITS) // vocabulary)
