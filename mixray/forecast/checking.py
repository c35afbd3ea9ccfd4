"""The checks of a search that need no computing: the first step of ``plan`` and of ``run``."""

from __future__ import annotations

from dataclasses import dataclass

from mixray.config import RunConfig
from mixray.config.training import ModelConfig, NewModel, PretrainedModel
from mixray.data import InputCheck, ModelInputs, TextInputs, check_inputs, vocabulary
from mixray.methods import require_lightgbm
from mixray.models import model_size, trained_size
from mixray.search import require_mixtures
from mixray.search.rivals import swarm_methods


@dataclass(frozen=True)
class CheckedInputs:
    """What the checks of a run file learn about its pools and its models. Parameters include embeddings.

    ``proxy_trained`` and ``retrain_trained``: how many of them are trained, where these are adapters alone; else None.
    """

    pools: InputCheck
    proxy_inputs: ModelInputs
    retrain_inputs: ModelInputs
    proxy_parameters: int
    retrain_parameters: int
    proxy_trained: int | None = None
    retrain_trained: int | None = None


def check(config: RunConfig) -> CheckedInputs:
    """Check everything about a search that can be checked without computing: the first step of ``plan`` and of ``run``.

    Returns the sizes of its inputs. Raises InputError for missing files, wrong columns, impossible models and limits on
    shares that no mixture satisfies.
    """
    require_mixtures(config)
    if "regmix" in swarm_methods(config):
        require_lightgbm()
    pools = check_inputs(config)
    proxy, model = (pools.examples or _text_inputs(config, section.model) for section in (config.proxy, config.retrain))
    sections = ((config.proxy, proxy), (config.retrain, model))
    sizes = [model_size(*section) for section in sections]
    return CheckedInputs(pools, proxy, model, *sizes, *(trained_size(*section) for section in sections))


def _text_inputs(config: RunConfig, model: ModelConfig) -> TextInputs:
    """A model that states its vocabulary needs no tokenizer; a trained tokenizer's size is in the run file."""
    if isinstance(model, PretrainedModel):
        return TextInputs(config.row_tokens, 1, 0)
    if isinstance(model, NewModel) and "vocab_size" in model.settings:
        return TextInputs(config.row_tokens, int(model.settings["vocab_size"]), 0)
    assert config.tokenizer is not None
    return TextInputs(config.row_tokens, vocabulary(config.tokenizer), 0)
