"""Folds beside their peers: `python -m benchmarks.folds [--rounds R] [--fast]`.

One run, warm kernels, one process: iterative-stratification (its MultilabelStratifiedKFold sees
which classes an image holds) and scikit-learn's StratifiedGroupKFold (its rows are boxes, their
groups the images), each on the same counts. The best of R rounds counts for ours, one round for the
peers. `deviation` is the largest of a class, `x floor` its ratio to the integer floor, the least
that whole numbers allow. Ours balances box sizes and numbers of boxes too, in the time shown.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.workload import CLASS_COUNTS
from pipeline.splits import Content, split_images
from pipeline.splits.balance_card import deviation, integer_floor, per_fold

Ints = NDArray[np.int64]
Folds = NDArray[np.int32]
FOLDS, SEED = 5, 20261122


def workload(n_images: int, frequencies: NDArray[np.float64], mean_boxes: float) -> Content:
    """Images of one to many boxes; half the boxes of an image are of its main class, as photos are."""
    rng = np.random.default_rng(SEED)
    share = frequencies / frequencies.sum()
    number = rng.geometric(1 / mean_boxes, n_images)
    image = np.repeat(np.arange(n_images), number)
    main = rng.choice(len(share), n_images, p=share)[image]
    label = np.where(rng.random(len(image)) < 0.5, main, rng.choice(len(share), len(image), p=share))
    boxes = np.zeros((n_images, len(share)), np.int64)
    np.add.at(boxes, (image, label), 1)
    sizes = np.zeros((n_images, 3), np.int64)
    np.add.at(sizes, (image, rng.choice(3, len(image), p=[0.02, 0.23, 0.75])), 1)
    return Content(np.arange(n_images), boxes, sizes, np.arange(n_images))


def group_kfold(content: Content) -> Folds:
    """StratifiedGroupKFold; images without a box, which it cannot see, do not occur."""
    image, label = np.nonzero(content.boxes)
    rows = np.repeat(np.arange(len(image)), content.boxes[image, label])
    fold = np.empty(len(content.boxes), np.int32)
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    for k, (_, held_out) in enumerate(splitter.split(np.zeros(len(rows)), label[rows], image[rows])):
        fold[image[rows[held_out]]] = k
    return fold


def iterative(content: Content) -> Folds:
    fold = np.empty(len(content.boxes), np.int32)
    splitter = MultilabelStratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    for k, (_, held_out) in enumerate(splitter.split(np.zeros(len(fold)), content.boxes > 0)):
        fold[held_out] = k
    return fold


def ours(content: Content) -> Folds:
    return split_images(content, "boxes", FOLDS, SEED)


def clocked(split: Callable[[Content], Folds], content: Content, rounds: int) -> tuple[float, Folds]:
    best = np.inf
    for _ in range(rounds):
        began = time.perf_counter()
        fold = split(content)
        best = min(best, time.perf_counter() - began)
    return best, fold


def measure(title: str, content: Content, rounds: int, fast: bool) -> None:
    totals = content.boxes.sum(axis=0)
    floor = float(integer_floor(totals, FOLDS).max())
    print(
        f"{title}: {len(content.boxes):,} images, {totals.sum():,} boxes, {len(totals)} classes, {FOLDS} "
        f"folds; integer floor {100 * floor:.3f} %\n{'':26}{'seconds':>9} {'deviation':>10} {'x floor':>8}  "
        "images a fold"
    )
    ours(content)
    mine = 0.0
    contests = [("boxes (ours)", ours, rounds), ("StratifiedGroupKFold", group_kfold, 1)]
    if not fast:
        contests.append(("iterative-stratification", iterative, 1))
    for name, split, times in contests:
        seconds, fold = clocked(split, content, times)
        away = float(deviation(per_fold(content.boxes, fold, FOLDS)).max())
        images = np.bincount(fold, minlength=FOLDS)
        ratio = f"   ours is {seconds / mine:.1f} x as fast" if mine else ""
        mine = mine or seconds
        print(
            f"{name:26}{seconds:9.3f} {100 * away:8.3f} % {away / floor:8.2f}  {images.min()} to "
            f"{images.max()}{ratio}"
        )
    print()


def main(argv: list[str] | None = None) -> None:
    """Print times and balance of all contests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of ours; the best counts (5)")
    parser.add_argument("--fast", action="store_true", help="without iterative-stratification")
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    zipf = 1 / np.arange(1, 61)
    measure("like Recycle Trash", workload(4883, CLASS_COUNTS, 4.74), options.rounds, options.fast)
    measure("large", workload(50_000, zipf, 6.0), options.rounds, options.fast)


if __name__ == "__main__":
    main()
