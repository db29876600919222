"""torchvision's own detectors, trained by our loop.

They would resize and rescale inside: here photos come resized, so that step does nothing. They normalise,
and pad a batch to whole strides, as always. Label 0 is the background, which RetinaNet and FCOS score too.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import detection

from pipeline.errors import PipelineError
from pipeline.inference.detector import MAX_BOXES, SCORE_FLOOR, Detections
from pipeline.training.backend import WantedWeights
from pipeline.training.job import TrainJob
from pipeline.training.network import NetworkBackend, NetworkDetector
from pipeline.training.options import NetworkConfig, configured
from pipeline.training.pretrained import GivenWeights, take_in_order
from pipeline.training.reading import Sample
from pipeline.training.weights import fetch

COCO = tuple(detection.SSD300_VGG16_Weights.COCO_V1.meta["categories"][1:])  # of all its detectors' files
ADDRESS = "https://download.pytorch.org/models/"
SMALLEST = {"ssd300_vgg16": 268}  # pixels; of smaller squares its last layers have nothing left


class TorchvisionConfig(NetworkConfig):
    """The config of a detector of torchvision: the function that builds it, and its backbone's weights."""

    model: Literal[
        "fasterrcnn_resnet50_fpn_v2",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "retinanet_resnet50_fpn_v2",
        "fcos_resnet50_fpn",
        "ssd300_vgg16",
        "ssdlite320_mobilenet_v3_large",
    ]
    backbone_weights: str | None = None  # a classifier's, by file name; taken where there is no detector's


class Torchvision(NetworkBackend):
    """See the module."""

    config_type = TorchvisionConfig
    background_first = True

    def versions(self) -> dict[str, str]:
        return {"torchvision": torchvision.__version__} | super().versions()

    def build(self, config: TorchvisionConfig, n_classes: int, device: str) -> "TorchvisionDetector":
        return TorchvisionDetector(config, n_classes, device)

    def wanted_weights(self, job: TrainJob) -> WantedWeights:
        config = configured(TorchvisionConfig, job.model, job.overrides)
        return WantedWeights(config.weights, [config.backbone_weights] if config.backbone_weights else [])

    def download(self, wanted: str) -> str:
        return fetch(ADDRESS + wanted)

    def read_detector(self, path: Path) -> GivenWeights:
        given = super().read_detector(path)
        return given if given.classes else replace(given, classes=COCO)

    def start(self, detector: NetworkDetector, config: TorchvisionConfig, job: TrainJob) -> None:
        super().start(detector, config, job)
        if path := job.weights.get(config.backbone_weights or ""):
            take_in_order(detector.module, Path(path), "backbone.")


class TorchvisionDetector(NetworkDetector):
    """A detector of torchvision. An SSD takes squares of one size, the others photos of any shape."""

    def __init__(self, config: TorchvisionConfig, n_classes: int, device: str) -> None:
        build: Any = getattr(detection, config.model)
        # Without weights it trains all layers and every batch norm; what to freeze is in `train`.
        module = build(weights=None, weights_backbone=None, num_classes=n_classes + 1)
        self.square, self.name = config.model.startswith("ssd"), config.model
        self._check_side(config.image_size)
        module.transform.resize = lambda image, target=None: (image, target)
        head = getattr(module, "roi_heads", module)
        head.score_thresh, head.detections_per_img = SCORE_FLOOR, MAX_BOXES
        super().__init__(module, config, device)

    def resized(self, height: int, width: int, scale: float) -> tuple[int, int]:
        side = round(self.image_size * scale)
        return (side, side) if self.square else super().resized(height, width, scale)

    def _check_side(self, side: int) -> None:
        if side < (smallest := SMALLEST.get(self.name, 1)):
            raise PipelineError(f"{self.name}: {side} pixels: expected at least {smallest}; IMAGE_SIZE=")

    def losses(self, module: nn.Module, samples: Sequence[Sample]) -> Mapping[str, Tensor]:
        targets = [{"boxes": sample.boxes_xyxy, "labels": sample.labels + 1} for sample in samples]
        losses: dict[str, Tensor] = module([sample.image / 255 for sample in samples], targets)
        return losses

    @torch.inference_mode()
    def detect(self, pixels: Tensor) -> Detections:
        self._check_side(pixels.shape[-1])
        with torch.autocast("cuda", enabled=self.half):
            results = self.module(list(pixels / 255))
        per_image = [(r["boxes"], r["scores"] * (r["labels"] > 0), r["labels"] - 1) for r in results]
        return Detections.of(per_image)

    @contextlib.contextmanager
    def constant_work(self) -> Iterator[None]:
        """Let no proposal be suppressed or left out, so that as many go to the second stage as may."""
        rpn = vars(getattr(self.module, "rpn", nn.Identity()))
        before = dict(rpn)
        rpn.update(nms_thresh=1.0, score_thresh=0.0, min_size=-1.0)
        try:
            yield
        finally:
            rpn.update(before)
