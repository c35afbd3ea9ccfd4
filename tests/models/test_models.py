"""What the run file's ``model`` becomes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mixray.config.training import TrainingConfig
from mixray.errors import InputError
from mixray.models import build_model, count_parameters
from mixray.models.building import LanguageModel
from mixray.training.loss import NextTokenLoss, split

VOCABULARY, WINDOW = 40, 24


def config_of(model: dict[str, Any]) -> LanguageModel:
    config = TrainingConfig.model_validate({"model": model}).model
    assert isinstance(config, LanguageModel)
    return config


def build(model: dict[str, Any], **options: Any) -> Any:
    return build_model(config_of(model), **({"vocab_size": VOCABULARY, "window": WINDOW, "seed": 0} | options))


def weights(model: Any) -> torch.Tensor:
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def test_what_is_not_given_comes_from_the_run(model: dict[str, Any]) -> None:
    config = build(model, bos_id=3, eos_id=5).config
    assert (config.vocab_size, config.bos_token_id, config.eos_token_id, config.pad_token_id) == (40, 3, 5, None)
    assert config.max_position_embeddings == WINDOW
    assert getattr(config, "intermediate_size", 128) == 128
    assert getattr(config, "num_key_value_heads", 4) == 4


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ({"intermediate_size": 48}, "intermediate_size", 48),
        ({"vocab_size": 64}, "vocab_size", 64),
        ({"max_position_embeddings": 100}, "max_position_embeddings", 100),
        ({"pad_token_id": 7}, "pad_token_id", 7),
    ],
)
def test_what_is_given_stays(neox: dict[str, Any], given: dict[str, Any], key: str, value: int) -> None:
    assert getattr(build(neox | given).config, key) == value


@pytest.mark.parametrize("key", ["n_positions", "max_position_embeddings"])
def test_either_of_an_architectures_two_names_will_do(key: str) -> None:
    model = {"architecture": "gpt2", "hidden_size": 32, "n_layer": 1, "num_attention_heads": 4, key: 99}
    assert build(model).config.n_positions == 99


def test_older_names_that_transformers_turns_into_newer_ones(neox: dict[str, Any]) -> None:
    model = neox | {"architecture": "llama", "rope_theta": 500.0}
    assert build(model).config.rope_parameters["rope_theta"] == 500.0


def test_key_value_heads_follow_the_heads(neox: dict[str, Any]) -> None:
    # mistral's own default, 8, is impossible with 4 heads.
    assert build(neox | {"architecture": "mistral"}).config.num_key_value_heads == 4
    assert build(neox | {"architecture": "mistral", "num_key_value_heads": 2}).config.num_key_value_heads == 2


def test_weights_are_float32_and_depend_on_the_seed_alone(model: dict[str, Any]) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    one, again, other = build(model, seed=1), build(model, seed=1), build(model, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights(one), weights(again))
    assert not torch.equal(weights(one), weights(other))
    assert {value.dtype for value in one.parameters()} == {torch.float32}
    assert one.config is not again.config


def test_the_loss_goes_blockwise_where_the_architecture_allows_it(model: dict[str, Any]) -> None:
    assert (split(build(model))[1] is not None) == (model["architecture"] != "cohere")


def test_counting_parameters_allocates_nothing(model: dict[str, Any]) -> None:
    assert count_parameters(config_of(model), VOCABULARY, WINDOW) == sum(p.numel() for p in build(model).parameters())


def test_counting_by_hand() -> None:
    model = {"architecture": "gpt_neox", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    embeddings, norms = 2 * 40 * 8, 3 * 2 * 8
    attention, feed_forward = 4 * (8 * 8 + 8), 2 * 8 * 32 + 32 + 8
    assert count_parameters(config_of(model), VOCABULARY, WINDOW) == embeddings + norms + attention + feed_forward


def test_counting_a_model_larger_than_any_memory() -> None:
    model = {"architecture": "llama", "hidden_size": 16384, "num_hidden_layers": 4, "num_attention_heads": 128}
    assert count_parameters(config_of(model), 128_000, 8192) > 2e10


def test_a_pretrained_folder_is_continued(neox: dict[str, Any], tmp_path: Path) -> None:
    original = build(neox, seed=3)
    original.half().save_pretrained(tmp_path)
    continued = build({"pretrained": str(tmp_path)}, seed=4)
    assert {value.dtype for value in continued.parameters()} == {torch.float32}
    assert torch.equal(weights(continued), weights(original).float())
    assert count_parameters(config_of({"pretrained": str(tmp_path)}), 40, 24) == count_parameters(
        config_of(neox), 40, 24
    )
    with pytest.raises(InputError, match="max_position_embeddings is less than the window"):
        build({"pretrained": str(tmp_path)}, window=WINDOW + 1)


def test_code_that_comes_with_a_pretrained_model_is_not_run(neox: dict[str, Any], tmp_path: Path) -> None:
    build(neox, seed=3).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    names = {"AutoConfig": "planted.Config", "AutoModelForCausalLM": "planted.Model"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": names}))
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'was run')!r}, 'w')")
    build({"pretrained": str(tmp_path)})
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "planted", "auto_map": names}))
    with pytest.raises(InputError, match="trust_remote_code"):
        build({"pretrained": str(tmp_path)})
    assert not (tmp_path / "was run").exists()


SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
REFUSALS = {
    "unknown architecture": (
        {"architecture": "gptneox", **SMALL},
        ["not a causal language model that transformers knows", "model.architecture", "gptneox", "gpt_neox"],
    ),
    "not a language model": ({"architecture": "vit", **SMALL}, ["not a causal language model"]),
    "unknown key": (
        {"architecture": "gpt_neox", **SMALL, "num_attn_heads": 4},
        ["gpt_neox has no setting 'num_attn_heads'", "model.num_attn_heads", "num_attention_heads"],
    ),
    "another architecture's key": (
        {"architecture": "gpt_neox", **SMALL, "n_inner": 4},
        ["gpt_neox has no setting 'n_inner'"],
    ),
    "precision is not the model's": ({"architecture": "llama", **SMALL, "dtype": "bfloat16"}, ["no setting 'dtype'"]),
    "heads do not divide": (
        {"architecture": "gpt_neox", **SMALL, "hidden_size": 30},
        ["the model cannot be built", "hidden size is not divisible by the number of attention heads"],
    ),
    "wrong type": ({"architecture": "gpt_neox", **SMALL, "hidden_size": "wide"}, ["expected int, got str"]),
    "no heads": ({"architecture": "gpt_neox", **SMALL, "num_attention_heads": 0}, ["the model cannot be built"]),
    "unknown activation": ({"architecture": "gpt_neox", **SMALL, "hidden_act": "nope"}, ["cannot be built", "nope"]),
    "vocabulary too small": (
        {"architecture": "gpt_neox", **SMALL, "vocab_size": 39},
        ["vocab_size is less than the tokenizer's", "got: 39", "at least 40"],
    ),
    "positions too few": (
        {"architecture": "gpt2", **SMALL, "n_positions": 16},
        ["max_position_embeddings is less than the window", "got: 16", "at least 24"],
    ),
    "pretrained is nowhere": ({"pretrained": "/no/such/folder"}, ["the model cannot be built", "/no/such/folder"]),
}


@pytest.mark.parametrize(("model", "parts"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals(model: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        build(model)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", [name for name in REFUSALS if name not in ("no heads", "unknown activation")])
def test_planning_refuses_alike(name: str) -> None:
    model, parts = REFUSALS[name]
    with pytest.raises(InputError) as caught:
        count_parameters(config_of(model), VOCABULARY, WINDOW)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("architecture", ["bert", "electra"])
def test_a_model_that_looks_ahead_is_refused(architecture: str) -> None:
    model = {"architecture": architecture, **SMALL}
    with pytest.raises(InputError, match="sees the tokens it has to predict") as caught:
        build(model)
    assert "is_decoder: true" in str(caught.value)


def test_an_encoder_made_a_decoder_is_fine() -> None:
    assert build({"architecture": "bert", **SMALL, "is_decoder": True}).config.is_decoder


EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": True, "router_aux_loss_coef": 0.3}


@pytest.mark.parametrize("row_weights", [None, torch.tensor([0.5, 2.0])])
def test_the_load_balancing_loss_of_a_mixture_of_experts_is_minimised_too(row_weights: torch.Tensor | None) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = torch.arange(2 * WINDOW).view(2, WINDOW) % VOCABULARY

    def loss_of(settings: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, Any]:
        model = build({"architecture": "mixtral", **sizes, **settings})
        total, losses = NextTokenLoss(model)(ids, row_weights=row_weights)
        total.backward()
        return total, losses, model

    total, losses, model = loss_of(EXPERTS)
    plain_total, plain_losses, plain = loss_of(EXPERTS | {"output_router_logits": False})
    auxiliary = model(input_ids=ids, use_cache=False).aux_loss
    assert auxiliary > 0
    weight = 2.0 if row_weights is None else 2.5
    torch.testing.assert_close(total, plain_total + weight * 0.3 * auxiliary)
    torch.testing.assert_close(losses, plain_losses)
    routers = [name for name, _ in model.named_parameters() if ".gate." in name or "router" in name]
    assert routers
    gradients = [{name: p.grad for name, p in one.named_parameters()} for one in (model, plain)]
    assert not torch.allclose(gradients[0][routers[0]], gradients[1][routers[0]])


def test_a_load_balancing_loss_without_a_weight_is_refused() -> None:
    model = torch.nn.Linear(1, 1)
    model.config = SimpleNamespace(output_router_logits=True)  # type: ignore[assignment]
    with pytest.raises(InputError, match="load-balancing loss") as caught:
        NextTokenLoss(model)
    assert "leave output_router_logits out" in str(caught.value)


def test_separate_documents_train_as_if_each_stood_alone(neox: dict[str, Any]) -> None:
    ids = torch.tensor([[0, 5, 6, 7, 0, 8, 9, 10, 11]])
    losses = [NextTokenLoss(build(neox), end_of_document=0)(part)[1] for part in (ids, ids[:, :5], ids[:, 4:])]
    together, first, second = (
        loss * (part.shape[1] - 1) for loss, part in zip(losses, (ids, ids[:, :5], ids[:, 4:]), strict=True)
    )
    torch.testing.assert_close(together, first + second)
    joined = NextTokenLoss(build(neox))(ids)[1]
    assert not torch.allclose(joined, losses[0], atol=1e-5)


CANNOT_SEPARATE: dict[str, dict[str, Any]] = {
    "opt": {"num_attention_heads": 4, "word_embed_proj_dim": 32, "ffn_dim": 32},
    "bloom": {"num_attention_heads": 4},
    "mamba": {},
}


@pytest.mark.parametrize("architecture", CANNOT_SEPARATE)
def test_models_that_cannot_keep_documents_apart_are_refused(architecture: str) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, **CANNOT_SEPARATE[architecture]}
    model = build({"architecture": architecture, **sizes})
    with pytest.raises(InputError, match="cannot keep the documents of a window apart") as caught:
        NextTokenLoss(model, end_of_document=0)
    assert "leave attention out" in str(caught.value)
