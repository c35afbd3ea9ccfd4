"""Proxies: cheap models, each trained on one source alone, that score targets. One file a kind."""

from mixray.proxies.causal_lm import CausalLM
from mixray.proxies.classifier import Classifier, ClassifierLoss, ExampleClassifier
from mixray.proxies.kinds import load_model, model_size, new_model
from mixray.proxies.models import build_model, count_parameters, model_identity
from mixray.proxies.protocol import Proxy, Scores

__all__ = [
    "CausalLM",
    "Classifier",
    "ClassifierLoss",
    "ExampleClassifier",
    "Proxy",
    "Scores",
    "build_model",
    "count_parameters",
    "load_model",
    "model_identity",
    "model_size",
    "new_model",
]
