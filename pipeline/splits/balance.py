"""Assign units to folds so that every count is even to the integer: greedy assignment, then swap search.

A unit is an image or a group of images that must not be separated. Its columns are counts: boxes of
each class, boxes of each size, images of each kind. Column c with n_c in all has its best possible
split when every one of K folds holds floor(n_c / K) or ceil(n_c / K). The cost of a split is

    sum over folds k and columns c of weight_c * (distance of N_kc from that range)^2
    + MISSING for each class that fold k lacks though units hold it,

zero at the integer floor. Units are assigned greedily, the largest shares of a column first. Then
units of two folds are swapped whenever that does not raise the cost, for the columns that cost most.
The sizes of folds end within one image of each other where units are single images, else within the
largest group, and as near as swaps bring them.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.splits.assignment import (
    Assignment,
    Targets,
    UnitRows,
    assign_greedily,
    even_sizes,
    largest_share,
    swap_search,
    to_columns,
    to_rows,
)

Ints = NDArray[np.int64]
MISSING = 100.0  # above any sum of squared relative deviations that a swap may save
SIZE_WEIGHT = 10.0  # of the sizes of folds, relative to a class, where there are groups
MIN_TRIALS, MAX_TRIALS, TRIALS_PER_UNIT = 20_000, 400_000, 400  # it ends sooner at a cost of zero


def fair_share(total: int, parts: int, largest: Ints) -> tuple[int, int]:
    """(floor, ceil) of what a fold should hold when some units are larger than an even share.

    Units that exceed the share take a fold each; the others share what remains. `largest` are unit
    sizes in descending order, as many as there are folds at most.
    """
    for size in largest[: parts - 1].tolist():
        if size <= -(-total // parts):
            break
        total, parts = total - size, parts - 1
    return total // parts, -(-total // parts)


def balance(
    counts: Ints,
    size: Ints,
    weight: NDArray[np.float64],
    is_class: NDArray[np.bool_],
    n_folds: int,
    seed: int,
) -> NDArray[np.int32]:
    """(units, columns) counts, (units,) images in each -> (units,) fold of each unit.

    weight: (columns,) cost of a squared deviation; is_class: columns that every fold should hold.
    Needs at least as many units as folds. The result depends on the order of the units.
    """
    rng = np.random.default_rng(seed)
    totals = counts.sum(axis=0)
    low, high = totals // n_folds, -(-totals // n_folds)
    missing = np.where(is_class & (totals > 0), MISSING, 0.0)
    images = int(size.sum())
    low_size, high_size = fair_share(images, n_folds, np.sort(size)[::-1][:n_folds])
    if size.max() > 1:  # swaps of single images leave the sizes as they are; of groups, they are a column
        counts = np.concatenate([counts, size[:, None]], axis=1)
        low, high = np.append(low, low_size), np.append(high, high_size)
        weight, missing = np.append(weight, SIZE_WEIGHT * (n_folds / images) ** 2), np.append(missing, 0.0)
    starts, columns, amounts = to_rows(np.ascontiguousarray(counts))
    units = UnitRows(starts, columns, amounts, size)
    share = largest_share(units, counts.sum(axis=0))
    shuffled = rng.permutation(len(counts))
    order = shuffled[np.lexsort((-share[shuffled], -size[shuffled]))]
    targets = Targets(low, high, weight, missing)
    sums = (np.zeros((n_folds, counts.shape[1]), np.int64), np.zeros(n_folds, np.int64))
    split = Assignment(np.full(len(counts), -1, np.int32), *sums)
    assign_greedily(units, order, targets, low_size, high_size, split)
    even_sizes(units, order, split)
    trials = min(max(MIN_TRIALS, TRIALS_PER_UNIT * len(counts)), MAX_TRIALS)
    by_column = to_columns(starts, columns, counts.shape[1])
    swap_search(units, *by_column, targets, split, trials, int(rng.integers(1, 2**62)))
    return split.fold
