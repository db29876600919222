"""A fold's photos laid out for frameworks that read files themselves: links below run/work/data.

images/train holds a link per photo that is trained on, or a repaired copy; frameworks rewrite photos in place
and keep caches beside them, and this keeps both off the originals. Held-out photos are read by our own
validation.
"""

import shutil
from pathlib import Path
from typing import Any

import yaml

from pipeline.boxes import xyxy_to_xywh
from pipeline.data.photos import stage_photos, staged_suffix
from pipeline.errors import PipelineError
from pipeline.paths import shown, write_json, write_text
from pipeline.training.job import TrainJob


def data_folder(job: TrainJob) -> Path:
    return job.work / "data"


def images_folder(job: TrainJob) -> Path:
    return data_folder(job) / "images" / "train"


def staged_paths(job: TrainJob) -> list[Path]:
    """Where each photo lies: under its split and id, so that names never collide."""
    suffixes = [staged_suffix(photo, job.repaired) for photo in job.train.photos]
    return [
        images_folder(job) / f"{split}-{image_id:010d}{suffix}"
        for (split, image_id), suffix in zip(job.train.keys(), suffixes, strict=True)
    ]


def stage(job: TrainJob) -> None:
    """Lay out the photos anew."""
    shutil.rmtree(data_folder(job), ignore_errors=True)
    stage_photos(job.train.photos, staged_paths(job), job.repaired)


def write_coco(job: TrainJob) -> None:
    """data/train.json in COCO's format; an image's id is its position, from 0."""
    photos = enumerate(zip(staged_paths(job), job.train.photos, strict=True))
    images = [
        {"id": i, "file_name": path.name, "width": photo.width, "height": photo.height}
        for i, (path, photo) in photos
    ]
    annotations: list[dict[str, Any]] = []
    for i, boxes in enumerate(job.train.boxes()):
        xywh = xyxy_to_xywh(boxes.boxes_xyxy).tolist()
        rows = zip(xywh, boxes.labels.tolist(), boxes.crowd.tolist(), strict=True)
        for row, (box, label, crowd) in enumerate(rows):
            annotation = {"id": len(annotations) + 1, "image_id": i, "category_id": label, "bbox": box}
            annotation |= {"area": box[2] * box[3], "iscrowd": int(crowd)}
            if boxes.outlines:
                annotation["segmentation"] = boxes.outlines[row]
            annotations.append(annotation)
    categories = [{"id": i, "name": name} for i, name in enumerate(job.classes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(data_folder(job) / "train.json", content)


def write_yolo(job: TrainJob) -> None:
    """data/labels/train/*.txt of lines `class cx cy w h` (normalised), and data.yaml.

    Crowds are left out: ultralytics would take them for single objects.
    """
    data = data_folder(job)
    labels = data / "labels" / "train"
    labels.mkdir(parents=True, exist_ok=True)
    for path, photo, boxes in zip(staged_paths(job), job.train.photos, job.train.boxes(), strict=True):
        single = ~boxes.crowd
        xywh = xyxy_to_xywh(boxes.boxes_xyxy[single])
        xywh[:, :2] += xywh[:, 2:] / 2
        xywh /= [photo.width, photo.height] * 2
        lines = [
            f"{label} " + " ".join(f"{value:.8f}" for value in row.clip(0, 1))
            for label, row in zip(boxes.labels[single], xywh, strict=True)
        ]
        (labels / path.name).with_suffix(".txt").write_text("\n".join(lines))
    folders = {"path": str(data), "train": "images/train", "val": "images/train"}  # it insists on a val
    # Names of its own: it would make "kit_fox" of a class n02119789.
    content = folders | {"names": {i: f"class {i}" for i in range(len(job.classes))}}
    write_text(data / "data.yaml", yaml.safe_dump(content, sort_keys=False))


def check_counts(job: TrainJob, photos: int, boxes: int) -> None:
    """Raise PipelineError unless a framework took all photos, and all boxes but crowds."""
    singles = sum(int((~photo.crowd).sum()) for photo in job.train.boxes())
    if (photos, boxes) != (len(job.train.photos), singles):
        raise PipelineError(
            f"{job.model.backend} took {photos} of {len(job.train.photos)} photos and {boxes} of "
            f"{singles} boxes; see {shown(job.run / 'train.log')}"
        )
