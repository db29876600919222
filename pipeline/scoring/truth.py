"""True boxes, grouped once by image and class."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.boxes import Boxes, xyxy_to_xywh
from pipeline.data.predictions import Predictions
from pipeline.errors import PipelineError


class TruthRows(NamedTuple):
    """True boxes, sorted by image, then class, crowd boxes last.

    boxes_xywh (t, 4) float64 pixels, labels (t,) int16, crowd (t,) bool; offsets (m+1,) int64: the rows
    of image i are offsets[i]:offsets[i+1].
    """

    boxes_xywh: NDArray[np.float64]
    labels: NDArray[np.int16]
    crowd: NDArray[np.bool_]
    offsets: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Truth:
    """The truth of a set of images, made by `group_truth` once and used for any number of scores.

    image_ids (m,) sorted; sizes (m, 2) width and height; row_of (t,) the row of each true box in the
    annotation table that it came from.
    """

    rows: TruthRows
    image_ids: NDArray[np.int32]
    sizes: NDArray[np.float64]
    n_classes: int
    row_of: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows.labels)

    @property
    def counts(self) -> NDArray[np.int64]:
        """(n_classes,) true boxes of each class, crowd boxes not counted."""
        return np.bincount(self.rows.labels[~self.rows.crowd], minlength=self.n_classes)


def group_truth(
    annotations: pd.DataFrame, images: pd.DataFrame, image_ids: NDArray[np.int32], n_classes: int
) -> Truth:
    """Group the true boxes of the given images.

    annotations: columns image_id, label, x1, y1, x2, y2 (pixels), iscrowd, as of
    `pipeline.data.dataset`; images: image_id, width, height. Raises PipelineError for an image that
    the image table lacks and for a label that is none of the classes.
    """
    ids = np.unique(np.asarray(image_ids, np.int32))
    table = images.set_index("image_id")
    places: NDArray[np.intp] = table.index.get_indexer(pd.Index(ids))
    if (places < 0).any():
        raise PipelineError(f"image {ids[np.argmin(places)]}: predicted, but not in the truth's image table")
    sizes = table[["width", "height"]].to_numpy(np.float64)[places]
    image = annotations["image_id"].to_numpy(np.int64)
    kept = np.flatnonzero(np.isin(image, ids))
    label = annotations["label"].to_numpy(np.int64)[kept]
    bad = label[(label < 0) | (label >= n_classes)]
    if len(bad):
        raise PipelineError(f"a true box has label {bad[0]}, expected 0..{n_classes - 1}")
    crowd = annotations["iscrowd"].to_numpy()[kept] != 0
    order = np.lexsort([crowd, label, image[kept]])
    rows = kept[order]
    boxes = annotations[["x1", "y1", "x2", "y2"]].to_numpy(np.float64)[rows]
    grouped = TruthRows(
        np.ascontiguousarray(xyxy_to_xywh(boxes)),
        label[order].astype(np.int16),
        np.ascontiguousarray(crowd[order]),
        np.append(np.searchsorted(image[rows], ids), len(rows)),
    )
    return Truth(grouped, ids, sizes, n_classes, rows)


def no_truth(images: int, crowds: int) -> str:
    """Why nothing can be scored on images whose only true boxes are crowds, or that have none."""
    reason = f" but {crowds} crowds (iscrowd), which no score counts" if crowds else ""
    return f"no true box on its {images} images{reason}; nothing to score against"


def check_images(boxes: Boxes, truth: Truth) -> None:
    """Raise PipelineError when the boxes are not those of the truth's images."""
    if isinstance(boxes, Predictions) and not np.array_equal(boxes.meta.image_ids, truth.image_ids):
        raise PipelineError(
            f"{boxes.name}: predicted {len(boxes.meta.image_ids)} images, the truth is grouped for "
            f"{len(truth.image_ids)} others; group the truth for the table's images"
        )
    if boxes.n_images != len(truth.image_ids):
        raise PipelineError(f"boxes of {boxes.n_images} images, expected the truth's {len(truth.image_ids)}")
