"""Blockwise losses against plain ones."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mixray.training import CompletionsAlone
from mixray.training import loss as loss_module
from mixray.training.loss import IGNORED, NextTokenLoss, NextTokenNll, document_positions, split

VARIANTS = {
    "plain": {},
    "no bias": {"bias": False},
    "tied": {"tied": True},
    "scaled": {"after": lambda logits: 0.3 * logits},
    "scaled in place": {"after": lambda logits: logits.mul_(0.3)},
    "capped": {"after": lambda logits: 2 * torch.tanh(logits / 2)},
}
variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())


@pytest.fixture
def ids(toy: SimpleNamespace) -> torch.Tensor:
    return torch.from_numpy(toy.stream().read(0, 7))


@pytest.fixture(params=[1, 4, 64, 1000], ids=lambda tokens: f"blocks of {tokens}")
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "block_tokens", lambda *_: request.param)


def reference(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Sum over windows of the mean NLL, one token at a time in float64."""
    log_probs = torch.log_softmax(model(input_ids=ids, use_cache=False).logits.double(), dim=-1)
    return -log_probs[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2).mean(1).sum()


@variants
@pytest.mark.usefixtures("_blocks")
def test_loss_and_gradients_equal_plain_ones(toy: SimpleNamespace, ids: torch.Tensor, options: dict[str, Any]) -> None:
    model = toy.model(**options)
    expected = reference(model, ids)
    expected.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    actual, _ = NextTokenLoss(model)(ids)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-6)
    (0.7 * actual).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, 0.7 * gradients[name], rtol=1e-5, atol=1e-6)


@variants
@pytest.mark.usefixtures("_blocks")
def test_the_loss_of_completions_is_the_mean_over_their_tokens(toy: SimpleNamespace, options: dict[str, Any]) -> None:
    """With the weights of a step: the sum over the tokens of all windows by their number, as one direct computation."""
    model, batch = toy.model(**options), CompletionsAlone(toy.completions()).read(0, 7)
    ids, is_trained = map(torch.from_numpy, batch.inputs)
    log_probs = torch.log_softmax(model(input_ids=ids, use_cache=False).logits.double(), dim=-1)
    nll = -log_probs[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)[is_trained[:, 1:]]
    expected = nll.mean()
    expected.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    counts = torch.from_numpy(batch.row_tokens)
    assert len(set(counts.tolist())) > 3, "the windows differ"
    actual, by_window = NextTokenLoss(model)(ids, is_trained, row_weights=counts / counts.sum())
    assert actual.item() == pytest.approx(expected.item(), rel=1e-6)
    means = torch.stack([part.mean() for part in nll.split(counts.tolist())])
    torch.testing.assert_close(by_window.double(), means, rtol=1e-5, atol=0)
    actual.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("completions", [False, True])
def test_against_a_reference_windows_are_judged_by_the_excess_of_their_tokens(
    toy: SimpleNamespace, completions: bool
) -> None:
    """Cut off at 0 for each token, and not for each window; the gradient is that of the loss."""
    model, other = toy.model(), toy.model()
    torch.nn.init.normal_(other.head.weight)
    batch = CompletionsAlone(toy.completions()).read(0, 7)
    ids, is_trained = map(torch.from_numpy, batch.inputs)
    is_trained = is_trained if completions else torch.ones_like(is_trained)

    def nll(network: Any) -> torch.Tensor:
        log_probs = torch.log_softmax(network(input_ids=ids, use_cache=False).logits, dim=-1)
        return -log_probs[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)

    with torch.no_grad():
        excess = (nll(model) - nll(other)) * is_trained[:, 1:]
    assert (excess.sum(1) < 0).any()
    inputs = (ids, is_trained) if completions else (ids,)
    reference = NextTokenNll(other, torch.device("cpu"))
    loss, judged = NextTokenLoss(model, reference=reference)(*inputs)
    plain, _ = NextTokenLoss(model)(*inputs)
    torch.testing.assert_close(judged, excess.clamp(min=0).sum(1) / is_trained[:, 1:].sum(1))
    loss.backward()
    gradient = model.head.weight.grad.clone()
    model.zero_grad()
    plain.backward()
    assert torch.equal(model.head.weight.grad, gradient)
    assert other.head.weight.grad is None


