"""Boxes as flat NumPy arrays. Corners are edges, not pixel centres: a box of one pixel is 1 wide."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]


class BoxRows(NamedTuple):
    """The arrays of `Boxes`, in the form that compiled code takes."""

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int16]
    offsets: NDArray[np.int64]


@dataclass(eq=False)
class Boxes:
    """Detected boxes of m images, image after image: the one container that all parts share.

    boxes_xyxy (n, 4) float32: corners in pixels. scores (n,) float32 in [0, 1]. labels (n,) int16:
    0-based classes. offsets (m+1,) int64: the rows of image i are offsets[i]:offsets[i+1]. Within an
    image the highest score comes first. A prediction table and a fused result are such boxes.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int16]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def n_images(self) -> int:
        """The number of images, those without a box included."""
        return len(self.offsets) - 1

    @property
    def rows(self) -> BoxRows:
        """The arrays, for compiled code."""
        return BoxRows(self.boxes_xyxy, self.scores, self.labels, self.offsets)

    def image_index(self) -> NDArray[np.int64]:
        """(n,) the image of each box, 0 to m-1."""
        return np.repeat(np.arange(self.n_images), np.diff(self.offsets))

    def select(self, keep: NDArray[np.bool_]) -> Self:
        """The boxes of the rows where `keep` (n,) is true."""
        kept_before = np.concatenate([[0], np.cumsum(keep)])
        columns = (self.boxes_xyxy[keep], self.scores[keep], self.labels[keep])
        return self._with(*columns, kept_before[self.offsets])

    def best_per_image(self, limit: int) -> Self:
        """The boxes with the highest scores of each image, at most `limit` per image."""
        rank = np.arange(len(self)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))
        return self.select(rank < limit)

    def with_scores(self, scores: NDArray[np.float32]) -> Self:
        """The same boxes with other `scores` (n,), sorted by them within each image."""
        order = sorted_rows(self.image_index(), scores, self.boxes_xyxy, self.labels)
        return self._with(self.boxes_xyxy[order], scores[order], self.labels[order], self.offsets)

    def _with(self, *columns: NDArray[Any]) -> Self:
        names = ("boxes_xyxy", "scores", "labels", "offsets")
        return replace(self, **dict(zip(names, columns, strict=True)))


def sorted_rows(
    image: NDArray[np.integer], scores: FloatArray, boxes_xyxy: FloatArray, labels: NDArray[np.integer]
) -> NDArray[np.intp]:
    """(n,) rows by image, score (highest first), x1, y1, x2, y2, label: the order of all boxes here."""
    return np.lexsort([labels, *boxes_xyxy.T[::-1], -scores, image])


def xyxy_to_xywh(boxes_xyxy: FloatArray) -> FloatArray:
    """(n, 4) left, top, right, bottom -> (n, 4) left, top, width, height, same unit."""
    boxes = np.array(boxes_xyxy, copy=True).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def clip(boxes_xyxy: FloatArray, width: FloatArray | float, height: FloatArray | float) -> FloatArray:
    """Clip (n, 4) corners to 0..width and 0..height (scalars or one value per box)."""
    boxes = np.array(boxes_xyxy, copy=True).reshape(-1, 4)
    for column, limit in ((0, width), (1, height), (2, width), (3, height)):
        boxes[:, column] = np.minimum(np.maximum(boxes[:, column], 0), limit)
    return boxes


def area(boxes_xyxy: FloatArray) -> FloatArray:
    """(n,) areas; a box without extent has area 0."""
    sides = np.maximum(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def iou(a_xyxy: FloatArray, b_xyxy: FloatArray) -> FloatArray:
    """(n, m) intersection over union; 0 where both boxes are empty."""
    top_left = np.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    bottom_right = np.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    sides = np.maximum(bottom_right - top_left, 0)
    inter = sides[..., 0] * sides[..., 1]
    union = area(a_xyxy)[:, None] + area(b_xyxy)[None, :] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
