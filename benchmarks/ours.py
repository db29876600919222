"""Our own commands, as the benchmarks run them: training, and prediction in several views."""

import csv
import json
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.data.models import Overrides, find_model
from pipeline.data.photos import Photo
from pipeline.data.predictions import Meta, Predictions, make_predictions
from pipeline.data.profile import load_profile
from pipeline.ensembles.tables import Fusion, fuse_same_images
from pipeline.inference.boxes import PhotoBoxes
from pipeline.inference.detector import Detector
from pipeline.inference.views import predict_views
from pipeline.training.fold import Devices, Plan, plan_fold
from pipeline.training.job import PhotoSet, TrainJob
from pipeline.views import parse_views

# Downloads fail at once: with no pretrained weights at hand both sides start from scratch.
NO_DOWNLOAD = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


def plan_of(model: str, overrides: Overrides, device: str, fold: int = 0) -> Plan:
    """A training on a fold of the demo that was made and split already."""
    return plan_fold(load_profile("demo"), find_model(model), fold, overrides, Devices(device))


def arguments(job: TrainJob) -> list[str]:
    """Of our training command; it starts from nothing each time."""
    overrides = job.overrides
    options = [f"{key}={json.dumps(value)}" for key, value in overrides.options.items()]
    sizes = [[f"--{key.replace('_', '-')}", str(value)] for key, value in overrides.sizes().items()]
    return [
        *("--competition", "demo", "--model", job.model.name, "--fold", job.run.name.removeprefix("fold")),
        *(word for pair in sizes for word in pair),
        *("--device", job.device, "--workers", str(job.workers), "--overwrite"),
        *(["--set", *options] if options else []),
    ]


def seconds_of(job: TrainJob) -> float:
    """Seconds of a training that has ended, from its first step to its last epoch's score."""
    with open(job.run / "history.csv", newline="") as file:
        return float(list(csv.DictReader(file))[-1]["seconds"])


def first(photos: PhotoSet, count: int) -> PhotoSet:
    """The first photos of a set, with their boxes."""
    images = photos.images.head(count)
    of_these = photos.annotations["image_id"].isin(images["image_id"])
    return PhotoSet(images, photos.annotations[of_these], photos.photos[:count])


def augmented(photos: PhotoSet, detector: Detector, views: str) -> Callable[[], int]:
    """Our views over photos, and their fusion; what is returned says on how many photos."""
    chosen = parse_views(views.split(","))
    images = photos.images
    ids = images["image_id"].to_numpy(np.int32)
    to_read: Sequence[Photo] = photos.photos

    def table(boxes: PhotoBoxes, view: str) -> Predictions:
        meta = Meta("demo", "test", "", ids, np.zeros(len(ids), np.int32), "m", view, {})
        columns = boxes.labels, boxes.scores, boxes.boxes_xyxy
        return make_predictions(ids[boxes.photo], *columns, meta, images)[0]

    def run() -> int:
        found = predict_views(detector, to_read, chosen)
        fused = fuse_same_images([table(found[view.name], view.name) for view in chosen], Fusion())
        return len(fused.meta.image_ids)

    return run
