"""A detector over photos in several views: reading, resizing, batches, and boxes back in the photos' pixels.

A photo is read once for all views, and resized once for all views of a scale. On a CPU batches go through the
network side by side, see `threads`.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.data.photos import Photo, load_photo
from pipeline.inference.detector import Detector
from pipeline.inference.threads import detector_threads
from pipeline.views import View

READERS = 4  # threads
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageBoxes:
    """Boxes of one image: (n, 4) corners in its pixels, (n,) scores, (n,) 0-based labels."""

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass
class ViewBoxes:
    """Boxes of one view so far: parallel lists, an entry per photo; and the seconds that detecting took."""

    ids: list[NDArray[np.int64]] = field(default_factory=list)
    boxes: list[ImageBoxes] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class ResizedPhoto:
    """A photo that was read: its size, and its pixels at each scale."""

    width: int
    height: int
    pixels: dict[float, Image]


def resize(detector: Detector, image: Image, scale: float) -> Image:
    """(h, w, 3) pixels in the size that the network wants."""
    height, width = image.shape[:2]
    return resize_to(image, detector.resized(height, width, scale))


def resize_to(image: Image, size: tuple[int, int]) -> Image:
    """(h, w, 3) pixels in another size (height, width), bilinear; for predict and for our own loop."""
    if size == image.shape[:2]:
        return image
    resized: Any = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized


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


def read_ahead(
    detector: Detector, photos: Sequence[Photo], scales: Sequence[float]
) -> Iterator[tuple[int, list[ResizedPhoto]]]:
    """Batches of decoded and resized photos with the index of their first; the next one is under way."""

    def ready(photo: Photo) -> ResizedPhoto:
        image = load_photo(photo)
        pixels = {scale: resize(detector, image, scale) for scale in scales}
        return ResizedPhoto(image.shape[1], image.shape[0], pixels)

    size = detector.batch
    with ThreadPoolExecutor(max_workers=READERS) as pool:
        ahead: deque[tuple[int, list[Future[ResizedPhoto]]]] = deque()
        for start in range(0, len(photos), size):
            ahead.append((start, [pool.submit(ready, photo) for photo in photos[start : start + size]]))
            if len(ahead) > 1:
                first, futures = ahead.popleft()
                yield first, [future.result() for future in futures]
        for first, futures in ahead:
            yield first, [future.result() for future in futures]


def detect_view(
    detector: Detector, batch: Sequence[ResizedPhoto], view: View
) -> tuple[list[ImageBoxes], float]:
    """Detections of one view in a batch of photos, in pixels of the photos, and the seconds they took."""
    began = time.monotonic()
    images = [photo.pixels[view.scale] for photo in batch]
    results = detect_resized(detector, [view.apply(image) for image in images], view.scale)
    boxes = []
    for photo, image, detected in zip(batch, images, results, strict=True):
        height, width = image.shape[:2]
        upright = view.undo_boxes(detected.boxes_xyxy, width, height)
        factor = np.array([width / photo.width, height / photo.height] * 2, np.float32)
        boxes.append(ImageBoxes((upright / factor).astype(np.float32), detected.scores, detected.labels))
    return boxes, time.monotonic() - began


def predict_views(
    detector: Detector,
    photos: Sequence[Photo],
    image_ids: Sequence[int],
    views: Sequence[View],
    label: str = "predict",
) -> dict[str, ViewBoxes]:
    """Run all views over all photos; boxes come back in pixels of the photos, not clipped to them."""
    results = {view.name: ViewBoxes() for view in views}
    bar = tqdm(total=len(photos) * len(views), desc=label, unit="photo", disable=None)
    scales = list(dict.fromkeys(view.scale for view in views))
    # Photos of one shape follow each other: a batch goes through the network by shapes.
    order = sorted(range(len(photos)), key=lambda i: (photos[i].height, photos[i].width))
    under_way: deque[tuple[int, View, Future[Any]]] = deque()
    batches = -(-len(photos) // detector.batch)
    with bar, detector_threads(detector, batches * len(views)) as workers:

        def take() -> None:
            start, view, future = under_way.popleft()
            boxes, seconds = future.result()
            of_view = results[view.name]
            for offset, image_boxes in enumerate(boxes):
                image_id = image_ids[order[start + offset]]
                of_view.ids.append(np.full(len(image_boxes.scores), image_id, np.int64))
                of_view.boxes.append(image_boxes)
            of_view.seconds += seconds / workers.count
            bar.update(len(boxes))

        for start, batch in read_ahead(detector, [photos[i] for i in order], scales):
            for view in views:
                under_way.append((start, view, workers.submit(detect_view, batch, view)))
                while len(under_way) >= 2 * workers.count:
                    take()
        while under_way:
            take()
    return results
