"""Boxes as flat NumPy arrays. Corners are edges, not pixel centres: a box of one pixel is 1 wide."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]


def xywh_to_xyxy(boxes_xywh: FloatArray) -> FloatArray:
    """(n, 4) left, top, width, height -> (n, 4) left, top, right, bottom, same unit."""
    boxes = np.array(boxes_xywh, copy=True).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def xyxy_to_xywh(boxes_xyxy: FloatArray) -> FloatArray:
    """(n, 4) left, top, right, bottom -> (n, 4) left, top, width, height, same unit."""
    boxes = np.array(boxes_xyxy, copy=True).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def clip(boxes_xyxy: FloatArray, width: FloatArray | float, height: FloatArray | float) -> FloatArray:
    """Clip (n, 4) corners to 0..width and 0..height (scalars or one value a box)."""
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
