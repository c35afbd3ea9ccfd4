"""Hugging Face causal language models from the run file's ``model``: built from a config, or continued.

``{architecture: gpt_neox, hidden_size: 128, ...}``: keys are those of the architecture's Hugging Face config. What is
not given comes from the run (``vocab_size`` from the tokenizer, ``max_position_embeddings`` from the window, token ids)
or follows the width, where the architecture has it: ``intermediate_size = 4 x hidden_size`` and
``num_key_value_heads = num_attention_heads`` (Hugging Face's defaults belong to models of billions of parameters).
``{pretrained: NAME_OR_FOLDER, revision: ...}`` continues a trained model.

Weights are float32; a lower precision is the training loop's and the scorer's business.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mixray.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Model = dict[str, Any]


def build_model(
    model: Model, *, vocab_size: int, window: int, seed: int, bos_id: int | None = None, eos_id: int | None = None
) -> PreTrainedModel:
    """A float32 model on the CPU, its weights drawn from ``seed`` (or trained, if ``pretrained``).

    ``vocab_size``: the tokenizer's. ``window``: tokens it must be able to read at once.
    Raises InputError for a model that is unknown, impossible, too small for the tokenizer or the window, or that sees
    the tokens it has to predict.
    """
    from transformers import AutoModelForCausalLM

    config = _config(model, vocab_size, window, bos_id, eos_id)
    with _refusals(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if "pretrained" in model:
            built = AutoModelForCausalLM.from_pretrained(
                model["pretrained"], revision=model.get("revision"), config=config, dtype=torch.float32
            )
        else:
            built = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        _check_causal(model, built, min(window, 8))
    return built


def model_identity(model: Model) -> dict[str, str] | None:
    """What pins down the weights of a ``pretrained`` model: its files' sha256, or its hub commit. None for a new one.

    Raises InputError where it cannot be found.
    """
    if "pretrained" not in model:
        return None
    from transformers.utils.hub import cached_file, extract_commit_hash

    folder = Path(model["pretrained"]).expanduser()
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    with _refusals(model):
        config = cached_file(model["pretrained"], "config.json", revision=model.get("revision"))
    commit = extract_commit_hash(str(config), None)
    assert commit is not None, f"{config} is not in the hub's cache"
    return {"commit": commit}


def count_parameters(model: Model, vocab_size: int, window: int) -> int:
    """All parameters, embeddings included, tied ones once; allocates nothing. Raises InputError as ``build_model``."""
    from transformers import AutoModelForCausalLM

    config = _config(model, vocab_size, window, None, None)
    with _refusals(model), torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return sum(parameter.numel() for parameter in built.parameters())


def quieten() -> None:
    """No progress bars and no advice from transformers: proxies are many and small."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _config(model: Model, vocab_size: int, window: int, bos_id: int | None, eos_id: int | None) -> PreTrainedConfig:
    """A config of this model's own: two models that share one also share later changes of it."""
    from transformers import AutoConfig

    quieten()
    if "pretrained" in model:
        _refuse_unknown(
            sorted(set(model) - {"pretrained", "revision"}), ["pretrained", "revision"], "a pretrained model"
        )
        with _refusals(model):
            config = AutoConfig.from_pretrained(model["pretrained"], revision=model.get("revision"))
    else:
        config = _new_config(model, vocab_size, window, bos_id, eos_id)
    for key, name, needed in (
        ("vocab_size", "the tokenizer's", vocab_size),
        ("max_position_embeddings", "the window", window),
    ):
        value = getattr(config, key, None)
        if isinstance(value, int) and value < needed:
            raise InputError(
                f"the model's {key} is less than {name}", where="model", got=value, wanted=f"at least {needed}"
            )
    return config


def _new_config(model: Model, vocab_size: int, window: int, bos_id: int | None, eos_id: int | None) -> PreTrainedConfig:
    from transformers import CONFIG_MAPPING, PreTrainedConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    architecture = model["architecture"]
    if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InputError(
            "the architecture is not a causal language model that transformers knows",
            where="model.architecture",
            got=architecture,
            wanted=_nearest(str(architecture), list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)),
        )
    kind = CONFIG_MAPPING[architecture]
    own = set(inspect.signature(kind).parameters) - set(inspect.signature(PreTrainedConfig).parameters)
    known = own | set(kind.attribute_map)
    given = {key: value for key, value in model.items() if key != "architecture"}
    defaults = {
        "vocab_size": vocab_size,
        "max_position_embeddings": window,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        # Some defaults name an id, whose embedding then stays zero; nothing here is padded with a token of its own.
        "pad_token_id": None,
        "intermediate_size": 4 * given["hidden_size"] if isinstance(given.get("hidden_size"), int) else None,
        "num_key_value_heads": given.get("num_attention_heads"),
    }
    with _refusals(model):
        config = kind(**_defaults(defaults, given, known, kind.attribute_map), **given)
    # Older names such as rope_theta are taken and turned into newer ones; what is unknown stays as it was given.
    left = [key for key in given if key not in known and key in config.to_dict()]
    _refuse_unknown(left, sorted(known), f"architecture {architecture}")
    return config


def _defaults(
    defaults: dict[str, Any], given: dict[str, Any], known: set[str], aliases: dict[str, str]
) -> dict[str, Any]:
    """Those defaults that the architecture has and the user gave under no name (gpt2 says n_embd for hidden_size)."""
    settled = {aliases.get(key, key) for key in given}
    optional = ("intermediate_size", "num_key_value_heads")
    return {
        key: value
        for key, value in defaults.items()
        if key in known and aliases.get(key, key) not in settled and not (key in optional and value is None)
    }


def _check_causal(model: Model, built: PreTrainedModel, length: int) -> None:
    """Changing the last token must not change what is predicted before it (encoders, for one, look ahead)."""
    ids = torch.arange(length).unsqueeze(0) % built.config.vocab_size
    changed = ids.clone()
    changed[:, -1] += 1
    built.eval()
    with torch.inference_mode():
        effect = (built(input_ids=ids, use_cache=False).logits - built(input_ids=changed, use_cache=False).logits).abs()
    if effect[:, :-1].max() > 1e-4 * effect[:, -1].max():
        raise InputError(
            "the model sees the tokens it has to predict: it is not causal",
            where="model",
            got=model,
            wanted="a decoder, such as gpt_neox, gpt2 or llama",
            remedy="some encoders become decoders with is_decoder: true",
        )


@contextmanager
def _refusals(model: Model) -> Iterator[None]:
    """Turn the many ways in which transformers says that a config is impossible into one."""
    from huggingface_hub.errors import StrictDataclassError

    impossible = (
        StrictDataclassError,
        OSError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        AttributeError,
        ImportError,
        RuntimeError,
    )
    try:
        yield
    except impossible as error:
        raise InputError(f"the model cannot be built: {error}", where="model", got=model) from error


def _refuse_unknown(unknown: list[str], known: list[str], owner: str) -> None:
    if unknown:
        raise InputError(
            f"{owner} has no setting {unknown[0]!r}", where=f"model.{unknown[0]}", wanted=_nearest(unknown[0], known)
        )


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    return f"perhaps {' or '.join(near)}" if near else f"one of {', '.join(sorted(known))}"
