"""Hugging Face causal language models from the run file's ``model``: built from a config, or continued.

``{architecture: gpt_neox, hidden_size: 128, ...}``: keys are those of the architecture's Hugging Face config. A key
that the run file leaves out gets its value from the run (``vocab_size`` from the tokenizer,
``max_position_embeddings`` from the window, token ids), or follows the width where the architecture has the key:
``intermediate_size = 4 x hidden_size`` and ``num_key_value_heads = num_attention_heads`` (Hugging Face's defaults
belong to models of billions of parameters).
``{pretrained: NAME_OR_FOLDER, revision: ...}`` continues the training of a model; with ``lora`` only adapters are
trained and saved.

Weights are float32. The training loop and the scorer choose the precision of the computation.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mixray.config.training import LoRAConfig, ModelConfig, NewModel, PretrainedModel
from mixray.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LanguageModel = NewModel | PretrainedModel


def build_model(
    model: LanguageModel,
    *,
    vocab_size: int,
    window: int,
    seed: int,
    bos_id: int | None = None,
    eos_id: int | None = None,
) -> PreTrainedModel:
    """Return a float32 model on the CPU whose weights are drawn from ``seed``, or are those of a pretrained model.

    ``vocab_size`` is the tokenizer's. ``window`` is the number of tokens that the model must be able to read at once.
    Raises InputError for a model that is unknown, impossible, too small for the tokenizer or the window, or that sees
    the tokens it has to predict.
    """
    from transformers import AutoModelForCausalLM

    config = _config(model, vocab_size, window, bos_id, eos_id)
    with _refusals(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(model, PretrainedModel):
            built = AutoModelForCausalLM.from_pretrained(
                _place(model),
                revision=model.revision,
                config=config,
                dtype=torch.float32,
                trust_remote_code=False,
            )
            if model.lora is not None:
                add_adapters(built, model.lora)
        else:
            built = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        _check_causal(model, built, min(window, 8))
    return built


ModelIdentity = dict[str, str] | None
"""What decides a pretrained model's weights: the sha256 of its files by name, or its ``commit``; None for a new one."""


def model_identity(model: ModelConfig) -> ModelIdentity:
    """Return the sha256 of a pretrained model's files, or its commit on the hub; None for a model that starts new.

    Raises InputError where the pretrained model cannot be read.
    """
    if not isinstance(model, PretrainedModel):
        return None
    from transformers.utils.hub import cached_file, extract_commit_hash

    folder = Path(model.pretrained).expanduser()
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    with _refusals(model):
        config = cached_file(model.pretrained, "config.json", revision=model.revision)
    commit = extract_commit_hash(str(config), None)
    assert commit is not None, f"{config} is not in the hub's cache"
    return {"commit": commit}


def _place(model: PretrainedModel) -> str:
    """Return the absolute path of a pretrained model's folder, or its name on the hub."""
    folder = Path(model.pretrained).expanduser()
    return str(folder.absolute()) if folder.is_dir() else model.pretrained


def pinned_model(model: ModelConfig, identity: ModelIdentity) -> ModelConfig:
    """Return the model with the commit that its revision names now, so that all workers load the same weights."""
    if identity is None or set(identity) != {"commit"}:
        return model
    return model.model_copy(update={"revision": identity["commit"]})


def count_parameters(model: LanguageModel, vocab_size: int, window: int, *, only_trained: bool = False) -> int:
    """Count all parameters, embeddings included and tied ones once, or those that are trained, without allocating any.

    Raises the errors of ``build_model``.
    """
    with torch.device("meta"):
        built = new_network(model, vocab_size, window)
        if isinstance(model, PretrainedModel) and model.lora is not None:
            add_adapters(built, model.lora)
    return sum(each.numel() for each in built.parameters() if each.requires_grad or not only_trained)


def add_adapters(network: PreTrainedModel, lora: LoRAConfig) -> None:
    """Add untrained adapters to a model, whose own weights are no longer trained.

    Raises InputError where peft is not installed, and for modules that the model does not have or that take no
    adapters.
    """
    if find_spec("peft") is None:
        raise InputError(
            "the library of the adapters is not installed",
            where="model.lora",
            got="a Python environment without peft",
            remedy="pip install 'mixray[lora]'",
        )
    from peft import LoraConfig as Adapters

    # Conv1D is what transformers calls the linear layers of gpt2, whose weights are transposed.
    kinds_of = {name: type(module).__name__ for name, module in network.named_modules()}
    layers = [name for name, kind in kinds_of.items() if kind in ("Linear", "Conv1D")]
    for module in [] if lora.modules == "all-linear" else lora.modules:
        if not any(layer == module or layer.endswith(f".{module}") for layer in layers):
            kinds = sorted({layer.rpartition(".")[2] for layer in layers})
            raise InputError(
                "the model has no such linear layer",
                where="model.lora.modules",
                got=module,
                wanted=f"all-linear, or the end of a layer's name: {_nearest(module, kinds)}",
            )
    adapters = Adapters(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=lora.modules,
        lora_dropout=lora.dropout,
        fan_in_fan_out="Conv1D" in kinds_of.values(),
    )
    network.add_adapter(adapters)


BASE_MODEL = "base_model.json"
"""The file, beside saved adapters, with the identity of the pretrained model that they belong to."""


