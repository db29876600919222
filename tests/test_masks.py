"""Outlines of objects on their way to the network: staged, flipped, resized; refused where they are lost."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny
from PIL import Image
from test_outlines import outlined, pixels, runs_of

from pipeline import train
from pipeline.data.dataset import load_dataset
from pipeline.data.models import Overrides, find_model
from pipeline.data.profile import load_profile
from pipeline.data.split import read_split
from pipeline.errors import PipelineError
from pipeline.jobs.placement import Node
from pipeline.jobs.plan import JobOptions, plan
from pipeline.paths import folds_csv
from pipeline.training.backend import load_backend
from pipeline.training.cache import photo_cache
from pipeline.training.fold import Devices, plan_fold
from pipeline.training.job import CacheWish, TrainJob
from pipeline.training.staging import data_folder, stage


def write_folds() -> int:
    """Two folds; returns the number of boxes in all."""
    dataset = load_dataset(load_profile("recycle"), "train")
    tiny.write_folds(folds_csv("recycle"), dataset.images, 2)
    return len(dataset.annotations)


def planned(model: str, cache: str = "off", recipe: str | None = None, **options: Any) -> TrainJob:
    overrides = Overrides(epochs=1, image_size=32, batch=4, options=options, recipe=recipe)
    devices = Devices("cpu", workers=0, cache=CacheWish(cache))
    return plan_fold(load_profile("recycle"), find_model(model), 0, overrides, devices).job


def staged(job: TrainJob) -> Any:
    """Stage a job; returns what lies there as COCO."""
    stage(job)
    load_backend("mmdet").stage(job)
    return json.loads((data_folder(job) / "train.json").read_text())


def bright_objects(root: Path, form: str) -> None:
    """Photos of a white L on black, with its outline; half of them turned by their EXIF orientation."""
    corners = np.array([[8, 4], [36, 4], [36, 16], [20, 16], [20, 28], [8, 28]], np.float64)
    drawn = pixels([corners.ravel().tolist()])
    objects = []
    for i in range(12):
        shape = [corners.ravel().tolist()] if form == "polygon" else runs_of(drawn, form == "compressed")
        objects.append({"bbox": [8, 4, 28, 24], "segmentation": shape, "image_id": i})
        photo = Image.fromarray(np.dstack([drawn * 255] * 3))
        exif = Image.Exif()
        if i % 2:
            photo, exif[0x0112] = photo.transpose(Image.Transpose.ROTATE_90), 6
        photo.save(root / f"train/{i:04d}.jpg", quality=95, exif=exif)
    outlined(root, *objects)
    write_folds()


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("form", ["polygon", "compressed", "counts"])
def test_masks_are_flipped_and_resized_with_their_photos_and_boxes(
    recycle: Path, form: str, cached: bool, one_thread: None
) -> None:
    """Through the training's own pipeline, with photos that the cache made smaller and without."""
    bright_objects(recycle, form)
    job = planned("mask_rcnn_tiny", cache="ram" if cached else "off")
    staged(job)  # imports MMDetection with our operators

    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope

    from pipeline.backends.mmdet_runner import runner_config

    init_default_scope("mmdet")
    with photo_cache(job) as cache:
        assert (cache is not None) == cached
        cfg = runner_config(replace(job, cache=cache))
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        flipped = set()
        for sample in [dataset[i % len(dataset)] for i in range(24)]:
            instances, image = sample["data_samples"].gt_instances, sample["inputs"].numpy().mean(0)
            (drawn,) = instances.masks.to_ndarray().astype(np.uint8)
            inner = cv2.erode(drawn, np.ones((3, 3))).astype(bool)
            outer = cv2.dilate(drawn, np.ones((5, 5))).astype(bool)
            assert inner.any() and image[inner].min() > 128 and image[~outer].max() < 128
            rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
            extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert np.abs(instances.bboxes.numpy()[0] - extent).max() <= 1.5
            flipped.add(sample["data_samples"].flip)
        assert flipped == {True, False}


def test_staging_writes_them_for_the_model_that_asks(recycle: Path) -> None:
    bright_objects(recycle, "polygon")
    shape = [8, 4, 36, 4, 36, 16, 20, 16, 20, 28, 8, 28]
    assert [item["segmentation"] for item in staged(planned("mask_rcnn_tiny"))["annotations"]] == [
        [shape]
    ] * 6
    assert not any("segmentation" in item for item in staged(planned("faster_rcnn_tiny"))["annotations"])


def test_what_would_lose_outlines_is_refused(recycle: Path) -> None:
    from pipeline.backends.mmdet_runner import runner_config

    bright_objects(recycle, "counts")
    with pytest.raises(PipelineError, match=r"mask_rcnn_tiny\.py: SomeMosaic: moves no outlines, .*=basic"):
        planned("mask_rcnn_tiny", recipe="strong")
    assert planned("mask_rcnn_tiny", recipe="basic").train.annotations["segmentation"].all()
    job = planned("mask_rcnn_tiny", **{"train_pipeline.1.poly2mask": False})
    with pytest.raises(PipelineError, match=r"mask_rcnn_tiny\.py: poly2mask=False: .* run-length masks"):
        runner_config(job)


def test_a_file_without_outlines_is_refused_before_a_training_starts(recycle: Path, home: Path) -> None:
    total = write_folds()
    message = f"^train.json: {total} of {total} outlines would be left out: {total} boxes without an outline"
    with pytest.raises(PipelineError, match=message):
        train.main(["--competition", "recycle", "--model", "mask_rcnn_tiny", "--fold", "0"])
    profile = load_profile("recycle")
    split, nodes = read_split("recycle", load_dataset(profile, "train")), [Node(0, 2, 8)]
    with pytest.raises(PipelineError, match=message):
        plan(profile, split, ["mask_rcnn_tiny"], [0, 1], JobOptions(Overrides()), nodes)
    assert not list(home.glob("runs/recycle/mask_rcnn_tiny"))
