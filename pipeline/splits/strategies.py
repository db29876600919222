"""Split strategies. A strategy sees the images sorted by id and returns the fold of each.

A new one is a function and an entry in `STRATEGIES`; `make folds STRATEGY=<name>` finds it.
"""

from collections.abc import Callable

import numpy as np
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from numpy.typing import NDArray

# (counts (n images, C classes) of boxes, number of folds, seed) -> (n,) fold of each image
Strategy = Callable[[NDArray[np.int64], int, int], NDArray[np.int32]]

MAX_BINS = 3  # count bins a class beyond "none"


def count_bins(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, C) box counts -> (n, L) 0/1 labels: a column for each class's presence and count bins.

    A class is split at the quantiles of its counts where it is present, so each column says "more
    than q boxes of the class". The last columns bin the number of boxes in the image.
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


def multilabel(counts: NDArray[np.int64], n_folds: int, seed: int) -> NDArray[np.int32]:
    """Iterative stratification (Sechidis et al. 2011) over class presence and binned box counts."""
    labels = count_bins(counts)
    splitter = MultilabelStratifiedKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    fold = np.empty(len(labels), np.int32)
    for k, (_, held_out) in enumerate(splitter.split(np.zeros(len(labels)), labels)):
        fold[held_out] = k
    return fold


STRATEGIES: dict[str, Strategy] = {"multilabel": multilabel}
