"""What a card gives at most: our own training and prediction with nothing to wait for.

Training: the real run, every flag of it, on one batch that lies on the device: `python -m
benchmarks.gpu.limit FILE SECONDS`, where FILE holds a pickled TrainJob. Prediction: `detect` on the batches
that predicting makes of the same views of the same photos, once they lie on the device.
"""

import contextlib
import copy
import io
import json
import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import torch

from pipeline.data.photos import Photo
from pipeline.data.run_card import RecoveryNote
from pipeline.inference.batches import batches_by_size, batches_by_view
from pipeline.inference.detector import Detector
from pipeline.inference.pixels import DevicePixels, HostPixels
from pipeline.training.backend import load_backend
from pipeline.training.job import TrainJob
from pipeline.training.session import Session
from pipeline.training.staging import stage
from pipeline.views import View

WARM_UP = 5  # steps before the clock starts
GIB = 2**30
ENDLESS = 10**6  # batches in an epoch, so that none ends


def wait(device: str) -> None:
    """Until the device has done all it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def to_device(value: Any, device: str) -> Any:
    """Everything in a batch that can lie on a device, on it."""
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(item, device) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(item, device) for item in value)
    return value


class Resident:
    """A framework's loader whose first batch lies on the device and comes again and again."""

    def __init__(self, loader: Any, device: str) -> None:
        self.loader = loader
        self.batch = to_device(next(iter(loader)), device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return ENDLESS

    def __iter__(self) -> Iterator[Any]:
        return (copy.copy(self.batch) for _ in range(ENDLESS))

    def reset(self) -> None:
        """There is nothing to read anew."""


class Enough(BaseException):
    """Ends a training whose speed is known; no framework catches it."""


class Clock(Session):
    """A session without progress and checkpoints that ends when it knows the speed."""

    def __init__(self, job: TrainJob, seconds: float) -> None:
        super().__init__(job, RecoveryNote(), "")
        self.seconds, self.steps, self.began = seconds, 0, 0.0
        self.per_step = 0.0

    def begin(self, epochs: int, steps_per_epoch: int, optimizer: Any) -> None:
        """Show nothing."""

    def step(self, losses: Any) -> None:
        super().step(losses)
        self.steps += 1
        if self.steps == WARM_UP:
            wait(self.job.device)
            self.began = time.monotonic()
        elif self.steps > WARM_UP and time.monotonic() - self.began > self.seconds:
            wait(self.job.device)
            self.per_step = (time.monotonic() - self.began) / (self.steps - WARM_UP)
            raise Enough


@contextlib.contextmanager
def resident_batch(job: TrainJob) -> Iterator[list[Resident]]:
    """Within it the framework reads its first batch and gets no other; yields a list for that loader."""
    made: list[Resident] = []

    def resident(loader: Any) -> Any:
        made.append(Resident(loader, job.device))
        return made[0]

    if job.model.backend == "mmdet":
        from mmengine.runner import Runner as owner

        name, make = "build_dataloader", owner.build_dataloader

        def patched(*arguments: Any, **named: Any) -> Any:
            loader = make(*arguments, **named)
            return loader if made else resident(loader)  # the first is that of the training

        changed: Any = staticmethod(patched)
    elif job.model.backend == "ultralytics":
        from ultralytics.models.yolo.detect import DetectionTrainer as owner

        name, make = "get_dataloader", owner.get_dataloader

        def changed(self: Any, *arguments: Any, mode: str = "train", **named: Any) -> Any:
            loader = make(self, *arguments, mode=mode, **named)
            return resident(loader) if mode == "train" else loader
    else:
        from pipeline.training import loop as owner

        name = "loader_of"

        def changed(photos: Any, batches: Any, *_: Any) -> Any:
            count = len(photos.photos)
            batches.__class__ = type("Endless", (type(batches),), {"__len__": lambda self: ENDLESS})
            return resident([[photos[0, i % count] for i in range(batches.batch)]])

    with mock.patch.object(owner, name, changed):
        yield made


def photos_in(batch: Any) -> int:
    """How many photos are in a framework's batch."""
    if isinstance(batch, dict):
        return len(batch["data_samples"] if "data_samples" in batch else batch["img"])
    return len(batch)


def training(job: TrainJob, seconds: float) -> dict[str, float]:
    """Photos a second of the job's training step on a resident batch, and the GiB that it takes at most."""
    job = replace(job, run=job.run / "limit", workers=0)
    job.work.mkdir(parents=True, exist_ok=True)
    backend = load_backend(job.model.backend)
    stage(job)
    backend.stage(job)
    clock = Clock(job, seconds)
    with resident_batch(job) as made, contextlib.suppress(Enough):
        backend.fit(job, clock)
    memory = torch.cuda.max_memory_allocated() / GIB if job.device != "cpu" else 0.0
    return {"rate": photos_in(made[0].batch) / clock.per_step, "memory": memory}


def prediction(detector: Detector, photos: Sequence[Photo], views: Sequence[View], seconds: float) -> float:
    """Photos a second of `detect` on resident batches of all views, over and over for so many seconds."""
    scales = list(dict.fromkeys(view.scale for view in views))
    on_device = detector.device != "cpu"
    pixels: Any = (DevicePixels if on_device else HostPixels)(detector, scales)
    batches = (batches_by_size if on_device else batches_by_view)(detector, photos, views)
    held = {position: pixels.upload(pixels.read(photo)) for position, photo in enumerate(photos)}
    resident = []
    for batch in batches:
        of_batch = {image.photo: held[image.photo] for image in batch.images}
        resident.append(pixels.batch(batch, of_batch).to(detector.device))
    for batch in resident:
        detector.detect(batch)
    wait(detector.device)
    began, rounds = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        for batch in resident:
            detector.detect(batch)
        wait(detector.device)
        rounds += 1
    return len(photos) * rounds / (time.monotonic() - began)


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        job = pickle.load(file)
    with contextlib.redirect_stdout(io.StringIO()):
        measured = training(job, float(sys.argv[2]))
    print(json.dumps(measured))
