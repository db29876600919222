"""Boxes that are allowed and yet look like mistakes: tiny, huge, marked twice, of two classes."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.boxes import iou
from pipeline.data.dataset import CORNERS, Dataset

TINY = 4.0  # pixels; a box with a shorter side
HUGE = 0.95  # of the photo's area; a box that covers more
DOUBLED = 0.9  # IoU; two boxes of a class that overlap more are one object marked twice
CONFLICTING = 0.95  # IoU; two boxes of different classes that overlap more contradict each other

KINDS = {
    f"tiny boxes, a side under {TINY:g} px": "kept; enlarge or remove them: mmdet drops those under 1 px",
    f"huge boxes, over {HUGE:.0%} of the photo": "kept; look whether they outline an object",
    f"boxes marked twice, IoU over {DOUBLED:g}": "kept; remove one of each pair",
    f"boxes of two classes, IoU over {CONFLICTING:g}": "kept; decide on one class",
}


def odd_boxes(dataset: Dataset) -> dict[str, NDArray[np.int64]]:
    """Kind (a key of `KINDS`) -> rows of the annotation table, ascending."""
    boxes = dataset.annotations.merge(
        dataset.images[["image_id", "width", "height"]], on="image_id", how="left", sort=False
    )
    corners = boxes[CORNERS].to_numpy(np.float64)
    sides = corners[:, 2:] - corners[:, :2]
    share = sides.prod(axis=1) / (boxes["width"] * boxes["height"]).to_numpy(np.float64)
    rows_by_kind = [
        np.flatnonzero((sides < TINY).any(axis=1)),
        np.flatnonzero(share > HUGE),
        *_overlapping(boxes, corners),
    ]
    return {kind: rows for kind, rows in zip(KINDS, rows_by_kind, strict=True) if len(rows)}


def _overlapping(
    boxes: pd.DataFrame, corners: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows whose box nearly equals an earlier one of its image: (of the same class, of another)."""
    same: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    mixed = list(same)
    labels = boxes["label"].to_numpy()
    for rows in boxes.groupby("image_id").indices.values():
        overlap = np.triu(iou(corners[rows], corners[rows]), k=1)
        alike = labels[rows][:, None] == labels[rows][None, :]
        same.append(rows[((overlap > DOUBLED) & alike).any(axis=0)])
        mixed.append(rows[((overlap > CONFLICTING) & ~alike).any(axis=0)])
    return np.sort(np.concatenate(same)), np.sort(np.concatenate(mixed))


def class_table(dataset: Dataset, classes: tuple[str, ...]) -> pd.DataFrame:
    """A row per class, without crowds: boxes, images that hold it, boxes by COCO size, the median side."""
    boxes = dataset.annotations[dataset.annotations["iscrowd"] == 0]
    sides = boxes[["x2", "y2"]].to_numpy() - boxes[["x1", "y1"]].to_numpy()
    side = np.sqrt(sides.prod(axis=1))
    rows = {}
    for label, name in [*enumerate(classes), (None, "all")]:
        in_class = np.full(len(boxes), True) if label is None else (boxes["label"] == label).to_numpy()
        class_side = side[in_class]
        rows[name] = {
            "boxes": int(in_class.sum()),
            "photos": int(boxes.loc[in_class, "image_id"].nunique()),
            "small": int((class_side < 32).sum()),
            "medium": int(((class_side >= 32) & (class_side < 96)).sum()),
            "large": int((class_side >= 96).sum()),
            "median side": round(float(np.median(class_side)), 1) if len(class_side) else None,
        }
    return pd.DataFrame.from_dict(rows, orient="index")
