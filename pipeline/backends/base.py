"""What every backend takes and gives: model configs, a training job, a detector."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from pipeline.backends import BACKENDS
from pipeline.data.photos import Photo
from pipeline.errors import PipelineError
from pipeline.paths import CONFIGS, shown, text_digest

SCORE_FLOOR = 0.001  # boxes below are not exported; a higher floor costs mAP
MAX_BOXES = 300  # boxes a photo and view

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class ModelConfig:
    """A model is one config file: its name is the file's stem, its backend the folder."""

    name: str
    backend: str
    path: Path


def list_models() -> dict[str, ModelConfig]:
    """All models by name: the files directly in configs/<backend>/."""
    models: dict[str, ModelConfig] = {}
    for backend in BACKENDS:
        for path in sorted((CONFIGS / backend).iterdir()):
            if path.suffix in (".py", ".yaml"):
                if path.stem in models:
                    raise PipelineError(
                        f"{shown(path)}: model '{path.stem}' is also {shown(models[path.stem].path)}"
                    )
                models[path.stem] = ModelConfig(path.stem, backend, path)
    return models


def find_model(name: str) -> ModelConfig:
    models = list_models()
    if name not in models:
        raise PipelineError(f"no model '{name}'; there are: {', '.join(models)}")
    return models[name]


@dataclass(frozen=True)
class Settings:
    """What a user may override for one run; None keeps the config's value."""

    epochs: int | None = None
    image_size: int | None = None  # pixels, longer side of the network's input
    batch: int | None = None  # photos a step
    options: dict[str, Any] = field(default_factory=dict)  # the framework's own keys, dotted


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """["a.b=1", "c=true", "d=1e-3"] -> {"a.b": 1, "c": True, "d": 0.001}; other values are YAML."""
    options = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise PipelineError(f"option '{pair}': expected key=value")
        try:
            options[key] = float(value)
            if options[key].is_integer() and value.lstrip("+-").isdigit():
                options[key] = int(value)
        except ValueError:
            options[key] = yaml.safe_load(value)
    return options


def config_digest(resolved: dict[str, Any]) -> str:
    """Digest of what decides a training's result; what it may use of a machine does not."""
    values = {key: value for key, value in resolved.items() if key != "resources"}
    return text_digest(json.dumps(values, sort_keys=True, default=str))


@dataclass(frozen=True)
class PhotoSet:
    """Photos with their boxes: the train or the held-out part of one fold.

    images and annotations are tables as in `data.dataset.Dataset`; photos run parallel to images.
    """

    images: pd.DataFrame
    annotations: pd.DataFrame
    photos: list[Photo]


@dataclass(frozen=True)
class TrainTask:
    """What the process that trains must know besides the framework's own config."""

    run: Path  # where the results go; the backend's scratch is run/work
    label: str  # names the run in messages
    device: str  # "cpu" or "cuda:<index>"
    seed: int

    @property
    def work(self) -> Path:
        return self.run / "work"


@dataclass(frozen=True)
class TrainJob:
    """One training: everything a backend needs, nothing it must look up."""

    model: ModelConfig
    run: Path  # where the results go; the backend's scratch is run/work
    classes: tuple[str, ...]
    train: PhotoSet
    held_out: PhotoSet
    repaired: set[Path]  # photos that decoding repairs, see data.photos
    settings: Settings
    device: str  # "cpu" or "cuda:<index>"
    seed: int
    workers: int  # processes that read photos, for each that trains; 0 reads in that one
    gpus: int = 1  # processes that train, each on a GPU of its own (on the CPU, if `device` is that)
    nodes: int = 1  # machines that have these GPUs, as many each

    @property
    def work(self) -> Path:
        return self.run / "work"

    @property
    def task(self) -> TrainTask:
        return TrainTask(self.run, f"{self.model.name} {self.run.name}", self.device, self.seed)


@dataclass(frozen=True)
class Trained:
    """What a training returns: files below the run's folder and the best epoch's mAP50."""

    checkpoint: Path
    config: Path
    best_epoch: int  # from 1
    best_map50: float  # on the held-out photos, by the framework's own counting
    pretrained: str  # where the first weights came from, or "from scratch"
    resolved: dict[str, Any]  # epochs, image_size, batch
    recovery: dict[str, Any] = field(default_factory=dict)  # how it departed from its config, see recovery


@dataclass(frozen=True)
class RawBoxes:
    """Detections of one image: (n, 4) corners in its pixels, (n,) scores, (n,) 0-based labels."""

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


class Detector(Protocol):
    """A trained model. `batch` is how many images it likes at once.

    Those that are `Shrinking` are faster with several views: a photo is resized once for all of them.
    """

    batch: int

    def predict(self, images: Sequence[Image], scale: float) -> list[RawBoxes]:
        """Detect in (h, w, 3) RGB images; `scale` multiplies the size of the network's input."""
        ...


class Shrinking:
    """A detector that resizes photos apart from detecting in them. Both take and give RGB."""

    device: str  # "cpu" or "cuda:<index>"

    def shrink(self, image: Image, scale: float) -> tuple[Image, tuple[float, float]]:
        """The image as the network takes it, and by what its width and height were multiplied.

        Called from several threads.
        """
        raise NotImplementedError

    def find(self, images: Sequence[Image]) -> list[RawBoxes]:
        """Detect in images that are resized already; boxes are in their pixels."""
        raise NotImplementedError

    def twin(self) -> "Shrinking":
        """The same detector for another thread: it shares the weights, and nothing that detecting changes."""
        raise NotImplementedError

    def predict(self, images: Sequence[Image], scale: float) -> list[RawBoxes]:
        """See `Detector`."""
        small = [self.shrink(image, scale) for image in images]
        found = self.find([image for image, _ in small])
        return [enlarged(raw, factor) for raw, (_, factor) in zip(found, small, strict=True)]


def enlarged(raw: RawBoxes, factor: tuple[float, float]) -> RawBoxes:
    """Boxes in pixels of a photo, given by what its width and height were multiplied before."""
    corners = raw.boxes_xyxy / np.array([*factor, *factor], np.float32)
    return RawBoxes(corners.astype(np.float32), raw.scores, raw.labels)


def by_shape(images: Sequence[Image]) -> list[list[int]]:
    """Positions of images that have the same shape: what goes into a batch without padding.

    Padding to a batch's largest would let boxes depend on the photos that happen to be in it.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        groups.setdefault(image.shape, []).append(i)
    return list(groups.values())


def cpu_batch(image_size: int, most: int) -> int:
    """Photos at once on a CPU: `most` of 320 pixels, fewer of larger ones; more only strain its caches."""
    return max(1, min(most, round(most * (320 / image_size) ** 2)))


def select_device(device: str | None, gpus: int = 1) -> str:
    """The device to use: the asked one, else the first GPU if there is one, else the CPU.

    Raises PipelineError when there are not so many GPUs; several are always the first ones.
    """
    import torch

    if gpus > 1 and device != "cpu" and torch.cuda.device_count() < gpus:
        raise PipelineError(f"GPUS={gpus}: torch sees {torch.cuda.device_count()} GPUs here (make doctor)")
    if device in (None, ""):
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    index = device.removeprefix("cuda").removeprefix(":") or "0"
    count = torch.cuda.device_count()
    if not index.isdigit() or int(index) >= count:
        raise PipelineError(
            f"device '{device}': torch sees {count} GPUs; expected cpu or cuda:<index> (make doctor)"
        )
    return f"cuda:{index}"
