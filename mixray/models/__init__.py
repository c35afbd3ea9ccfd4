"""Proxies: cheap models, each trained on one source alone, that score targets. One file a kind."""

from mixray.models.building import build_model, count_parameters, model_identity
from mixray.models.causal_lm import CausalLM
from mixray.models.classifier import Classifier, ClassifierLoss, ExampleClassifier
from mixray.models.kinds import classifier_size, load_model, model_size, new_model
from mixray.models.protocol import Proxy, Scores

__all__ = [
    "CausalLM",
    "Classifier",
    "ClassifierLoss",
    "ExampleClassifier",
    "Proxy",
    "Scores",
    "build_model",
    "classifier_size",
    "count_parameters",
    "load_model",
    "model_identity",
    "model_size",
    "new_model",
]
