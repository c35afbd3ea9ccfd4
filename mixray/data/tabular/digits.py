"""A task with a shortcut, made of what scikit-learn brings along: handwritten digits with a patch of light.

The label is whether a digit is 5 or more. A bright square in the upper left corner, where digits have no ink, tells the
label in 95 % of the training rows; in the validation and test rows it is there at random, so that every group has
enough rows to be judged by. A model that reads the patch is right on most training rows and wrong where it misleads.
"""

from __future__ import annotations

import numpy as np

from mixray.config.robust import DigitsConfig
from mixray.data.tabular.task import GroupedRows, GroupedTask, check_groups, standardised

LABELS = ("0-4", "5-9")
PATCHES = ("no patch", "patch")
PATCH = 2
"""Pixels along a side."""
BRIGHT = 16.0
TRAIN, VALIDATION = 1000, 300
"""Rows; the other 497 are the test part."""


def digits_task(config: DigitsConfig, seed: int) -> GroupedTask:
    """The task of a seed, which draws the parts and the patches. Groups: label and patch."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = np.array(bunch.images, dtype=np.float64), (bunch.target >= 5).astype(np.int64)
    draws = np.random.default_rng([seed, len(labels)])
    order = draws.permutation(len(labels))
    train, validation, test = np.split(order, [TRAIN, TRAIN + VALIDATION])
    agrees = draws.random(len(labels)) < np.where(np.isin(np.arange(len(labels)), train), config.correlation, 0.5)
    patch = np.where(agrees, labels, 1 - labels)
    images[:, :PATCH, :PATCH] = BRIGHT * patch[:, None, None]
    in_train = np.zeros(len(labels), dtype=bool)
    in_train[train] = True
    features = standardised(images.reshape(len(labels), -1), in_train)
    whole = GroupedRows(features, labels, 2 * labels + patch, patch, np.arange(len(labels)))
    groups = tuple(f"{label}|{value}" for label in LABELS for value in PATCHES)
    names = tuple(f"pixel {row},{column}" for row in range(8) for column in range(8))
    parts = (whole.take(train), whole.take(validation), whole.take(test))
    return check_groups(GroupedTask(parts[0], parts[1], parts[2], LABELS, groups, PATCHES, names))
