"""What predict makes of photos and views, beside the frameworks' own way with the same photos."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.backends import load_backend
from pipeline.backends.base import Settings, by_shape, cpu_batch, find_model
from pipeline.data.photos import Photo
from pipeline.predict import predict_views
from pipeline.views import parse_views

SHAPES = ((90, 130), (130, 90), (64, 64), (90, 130))


def built(name: str, seed: int = 0) -> Any:
    """A detector of 64 pixels with random weights."""
    torch.manual_seed(seed)
    model = find_model(name)
    return load_backend(model.backend).untrained(model, Settings(image_size=64), 3, "cpu")


def photos() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in SHAPES]


def mmdets_own(detector: Any, image: NDArray[np.uint8], size: int) -> tuple[Any, Any]:
    from mmengine.dataset import Compose

    steps = [
        dict(type="mmdet.LoadImageFromNDArray"), dict(type="Resize", scale=(size, size), keep_ratio=True),
        dict(type="PackDetInputs", meta_keys=("ori_shape", "img_shape", "scale_factor")),
    ]  # fmt: skip
    item = Compose(steps)({"img": image[..., ::-1].copy()})
    with torch.no_grad():
        (sample,) = detector.model.test_step(
            {"inputs": [item["inputs"]], "data_samples": [item["data_samples"]]}
        )
    return sample.pred_instances.bboxes.numpy(), sample.pred_instances.scores.numpy()


def ultralytics_own(detector: Any, image: NDArray[np.uint8], size: int) -> tuple[Any, Any]:
    options = {"imgsz": size, "conf": 0.001, "iou": 0.7, "max_det": 300, "verbose": False}
    (result,) = detector.yolo.predict([image[..., ::-1].copy()], **options)
    return result.boxes.xyxy.numpy(), result.boxes.conf.numpy()


OWN = {"faster_rcnn_tiny": mmdets_own, "yolov5n": ultralytics_own}


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("name", list(OWN))
def test_boxes_are_those_of_the_frameworks_own_prediction(name: str, scale: float) -> None:
    """Photos of any shape, alone and among others of other shapes."""
    detector = built(name)
    for image, found in zip(photos(), detector.predict(photos(), scale), strict=True):
        boxes, scores = OWN[name](detector, image, round(64 * scale))
        assert len(scores) >= 5
        np.testing.assert_allclose(found.scores, scores, atol=1e-5)
        np.testing.assert_allclose(found.boxes_xyxy, boxes, atol=0.02)


@pytest.mark.parametrize("name", list(OWN))
def test_a_view_detects_in_what_it_shows(name: str, tmp_path: Any) -> None:
    """The boxes of a view are those found in the viewed photo, brought back to the photo."""
    from PIL import Image

    detector = built(name)
    paths = []
    for i, image in enumerate(photos()):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        paths.append(Photo(tmp_path / f"{i}.png", image.shape[1], image.shape[0]))
    views = parse_views("identity,hflip,rot90,rot180+scale1.5,vflip+rot270")
    found = predict_views(detector, paths, range(len(paths)), views)
    for view in views:
        for i, image in enumerate(photos()):
            (raw,) = [boxes for ids, boxes in zip(found[view.name].ids, found[view.name].boxes, strict=True)
                      if len(ids) and ids[0] == i]  # fmt: skip
            small, (fx, fy) = detector.shrink(image, view.scale)
            (alone,) = detector.find([view.apply(small)])
            back = view.undo_boxes(alone.boxes_xyxy, small.shape[1], small.shape[0])
            np.testing.assert_allclose(raw.scores, alone.scores, atol=1e-5)
            np.testing.assert_allclose(raw.boxes_xyxy, back / [fx, fy, fx, fy], atol=0.01)
            assert (raw.boxes_xyxy[:, [0, 2]] <= image.shape[1] + 0.1).all()
            assert (raw.boxes_xyxy[:, [1, 3]] <= image.shape[0] + 0.1).all()


def test_batches_are_made_of_photos_of_one_shape() -> None:
    assert by_shape(photos()) == [[0, 3], [1], [2]]
    assert by_shape([]) == []


@pytest.mark.parametrize(("side", "count"), [(64, 16), (320, 16), (640, 4), (1024, 2), (4096, 1)])
def test_a_cpu_takes_as_many_photos_as_pixels_allow(side: int, count: int) -> None:
    assert cpu_batch(side, 16) == count
