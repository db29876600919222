"""The card of a split: how even it is, how even it could be, and what could not be met."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.splits.content import KINDS, SIZES, Content

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def integer_floor(totals: Ints, n_folds: int) -> Floats:
    """(C,) smallest possible largest relative deviation of K whole numbers with the sums `totals`.

    n boxes over K folds are n / K on average. With r = n mod K left over, some fold holds at least
    ceil(n / K) and some at most floor(n / K): one is off by (K - r) / K, the other by r / K, so the
    largest deviation is max(r, K - r) / n relative to n / K; 0 where r = 0. The floor of a split is
    the maximum over its classes. Photos that hold more than ceil(n / K) boxes can put it out of reach.
    """
    left = totals % n_folds
    return np.where(left > 0, np.maximum(left, n_folds - left), 0) / np.maximum(totals, 1)


def deviation(per_fold: Ints) -> Floats:
    """(K, C) counts -> (C,) largest |count - mean| over the folds, relative to the mean; 0 for none."""
    totals = per_fold.sum(axis=0)
    return np.abs(len(per_fold) * per_fold - totals).max(axis=0) / np.maximum(totals, 1)


def per_fold(values: Ints, fold: NDArray[np.int32], n_folds: int) -> Ints:
    """(n, C) values of images -> (K, C) sums of folds."""
    sums = np.zeros((n_folds, *values.shape[1:]), np.int64)
    np.add.at(sums, fold, values)
    return sums


def balance_card(
    content: Content, fold: NDArray[np.int32], n_folds: int, classes: tuple[str, ...]
) -> dict[str, Any]:
    """Images and boxes per fold, by class, size and number of boxes; deviations; what was not met."""
    boxes = per_fold(content.boxes, fold, n_folds)
    sizes, kinds = per_fold(content.sizes, fold, n_folds), per_fold(content.kinds(), fold, n_folds)
    away, floor = deviation(boxes), integer_floor(boxes.sum(axis=0), n_folds)
    worst = int(away.argmax())
    _, members = np.unique(content.group, return_counts=True)
    return {
        "folds": n_folds,
        "images": np.bincount(fold, minlength=n_folds).tolist(),
        "boxes": boxes.sum(axis=1).tolist(),
        "images_without_boxes": kinds[:, 0].tolist(),
        "boxes_per_class": {name: boxes[:, c].tolist() for c, name in enumerate(classes)},
        "boxes_per_size": {name: sizes[:, c].tolist() for c, name in enumerate(SIZES)},
        "images_by_boxes": {name: kinds[:, c].tolist() for c, name in enumerate(KINDS)},
        "largest_deviation": {name: round(float(away[c]), 4) for c, name in enumerate(classes)},
        "integer_floor": {name: round(float(floor[c]), 4) for c, name in enumerate(classes)},
        "worst": {
            "class": classes[worst],
            "deviation": round(float(away[worst]), 6),
            "integer_floor": round(float(floor.max()), 6),
        },
        "groups": {
            "groups": len(members),
            "of_several_images": int((members > 1).sum()),
            "largest": int(members.max()),
        },
        "not_met": not_met(content, fold, n_folds, classes),
    }


def not_met(content: Content, fold: NDArray[np.int32], n_folds: int, classes: tuple[str, ...]) -> list[str]:
    """A sentence for everything that an even split would have and this one cannot or does not."""
    sentences = []
    groups, unit = np.unique(content.group, return_inverse=True)
    grouped = len(groups) < len(unit)
    noun = "group" if grouped else "photo"
    boxes = np.zeros((len(groups), len(classes)), np.int64)
    np.add.at(boxes, unit, content.boxes)
    held = per_fold(content.boxes, fold, n_folds)
    for c, name in enumerate(classes):
        total, holders = int(boxes[:, c].sum()), int((boxes[:, c] > 0).sum())
        lacking = ", ".join(map(str, np.flatnonzero(held[:, c] == 0)))
        most, share = int(boxes[:, c].max()), -(-total // n_folds)
        if total == 0:
            sentences.append(f"{name}: no box in the train set")
        elif holders < n_folds:
            who = f"{holders} {noun}s hold" if holders > 1 else f"one {noun} holds"
            sentences.append(f"{name}: only {who} it; none in fold {lacking}")
        elif lacking:
            sentences.append(f"{name}: {holders} {noun}s hold it, but none is in fold {lacking}")
        if most > share and holders >= n_folds:
            sentences.append(
                f"{name}: one {noun} holds {most} of {total} boxes, an even share is {share}; the integer "
                "floor is out of reach"
            )
    images = np.bincount(unit)
    if images.max() > -(-len(unit) // n_folds):
        sentences.append(
            f"the largest group holds {images.max()} of {len(unit)} images, more than an even fold; its "
            "fold is larger than the others"
        )
    return sentences


def balance_table(card: dict[str, Any]) -> pd.DataFrame:
    """The card as a table: classes, sizes and images by rows, folds by columns."""
    rows = dict(card["boxes_per_class"])
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.columns = [f"fold {i}" for i in range(card["folds"])]
    frame["deviation"] = [f"{100 * v:.2f} %" for v in card["largest_deviation"].values()]
    frame["floor"] = [f"{100 * v:.2f} %" for v in card["integer_floor"].values()]
    others = {f"{name} boxes": counts for name, counts in card["boxes_per_size"].items()}
    others |= {f"images with {name}": counts for name, counts in card["images_by_boxes"].items()}
    others |= {"boxes": card["boxes"], "images": card["images"]}
    for name, counts in others.items():
        if sum(counts):
            values = np.array(counts)[:, None]
            limit = integer_floor(values.sum(axis=0), card["folds"])[0]
            frame.loc[name] = [*counts, f"{100 * deviation(values)[0]:.2f} %", f"{100 * limit:.2f} %"]
    return frame
