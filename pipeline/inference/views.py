"""A detector over photos in several views: read ahead, in batches, and boxes back in the photos' pixels.

A photo is read once for all views. Which views go through the network together is planned beforehand, see
`batches`; on a CPU batches go through it side by side, see `threads`.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import chain
from typing import Any

from tqdm import tqdm

from pipeline.data.photos import Photo
from pipeline.errors import PipelineError, reason
from pipeline.inference.batches import Batch, batches_by_size, batches_by_view
from pipeline.inference.boxes import Download, PhotoBoxes, in_photos
from pipeline.inference.detector import Detector
from pipeline.inference.memory import is_out_of_memory, release_memory
from pipeline.inference.pixels import DevicePixels, HostPixels
from pipeline.inference.reading import read_ahead
from pipeline.inference.threads import DetectorThreads, detector_threads
from pipeline.views import View

READ_AHEAD = 2  # batches of photos
Pixels = HostPixels | DevicePixels
Detected = tuple[Batch, Download, float]  # and the seconds that it took


class PixelLimit:
    """The most pixels that fit into a batch, as far as it is known."""

    pixels = 2**62

    def images(self, area: int) -> int:
        """How many images of so many pixels."""
        return max(self.pixels // area, 1)


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
    on_device: bool | None = None,
) -> dict[str, PhotoBoxes]:
    """The boxes of each view by its name, in pixels of the photos, not clipped to them.

    on_device: whether photos are resized there, and batches made for it; by default on a GPU.
    """
    on_device = detector.device != "cpu" if on_device is None else on_device
    batches = (batches_by_size if on_device else batches_by_view)(detector, photos, views)
    kind = DevicePixels if on_device else HostPixels
    pixels: Pixels = kind(detector, list(dict.fromkeys(view.scale for view in views)))
    last = {image.photo: k for k, batch in enumerate(batches) for image in batch.images}
    # dict.fromkeys: positions in the order of their first use
    order = [photos[i] for i in dict.fromkeys(image.photo for batch in batches for image in batch.images)]
    reader: Iterator[Any] = read_ahead(order, pixels.read, pixels.bytes_of, READ_AHEAD * detector.batch)
    parts: dict[str, list[PhotoBoxes]] = {view.name: [PhotoBoxes.none()] for view in views}
    limit = PixelLimit()
    under_way: deque[Future[list[Detected]]] = deque()

    def take() -> None:
        for batch, download, seconds in under_way.popleft().result():
            for view, boxes in in_photos(batch, download.boxes(), photos, seconds / workers.count).items():
                parts[view.name].append(boxes)
            if bar is not None:
                bar.update(len(batch.images))

    held: dict[int, Any] = {}
    for k, batch in enumerate(batches):
        for image in chain.from_iterable(other.images for other in batches[k : k + 1 + pixels.ahead]):
            if image.photo not in held:
                held[image.photo] = pixels.upload(next(reader))
        of_batch = {image.photo: held[image.photo] for image in batch.images}
        under_way.append(workers.submit(_detect, pixels, batch, of_batch, limit))
        for position in of_batch:
            if last[position] == k:
                del held[position]
        while len(under_way) >= 2 * workers.count:
            take()
    while under_way:
        take()
    return {name: PhotoBoxes.joined(of_view) for name, of_view in parts.items()}


def _detect(
    detector: Detector, pixels: Pixels, batch: Batch, photos: Mapping[int, Any], limit: PixelLimit
) -> list[Detected]:
    """Detect in a batch, in halves where memory runs out; what did not fit once is not tried again."""
    results: list[Detected] = []
    area = batch.size[0] * batch.size[1]
    waiting = batch.parts(limit.images(area))
    while waiting:
        part = waiting.pop(0)
        count = len(part.images)
        began = time.monotonic()
        try:
            found = detector.detect(pixels.batch(part, photos).to(detector.device))
            results.append((part, Download(found), time.monotonic() - began))
            continue
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not is_out_of_memory(error):
                raise
            why = reason(str(error).splitlines()[0])
        text = f"out of memory with {count} images of {batch.size[1]} x {batch.size[0]} pixels at once"
        if count == 1:
            raise PipelineError(f"{text}; leave out views of a large scale, or DEVICE=cpu ({why})")
        limit.pixels = min(limit.pixels, area * (count // 2))
        tqdm.write(f"{text}; going on with {limit.images(area)}")
        waiting = [smaller for large in (part, *waiting) for smaller in large.parts(limit.images(area))]
        release_memory()
    return results