@pytest.mark.parametrize("options", [{}, {"after": lambda logits: 1.0 * logits}], ids=["blockwise", "plain"])
def test_loss_in_bfloat16_is_near(toy: SimpleNamespace, ids: torch.Tensor, options: dict[str, Any]) -> None:
    model = toy.model(**options)
    expected = reference(model, ids)
    expected.backward()
    exact = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16):
        actual, _ = NextTokenLoss(model)(ids)
    actual.backward()
    assert actual.item() == pytest.approx(expected.item(), rel=1e-2)
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32
        assert (parameter.grad - exact[name]).norm() < 0.03 * exact[name].norm() + 1e-3


@variants
@pytest.mark.usefixtures("_blocks")
def test_nll_equals_the_plain_one_and_skips_what_is_ignored(
    toy: SimpleNamespace, ids: torch.Tensor, options: dict[str, Any]
) -> None:
    model = toy.model(**options)
    labels = ids[:, 1:].clone()
    labels[2, 4:] = IGNORED
    labels[5, :] = IGNORED
    log_probs = torch.log_softmax(model(input_ids=ids, use_cache=False).logits.double(), dim=-1)
    expected = -log_probs[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2) * (labels != IGNORED)
    nll = NextTokenNll(model, torch.device("cpu"))
    with torch.inference_mode():
        actual = nll(ids[:, :-1], labels)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", True),
        ("no bias", True),
        ("tied", True),
        ("scaled", False),
        ("scaled in place", False),
        ("capped", False),
    ],
)
def test_split_finds_out_what_stands_behind_the_head(toy: SimpleNamespace, name: str, expected: bool) -> None:
    model = toy.model(**VARIANTS[name]).train()
    trunk, head = split(model)
    assert (head is not None) == expected
    assert trunk is (model.base_model if expected else model)
    assert model.training
    assert not model.base_model._forward_hooks
    assert not model.head._forward_hooks


def test_split_works_where_gradients_are_off(toy: SimpleNamespace) -> None:
    with torch.inference_mode():
        assert split(toy.model())[1] is not None


@pytest.mark.parametrize(
    ("device", "vocabulary", "expected"), [("cpu", 4096, 512), ("cpu", 50_304, 64), ("cuda", 50_304, 1334)]
)
def test_blocks_hold_few_logits(device: str, vocabulary: int, expected: int) -> None:
    assert loss_module.block_tokens(torch.device(device), vocabulary) == expected


def test_split_of_a_model_without_a_head_or_with_another_input(toy: SimpleNamespace) -> None:
    headless = toy.model()
    headless.get_output_embeddings = lambda: None
    assert split(headless) == (headless, None)
    scaled = toy.model()
    scaled.head.register_forward_pre_hook(lambda _, args: (2 * args[0],))
    assert split(scaled) == (scaled, None)


class Logits(TorchDispatchMode):
    """The number of elements of the largest tensor with a vocabulary's axis that any operation made."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.most = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.ndim and result.shape[-1] == self.vocabulary:
            self.most = max(self.most, result.numel())
        return result


@pytest.mark.parametrize("training", [True, False])
def test_the_logits_of_a_batch_never_exist(
    toy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, training: bool
) -> None:
    monkeypatch.setattr(loss_module, "block_tokens", lambda *_: 32)
    model, ids = toy.model(bias=False), torch.from_numpy(toy.stream().read(0, 64))
    loss, nll = NextTokenLoss(model), NextTokenNll(model, torch.device("cpu"))
    with Logits(toy.vocabulary) as logits:
        if training:
            loss(ids)[0].backward()
        else:
            with torch.no_grad():
                nll(ids[:, :-1], ids[:, 1:])
    assert logits.most == 32 * toy.vocabulary


def test_a_document_begins_with_the_token_that_ended_the_one_before() -> None:
    ids = torch.tensor([[3, 4, 0, 5, 6, 0, 0, 7], [0, 1, 2, 3, 4, 5, 6, 7]])
    positions = document_positions(ids, end_of_document=0)
    assert positions.tolist() == [[0, 1, 0, 1, 2, 0, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7]]
