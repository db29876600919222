"""Split strategies: how units (images, or groups of images that belong together) are assigned to folds.

A strategy sees the units in the order of their smallest image id and returns the fold of each. A new
one is a function and an entry in `STRATEGIES`; `make folds STRATEGY=<name>` finds it, and the tests
run over the table.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.splits.balance import balance

Ints = NDArray[np.int64]
MAX_BINS = 3  # multilabel: count bins per class beyond "none"
SIDE_WEIGHT = 1e-4  # boxes: weight of box sizes and numbers of boxes, relative to the classes


@dataclass(frozen=True)
class Units:
    """What a strategy may look at, one row per unit.

    boxes (m, C): boxes of each class; sizes (m, B): boxes of each size; kinds (m, Q): images of each
    kind (by their number of boxes); images (m,): number of images.
    """

    boxes: Ints
    sizes: Ints
    kinds: Ints
    images: Ints


Strategy = Callable[[Units, int, int], NDArray[np.int32]]  # (units, number of folds, seed)


def boxes(units: Units, n_folds: int, seed: int) -> NDArray[np.int32]:
    """Even numbers of boxes in every class, then of box sizes and of images with few or many boxes.

    The largest relative deviation of a class counts, so a column weighs (folds / its total)^2.
    """
    columns = np.concatenate([units.boxes, units.sizes, units.kinds], axis=1)
    is_class = np.arange(columns.shape[1]) < units.boxes.shape[1]
    weight = (n_folds / np.maximum(columns.sum(axis=0), 1)) ** 2 * np.where(is_class, 1.0, SIDE_WEIGHT)
    return balance(columns, units.images, weight, is_class, n_folds, seed)


def multilabel(units: Units, n_folds: int, seed: int) -> NDArray[np.int32]:
    """Iterative stratification (Sechidis et al. 2011) over class presence and binned box counts."""
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold  # a second that others are spared

    labels = count_bins(units.boxes)
    splitter = MultilabelStratifiedKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    fold = np.empty(len(labels), np.int32)
    for k, (_, held_out) in enumerate(splitter.split(np.zeros(len(labels)), labels)):
        fold[held_out] = k
    return fold


def count_bins(counts: Ints) -> Ints:
    """(n, C) box counts -> (n, L) 0/1 labels: a column for each class's presence and count bins.

    A class is split at the quantiles of its counts where it is present, so each column says "more
    than q boxes of the class". The last columns bin the number of boxes in the unit.
    """
    columns = []
    for count in [*counts.T, counts.sum(axis=1)]:
        present = count[count > 0]
        edges = np.quantile(present, np.arange(1, MAX_BINS) / MAX_BINS) if len(present) else []
        for edge in np.unique([0, *np.floor(edges)]):
            column = count > edge
            if column.any():
                columns.append(column)
    columns += [counts.sum(axis=1) == 0] * (1 if columns else 2)  # the splitter refuses a single column
    return np.stack(columns, axis=1).astype(np.int64)


def kfold(units: Units, n_folds: int, seed: int) -> NDArray[np.int32]:
    """At random; only the numbers of images are even. The baseline of the others."""
    no_columns = np.zeros((len(units.images), 0), np.int64)
    return balance(no_columns, units.images, np.zeros(0), np.zeros(0, np.bool_), n_folds, seed)


# `groups` is `boxes` that insists on groups: the stage looks for bursts where none are named.
STRATEGIES: dict[str, Strategy] = {
    "boxes": boxes,
    "multilabel": multilabel,
    "groups": boxes,
    "kfold": kfold,
}
