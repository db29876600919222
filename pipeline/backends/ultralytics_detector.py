"""Detectors of ultralytics: what they ask of pixels, and what they find there."""

import copy
import functools
import math
from typing import Any, Self

import torch
import torchvision
from torch import Tensor

from pipeline.backends import ultralytics_setup

ultralytics_setup.install()  # before anything imports ultralytics

from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.tasks import RTDETRDetectionModel
from ultralytics.utils import nms
from ultralytics.utils.ops import xywh2xyxy

from pipeline.inference.detector import MAX_BOXES, SCORE_FLOOR, Detections, Detector, batch_on, has_half
from pipeline.inference.threads import sharing_weights

NMS_IOU = 0.7
CLASS_OFFSET = 7680  # pixels


class YoloDetector(Detector):
    """A YOLO. Its letterbox: resized to fit the square, in the middle of a grey border to whole strides."""

    pad_value = 114
    pad_centred = True

    def __init__(self, model: Any, image_size: int, device: str) -> None:
        self.model, self.device, self.half = model, device, has_half(device)
        self.parameters = sum(p.numel() for p in model.parameters())
        self.stride = max(int(model.stride.max()), 32)
        self.image_size = math.ceil(image_size / self.stride) * self.stride  # as the trainer does
        self.batch = batch_on(device, self.image_size, 16)

    def resized(self, height: int, width: int, scale: float) -> tuple[int, int]:
        side = max(round(self.image_size * scale / self.stride), 1) * self.stride
        ratio = min(side / height, side / width)
        return max(round(height * ratio), 1), max(round(width * ratio), 1)

    def padded(self, height: int, width: int, scale: float) -> tuple[int, int]:
        return math.ceil(height / self.stride) * self.stride, math.ceil(width / self.stride) * self.stride

    @functools.cached_property
    def network(self) -> Any:
        """The network that predicts: norms fused into convolutions, in half precision on a GPU."""
        device, model = torch.device(self.device), copy.deepcopy(self.model)
        free = None
        if hasattr(model.model[-1], "end2end"):  # YOLO26 and YOLOv10 have a head that needs no NMS besides
            free = dict(getattr(model, "args", {})).get("nms") is False
        return AutoBackend(model, device, fp16=self.half, fuse=True, verbose=False, end2end=free).eval()

    def clone(self) -> Self:
        other = copy.copy(self)
        vars(other)["network"] = sharing_weights(self.network, self.network.backend.model)
        return other

    def outputs(self, pixels: Tensor) -> Tensor:
        """What the network says of pixels."""
        network = self.network
        outputs = network((pixels.half() if network.fp16 else pixels.float()).div_(255))
        first: Tensor = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
        return first

    @torch.inference_mode()
    def detect(self, pixels: Tensor) -> Detections:
        outputs = self.outputs(pixels)
        if self.network.end2end:  # it has suppressed already
            rows = nms.non_max_suppression(outputs, SCORE_FLOOR, max_det=MAX_BOXES, end2end=True)
            return Detections.of([(r[:, :4], r[:, 4], r[:, 5].long()) for r in rows])
        return suppressed(outputs.float())


class StretchedDetector(YoloDetector):
    """RT-DETR: a photo is stretched to a square, and each of its queries is a box of its own."""

    def resized(self, height: int, width: int, scale: float) -> tuple[int, int]:
        side = max(round(self.image_size * scale / self.stride), 1) * self.stride
        return side, side

    @torch.inference_mode()
    def detect(self, pixels: Tensor) -> Detections:
        # (n, queries, 6): cx cy w h as parts of the sides, score, class; the best come first.
        rows = self.outputs(pixels).float()[:, :MAX_BOXES]
        height, width = pixels.shape[2:]
        boxes = xywh2xyxy(rows[..., :4]) * rows.new_tensor([width, height, width, height])
        per_image = zip(boxes, rows[..., 4], rows[..., 5].long(), strict=True)
        return Detections.of(list(per_image))


def detector_of(network: Any, image_size: int, device: str) -> YoloDetector:
    """The detector of a network, at an image size in pixels."""
    kind = StretchedDetector if isinstance(network, RTDETRDetectionModel) else YoloDetector
    return kind(network, image_size, device)


def suppressed(outputs: Tensor) -> Detections:
    """What the framework's `non_max_suppression` makes of (n, 4 + classes, anchors): cx cy w h, scores.

    The candidates of a whole batch are chosen at once: the framework waits for a GPU several times per image.
    Suppressed they are image by image, since one call for all takes time with the square of their number.
    """
    image, anchor = torch.nonzero(outputs[:, 4:].amax(1) > SCORE_FLOOR, as_tuple=True)
    rows = outputs.transpose(1, 2)[image, anchor]
    boxes, (scores, labels) = xywh2xyxy(rows[:, :4]), rows[:, 4:].max(1)
    apart = boxes + labels[:, None] * CLASS_OFFSET  # classes do not suppress each other
    kept, start = [], 0
    for count in torch.bincount(image, minlength=len(outputs)).tolist():
        own = slice(start, start + count)
        kept.append(torchvision.ops.nms(apart[own], scores[own], NMS_IOU)[:MAX_BOXES] + start)
        start += count
    chosen = torch.cat(kept)
    return Detections(boxes[chosen], scores[chosen], labels[chosen], image[chosen])
