"""The contract of a trained detector: what it asks of pixels, and the boxes it gives for a batch."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

SCORE_FLOOR = 0.001  # boxes below are not exported; a higher floor costs mAP
MAX_BOXES = 300  # boxes per image and view


@dataclass(frozen=True)
class Detections:
    """Boxes of a batch of n images, as tensors on the detector's device, in any order.

    boxes_xyxy: (m, 4) corners in pixels of the images as they were given, not clipped; scores: (m,), where 0
    or less marks a row that is none; labels: (m,) 0-based; image: (m,) position of the image in the batch.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor
    image: Tensor

    @classmethod
    def of(cls, per_image: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Self:
        """From (boxes_xyxy, scores, labels) of each image, in the order of the batch."""
        boxes, scores, labels = zip(*per_image, strict=True)
        image = [torch.full_like(some, i) for i, some in enumerate(labels)]
        return cls(torch.cat(boxes), torch.cat(scores), torch.cat(labels), torch.cat(image))


class Detector(ABC):
    """A trained model in evaluation mode on one device.

    It takes images that are resized and padded already: `resized` and `padded` say how, and everything else
    (reading, resizing, views, batches) is done for it, see `inference.views`. All images are RGB.
    """

    device: str  # "cpu" or "cuda:<index>"
    image_size: int  # pixels, the longer side of the network's input at scale 1
    parameters: int  # as trained, before a framework fuses its norms into its convolutions
    half: bool  # whether it computes in half precision
    batch: int  # images that it likes at once
    versions: Mapping[str, str]  # of the packages that decide a result
    pad_value: int = 0  # grey level of the border, 0 to 255
    pad_centred: bool = False  # whether an image lies in the middle of its border, or top left

    @abstractmethod
    def resized(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """(height, width) to which an image of this size is resized (bilinear); `scale` multiplies the
        size of the network's input."""

    def padded(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """(height, width) with its border of a resized image, which a view may have rotated since."""
        return height, width

    @abstractmethod
    def detect(self, pixels: Tensor) -> Detections:
        """Detect in (n, 3, height, width) uint8 RGB pixels on the device, resized and padded."""

    @abstractmethod
    def clone(self) -> Self:
        """The same detector for another thread: it shares the weights, and nothing that detecting changes."""

    def constant_work(self) -> contextlib.AbstractContextManager[None]:
        """Within it, the work of `detect` does not depend on weights and image; for counting FLOPs."""
        return contextlib.nullcontext()


def cpu_batch(image_size: int, most: int) -> int:
    """Images at once on a CPU: `most` of 320 pixels, fewer of larger ones; more only strain its caches."""
    return max(1, min(most, round(most * (320 / image_size) ** 2)))


def batch_on(device: str, image_size: int, most: int) -> int:
    """Images at once: on a CPU see `cpu_batch`; on a GPU of 16 GiB `most` of 640 pixels.

    Fewer of larger images and with less memory, up to four times as many of smaller ones or with more.
    """
    if device == "cpu":
        return cpu_batch(image_size, most)
    memory = torch.cuda.get_device_properties(device).total_memory / (16 * 2**30)
    return max(1, min(round(most * min(memory, 4) * (640 / image_size) ** 2), 4 * most))


def has_half(device: str) -> bool:
    """Whether a device is faster in float16: a GPU with tensor cores (compute capability 7 and more)."""
    return device != "cpu" and torch.cuda.get_device_capability(device) >= (7, 0)
