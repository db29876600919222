"""A fold's photos laid out for frameworks that read files themselves: links below run/work/data.

images/train and images/val hold a link per photo, or a repaired copy; frameworks rewrite photos in place and
keep caches beside them, and this keeps both off the originals.
"""

import shutil
from pathlib import Path
from typing import Any

import yaml

from pipeline.boxes import xyxy_to_xywh
from pipeline.data.photos import stage_photos, staged_suffix
from pipeline.errors import PipelineError
from pipeline.paths import shown, write_json, write_text
from pipeline.training.job import PhotoSet, TrainJob

PARTS = ("train", "val")


def photo_sets(job: TrainJob) -> dict[str, PhotoSet]:
    """The parts of a fold by the names of their folders."""
    return dict(zip(PARTS, (job.train, job.held_out), strict=True))


def staged_paths(job: TrainJob, part: str) -> list[Path]:
    """Where each photo of a part lies: under its split and id, so that names never collide."""
    photos = photo_sets(job)[part]
    suffixes = [staged_suffix(photo, job.repaired) for photo in photos.photos]
    return [
        data_folder(job) / "images" / part / f"{split}-{image_id:010d}{suffix}"
        for (split, image_id), suffix in zip(photos.keys(), suffixes, strict=True)
    ]


def data_folder(job: TrainJob) -> Path:
    return job.work / "data"


def stage(job: TrainJob) -> None:
    """Lay out the photos of both parts anew."""
    shutil.rmtree(data_folder(job), ignore_errors=True)
    for part, photos in photo_sets(job).items():
        stage_photos(photos.photos, staged_paths(job, part), job.repaired)


def write_coco(job: TrainJob) -> None:
    """data/train.json and val.json in COCO's format; an image's id is its position, from 0."""
    categories = [{"id": i, "name": name} for i, name in enumerate(job.classes)]
    for part, photos in photo_sets(job).items():
        rows = enumerate(zip(staged_paths(job, part), photos.photos, strict=True))
        images = [
            {"id": i, "file_name": path.name, "width": photo.width, "height": photo.height}
            for i, (path, photo) in rows
        ]
        annotations: list[dict[str, Any]] = []
        for i, boxes in enumerate(photos.boxes()):
            xywh = xyxy_to_xywh(boxes.boxes_xyxy).tolist()
            for box, label, crowd in zip(xywh, boxes.labels.tolist(), boxes.crowd.tolist(), strict=True):
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": label,
                    "bbox": box,
                }
                annotations.append(annotation | {"area": box[2] * box[3], "iscrowd": int(crowd)})
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_json(data_folder(job) / f"{part}.json", content)


def write_yolo(job: TrainJob) -> None:
    """data/labels/<part>/*.txt of lines `class cx cy w h` (normalised), and data.yaml.

    Crowds are left out: ultralytics would take them for single objects.
    """
    data = data_folder(job)
    for part, photos in photo_sets(job).items():
        (data / "labels" / part).mkdir(parents=True, exist_ok=True)
        rows = zip(staged_paths(job, part), photos.photos, photos.boxes(), strict=True)
        for path, photo, boxes in rows:
            single = ~boxes.crowd
            xywh = xyxy_to_xywh(boxes.boxes_xyxy[single])
            xywh[:, :2] += xywh[:, 2:] / 2
            xywh /= [photo.width, photo.height] * 2
            lines = [
                f"{label} " + " ".join(f"{value:.8f}" for value in row.clip(0, 1))
                for label, row in zip(boxes.labels[single], xywh, strict=True)
            ]
            (data / "labels" / part / path.name).with_suffix(".txt").write_text("\n".join(lines))
    folders = {"path": str(data), "train": "images/train", "val": "images/val"}
    # Names of its own: it would make "kit_fox" of a class n02119789.
    content = folders | {"names": {i: f"class {i}" for i in range(len(job.classes))}}
    write_text(data / "data.yaml", yaml.safe_dump(content, sort_keys=False))


def check_counts(job: TrainJob, part: str, photos: int, boxes: int) -> None:
    """Raise PipelineError unless a framework took all photos of a part, and all boxes but crowds."""
    given = photo_sets(job)[part]
    singles = sum(int((~photo.crowd).sum()) for photo in given.boxes())
    if (photos, boxes) != (len(given.photos), singles):
        raise PipelineError(
            f"{job.model.backend} took {photos} of {len(given.photos)} {part} photos and {boxes} of "
            f"{singles} boxes; see {shown(job.run / 'train.log')}"
        )
