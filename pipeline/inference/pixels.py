"""The pixels that a detector takes: photos read, resized, turned as a view shows them, with their border.

Resizing is bilinear, by OpenCV on a CPU (`HostPixels`). On a GPU (`DevicePixels`) a photo goes up once, as
it was decoded, and everything else happens there; pixels differ from OpenCV's by at most one of 255 levels.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.data.photos import Photo, load_photo
from pipeline.inference.batches import Batch, ViewedPhoto
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

    ahead = 0  # batches whose photos are uploaded before a batch is detected in

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

    def upload(self, photo: Mapping[float, Image]) -> Mapping[float, Image]:
        return photo

    def batch(self, batch: Batch, photos: Mapping[int, Mapping[float, Image]]) -> Tensor:
        """(n, 3, height, width) uint8 of a batch; `photos`: what `read` gave, by position."""
        pixels = np.full((len(batch.images), *batch.size, 3), self.detector.pad_value, np.uint8)
        for canvas, image in zip(pixels, batch.images, strict=True):
            (top, left), (height, width) = image.margin, image.viewed_size
            canvas[top : top + height, left : left + width] = image.view.apply(
                photos[image.photo][image.view.scale]
            )
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)


class UploadedPhoto(NamedTuple):
    """(h, w, 3) uint8 on the device, and when it is there; None where it was at once."""

    pixels: Tensor
    there: torch.cuda.Event | None


class DevicePixels:
    """Photos are resized, turned and padded on the device, image by image of a kind together.

    They go up from pinned memory on a stream of their own, while the network is at work on others. On a CPU
    it does the same without streams.
    """

    ahead = 1

    def __init__(self, detector: Detector, scales: Sequence[float]) -> None:
        self.detector = detector
        self.stream = torch.cuda.Stream(detector.device) if detector.device != "cpu" else None

    def bytes_of(self, photo: Photo) -> int:
        return 3 * photo.height * photo.width

    def read(self, photo: Photo) -> Tensor:
        pixels = torch.from_numpy(np.require(load_photo(photo), requirements="W"))
        return pixels if self.stream is None else pixels.pin_memory()

    def upload(self, photo: Tensor) -> UploadedPhoto:
        if self.stream is None:
            return UploadedPhoto(photo, None)
        with torch.cuda.stream(self.stream):
            pixels = photo.to(self.detector.device, non_blocking=True)
            there = torch.cuda.Event()
            there.record(self.stream)
        return UploadedPhoto(pixels, there)

    @torch.inference_mode()
    def batch(self, batch: Batch, photos: Mapping[int, UploadedPhoto]) -> Tensor:
        for pixels, there in photos.values():
            if there is not None:
                stream = torch.cuda.current_stream(pixels.device)
                stream.wait_event(there)
                pixels.record_stream(stream)
        shape = (len(batch.images), 3, *batch.size)
        layout: Any = {"memory_format": torch.channels_last}
        canvas = torch.empty(shape, dtype=torch.uint8, device=self.detector.device, **layout)
        canvas.fill_(self.detector.pad_value)

        def kind(image: ViewedPhoto) -> tuple[Any, ...]:
            return photos[image.photo].pixels.shape, image.resized, image.view

        start = 0
        for (_, size, view), of_kind in groupby(batch.images, kind):
            images = list(of_kind)
            pixels = torch.stack([photos[image.photo].pixels for image in images]).permute(0, 3, 1, 2)
            pixels = resize_tensor(pixels, size)
            for step in view.chain:
                pixels = TURNS[step](pixels)
            (top, left), (height, width) = images[0].margin, images[0].viewed_size
            end = start + len(images)
            canvas[start:end, :, top : top + height, left : left + width] = pixels
            start = end
        return canvas


# The steps of a view, see `pipeline.views`, on (n, 3, h, w).
TURNS: dict[str, Callable[[Tensor], Tensor]] = {
    "hflip": lambda pixels: pixels.flip(3),
    "vflip": lambda pixels: pixels.flip(2),
    "turn": lambda pixels: torch.rot90(pixels, 1, (2, 3)),
}


def resize_tensor(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, 3, h, w) uint8 in another size (height, width), as `resize_to` does it but for rounding."""
    if size == tuple(pixels.shape[2:]):
        return pixels
    resized = functional.interpolate(pixels.float(), size, mode="bilinear", align_corners=False)
    return resized.round().to(torch.uint8)