def save_adapters(network: PreTrainedModel, model: PretrainedModel, folder: Path) -> None:
    """Write the adapters of a model as peft and transformers load them, and the identity of the pretrained model."""
    network.peft_config["default"].revision = model.revision
    network.save_pretrained(folder)
    (folder / BASE_MODEL).write_text(json.dumps(model_identity(model)))


def load_adapters(folder: Path) -> PreTrainedModel:
    """Return the pretrained model with the adapters that ``save_adapters`` wrote.

    Raises InputError where the pretrained model is no longer there, or is another one by now.
    """
    from transformers import AutoModelForCausalLM

    settings = json.loads((folder / "adapter_config.json").read_text())
    base = PretrainedModel(pretrained=settings["base_model_name_or_path"], revision=settings["revision"])
    identity = model_identity(base)
    if identity != json.loads((folder / BASE_MODEL).read_text()):
        raise InputError(
            "the pretrained model is not the one that its adapters were trained on",
            where="model.pretrained",
            got=f"{base.pretrained}, changed since then",
            wanted="the files that were there when the adapters were trained",
            remedy="put them back, or run again: adapters of the new model are then trained",
        )
    with _refusals(base):
        network: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            _place(base), revision=base.revision, dtype=torch.float32, trust_remote_code=False
        )
    network.load_adapter(str(folder))
    return network


def new_network(model: LanguageModel, vocab_size: int, window: int) -> PreTrainedModel:
    """Return a float32 model with untrained weights, on whatever device is the default.

    Raises the errors of ``build_model``, but for the check that the model is causal.
    """
    from transformers import AutoModelForCausalLM

    config = _config(model, vocab_size, window, None, None)
    with _refusals(model):
        network: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return network


def quieten() -> None:
    """Silence the progress bars and the advice of transformers, because a run builds many small models."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _config(
    model: LanguageModel, vocab_size: int, window: int, bos_id: int | None, eos_id: int | None
) -> PreTrainedConfig:
    """Return a config that no other model holds, since two models that share one also share later changes of it."""
    from transformers import AutoConfig

    quieten()
    if isinstance(model, PretrainedModel):
        with _refusals(model):
            config = AutoConfig.from_pretrained(_place(model), revision=model.revision, trust_remote_code=False)
    else:
        config = _new_config(model, vocab_size, window, bos_id, eos_id)
    for key, owner, smallest in (
        ("vocab_size", "the tokenizer's", vocab_size),
        ("max_position_embeddings", "the window", window),
    ):
        value = getattr(config, key, None)
        if isinstance(value, int) and value < smallest:
            raise InputError(
                f"the model's {key} is less than {owner}", where="model", got=value, wanted=f"at least {smallest}"
            )
    return config


def _new_config(
    model: NewModel, vocab_size: int, window: int, bos_id: int | None, eos_id: int | None
) -> PreTrainedConfig:
    from transformers import CONFIG_MAPPING, PreTrainedConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    architecture, settings = model.architecture, model.settings
    if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InputError(
            "the architecture is not a causal language model that transformers knows",
            where="model.architecture",
            got=architecture,
            wanted=_nearest(architecture, list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)),
        )
    config_class = CONFIG_MAPPING[architecture]
    parameters = set(inspect.signature(config_class).parameters) - set(inspect.signature(PreTrainedConfig).parameters)
    valid_keys = parameters | set(config_class.attribute_map)
    defaults = {
        "vocab_size": vocab_size,
        "max_position_embeddings": window,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        # Some architectures name a padding token by default, whose embedding then stays zero. Nothing is padded here.
        "pad_token_id": None,
        "intermediate_size": 4 * settings["hidden_size"] if isinstance(settings.get("hidden_size"), int) else None,
        "num_key_value_heads": settings.get("num_attention_heads"),
    }
    # gpt2, for example, calls hidden_size n_embd; a setting under either name replaces the default.
    stated = {config_class.attribute_map.get(key, key) for key in settings}
    optional = ("intermediate_size", "num_key_value_heads")
    used_defaults = {
        key: value
        for key, value in defaults.items()
        if key in valid_keys
        and config_class.attribute_map.get(key, key) not in stated
        and not (key in optional and value is None)
    }
    with _refusals(model):
        config = config_class(**used_defaults, **settings)
    # Transformers renames older keys such as rope_theta, and keeps unknown ones unchanged.
    unknown = [key for key in settings if key not in valid_keys and key in config.to_dict()]
    if unknown:
        raise InputError(
            f"architecture {architecture} has no setting {unknown[0]!r}",
            where=f"model.{unknown[0]}",
            wanted=_nearest(unknown[0], sorted(valid_keys)),
        )
    return config


def _check_causal(model: LanguageModel, built: PreTrainedModel, length: int) -> None:
    """Raise InputError where a change of the last token changes a prediction before it, as it does in an encoder."""
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
            got=model.model_dump(exclude_unset=True),
            wanted="a decoder, such as gpt_neox, gpt2 or llama",
            remedy="some encoders become decoders with is_decoder: true",
        )


@contextmanager
def _refusals(model: LanguageModel) -> Iterator[None]:
    """Raise InputError for each of the many errors by which transformers says that a config is impossible."""
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
        raise InputError(
            f"the model cannot be built: {error}", where="model", got=model.model_dump(exclude_unset=True)
        ) from error


def _nearest(name: str, valid_names: list[str]) -> str:
    near = difflib.get_close_matches(name, valid_names, n=3)
    return f"perhaps {' or '.join(near)}" if near else f"one of {', '.join(sorted(valid_names))}"
