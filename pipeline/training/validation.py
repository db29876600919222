"""mAP50 on the held-out photos, by the pipeline's own scoring, while a network is in training."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch.distributed as dist

from pipeline.boxes import Boxes, clip, sorted_rows
from pipeline.data.metric import MetricSpec
from pipeline.inference.boxes import PhotoBoxes
from pipeline.inference.detector import Detector
from pipeline.inference.threads import DetectorThreads
from pipeline.inference.views import detect_views
from pipeline.scoring.metrics import score
from pipeline.scoring.truth import group_truth
from pipeline.training.job import CORNERS, PhotoSet
from pipeline.views import parse_views

(IDENTITY,) = parse_views(["identity"])


def validate(detector: Detector, held_out: PhotoSet, n_classes: int) -> float | None:
    """mAP50 of a detector, None without photos, 0 without a true box.

    Several processes share the photos out; all of them get the score.
    """
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    photos = held_out.photos[rank::processes]
    boxes = detect_views(detector, photos, [IDENTITY], DetectorThreads([detector]))[IDENTITY.name]
    boxes = replace(boxes, photo=boxes.photo * processes + rank)
    if processes > 1:
        gathered: list[Any] = [None] * processes
        dist.all_gather_object(gathered, boxes)
        boxes = PhotoBoxes.joined(gathered)
    if not held_out.photos:
        return None
    return map50_of(boxes, held_out, n_classes)


def map50_of(boxes: PhotoBoxes, photos: PhotoSet, n_classes: int) -> float:
    """mAP50 of boxes of photos; 0 when these have no true box."""
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
    limits = sizes[boxes.photo]
    corners = clip(boxes.boxes_xyxy, limits[:, 0], limits[:, 1]).astype(np.float32)
    scores, labels = boxes.scores.clip(0, 1), boxes.labels.astype(np.int16)
    order = sorted_rows(boxes.photo, scores, corners, labels)
    kept = order[(corners[order, 2:] > corners[order, :2]).all(axis=1)]
    offsets = np.searchsorted(boxes.photo[kept], np.arange(count + 1)).astype(np.int64)
    found = Boxes(corners[kept], scores[kept], labels[kept], offsets)
    return score(found, truth, MetricSpec("map50")).value()
