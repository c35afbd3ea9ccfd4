"""The models that are trained and that score targets: causal language models and classifiers of examples."""

from mixray.models.activations import activation_bytes
from mixray.models.building import build_model, count_parameters, model_identity
from mixray.models.causal_lm import CausalLM
from mixray.models.classifier import Classifier, ClassifierLoss, ExampleClassifier
from mixray.models.job import TrainingData, TrainingJob, arm_jobs, missing_jobs, proxy_jobs, train_missing
from mixray.models.kinds import classifier_size, load_model, model_size, new_model
from mixray.models.protocol import Model, Scores
from mixray.models.speed import measure_training, memory_bytes, visible_gpus

__all__ = [
    "CausalLM",
    "Classifier",
    "ClassifierLoss",
    "ExampleClassifier",
    "Model",
    "Scores",
    "TrainingData",
    "TrainingJob",
    "activation_bytes",
    "arm_jobs",
    "build_model",
    "classifier_size",
    "count_parameters",
    "load_model",
    "measure_training",
    "memory_bytes",
    "missing_jobs",
    "model_identity",
    "model_size",
    "new_model",
    "proxy_jobs",
    "train_missing",
    "visible_gpus",
]
