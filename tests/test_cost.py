"""The counter against formulas and published numbers, the stop-watch against a clock that is set."""

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from every_backend import MODELS
from prediction_oracle import detect_resized
from torch import nn
from torch.nn import functional

from pipeline.data.models import Overrides, find_model
from pipeline.errors import PipelineError
from pipeline.inference import cost, speed
from pipeline.training.backend import load_backend


def flops_of(call):
    flops, left_out = cost.count_flops(call)
    assert left_out == []
    return flops


IMAGE = torch.rand(2, 4, 10, 12)  # n, c, h, w
ROWS = torch.rand(3, 5, 8)  # batch, tokens, width
OFFSETS = torch.zeros(2, 2 * 3 * 3, 10, 12)
# two for a multiply-add: 2 x (outputs) x (products summed in each)
BY_HAND = {
    "convolution": (lambda: nn.Conv2d(4, 6, 3)(IMAGE), 2 * (2 * 6 * 8 * 10) * (4 * 3 * 3)),
    "strided": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1)(IMAGE), 2 * (2 * 6 * 5 * 6) * (4 * 3 * 3)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4)(IMAGE), 2 * (2 * 8 * 8 * 10) * (1 * 3 * 3)),
    # every input value goes into 2 x 2 outputs of each of 3 channels
    "transposed": (lambda: nn.ConvTranspose2d(4, 3, 2, 2)(IMAGE), 2 * (2 * 4 * 10 * 12) * (3 * 2 * 2)),
    "deformable": (
        lambda: torchvision.ops.DeformConv2d(4, 6, 3, padding=1, groups=2)(IMAGE, OFFSETS),
        2 * (2 * 6 * 10 * 12) * (2 * 3 * 3),
    ),
    "linear": (lambda: nn.Linear(8, 7)(ROWS), 2 * (3 * 5 * 7) * 8),
    "of a parameter": (lambda: nn.Linear(8, 7)(nn.Parameter(ROWS)), 2 * (3 * 5 * 7) * 8),
    "matrix by vector": (lambda: torch.rand(3, 4) @ torch.rand(4), 2 * 3 * 4),
    "added in place": (lambda: torch.rand(3, 5).addmm_(torch.rand(3, 4), torch.rand(4, 5)), 2 * (3 * 5) * 4),
    "einsum": (lambda: torch.einsum("bij,bkj->bik", ROWS, ROWS), 2 * (3 * 5 * 5) * 8),
    # queries by keys, weights by values
    "attention": (
        lambda: functional.scaled_dot_product_attention(ROWS[:, None], ROWS[:, None], ROWS[:, None]),
        2 * (3 * 5 * 5) * 8 + 2 * (3 * 5 * 8) * 5,
    ),
    # in and out projections, two heads of width 4
    "multi-head": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True).eval()(ROWS, ROWS, ROWS, need_weights=False),
        2 * (3 * 5 * 24) * 8 + 2 * 2 * (3 * 5 * 5) * 4 + 2 * 2 * (3 * 5 * 4) * 5 + 2 * (3 * 5 * 8) * 8,
    ),
    "elementwise": (lambda: functional.interpolate(IMAGE.relu() + 1, scale_factor=2, mode="bilinear"), 0),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_flops_by_hand(name: str) -> None:
    call, expected = BY_HAND[name]
    assert flops_of(call) == expected


@pytest.mark.parametrize("name", ["resnet50", "swin_t", "vit_b_16"])
def test_flops_of_published_networks(name: str) -> None:
    """torchvision publishes multiply-adds in billions for 224 x 224, and parameters."""
    model = torchvision.models.get_model(name, weights=None).eval()
    published = next(iter(torchvision.models.get_model_weights(name))).meta
    assert sum(p.numel() for p in model.parameters()) == published["num_params"]
    flops = flops_of(lambda: model(torch.zeros(1, 3, 224, 224)))
    assert flops == pytest.approx(2e9 * published["_ops"], rel=2e-3)


def test_a_product_without_a_formula_is_named() -> None:
    layer = nn.Bilinear(3, 4, 5)
    flops, left_out = cost.count_flops(lambda: layer(torch.rand(2, 3), torch.rand(2, 4)))
    assert (flops, left_out) == (0, ["aten::_trilinear"])


def test_counting_leaves_torch_as_it_was() -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(ZeroDivisionError):
        cost.count_flops(lambda: 1 / 0)
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_yolov5n_has_the_published_size() -> None:
    """ultralytics publishes YOLOv5nu at 640, 80 classes: 2.6 M parameters, 7.7 GFLOPs."""
    backend = load_backend("ultralytics")
    detector = backend.untrained(find_model("yolov5n"), Overrides(), 80, "cpu")
    found = cost.complexity(detector)
    assert found == {"parameters": 2_654_816, "flops": 7_724_902_400, "input_size": 640}


def built(name: str, size: int) -> Any:
    model = find_model(name)
    return load_backend(model.backend).untrained(model, Overrides(image_size=size), 3, "cpu")


def test_a_one_stage_count_grows_with_the_area() -> None:
    small, large = (cost.complexity(built("yolov5n", size))["flops"] for size in (64, 128))
    assert large == 4 * small


