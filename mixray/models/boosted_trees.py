"""Gradient boosted trees of examples, trained by XGBoost or by LightGBM and saved in the library's own text format.

The trees are added to an intercept: the weighted mean of numbers, or the logarithm of the classes' weighted
frequencies, each counted once more than it occurs, so that a class that a source lacks is improbable, not impossible.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import log_softmax

from mixray.config.training import Precision, TreesConfig
from mixray.errors import InputError
from mixray.models.classifier import SETTINGS, ExampleClassifier
from mixray.models.protocol import Model, Scores, Value

Floats = NDArray[np.float64]
Features: TypeAlias = NDArray[np.float32] | csr_matrix
"""(rows, columns). A sparse table has no stored zeros. Trees that learned from one predict from sparse tables alone."""
PENALTY = LEAST_CURVATURE = 1.0
"""The L2 penalty of a leaf's value, and the least sum of second derivatives in a leaf: XGBoost's defaults for both."""


class BoostedTrees(Model):
    """Trees that predict classes, or numbers.

    ``intercept``: float64, what is predicted without any tree: the classes' logits, (classes,), or a number, (1,).
    Computation uses as many threads as torch does in this process.
    """

    row_columns = ExampleClassifier.row_columns
    rows_of = staticmethod(ExampleClassifier.rows_of)

    def __init__(self, library: str, booster: Any, intercept: Floats) -> None:
        self.library, self.booster, self.intercept = library, booster, intercept
        self.value: Value = "error" if len(intercept) == 1 else "log_prob"

    @classmethod
    def fit(
        cls,
        config: TreesConfig,
        features: Features,
        labels: NDArray[Any],
        row_weights: Floats,
        *,
        classes: int,
    ) -> Self:
        """Return trees that have learned from examples. Nothing is drawn, so equal examples give equal trees.

        A weight of 2 counts as the same row twice, except that LightGBM chooses the bins of a feature with more than
        255 values from the rows without their weights.

        Args:
            config: the settings.
            features: ``(rows, columns)``.
            labels: ``(rows,)``, from 0 to classes - 1, or numbers.
            row_weights: ``(rows,)``, 1 on average.
            classes: how many there are, of which the examples may lack some; 0 where labels are numbers.
        """
        library = LIBRARIES[config.library]
        if not classes:
            mean = np.average(labels, weights=row_weights, keepdims=True)
            rows = WeightedRows(features, labels - mean, row_weights, np.zeros(len(labels)), 0)
            return cls(config.library, library.train(config, rows), mean)
        counts = np.bincount(labels, row_weights, minlength=classes) + 1
        intercept = np.log(counts / counts.sum())
        # Of two classes there is one margin, the logit of the second.
        start = np.full(len(labels), intercept[1] - intercept[0])
        if classes > 2:
            start = np.tile(intercept, (len(labels), 1))
        rows = WeightedRows(features, labels, row_weights, start, classes)
        return cls(config.library, library.train(config, rows), intercept)

    @classmethod
    def load(cls, folder: Path, *, device: torch.device, precision: Precision = "auto") -> Self:  # noqa: ARG003
        """Return the trees that ``save`` wrote, on the CPU."""
        settings = json.loads((folder / SETTINGS).read_text())
        library = LIBRARIES[settings["library"]]
        return cls(settings["library"], library.read(folder / library.file), np.array(settings["intercept"]))

    def save(self, folder: Path) -> None:
        """Write the trees, and ``config.json`` with the library's name and the intercept that is added to them."""
        settings = {"library": self.library, "intercept": self.intercept.tolist()}
        (folder / SETTINGS).write_text(json.dumps(settings))
        library = LIBRARIES[self.library]
        library.write(self.booster, folder / library.file)

    @property
    def parameter_count(self) -> int:
        """The number of leaves of all trees."""
        return LIBRARIES[self.library].leaves(self.booster)

    def log_probs(
        self, rows: tuple[Features, NDArray[Any]], *, batch_tokens: int, segment: int | None = None
    ) -> Scores:
        """Return the log-probabilities of the true labels, nats, or the errors: predicted minus true numbers."""
        features, labels = rows
        predictions = self.predictions(features, batch_tokens=batch_tokens)
        if self.value == "error":
            return Scores(predictions[:, 0] - labels, None)
        totals: Floats = predictions[np.arange(len(labels)), labels]
        return Scores(totals, None if segment is None else list(totals[:, None].astype(np.float32)))

    def predictions(self, features: Features, *, batch_tokens: int) -> Floats:
        """Return the log-probability of every class, float64 (rows, classes), nats, or the number, (rows, 1)."""
        margins = LIBRARIES[self.library].margins(self.booster, features).astype(np.float64)
        margins = margins.reshape(features.shape[0], -1)
        if self.value == "error":
            return self.intercept + margins
        if len(self.intercept) == 2:
            margins = np.column_stack([np.zeros(len(margins)), margins])
        log_probs: Floats = log_softmax(self.intercept + margins, axis=1)
        return log_probs


@dataclass(frozen=True)
class WeightedRows:
    """What trees learn from.

    ``features``: (rows, columns). ``labels``: (rows,), from 0 to classes - 1, or numbers where ``classes`` is 0.
    ``row_weights``: float64, (rows,). ``start``: float64, what the trees are added to, (rows, classes), or (rows,) of
    two classes or numbers.
    """

    features: Features
    labels: NDArray[Any]
    row_weights: Floats
    start: Floats
    classes: int


