"""What predict makes of photos and views, beside the frameworks' own way with the same photos."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from every_backend import MODELS
from numpy.typing import NDArray
from PIL import Image as Pillow
from prediction_oracle import detect_resized, predict_photos, resize
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pipeline.data.models import Overrides, find_model
from pipeline.data.photos import Photo
from pipeline.errors import PipelineError
from pipeline.inference.batches import WAITING, Batch, batches_by_size, full_at
from pipeline.inference.detector import (
    MAX_BOXES,
    SCORE_FLOOR,
    Detections,
    Detector,
    batch_on,
    cpu_batch,
    has_half,
)
from pipeline.inference.pixels import HostPixels
from pipeline.inference.threads import DetectorThreads, detector_threads, shares
from pipeline.inference.views import detect_views, predict_views
from pipeline.training.backend import load_backend
from pipeline.views import View, parse_views

pytestmark = pytest.mark.usefixtures("every_backend")
SHAPES = ((90, 130), (130, 90), (64, 64), (90, 130))


def built(name: str, seed: int = 0) -> Any:
    """A detector of 64 pixels with random weights."""
    torch.manual_seed(seed)
    model = find_model(name)
    return load_backend(model.backend).untrained(model, Overrides(image_size=64), 3, "cpu")


def photos() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in SHAPES]


def mmdets_own(detector: Any, image: NDArray[np.uint8], size: int) -> tuple[Any, Any]:
    from mmengine.dataset import Compose

    steps = [
        dict(type="mmdet.LoadImageFromNDArray"),
        dict(type="Resize", scale=(size, size), keep_ratio=True),
        dict(type="PackDetInputs", meta_keys=("ori_shape", "img_shape", "scale_factor")),
    ]
    item = Compose(steps)({"img": image[..., ::-1].copy()})
    with torch.no_grad():
        (sample,) = detector.model.test_step(
            {"inputs": [item["inputs"]], "data_samples": [item["data_samples"]]}
        )
    return sample.pred_instances.bboxes.numpy(), sample.pred_instances.scores.numpy()


def ultralytics_own(detector: Any, image: NDArray[np.uint8], size: int) -> tuple[Any, Any]:
    options = {"imgsz": size, "conf": 0.001, "iou": 0.7, "max_det": 300, "verbose": False}
    from ultralytics import YOLO

    yolo: Any = YOLO("yolov5n.yaml", task="detect")
    yolo.model = detector.model
    (result,) = yolo.predict([image[..., ::-1].copy()], **options)
    return result.boxes.xyxy.numpy(), result.boxes.conf.numpy()


def torchvisions_own(detector: Any, image: NDArray[np.uint8], size: int) -> tuple[Any, Any]:
    """With the step that resizes back in its place; it gets what cv2 resized, for its own one rounds less."""
    network = copy.deepcopy(detector.module)
    del network.transform.resize
    network.transform.fixed_size = (size, size)
    resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    with torch.no_grad():
        (found,) = network([torch.from_numpy(resized).permute(2, 0, 1) / 255])
    sides = np.array([image.shape[1], image.shape[0]] * 2) / size
    return found["boxes"].numpy() * sides, found["scores"].numpy()


def detect(detector: Any, images: list[NDArray[np.uint8]], scale: float) -> list[tuple[Any, Any]]:
    """Boxes in pixels of the images, and scores."""
    resized = [resize(detector, image, scale) for image in images]
    pairs = zip(resized, images, strict=True)
    factors = [np.array(small.shape[1::-1]) / image.shape[1::-1] for small, image in pairs]
    results = detect_resized(detector, resized, scale)
    return [(r.boxes_xyxy / np.tile(f, 2), r.scores) for r, f in zip(results, factors, strict=True)]


def check_same(found: tuple[Any, Any], others: tuple[Any, Any], pixels: float) -> None:
    """The same boxes with the same scores; of scores that differ by rounding, any may come first."""
    one, other = (np.column_stack([boxes, scores]) for boxes, scores in (found, others))
    assert one.shape == other.shape
    apart = np.abs(one[:, None] - other[None]) / np.array([pixels] * 4 + [1e-5])
    rows, partners = linear_sum_assignment(apart.max(axis=2))
    assert (apart[rows, partners] <= 1).all()


OWN = {"faster_rcnn_tiny": mmdets_own, "yolov5n": ultralytics_own, "tv_ssdlite320": torchvisions_own}


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("name", list(OWN))
def test_boxes_are_those_of_the_frameworks_own_prediction(name: str, scale: float) -> None:
    """Photos of any shape, alone and among others of other shapes."""
    detector = built(name)
    for image, found in zip(photos(), detect(detector, photos(), scale), strict=True):
        boxes, scores = OWN[name](detector, image, round(64 * scale))
        assert len(scores) >= 5
        check_same(found, (boxes, scores), pixels=0.02)


def test_a_batchs_boxes_are_suppressed_as_ultralytics_does_it_image_by_image() -> None:
    """To the last bit and in its order: with equal scores, images without a box, more boxes than are kept."""
    from pipeline.backends import ultralytics_detector as yolo

    rng = torch.Generator().manual_seed(0)
    for classes, spread in ((3, 200.0), (10, 600.0), (1, 3000.0)):
        outputs = torch.rand(7, 4 + classes, 900, generator=rng)
        outputs[:, :2] *= spread
        outputs[:, 2:4] *= 80
        outputs[:, 4:] = (outputs[:, 4:] ** 9 * 100).round() / 100  # many are equal, many are 0
        outputs[2, 4:] = outputs[5, 4:] = 0
        found = yolo.suppressed(outputs)
        expected = yolo.nms.non_max_suppression(outputs, SCORE_FLOOR, yolo.NMS_IOU, max_det=MAX_BOXES)
        assert max(map(len, expected)) == MAX_BOXES and not len(expected[2]) and len(expected[-1])
        for i, rows in enumerate(expected):
            own = found.image == i
            columns = [found.boxes_xyxy[own], found.scores[own, None], found.labels[own, None].float()]
            assert torch.equal(torch.cat(columns, 1), rows)


def saved(folder: Path, images: list[NDArray[np.uint8]]) -> list[Photo]:
    result = []
    for i, image in enumerate(images):
        Pillow.fromarray(image).save(folder / f"{i}.png")
        result.append(Photo(folder / f"{i}.png", image.shape[1], image.shape[0]))
    return result


def check_equal(detector: Detector, photos: list[Photo], views: list[View]) -> int:
    """Predicted boxes are the oracle's to the last bit, in the same order; returns how many they are."""
    order = sorted(range(len(photos)), key=lambda i: (photos[i].height, photos[i].width))
    found, count = predict_views(detector, photos, views), 0
    assert list(found) == [view.name for view in views]
    for view in views:
        boxes = found[view.name]
        for i, expected in predict_photos(detector, photos, view, order).items():
            rows = boxes.photo == i
            for name in ("boxes_xyxy", "scores", "labels"):
                ours, others = getattr(boxes, name)[rows], getattr(expected, name)
                assert ours.dtype == others.dtype
                np.testing.assert_array_equal(ours, others, strict=True)
            count += int(rows.sum())
        assert ((boxes.photo >= 0) & (boxes.photo < len(photos))).all()
    return count