def test_torchvisions_two_stage_count_does_not_depend_on_the_weights() -> None:
    """150 proposals is what the network allows; a network that suppresses nearly all of them counts less."""
    detector = built("tv_faster_rcnn_mobile", 128)
    with torch.no_grad():
        for weights in detector.module.rpn.head.parameters():
            weights.zero_()
    found = cost.complexity(detector)["flops"]
    with torch.no_grad():
        detector.module.rpn.head.cls_logits.bias.fill_(-9.0)  # no proposal reaches the score threshold
    as_they_come, _ = cost.count_flops(lambda: detector.detect(cost.noise(128)))
    assert as_they_come < found
    assert cost.complexity(detector)["flops"] == found


PARAMETERS = {  # millions, with ten classes
    "tv_faster_rcnn_v2": 43.3,
    "tv_faster_rcnn_mobile": 19.0,
    "tv_retinanet_v2": 36.5,
    "tv_fcos": 32.1,
    "tv_ssd300_vgg16": 24.9,
    "tv_ssdlite320": 2.3,
}


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_torchvisions_detectors_have_their_size_and_find_no_background(name: str) -> None:
    detector = load_backend("torchvision").untrained(find_model(name), Overrides(), 10, "cpu")
    assert round(detector.parameters / 1e6, 1) == PARAMETERS[name]
    boxes = detector.detect(cost.noise(288))  # of random weights: boxes of every label
    labels = boxes.labels[boxes.scores > 0]
    assert len(labels) and labels.min() >= 0 and labels.max() < 10


def test_a_two_stage_count_does_not_depend_on_the_weights() -> None:
    """Though these decide how many proposals survive; 150 is what the config allows, at any size."""
    detector = built("faster_rcnn_tiny", 128)
    found = cost.complexity(detector)["flops"]
    head = 150 * 2 * (7 * 7 * 64 * 256 + 256 * 256 + 256 * (3 + 1) + 256 * 3 * 4)
    assert cost.complexity(built("faster_rcnn_tiny", 256))["flops"] - head == 4 * (found - head)
    with torch.no_grad():
        detector.model.rpn_head.rpn_reg.bias.fill_(4.0)  # every proposal becomes the whole photo
    as_they_come, _ = cost.count_flops(lambda: detector.detect(cost.noise(128)))
    assert as_they_come < found - head * 0.9
    assert cost.complexity(detector)["flops"] == found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("every_backend")
def test_detect_finds_what_predict_finds(name: str) -> None:
    """The timed pass does the work of the real one, down to the boxes."""
    torch.manual_seed(0)
    detector = built(name, 64)
    photos = list(np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8))
    predicted = detect_resized(detector, photos, 1.0)
    timed = detector.detect(speed.as_pixels(photos, 64))
    for i, boxes in enumerate(predicted):
        rows = timed.image == i
        assert len(boxes.scores) > 0
        np.testing.assert_allclose(timed.scores[rows].numpy(), boxes.scores, atol=1e-5)
        np.testing.assert_allclose(timed.boxes_xyxy[rows].clamp(0, 64).numpy(), boxes.boxes_xyxy, atol=1e-3)


class Clocked:
    """A detector whose passes take as long as `seconds` says for each batch, on a clock of its own."""

    parameters, image_size, half = 10, 64, False

    def __init__(self, seconds, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds, self.now, self.passes = seconds, 0.0, []
        monkeypatch.setattr(speed.time, "perf_counter", lambda: self.now)

    def detect(self, pixels: torch.Tensor) -> None:
        assert pixels.dtype == torch.uint8
        assert pixels.shape[1:] == (3, 64, 64)
        self.passes.append(len(pixels))
        seconds = self.seconds.get(len(pixels))
        if seconds is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        cold = self.passes.count(len(pixels)) <= speed.WARM_UPS
        self.now += 60.0 if cold else seconds

    constant_work = contextlib.nullcontext


@pytest.mark.parametrize(
    ("seconds", "rates", "best"),
    [
        ({1: 0.5, 2: 0.5, 4: 0.8, 8: 2.0}, {1: 2, 2: 4, 4: 5, 8: 4}, 4),  # to the limit of a CPU
        ({1: 0.5, 2: 1.25, 4: 2.5}, {1: 2, 2: 1.6, 4: 1.6}, 1),  # two sizes without gain are enough
        ({1: 0.5, 2: 1.25, 4: 1.0, 8: 1.0}, {1: 2, 2: 1.6, 4: 4, 8: 8}, 8),  # one is not
        ({1: 0.5, 2: 0.5}, {1: 2, 2: 4}, 2),  # until memory is out
    ],
)
def test_speed_is_warm_and_finds_the_best_batch(
    seconds: dict[int, float], rates: dict[int, float], best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = Clocked(seconds, monkeypatch)
    found = speed.speed(detector, cost.noise(64, 3))
    assert {int(n): rate for n, rate in found["fps_by_batch"].items()} == rates
    assert (found["fps"], found["best_batch"], found["fps_best"]) == (rates[1], best, rates[best])
    assert found["precision"] == "float32"


def test_not_even_one_photo_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PipelineError, match=r"out of GPU memory with a single photo; lower IMAGE_SIZE="):
        speed.speed(Clocked({}, monkeypatch), cost.noise(64))


def test_photos_become_squares() -> None:
    photo = np.zeros((20, 40, 3), np.uint8)
    photo[..., 0] = 200  # red
    pixels = speed.as_pixels([photo, photo], 8)
    assert pixels.shape == (2, 3, 8, 8)
    assert pixels.dtype == torch.uint8
    assert pixels[:, 0].eq(200).all() and pixels[:, 1:].eq(0).all()