class Library(Protocol):
    """What is needed of a library of boosted trees. ``file``: the name of the file that it writes."""

    file: str

    @staticmethod
    def train(config: TreesConfig, rows: WeightedRows) -> Any:
        """Return trees whose values are added to where the rows start."""

    @staticmethod
    def write(booster: Any, path: Path) -> None:
        """Write the trees. The number of threads changes no byte."""

    @staticmethod
    def read(path: Path) -> Any:
        """Return the trees that the library wrote."""

    @staticmethod
    def margins(booster: Any, features: Features) -> NDArray[Any]:
        """Return the sums of the trees' values, shape (rows, classes), or (rows,) of two classes or numbers."""

    @staticmethod
    def leaves(booster: Any) -> int:
        """Return the number of leaves of all trees."""


class XGBoost:
    """XGBoost, whose trees are saved as JSON."""

    file = "model.json"

    @staticmethod
    def train(config: TreesConfig, rows: WeightedRows) -> Any:
        import xgboost

        # With these base scores, predictions are the sums of the trees' values alone.
        objective: dict[str, str | float] = {"objective": "reg:squarederror", "base_score": 0.0}
        if rows.classes == 2:
            objective = {"objective": "binary:logistic", "base_score": 0.5}
        elif rows.classes:
            objective = {"objective": "multi:softprob", "base_score": 0.0, "num_class": rows.classes}
        settings = {
            "tree_method": "hist",
            "max_depth": config.depth,
            "learning_rate": config.learning_rate,
            "lambda": PENALTY,
            "min_child_weight": LEAST_CURVATURE,
            "nthread": torch.get_num_threads(),
            "verbosity": 0,
            **objective,
        }
        table = xgboost.DMatrix(rows.features, label=rows.labels, weight=rows.row_weights, base_margin=rows.start)
        return xgboost.train(settings, table, num_boost_round=config.rounds)

    @staticmethod
    def write(booster: Any, path: Path) -> None:
        booster.save_model(path)

    @staticmethod
    def read(path: Path) -> Any:
        import xgboost

        return xgboost.Booster(model_file=path)

    @staticmethod
    def margins(booster: Any, features: Features) -> NDArray[Any]:
        import xgboost

        booster.set_param({"nthread": torch.get_num_threads()})
        margins: NDArray[Any] = booster.predict(xgboost.DMatrix(features), output_margin=True)
        return margins

    @staticmethod
    def leaves(booster: Any) -> int:
        model = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]["model"]
        leaves: int = sum(tree["left_children"].count(-1) for tree in model["trees"])
        return leaves


class LightGBM:
    """LightGBM, whose trees are saved in its text format."""

    file = "model.txt"

    @staticmethod
    def train(config: TreesConfig, rows: WeightedRows) -> Any:
        import lightgbm

        objective = "binary" if rows.classes else "regression"
        several = {"objective": "multiclass", "num_class": rows.classes}
        settings = {
            "max_depth": config.depth,
            "num_leaves": 2**config.depth,
            "learning_rate": config.learning_rate,
            "lambda_l2": PENALTY,
            "min_sum_hessian_in_leaf": LEAST_CURVATURE,
            # Limits on numbers of rows would count rows without their weights.
            "min_data_in_leaf": 0,
            "min_data_in_bin": 1,
            "boost_from_average": False,
            "deterministic": True,
            "force_col_wise": True,
            "num_threads": torch.get_num_threads(),
            "verbosity": -1,
            **(several if rows.classes > 2 else {"objective": objective}),
        }
        table = lightgbm.Dataset(rows.features, label=rows.labels, weight=rows.row_weights, init_score=rows.start)
        return lightgbm.train(settings, table, num_boost_round=config.rounds)

    @staticmethod
    def write(booster: Any, path: Path) -> None:
        path.write_text(re.sub(r"\[num_threads: \d+\]", "[num_threads: 0]", booster.model_to_string()))

    @staticmethod
    def read(path: Path) -> Any:
        import lightgbm

        return lightgbm.Booster(model_file=path)

    @staticmethod
    def margins(booster: Any, features: Features) -> NDArray[Any]:
        margins: NDArray[Any] = booster.predict(features, raw_score=True, num_threads=torch.get_num_threads())
        return margins

    @staticmethod
    def leaves(booster: Any) -> int:
        return sum(int(tree["num_leaves"]) for tree in booster.dump_model()["tree_info"])


LIBRARIES: dict[str, Library] = {"xgboost": XGBoost(), "lightgbm": LightGBM()}


def most_leaves(config: TreesConfig, classes: int) -> int:
    """Return the largest number of leaves. Raises InputError where the library is not installed."""
    if find_spec(config.library) is None:
        raise InputError(
            "the library of the boosted trees is not installed",
            where="model.boosted_trees.library",
            got=config.library,
            wanted="xgboost or lightgbm, and the package of that name",
            remedy="pip install 'mixray[trees]'",
        )
    return config.rounds * (1 if classes <= 2 else classes) * (1 << config.depth)
