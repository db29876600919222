"""mAP50 on the held-out photos, by the pipeline's own scoring, while a network is in training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch.distributed as dist

from pipeline.boxes import Boxes, clip, sorted_rows
from pipeline.data.metric import MetricSpec
from pipeline.inference.detector import Detector
from pipeline.inference.views import ImageBoxes, detect_view, read_ahead
from pipeline.scoring.metrics import score
from pipeline.scoring.truth import group_truth
from pipeline.training.job import CORNERS, PhotoSet
from pipeline.views import parse_views

(IDENTITY,) = parse_views(["identity"])


def validate(detector: Detector, held_out: PhotoSet, n_classes: int) -> float | None:
    """mAP50 of a detector, None without photos, 0 without a true box.

    Several processes share the photos out; the first one gets the score, the others None.
    """
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    results: list[Any] = [_detect(detector, held_out.photos[rank::processes])]
    if processes > 1:
        gathered: list[Any] | None = [None] * processes if rank == 0 else None
        dist.gather_object(results[0], gathered)
        results = gathered or []
    if rank or not held_out.photos:
        return None
    per_photo: list[Any] = [None] * len(held_out.photos)
    for first, part in enumerate(results):
        per_photo[first::processes] = part
    return map50_of(per_photo, held_out, n_classes)


def _detect(detector: Detector, photos: Sequence[Any]) -> list[ImageBoxes]:
    return [
        boxes
        for _, batch in read_ahead(detector, photos, [1.0])
        for boxes in detect_view(detector, batch, IDENTITY)[0]
    ]


def map50_of(per_photo: Sequence[ImageBoxes], photos: PhotoSet, n_classes: int) -> float:
    """mAP50 of boxes per photo, parallel to photos; 0 when these have no true box."""
    count = len(photos.photos)
    sizes = np.array([[photo.width, photo.height] for photo in photos.photos])
    images = pd.DataFrame({"image_id": np.arange(count), "width": sizes[:, 0], "height": sizes[:, 1]})
    truths = photos.boxes()
    annotations = pd.DataFrame(np.concatenate([truth.boxes_xyxy for truth in truths]), columns=CORNERS)
    annotations["image_id"] = np.repeat(np.arange(count), [len(truth.labels) for truth in truths])
    annotations["label"] = np.concatenate([truth.labels for truth in truths])
    annotations["iscrowd"] = np.concatenate([truth.crowd for truth in truths]).astype(int)
    if (annotations["iscrowd"] != 0).all():
        return 0.0
    truth = group_truth(annotations, images, np.arange(count, dtype=np.int32), n_classes)
    image = np.repeat(np.arange(count), [len(boxes.scores) for boxes in per_photo])
    limits = sizes[image]
    corners = clip(
        np.concatenate([boxes.boxes_xyxy for boxes in per_photo]), limits[:, 0], limits[:, 1]
    ).astype(np.float32)
    scores = np.concatenate([boxes.scores for boxes in per_photo]).clip(0, 1).astype(np.float32)
    labels = np.concatenate([boxes.labels for boxes in per_photo]).astype(np.int16)
    order = sorted_rows(image, scores, corners, labels)
    kept = order[(corners[order, 2:] > corners[order, :2]).all(axis=1)]
    offsets = np.searchsorted(image[kept], np.arange(count + 1)).astype(np.int64)
    boxes = Boxes(corners[kept], scores[kept], labels[kept], offsets)
    return score(boxes, truth, MetricSpec("map50")).value()
