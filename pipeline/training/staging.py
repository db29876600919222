"""A fold's photos laid out for frameworks that read files themselves: links below run/work/data.

images/train and images/val hold a link per photo, or a repaired copy; frameworks rewrite photos in place and
keep caches beside them, and this keeps both off the originals.
"""

import shutil
from pathlib import Path

from pipeline.data.photos import stage_photos, staged_suffix
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
