"""From the rows of an image table to units and back: the same folds whatever the order of the rows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.splits.strategies import STRATEGIES, Units

Ints = NDArray[np.int64]
SIZES = {"small": 32.0**2, "medium": 96.0**2, "large": np.inf}  # areas in pixels; the bins of COCO
KINDS = {"0": 0, "1": 1, "2-3": 3, "4-7": 7, "8-15": 15, "16+": np.inf}  # boxes in an image, up to


@dataclass(frozen=True)
class Content:
    """The boxes of each image of a train set, one row per image, in any order.

    image_id (n,), unique. boxes (n, C): boxes of each class. sizes (n, 3): boxes of each of `SIZES`.
    group (n,): equal numbers for images that must not be separated.
    """

    image_id: Ints
    boxes: Ints
    sizes: Ints
    group: Ints

    def kinds(self) -> Ints:
        """(n, Q) one-hot: which of `KINDS` the image is, by its number of boxes."""
        kind = np.searchsorted(list(KINDS.values()), self.boxes.sum(axis=1), side="left")
        return np.eye(len(KINDS), dtype=np.int64)[kind]


def content_of(
    image_id: Ints,
    box_image_id: Ints,
    label: Ints,
    boxes_xyxy: NDArray[np.float64],
    n_classes: int,
    group: Ints | None = None,
) -> Content:
    """Count boxes by class and by size; image ids ascend, each box names its image's. No group: singles."""
    rows = np.searchsorted(image_id, box_image_id)
    boxes = np.zeros((len(image_id), n_classes), np.int64)
    np.add.at(boxes, (rows, label), 1)
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    size = np.searchsorted(list(SIZES.values()), sides[:, 0] * sides[:, 1], side="right")
    sizes = np.zeros((len(image_id), len(SIZES)), np.int64)
    np.add.at(sizes, (rows, size), 1)
    return Content(image_id, boxes, sizes, image_id if group is None else group)


def units_of(content: Content) -> tuple[Units, Ints]:
    """The units in the order of their smallest image id, and the (n,) unit of each image."""
    order = np.argsort(content.image_id, kind="stable")
    _, first, inverse = np.unique(content.group[order], return_index=True, return_inverse=True)
    unit = np.empty(len(order), np.int64)
    unit[order] = np.argsort(np.argsort(first))[inverse]

    def summed(values: Ints) -> Ints:
        total = np.zeros((len(first), *values.shape[1:]), np.int64)
        np.add.at(total, unit, values)
        return total

    ones = np.ones(len(unit), np.int64)
    return Units(summed(content.boxes), summed(content.sizes), summed(content.kinds()), summed(ones)), unit


def split_images(content: Content, strategy: str, n_folds: int, seed: int) -> NDArray[np.int32]:
    """(n,) fold of each image, in the order of `content`; groups are whole and no fold is empty.

    Raises PipelineError for a number of folds that cannot be, and where the strategy leaves a fold
    empty (multilabel may, when there are few units).
    """
    n = len(content.image_id)
    if not 2 <= n_folds <= n:
        raise PipelineError(f"{n_folds} folds of {n} images: expected 2 to {n} folds")
    units, unit = units_of(content)
    m = len(units.images)
    if m < n_folds:
        raise PipelineError(
            f"{n_folds} folds of {n} images in {m} group{'s' * (m > 1)} that must not be split: take fewer "
            "folds, or narrower groups (a smaller threshold)"
        )
    folds = STRATEGIES[strategy](units, n_folds, seed)
    if empty := sorted(set(range(n_folds)) - set(folds.tolist())):
        raise PipelineError(
            f"strategy {strategy} leaves fold {empty[0]} of {n_folds} without an image; take fewer folds, "
            "or STRATEGY=boxes"
        )
    return folds[unit]
