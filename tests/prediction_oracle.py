"""Predicting as it was before boxes were undone as arrays: photo by photo, view by view."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.photos import Photo, load_photo
from pipeline.inference.detector import Detector
from pipeline.inference.pixels import resize_to
from pipeline.views import View

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageBoxes:
    """Boxes of one image: (n, 4) corners in its pixels, (n,) scores, (n,) 0-based labels."""

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


def resize(detector: Detector, image: Image, scale: float) -> Image:
    """(h, w, 3) pixels in the size that the network wants."""
    height, width = image.shape[:2]
    return resize_to(image, detector.resized(height, width, scale))


def detect_resized(detector: Detector, images: Sequence[Image], scale: float) -> list[ImageBoxes]:
    """Detect in RGB images that are resized; boxes are in their pixels and clipped to them.

    A batch holds images of one shape: padding to a batch's largest would let boxes depend on the images that
    happen to be in it.
    """
    results: list[Any] = [None] * len(images)
    for group in by_shape(images):
        height, width = images[group[0]].shape[:2]
        sides = detector.padded(height, width, scale)
        top, left = (
            _margin(whole, side, detector) for whole, side in zip(sides, (height, width), strict=True)
        )
        batch = np.full((len(group), *sides, 3), detector.pad_value, np.uint8)
        for k, i in enumerate(group):
            batch[k, top : top + height, left : left + width] = images[i]
        pixels = torch.from_numpy(batch).to(detector.device, non_blocking=True).permute(0, 3, 1, 2)
        boxes = detector.detect(pixels)
        image = boxes.image.cpu().numpy()
        scores, labels = boxes.scores.float().cpu().numpy(), boxes.labels.cpu().numpy().astype(np.int64)
        corners = boxes.boxes_xyxy.float().cpu().numpy() - np.array([left, top] * 2, np.float32)
        corners = corners.clip(0, [width, height] * 2).astype(np.float32)
        for k, i in enumerate(group):
            rows = (image == k) & (scores > 0)
            results[i] = ImageBoxes(corners[rows], scores[rows], labels[rows])
    return results


def _margin(whole: int, side: int, detector: Detector) -> int:
    """Pixels before an image of this side; a centred one is rounded as ultralytics' letterbox does."""
    return round((whole - side) / 2 - 0.1) if detector.pad_centred else 0


def by_shape(images: Sequence[Image]) -> list[list[int]]:
    """Positions of images that have the same shape."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        groups.setdefault(image.shape, []).append(i)
    return list(groups.values())


def predict_photos(
    detector: Detector, photos: Sequence[Photo], view: View, order: Sequence[int]
) -> dict[int, ImageBoxes]:
    """The boxes of one view in each photo, by its position; `order` is in which they are taken."""
    results: dict[int, ImageBoxes] = {}
    for start in range(0, len(order), detector.batch):
        window = order[start : start + detector.batch]
        originals = [load_photo(photos[i]) for i in window]
        images = [resize(detector, image, view.scale) for image in originals]
        detected = detect_resized(detector, [view.apply(image) for image in images], view.scale)
        for i, photo, image, boxes in zip(window, originals, images, detected, strict=True):
            height, width = image.shape[:2]
            upright = view.undo_boxes(boxes.boxes_xyxy, width, height)
            factor = np.array([width / photo.shape[1], height / photo.shape[0]] * 2, np.float32)
            results[i] = ImageBoxes((upright / factor).astype(np.float32), boxes.scores, boxes.labels)
    return results
