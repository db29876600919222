"""The pixels that a detector takes: photos read, resized, turned as a view shows them, with their border.

Resizing is bilinear, by OpenCV.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.photos import Photo, load_photo
from pipeline.inference.batches import Batch
from pipeline.inference.detector import Detector

Image = NDArray[np.uint8]


def resize_to(image: Image, size: tuple[int, int]) -> Image:
    """(h, w, 3) pixels in another size (height, width), bilinear; for predict and for our own loop."""
    if size == image.shape[:2]:
        return image
    resized: Any = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized


class HostPixels:
    """Photos are resized by the threads that read them, once for all views of a scale."""

    def __init__(self, detector: Detector, scales: Sequence[float]) -> None:
        self.detector, self.scales = detector, scales

    def sizes(self, photo: Photo) -> dict[float, tuple[int, int]]:
        return {scale: self.detector.resized(photo.height, photo.width, scale) for scale in self.scales}

    def bytes_of(self, photo: Photo) -> int:
        """What a photo takes that was read."""
        return sum(3 * height * width for height, width in self.sizes(photo).values())

    def read(self, photo: Photo) -> Mapping[float, Image]:
        """A photo's pixels at each scale; called by the reading threads."""
        image = load_photo(photo)
        return {scale: resize_to(image, size) for scale, size in self.sizes(photo).items()}

    def batch(self, batch: Batch, photos: Mapping[int, Mapping[float, Image]]) -> Tensor:
        """(n, 3, height, width) uint8 of a batch; `photos`: what `read` gave, by position."""
        pixels = np.full((len(batch.images), *batch.size, 3), self.detector.pad_value, np.uint8)
        for canvas, image in zip(pixels, batch.images, strict=True):
            (top, left), (height, width) = image.margin, image.shown
            canvas[top : top + height, left : left + width] = image.view.apply(
                photos[image.photo][image.view.scale]
            )
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)