VIEWS = parse_views(["identity", "hflip", "rot90", "rot180+scale1.5", "vflip+rot270", "scale0.7"])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", MODELS)
def test_boxes_are_those_of_each_photo_and_view_alone(name: str, tmp_path: Path) -> None:
    assert check_equal(built(name), saved(tmp_path, photos()), VIEWS) > 100


class Raw(Detector):
    """Finds boxes that its pixels decide, some of them outside or marked as none."""

    image_size, batch, device = 64, 3, "cpu"

    def __init__(self, divisor: int, pad_centred: bool) -> None:
        self.divisor, self.pad_centred = divisor, pad_centred
        self.sizes: list[tuple[int, ...]] = []

    def resized(self, height: int, width: int, scale: float) -> tuple[int, int]:
        factor = 64 * scale / max(height, width)
        return round(height * factor), round(width * factor)

    def padded(self, height: int, width: int, scale: float) -> tuple[int, int]:
        return -(-height // self.divisor) * self.divisor, -(-width // self.divisor) * self.divisor

    def detect(self, pixels: Tensor) -> Detections:
        self.sizes.append(tuple(pixels.shape))
        per_image = []
        for image in pixels:
            rng = torch.Generator().manual_seed(int(image.sum()))
            corners = torch.rand(20, 4, generator=rng) * 140 - 20
            scores = torch.rand(20, generator=rng) - 0.2
            per_image.append((corners, scores, torch.randint(9, (20,), generator=rng)))
        return Detections.of(per_image)

    def clone(self) -> "Raw":
        return Raw(self.divisor, self.pad_centred)


@pytest.mark.parametrize(("divisor", "pad_centred"), [(1, False), (32, True), (48, False)])
def test_boxes_are_undone_to_the_last_bit(divisor: int, pad_centred: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    sides = rng.integers(20, 200, (25, 2)).tolist() + [[100, 160]] * 5
    images = [rng.integers(0, 256, (*side, 3), np.uint8) for side in sides]
    assert check_equal(Raw(divisor, pad_centred), saved(tmp_path, images), VIEWS) > 1000


class Seen(Raw):
    """Keeps what it is given."""

    def detect(self, pixels: Tensor) -> Detections:
        self.given: list[Tensor] = [*getattr(self, "given", []), *pixels]
        return super().detect(pixels)


@pytest.mark.parametrize(("divisor", "pad_centred"), [(1, False), (32, True)])
def test_resizing_on_the_device_gives_opencvs_pixels_but_for_rounding(
    divisor: int, pad_centred: bool, tmp_path: Path
) -> None:
    """Of each view of each photo, with its border; in batches that are mixed of views."""
    rng = np.random.default_rng(6)
    sides = [(100, 160), (160, 100), (64, 64), (64, 64), (37, 90)]
    coarse = [rng.integers(0, 256, (9, 9, 3), np.uint8) for _ in sides]
    images = [cv2.resize(c, side[::-1]) for c, side in zip(coarse, sides, strict=True)]
    listed = saved(tmp_path, images)
    detector = Seen(divisor, pad_centred)
    views = [*VIEWS, *parse_views(["hflip+rot90", "scale2"])]
    detect_views(detector, listed, views, DetectorThreads([detector]), on_device=True)
    batches = batches_by_size(detector, listed, views)
    order = [image for batch in batches for image in batch.images]
    assert len(order) == len(set(order)) == len(listed) * len(views)
    assert max(len({image.view for image in batch.images}) for batch in batches) > 1
    pixels = HostPixels(detector, [1.0, 1.5, 0.7, 2.0])
    photos = {i: pixels.read(photo) for i, photo in enumerate(listed)}
    equal = []
    for image, given in zip(order, detector.given, strict=True):
        (expected,) = pixels.batch(Batch([image]), photos)
        apart = (given.int() - expected.int()).abs()
        assert apart.shape == (3, *image.padded) and apart.max() <= 1
        equal.append(float((apart == 0).double().mean()))
    assert np.mean(equal) > 0.8


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", MODELS)
def test_boxes_of_mixed_batches_are_those_of_a_view_alone(name: str, tmp_path: Path) -> None:
    """Of pixels that need no resizing, which rounds otherwise on a device."""
    sides = [(64, 64)] * 3 + [(64, 40)] * 2
    rng = np.random.default_rng(8)
    listed = saved(tmp_path, [rng.integers(0, 256, (*side, 3), np.uint8) for side in sides])
    detector = built(name)
    workers = DetectorThreads([detector])
    apart, together = (detect_views(detector, listed, VIEWS[:3], workers, None, on) for on in (False, True))
    for view in VIEWS[:3]:
        for i in range(len(listed)):
            of_photo = [(of[view.name], of[view.name].photo == i) for of in (apart, together)]
            pairs = [(boxes.boxes_xyxy[rows], boxes.scores[rows]) for boxes, rows in of_photo]
            assert len(pairs[0][1]) > 0
            check_same(pairs[0], pairs[1], pixels=0.02)


def test_batches_of_a_device_are_filled_and_hold_nothing_up() -> None:
    detector = Raw(32, True)
    photos = [Photo(Path(), *((64, 64) if i % 10 else (64, 40 + i))) for i in range(100)]
    batches = batches_by_size(detector, photos, VIEWS)
    assert all(image.padded == batch.size for batch in batches for image in batch.images)
    filled = [len(batch.images) / full_at(detector, batch.size) for batch in batches]
    assert max(filled) == 1 and np.mean(np.array(filled) == 1) > 0.9
    last = {image.photo: k for k, batch in enumerate(batches) for image in batch.images}
    first = {image.photo: k for k, batch in reversed(list(enumerate(batches))) for image in batch.images}
    waiting = [sum(first[i] <= k < last[i] for i in first) for k in range(len(batches))]
    assert max(waiting) <= 2 * WAITING * detector.batch


class Cramped(Raw):
    """Has memory for so many pixels at once."""

    memory = 64 * 64

    def detect(self, pixels: Tensor) -> Detections:
        if len(pixels) * pixels.shape[2] * pixels.shape[3] > self.memory:
            self.sizes.append(tuple(pixels.shape))
            raise torch.OutOfMemoryError("out of memory. Tried to allocate 3 GiB")
        return super().detect(pixels)


@pytest.mark.usefixtures("one_thread")
def test_out_of_memory_predicting_goes_on_with_half(tmp_path: Path, capsys: Any) -> None:
    images = [np.full((64, 64, 3), level, np.uint8) for level in range(7)]
    roomy, cramped = Raw(1, False), Cramped(1, False)
    expected, found = (
        predict_views(detector, saved(tmp_path, images), VIEWS[:2])["hflip"] for detector in (roomy, cramped)
    )
    np.testing.assert_array_equal(found.photo, expected.photo)
    np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)
    assert [size[0] for size in cramped.sizes] == [3] + [1] * 14  # that three are too many is seen once
    said = capsys.readouterr().out
    assert said == "out of memory with 3 images of 64 x 64 pixels at once; going on with 1\n"
    with pytest.raises(PipelineError, match="out of memory with 1 images of 96 x 96 pixels"):
        predict_views(cramped, saved(tmp_path, images), parse_views(["scale1.5"]))


def network_of(detector: Any) -> torch.nn.Module:
    if hasattr(detector, "yolo"):
        return detector.network.backend.model
    return detector.model if hasattr(detector, "model") else detector.module


@pytest.mark.parametrize("name", MODELS)
def test_threads_share_weights_and_the_cores_and_nothing_else(name: str) -> None:
    """Each has a detector of its own while it works, so what networks note of a shape is not mixed up."""
    detector, before = built(name), torch.get_num_threads()
    shapes = [(64, 64), (64, 128), (96, 64), (32, 64)] * 6
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    alone = [detect_resized(detector, [image], 1.0)[0] for image in images]
    at_work: set[int] = set()

    def work(mine: Any, image: NDArray[np.uint8]) -> Any:
        assert id(mine) not in at_work and torch.get_num_threads() == 1
        at_work.add(id(mine))
        (found,) = detect_resized(mine, [image], 1.0)
        at_work.remove(id(mine))
        return found

    torch.set_num_threads(3)
    try:
        with detector_threads(detector, 99) as workers:
            assert workers.count == 3
            workers.pool._max_workers = 8  # more threads than detectors: they wait for each other
            futures = [workers.submit(work, image) for image in images]
            together = [future.result() for future in futures]
            with pytest.raises(ZeroDivisionError):
                workers.submit(lambda _: 1 / 0).result()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    for one, other in zip(alone, together, strict=True):
        check_same((one.boxes_xyxy, one.scores), (other.boxes_xyxy, other.scores), pixels=0.02)
    weights = [next(network_of(d).parameters()) for d in (detector, detector.clone())]
    assert weights[0] is weights[1]


@pytest.mark.parametrize(
    ("threads", "most", "count", "each"),
    [
        (1, 9, 1, 1),
        (2, 9, 2, 1),
        (5, 9, 5, 1),
        (6, 9, 3, 2),
        (16, 9, 4, 4),
        (16, 1, 1, 16),
        (16, 2, 2, 8),
        (2, 0, 1, 2),
    ],
)
def test_threads_leave_no_core_out(threads: int, most: int, count: int, each: int) -> None:
    assert shares(threads, most) == (count, each)


@pytest.mark.parametrize(("side", "count"), [(64, 16), (320, 16), (640, 4), (1024, 2), (4096, 1)])
def test_a_cpu_takes_as_many_photos_as_pixels_allow(side: int, count: int) -> None:
    assert cpu_batch(side, 16) == count


@pytest.mark.parametrize(
    ("side", "gib", "count"),
    [(640, 16, 16), (640, 8, 8), (1024, 16, 6), (640, 140, 64), (64, 8, 64), (4096, 8, 1)],
)
def test_a_gpu_takes_as_many_photos_as_its_memory_allows(
    monkeypatch: pytest.MonkeyPatch, side: int, gib: int, count: int
) -> None:
    memory = SimpleNamespace(total_memory=gib * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    assert batch_on("cuda:0", side, 16) == count


@pytest.mark.parametrize(("capability", "half"), [((6, 1), False), ((7, 0), True), ((9, 0), True)])
def test_half_precision_is_for_gpus_with_tensor_cores(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], half: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_half("cuda:0") == half and not has_half("cpu")
