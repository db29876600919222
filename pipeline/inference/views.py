"""A detector over photos in several views: read ahead, in batches, and boxes back in the photos' pixels.

A photo is read once for all views. Which views go through the network together is planned beforehand, see
`batches`; on a CPU batches go through it side by side, see `threads`.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from tqdm import tqdm

from pipeline.data.photos import Photo
from pipeline.inference.batches import Batch, batches_by_view
from pipeline.inference.boxes import Download, PhotoBoxes, in_photos
from pipeline.inference.detector import Detector
from pipeline.inference.pixels import HostPixels
from pipeline.inference.reading import read_ahead
from pipeline.inference.threads import DetectorThreads, detector_threads
from pipeline.views import View

READ_AHEAD = 2  # batches of photos


def predict_views(
    detector: Detector, photos: Sequence[Photo], views: Sequence[View], label: str = "predict"
) -> dict[str, PhotoBoxes]:
    """Run all views over all photos, on several threads and with a progress bar; see `detect_views`."""
    batches = -(-len(photos) // detector.batch)
    bar = tqdm(total=len(photos) * len(views), desc=label, unit="photo", disable=None)
    with bar, detector_threads(detector, batches * len(views)) as workers:
        return detect_views(detector, photos, views, workers, bar)


def detect_views(
    detector: Detector,
    photos: Sequence[Photo],
    views: Sequence[View],
    workers: DetectorThreads,
    bar: "tqdm[Any] | None" = None,
) -> dict[str, PhotoBoxes]:
    """The boxes of each view by its name, in pixels of the photos, not clipped to them."""
    batches = batches_by_view(detector, photos, views)
    pixels = HostPixels(detector, list(dict.fromkeys(view.scale for view in views)))
    last = {image.photo: k for k, batch in enumerate(batches) for image in batch.images}
    # dict.fromkeys: positions in the order of their first use
    order = [photos[i] for i in dict.fromkeys(image.photo for batch in batches for image in batch.images)]
    reader = read_ahead(order, pixels.read, pixels.bytes_of, READ_AHEAD * detector.batch)
    parts: dict[str, list[PhotoBoxes]] = {view.name: [PhotoBoxes.none()] for view in views}
    under_way: deque[tuple[Batch, Future[tuple[Download, float]]]] = deque()

    def take() -> None:
        batch, future = under_way.popleft()
        download, seconds = future.result()
        for view, boxes in in_photos(batch, download.boxes(), photos, seconds / workers.count).items():
            parts[view.name].append(boxes)
        if bar is not None:
            bar.update(len(batch.images))

    held: dict[int, Any] = {}
    for k, batch in enumerate(batches):
        for image in batch.images:
            if image.photo not in held:
                held[image.photo] = next(reader)
        of_batch = {image.photo: held[image.photo] for image in batch.images}
        under_way.append((batch, workers.submit(_detect, pixels, batch, of_batch)))
        for position in of_batch:
            if last[position] == k:
                del held[position]
        while len(under_way) >= 2 * workers.count:
            take()
    while under_way:
        take()
    return {name: PhotoBoxes.joined(of_view) for name, of_view in parts.items()}


def _detect(
    detector: Detector, pixels: HostPixels, batch: Batch, photos: Mapping[int, Any]
) -> tuple[Download, float]:
    began = time.monotonic()
    download = Download(detector.detect(pixels.batch(batch, photos).to(detector.device)))
    return download, time.monotonic() - began
