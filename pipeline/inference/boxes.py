"""Boxes that a detector found in a batch, brought to the host and back into pixels of the photos."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.photos import Photo
from pipeline.inference.batches import Batch
from pipeline.inference.detector import Detections
from pipeline.views import View


class BatchBoxes(NamedTuple):
    """`Detections` on the host: (m, 4) float32, (m,) float32, (m,) int64, (m,) int64."""

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    image: NDArray[np.int64]


class Download:
    """Detections on their way to the host: in one copy, for which nothing waits but `boxes`."""

    def __init__(self, found: Detections) -> None:
        # float32 holds labels and positions in the batch exactly.
        columns = [found.boxes_xyxy, *(c[:, None] for c in (found.scores, found.labels, found.image))]
        self.rows = torch.cat([column.float() for column in columns], 1)
        self.done: torch.cuda.Event | None = None
        if self.rows.is_cuda:
            pinned = torch.empty(self.rows.shape, pin_memory=True)
            self.rows = pinned.copy_(self.rows, non_blocking=True)
            self.done = torch.cuda.Event()
            self.done.record()

    def boxes(self) -> BatchBoxes:
        if self.done is not None:
            self.done.synchronize()
        rows = self.rows.numpy()
        return BatchBoxes(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64), rows[:, 6].astype(np.int64))


@dataclass(frozen=True)
class PhotoBoxes:
    """Boxes of photos, flat and in no order: `photo` (m,) is the position of the photo of each.

    boxes_xyxy: (m, 4) corners in the photos' pixels, not clipped to them; scores: (m,); labels: (m,) 0-based;
    seconds: that detecting took.
    """

    photo: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    seconds: float = 0.0

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        return cls(
            np.concatenate([part.photo for part in parts]),
            np.concatenate([part.boxes_xyxy for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.labels for part in parts]),
            sum(part.seconds for part in parts),
        )

    @classmethod
    def none(cls) -> Self:
        ints, floats = np.empty(0, np.int64), np.empty(0, np.float32)
        return cls(ints, floats.reshape(0, 4), floats, ints)


def in_photos(
    batch: Batch, found: BatchBoxes, photos: Sequence[Photo], seconds: float
) -> dict[View, PhotoBoxes]:
    """The boxes of each view of a batch that took so long, clipped to what the view shows and undone."""
    images = batch.images
    margins = np.array([image.margin[::-1] * 2 for image in images], np.float32)
    shown = np.array([image.viewed_size[::-1] * 2 for image in images], np.float32)
    resized = np.array([image.resized[::-1] for image in images], np.float32)
    sizes = np.array([[photos[image.photo].width, photos[image.photo].height] for image in images])
    factors = np.tile(resized / sizes, 2).astype(np.float32)
    corners = (found.boxes_xyxy - margins[found.image]).clip(0, shown[found.image])
    positions = np.array([image.photo for image in images])
    result = {}
    for view in dict.fromkeys(image.view for image in images):
        of_view = np.array([image.view == view for image in images])
        rows = of_view[found.image] & (found.scores > 0)
        image = found.image[rows]
        upright = view.undo_boxes(corners[rows], *resized[image].T) / factors[image]
        share = seconds * float(of_view.mean())
        result[view] = PhotoBoxes(positions[image], upright, found.scores[rows], found.labels[rows], share)
    return result
