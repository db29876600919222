"""A detector of MMDetection: its test pipeline's resizing and padding are read as data."""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.inference.detector import MAX_BOXES, Detections, Detector, batch_on, has_half
from pipeline.inference.threads import sharing_weights

PASSIVE = ("LoadImageFromFile", "LoadAnnotations", "PackDetInputs")  # test steps that leave pixels alone


class MMDetector(Detector):
    """See the module."""

    def __init__(self, cfg: Config, device: str, model: Any) -> None:
        self.device, self.image_size, self.model = device, cfg.image_size, model
        self.batch = batch_on(device, cfg.image_size, 8)
        self.half = bool(cfg.amp) and has_half(device)
        self.resizing, self.padding = _test_steps(cfg.test_pipeline)
        values = self.padding.get("pad_val", 0)
        values = values.get("img", 0) if isinstance(values, dict) else values
        (self.pad_value,) = {int(v) for v in (values if isinstance(values, (list, tuple)) else [values])}
        self.parameters = sum(p.numel() for p in self.model.parameters())
        if getattr(getattr(model, "roi_head", None), "with_mask", False):
            model.roi_head.predict_mask = _no_masks

    @classmethod
    def build(cls, cfg: Config, device: str, weights: Mapping[str, Tensor] | None = None) -> Self:
        """The detector of a config, with these weights or with random ones."""
        detector = cls(cfg, device, MODELS.build(cfg.model))
        if weights is not None:
            detector.model.load_state_dict(weights)
        detector.model.to(device).eval()
        if device == "cpu" or detector.half:  # the layout of oneDNN's convolutions, and of tensor cores
            detector.model.to(memory_format=torch.channels_last)
        return detector

    def resized(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """As mmcv's Resize: to fit into (long, short), or to exactly (width, height)."""
        long, short = (round(side * scale) for side in self.resizing["scale"])
        if not self.resizing.get("keep_ratio"):
            return short, long
        long, short = max(long, short), min(long, short)
        factor = min(long / max(height, width), short / min(height, width))
        return int(height * factor + 0.5), int(width * factor + 0.5)

    def padded(self, height: int, width: int, scale: float) -> tuple[int, int]:
        divisor = self.padding.get("size_divisor") or 1
        sides = (max(height, width),) * 2 if self.padding.get("pad_to_square") else (height, width)
        if size := self.padding.get("size"):
            sides = max(round(size[1] * scale), height), max(round(size[0] * scale), width)
        return -(-sides[0] // divisor) * divisor, -(-sides[1] // divisor) * divisor

    def clone(self) -> Self:
        other = copy.copy(self)
        other.model = sharing_weights(self.model, self.model)
        return other

    @torch.inference_mode()
    def detect(self, pixels: Tensor) -> Detections:
        size = tuple(pixels.shape[2:])
        info = {"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)}
        samples = [DetDataSample(metainfo=info) for _ in pixels]
        with torch.autocast("cuda", enabled=self.half):
            results = self.model.test_step({"inputs": pixels.flip(1), "data_samples": samples})
        kept = [sample.pred_instances[:MAX_BOXES] for sample in results]  # the best come first
        return Detections.of([(boxes.bboxes, boxes.scores, boxes.labels) for boxes in kept])

    @contextlib.contextmanager
    def constant_work(self) -> Iterator[None]:
        """Let no proposal be suppressed, so that as many go to the second stage as the config allows."""
        proposers = self.model.rpn_head.modules() if hasattr(self.model, "rpn_head") else ()
        heads = [head for head in proposers if "nms" in (getattr(head, "test_cfg", None) or ())]
        before = [head.test_cfg for head in heads]
        for head in heads:
            head.test_cfg = copy.deepcopy(head.test_cfg)
            head.test_cfg.nms.iou_threshold = 1.0
        try:
            yield
        finally:
            for head, test_cfg in zip(heads, before, strict=True):
                head.test_cfg = test_cfg


def _no_masks(features: Any, metas: Any, results: Any, rescale: bool = False) -> Any:
    """In place of `predict_mask` of a RoI head: the boxes as they are."""
    return results


def _test_steps(pipeline: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(resize step, pad step or {}) of a test pipeline; raises PipelineError for a step of another kind."""
    resizing: dict[str, Any] = {}
    padding: dict[str, Any] = {}
    for step in pipeline:
        kind = step["type"].rpartition(".")[2]
        if kind in ("Resize", "FixScaleResize") and step.get("interpolation", "bilinear") == "bilinear":
            scale = step["scale"]
            resizing = dict(step) | {"scale": (scale, scale) if isinstance(scale, int) else scale}
        elif kind == "Pad" and step.get("padding_mode", "constant") == "constant":
            padding = dict(step)
        elif kind not in PASSIVE:
            raise PipelineError(
                f"test_pipeline: step {kind}: expected Resize (bilinear), Pad (constant), {PASSIVE}"
            )
    if not resizing:
        raise PipelineError("test_pipeline: expected a step Resize")
    return resizing, padding
