"""Making and loading the kind of model that a section of the run file describes."""

from __future__ import annotations

from pathlib import Path

import torch

from mixray.config.training import HeadConfig, PretrainedModel, TrainingConfig, TreesModel
from mixray.data import ExampleInputs, ModelInputs
from mixray.models.boosted_trees import BoostedTrees, most_leaves
from mixray.models.building import count_parameters
from mixray.models.causal_lm import CausalLM
from mixray.models.classifier import Classifier, ExampleClassifier
from mixray.models.protocol import Model, Network


def new_model(config: TrainingConfig, inputs: ModelInputs, *, seed: int, device: torch.device) -> Network:
    """Return a network that is untrained, or pretrained. Raises the errors of ``build_model``."""
    assert not isinstance(config.model, TreesModel), "boosted trees exist only once they are trained"
    if isinstance(config.model, HeadConfig):
        assert isinstance(inputs, ExampleInputs), "a classifier reads examples"
        return ExampleClassifier.create(config.model, inputs, seed=seed, device=device, precision=config.precision)
    assert not isinstance(inputs, ExampleInputs), "a language model reads texts"
    return CausalLM.create(
        config.model,
        vocab_size=inputs.vocab_size,
        window=inputs.window,
        eos_id=inputs.end_of_document,
        separate_documents=config.attention == "document",
        seed=seed,
        device=device,
        precision=config.precision,
    )


def load_model(config: TrainingConfig, folder: Path, *, device: torch.device) -> Model:
    """Return the model that ``save`` wrote into ``folder``; ``config`` says how it was trained."""
    model_class: type[Model] = ExampleClassifier if isinstance(config.model, HeadConfig) else CausalLM
    if isinstance(config.model, TreesModel):
        model_class = BoostedTrees
    return model_class.load(folder, device=device, precision=config.precision)


def model_size(config: TrainingConfig, inputs: ModelInputs) -> int:
    """Count all parameters, embeddings included and tied ones once; of boosted trees, the most leaves there can be.

    Raises the errors of ``build_model`` and of ``most_leaves``.
    """
    if isinstance(config.model, TreesModel):
        assert isinstance(inputs, ExampleInputs), "boosted trees read examples"
        return most_leaves(config.model.boosted_trees, len(inputs.label_names))
    if isinstance(config.model, HeadConfig):
        assert isinstance(inputs, ExampleInputs), "a classifier reads examples"
        return classifier_size(config.model, features=inputs.features, classes=len(inputs.label_names))
    assert not isinstance(inputs, ExampleInputs), "a language model reads texts"
    return count_parameters(config.model, inputs.vocab_size, inputs.window)


def trained_size(config: TrainingConfig, inputs: ModelInputs) -> int | None:
    """Count the parameters that are trained where these are adapters alone; None where all are.

    Raises the errors of ``build_model``.
    """
    if not isinstance(config.model, PretrainedModel) or config.model.lora is None:
        return None
    assert not isinstance(inputs, ExampleInputs), "a language model reads texts"
    return count_parameters(config.model, inputs.vocab_size, inputs.window, only_trained=True)


def classifier_size(config: HeadConfig, *, features: int, classes: int) -> int:
    """Return the number of parameters of a classifier."""
    with torch.device("meta"):
        model = Classifier(config, features=features, classes=classes, seed=0)
    return sum(parameter.numel() for parameter in model.parameters())
