"""What a framework brings that has no loop of its own: a network with a loss, which our loop trains.

A backend states its config's own keys and builds the detector; everything else is here.
"""

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from pipeline.data.models import ModelConfig, Overrides
from pipeline.errors import PipelineError
from pipeline.inference.detector import Detector, batch_on, has_half
from pipeline.inference.threads import sharing_weights
from pipeline.paths import shown
from pipeline.training.backend import Backend, Resolved, SavedModel, WantedWeights
from pipeline.training.job import TrainJob
from pipeline.training.loop import train
from pipeline.training.options import NetworkConfig, config_of, configured
from pipeline.training.pretrained import take_detector
from pipeline.training.reading import Sample
from pipeline.training.seeds import reseed
from pipeline.training.session import Session

# How the names of a backbone's weights begin; the first two leave out an FPN and an SSD's further layers.
BACKBONES = ("backbone.body.", "backbone.features.", "backbone.")


class NetworkDetector(Detector):
    """A detector around a network in torch. `losses` and `detect` are what a framework writes."""

    def __init__(self, module: nn.Module, config: NetworkConfig, device: str) -> None:
        self.parameters = sum(p.numel() for p in module.parameters())
        for part in module.modules():
            if type(part) is nn.BatchNorm2d:
                part.__class__ = _BatchNorm
        self.device, self.image_size = device, config.image_size
        self.half = config.train.amp and has_half(device)
        self.batch = batch_on(device, config.image_size, 8)
        layout: Any = {"memory_format": torch.channels_last}  # oneDNN's convolutions and tensor cores like it
        self.module = module.to(device, **layout if device == "cpu" or self.half else {}).eval()

    @abstractmethod
    def losses(self, module: nn.Module, samples: Sequence[Sample]) -> Mapping[str, Tensor]:
        """The losses of a batch, each a tensor of one value and a mean over the photos.

        module: the detector's, or what stands for it in several processes; call that one. The samples are
        on its device, and resized as photos are for `detect`.
        """

    def backbone(self) -> str:
        """The beginning of the names of its backbone's weights; raises PipelineError where it has none."""
        names = [name for name, _ in self.module.named_parameters()]
        for beginning in BACKBONES:
            if any(name.startswith(beginning) for name in names):
                return beginning
        raise PipelineError(f"freeze: none of its weights begin with {' or '.join(BACKBONES)}")

    def resized(self, height: int, width: int, scale: float) -> tuple[int, int]:
        factor = self.image_size * scale / max(height, width)
        return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)

    def around(self, module: nn.Module) -> Self:
        """The same detector around other weights."""
        other = copy.copy(self)
        other.module = module
        return other

    def clone(self) -> Self:
        return self.around(sharing_weights(self.module, self.module))


class _BatchNorm(nn.BatchNorm2d):
    """In training with one value per channel, as of a single small photo, its statistics are kept."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            norm = (self.running_mean, self.running_var, self.weight, self.bias)
            return nn.functional.batch_norm(x, *norm, False, 0.0, self.eps)
        return super().forward(x)


class NetworkBackend(Backend):
    """A backend whose networks are trained by our loop."""

    config_type: ClassVar[type[NetworkConfig]] = NetworkConfig

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    @abstractmethod
    def build(self, config: Any, n_classes: int, device: str) -> NetworkDetector:
        """A detector with random weights; config is of `config_type`."""

    def start(self, detector: NetworkDetector, config: Any, job: TrainJob) -> None:
        """Take pretrained weights."""
        take_detector(job, detector.module)

    def resolve(self, model: ModelConfig, overrides: Overrides) -> Resolved:
        config = configured(self.config_type, model, overrides)
        values = config.model_dump(mode="json")
        largest = math.ceil(config.image_size * config.augment.scale[1])
        return Resolved(values, config.epochs, config.image_size, config.batch, largest, config.resources)

    def wanted_weights(self, job: TrainJob) -> WantedWeights:
        return WantedWeights(configured(self.config_type, job.model, job.overrides).weights)

    def fit(self, job: TrainJob, session: Session) -> None:
        config = configured(self.config_type, job.model, job.overrides)
        reseed(job.seed, 0)
        detector = self.build(config, len(job.classes), job.device)
        if session.last() is None:
            self.start(detector, config, job)
        train(detector, config, job, session)

    def load(self, model: SavedModel, device: str) -> NetworkDetector:
        source = shown(model.checkpoint)
        config = config_of(
            self.config_type, dict(model.config), f"{shown(model.checkpoint.parent)}: its config"
        )
        checkpoint = self.read_checkpoint(model.checkpoint)
        if (classes := tuple(checkpoint["classes"])) != model.classes:
            raise PipelineError(f"{source}: trained on classes {classes}, expected {model.classes}")
        detector = self.build(config, len(classes), device)
        detector.module.load_state_dict(checkpoint["state_dict"])
        return detector

    def untrained(
        self, model: ModelConfig, overrides: Overrides, n_classes: int, device: str
    ) -> NetworkDetector:
        return self.build(configured(self.config_type, model, overrides), n_classes, device)

    def exported(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        return {key: checkpoint[key] for key in ("state_dict", "classes")}
