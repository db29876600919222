"""A framework of a few lines on our own loop: one convolution says which classes each quarter holds."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.inference.detector import Detections
from pipeline.training.network import NetworkBackend, NetworkDetector
from pipeline.training.options import NetworkConfig
from pipeline.training.reading import Sample, stacked


class ToyDetector(NetworkDetector):
    def logits(self, module: nn.Module, images: Tensor) -> Tensor:
        """(n, classes, 2, 2), of the quarters of each image."""
        return nn.functional.adaptive_avg_pool2d(module(images / 255), 2)

    def losses(self, module: nn.Module, samples: Sequence[Sample]) -> Mapping[str, Tensor]:
        logits = self.logits(module, stacked(samples))
        truth = torch.zeros_like(logits)
        for i, (image, boxes, labels) in enumerate(samples):
            middle = (boxes[:, :2] + boxes[:, 2:]) / 2 > torch.tensor(image.shape[:0:-1]) / 2
            truth[i, labels, middle[:, 1].long(), middle[:, 0].long()] = 1
        return {"loss_quarters": nn.functional.binary_cross_entropy_with_logits(logits, truth)}

    @torch.inference_mode()
    def detect(self, pixels: Tensor) -> Detections:
        scores = self.logits(self.module, pixels).sigmoid()
        image, labels, row, column = torch.nonzero(scores >= 0, as_tuple=True)
        corners = torch.stack([column, row, column + 1, row + 1], 1) / 2
        sides = torch.tensor(pixels.shape[:1:-1]).repeat(2)
        return Detections(corners * sides, scores.flatten(), labels, image)


class Toy(NetworkBackend):
    def build(self, config: NetworkConfig, n_classes: int, device: str) -> ToyDetector:
        return ToyDetector(nn.Conv2d(3, n_classes, 3), config, device)
