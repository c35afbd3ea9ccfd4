"""The models that are trained and that score targets: causal language models, classifiers and trees of examples."""

from mixray.models.activations import activation_bytes
from mixray.models.boosted_trees import BoostedTrees
from mixray.models.building import build_model, count_parameters, model_identity
from mixray.models.causal_lm import CausalLM
from mixray.models.classifier import Classifier, ClassifierLoss, ExampleClassifier
from mixray.models.job import (
    ARM,
    PROXY,
    TrainingData,
    TrainingJob,
    arm_jobs,
    doremi_job,
    missing_jobs,
    proxy_jobs,
    swarm_jobs,
    train_missing,
)
from mixray.models.kinds import classifier_size, load_model, model_size, new_model, trained_size
from mixray.models.protocol import Model, Scores
from mixray.models.speed import measure_training, memory_bytes, visible_gpus
from mixray.models.tree_job import TreeJob, tree_jobs

__all__ = [
    "ARM",
    "PROXY",
    "BoostedTrees",
    "CausalLM",
    "Classifier",
    "ClassifierLoss",
    "ExampleClassifier",
    "Model",
    "Scores",
    "TrainingData",
    "TrainingJob",
    "TreeJob",
    "activation_bytes",
    "arm_jobs",
    "build_model",
    "classifier_size",
    "count_parameters",
    "doremi_job",
    "load_model",
    "measure_training",
    "memory_bytes",
    "missing_jobs",
    "model_identity",
    "model_size",
    "new_model",
    "proxy_jobs",
    "swarm_jobs",
    "train_missing",
    "trained_size",
    "tree_jobs",
    "visible_gpus",
]
