"""YOLOv5 and its successors through ultralytics (AGPL-3.0).

The framework rewrites photos in place, caches labels beside them and drops bad ones silently. So each run
gets its own tree of links and labels below run/work, and the number of photos it took is compared with
ours.
"""

import contextlib
import copy
import functools
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
import yaml

from pipeline.backends import ultralytics_setup

ultralytics_setup.install()  # before anything imports ultralytics

import ultralytics
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import nms, torch_utils

from pipeline.backends import distributed, ultralytics_trainer
from pipeline.backends.base import (
    MAX_BOXES,
    SCORE_FLOOR,
    Image,
    ModelConfig,
    PhotoSet,
    RawBoxes,
    Settings,
    Shrinking,
    Trained,
    TrainJob,
    TrainTask,
    by_shape,
    cpu_batch,
)
from pipeline.backends.checkpoints import BEST, LAST, save_tensors
from pipeline.backends.recovery import Recovery, recovering
from pipeline.backends.streams import sharing_weights
from pipeline.backends.weights import local_weights, say_scratch
from pipeline.boxes import xyxy_to_xywh
from pipeline.data.photos import stage_photos, staged_name
from pipeline.errors import PipelineError
from pipeline.paths import atomic, shown, weights_dir, write_text

ultralytics_setup.secure(tasks)
ultralytics_setup.keep_threads(torch_utils, torch.get_num_threads())
# The framework's NMS gives up after seconds and leaves the rest of the batch without a box.
nms.non_max_suppression = functools.partial(nms.non_max_suppression, max_time_img=1e6)
NMS_IOU = 0.7
# Arguments of the framework that the pipeline sets itself.
OURS = {
    "batch",
    "data",
    "deterministic",
    "device",
    "epochs",
    "exist_ok",
    "imgsz",
    "model",
    "name",
    "plots",
    "project",
    "resume",
    "save",
    "save_dir",
    "seed",
    "val",
    "verbose",
    "workers",
}
KEYS = {"_base_", "model", "weights", "epochs", "image_size", "batch", "resources", "train"}


def versions() -> dict[str, str]:
    return {"ultralytics": ultralytics.__version__, "torch": torch.__version__}


def read_config(path: Path) -> dict[str, Any]:
    """A leaf config over its `_base_` (a path beside it); mappings merge, other values replace."""
    values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if unknown := set(values) - KEYS:
        raise PipelineError(
            f"{shown(path)}: unknown key '{sorted(unknown)[0]}'; known: {', '.join(sorted(KEYS))}"
        )
    if base := values.pop("_base_", None):
        merged = read_config(path.parent / base)
        merged["train"] = merged.get("train", {}) | values.pop("train", {})
        values = merged | values
    return values


def resolve(model: ModelConfig, settings: Settings) -> dict[str, Any]:
    """The config with a run's overrides: what is compared when the same command comes again."""
    values = read_config(model.path)
    for key in ("epochs", "image_size", "batch"):
        if (asked := getattr(settings, key)) is not None:
            values[key] = asked
    values["train"] = values.get("train", {}) | settings.options
    if taken := sorted(OURS & set(values["train"])):
        raise PipelineError(
            f"{shown(model.path)}: option '{taken[0]}' is set by the pipeline; use EPOCHS=, IMAGE_SIZE=, "
            "BATCH=, SEED=, DEVICE= or WORKERS="
        )
    automatic = str(values["train"].get("optimizer", "auto")).lower() == "auto"
    if automatic and (taken := sorted({"lr0", "momentum"} & set(values["train"]))):
        raise PipelineError(
            f"{shown(model.path)}: option '{taken[0]}': optimizer=auto ignores it; add optimizer=AdamW or SGD"
        )
    return values


def _learnable(photos: PhotoSet) -> pd.DataFrame:
    """The boxes but for crowds, which the framework would take for single objects."""
    return photos.annotations[photos.annotations["iscrowd"] == 0]


def _stage(job: TrainJob, part: str, photos: PhotoSet) -> None:
    """Links to the photos and label files `class cx cy w h` (normalised), one a photo."""
    names = [
        staged_name(image_id, photo, job.repaired)
        for image_id, photo in zip(photos.images["image_id"], photos.photos, strict=True)
    ]
    data = job.work / "data"
    stage_photos(photos.photos, names, data / "images" / part, job.repaired)
    labels = data / "labels" / part
    labels.mkdir(parents=True, exist_ok=True)
    boxes = dict(list(_learnable(photos).groupby("image_id")))
    rows = photos.images[["image_id", "width", "height"]].itertuples(index=False)
    for (image_id, width, height), name in zip(rows, names, strict=True):
        lines = []
        if image_id in boxes:
            table = boxes[image_id]
            xywh = xyxy_to_xywh(table[["x1", "y1", "x2", "y2"]].to_numpy())
            xywh[:, :2] += xywh[:, 2:] / 2
            xywh /= [width, height, width, height]
            for label, row in zip(table["label"], xywh, strict=True):
                lines.append(f"{label} " + " ".join(f"{v:.8f}" for v in row.clip(0, 1)))
        (labels / name).with_suffix(".txt").write_text("\n".join(lines))


def _stage_data(job: TrainJob) -> Path:
    """The run's own data tree, made anew; returns its data.yaml."""
    shutil.rmtree(job.work / "data", ignore_errors=True)
    _stage(job, "train", job.train)
    _stage(job, "val", job.held_out)
    path = job.work / "data" / "data.yaml"
    names = dict(enumerate(job.classes))
    folders = {"path": str(path.parent), "train": "images/train", "val": "images/val"}
    write_text(path, yaml.safe_dump(folders | {"names": names}, sort_keys=False))
    return path


def _first_weights(model: str, wanted: str | None) -> tuple[str | bool, str]:
    """(value of ultralytics' `pretrained`, note): a local file, the framework's download, or False."""
    if not wanted:
        return False, "from scratch"
    if path := local_weights(wanted):
        return str(path), shown(path)
    from ultralytics.utils.downloads import attempt_download_asset

    try:
        weights_dir().mkdir(parents=True, exist_ok=True)
        path = Path(attempt_download_asset(weights_dir() / wanted))
    except (OSError, RuntimeError) as error:  # what its download raises without a net
        return False, say_scratch(model, wanted, str(error).splitlines()[0].strip("❌ "))
    if not path.is_file():
        return False, say_scratch(model, wanted, "no connection")
    return str(path), wanted


def train(job: TrainJob) -> Trained:
    """Train, or go on from the checkpoints in run/work of a training that was cut off."""
    values = resolve(job.model, job.settings)
    data = _stage_data(job)
    checkpoints = ultralytics_trainer.checkpoints(job.work)
    note = job.work / "pretrained.txt"
    with ultralytics_trainer.log_to(job.run / "train.log"):
        pretrained: str | bool = False
        if not checkpoints.newest(LAST):
            asked = values["train"].get("pretrained", True)  # false, or the name of a file
            wanted = asked if isinstance(asked, str) else values.get("weights") if asked else None
            pretrained, said = _first_weights(job.model.name, wanted)
            write_text(note, said)
    arguments = values["train"] | {
        "data": str(data),
        "project": str(job.work),
        "name": "train",
        "exist_ok": True,
        "device": _devices(job),
        "workers": job.workers,
        "model": values["model"],
        "pretrained": pretrained,
        "epochs": values["epochs"],
        "imgsz": values["image_size"],
        "batch": values["batch"] * job.gpus,  # the framework's is of all GPUs
        "seed": job.seed,
        "deterministic": True,
        "plots": False,
        "verbose": False,
        "val": True,
        "save": True,
        "save_dir": str(job.work / "train"),  # a resumed run would take the one in its checkpoint
    }
    counts = [
        [len(part.images), int((part.annotations["iscrowd"] == 0).sum())]
        for part in (job.train, job.held_out)
    ]
    attempt = functools.partial(ultralytics_trainer.run, arguments, counts, job.gpus, job.task)
    if job.gpus > 1:
        attempt = functools.partial(_run_ranks, arguments, counts, job)
    try:
        recovered = recovering(job.model.name, job.work, values["batch"], attempt)
    except ultralytics_trainer.BadArgumentError as error:
        raise PipelineError(f"{shown(job.model.path)}: {error}") from None
    best = checkpoints.newest(BEST) or checkpoints.newest(LAST)
    assert best is not None, "a training ends with a checkpoint"
    held = ultralytics_trainer.load_checkpoint(best)
    checkpoint, config = job.run / "best.pt", job.run / "config.yaml"
    with atomic(checkpoint) as temporary:
        save_tensors(ultralytics_trainer.without_optimizer(held), temporary)
    write_text(config, yaml.safe_dump(values, sort_keys=False))
    resolved = {key: values[key] for key in ("epochs", "image_size", "batch")}
    return Trained(
        checkpoint,
        config,
        int(held["epoch"]) + 1,
        float(held["train_metrics"]["fitness"]),
        note.read_text(encoding="utf-8"),
        resolved,
        recovered,
    )


def _devices(job: TrainJob) -> str:
    """The framework's `device`; it decides by it whether several processes train together."""
    if job.gpus == 1:
        return job.device.removeprefix("cuda:")
    if job.device == "cpu":
        raise PipelineError(f"{job.model.name}: ultralytics trains in several processes on GPUs only")
    return ",".join(map(str, range(job.gpus)))


def _run_ranks(arguments: dict[str, Any], counts: list[list[int]], job: TrainJob, recovery: Recovery) -> None:
    spec: dict[str, Any] = {"arguments": arguments, "counts": counts, "gpus": job.gpus}
    distributed.launch("ultralytics", job.task, recovery, job.gpus, **spec)


def run_rank(
    task: TrainTask, recovery: Recovery, arguments: dict[str, Any], counts: list[list[int]], gpus: int
) -> None:
    """One process of several that train a model; see `distributed`."""
    ultralytics_trainer.run(arguments, counts, gpus, task, recovery)


class _Detector(Shrinking):
    """A trained YOLO."""

    def __init__(self, yolo: YOLO, image_size: int, device: str) -> None:
        self.yolo, self.device = yolo, device
        self.half = device != "cpu"
        network: Any = yolo.model
        self.parameters = sum(p.numel() for p in network.parameters())
        self.stride = max(int(network.stride.max()), 32)
        self.image_size = math.ceil(image_size / self.stride) * self.stride  # as the trainer does
        self.batch = 16 if device != "cpu" else cpu_batch(self.image_size, 16)

    def shrink(self, image: Image, scale: float) -> tuple[Image, tuple[float, float]]:
        """Resized to fit the square, as the framework's letterbox does before it pads."""
        side = max(round(self.image_size * scale / self.stride), 1) * self.stride
        height, width = image.shape[:2]
        ratio = min(side / height, side / width)
        to = (max(round(width * ratio), 1), max(round(height * ratio), 1))
        if to == (width, height):
            return image, (1.0, 1.0)
        small: Any = cv2.resize(image, to, interpolation=cv2.INTER_LINEAR)
        return small, (to[0] / width, to[1] / height)

    def find(self, images: Sequence[Image]) -> list[RawBoxes]:
        found: list[Any] = [None] * len(images)
        for group in by_shape(images):
            height, width = images[group[0]].shape[:2]
            padded = [math.ceil(side / self.stride) * self.stride for side in (height, width)]
            # In the middle, grey around it, rounded as the framework's letterbox does.
            top, left = (
                round((whole - side) / 2 - 0.1) for whole, side in zip(padded, (height, width), strict=True)
            )
            bgr = np.full((len(group), *padded, 3), 114, np.uint8)
            for k, i in enumerate(group):
                bgr[k, top : top + height, left : left + width] = images[i][..., ::-1]
            pixels = torch.from_numpy(bgr).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
            for i, table in zip(group, self.detect(pixels), strict=True):
                values = table.float().cpu().numpy()  # x1 y1 x2 y2 score label
                corners = values[:, :4] - np.array([left, top] * 2, np.float32)
                corners = corners.clip(0, [width, height] * 2).astype(np.float32)
                found[i] = RawBoxes(corners, values[:, 4], values[:, 5].astype(np.int64))
        return found

    @functools.cached_property
    def network(self) -> Any:
        """The network that predicts: norms fused into convolutions, in half precision on a GPU."""
        self.yolo.predict(
            np.zeros((self.stride, self.stride, 3), np.uint8),
            imgsz=self.stride,
            device=self.device,
            verbose=False,
            save=False,
            quantize=16 if self.half else None,
        )
        predictor: Any = self.yolo.predictor
        return predictor.model

    def twin(self) -> "_Detector":
        other = copy.copy(self)
        vars(other)["network"] = sharing_weights(self.network, self.network.backend.model)
        return other

    @torch.inference_mode()
    def detect(self, pixels: torch.Tensor) -> Any:
        """See `cost.Measured`."""
        network = self.network
        rgb = pixels.flip(1)
        found = network((rgb.half() if network.fp16 else rgb.float()).div_(255))
        end2end = getattr(network, "end2end", False)
        return nms.non_max_suppression(found, SCORE_FLOOR, NMS_IOU, max_det=MAX_BOXES, end2end=end2end)

    def full_work(self) -> contextlib.AbstractContextManager[None]:
        """Nothing to do: the work of a one-stage network is always the same."""
        return contextlib.nullcontext()


def untrained(model: ModelConfig, settings: Settings, n_classes: int, device: str) -> _Detector:
    """A config's detector with random weights, to measure what it costs."""
    values = resolve(model, settings)
    yolo: Any = YOLO(values["model"], task="detect")
    yolo.model = DetectionModel(values["model"], nc=n_classes, verbose=False)
    return _Detector(yolo, values["image_size"], device)


def load(checkpoint: Path, config: Path, classes: tuple[str, ...], device: str) -> _Detector:
    """A detector from a run's checkpoint and resolved config."""
    try:
        values = yaml.safe_load(config.read_text(encoding="utf-8"))
        detector = _Detector(YOLO(str(checkpoint), task="detect"), int(values["image_size"]), device)
    except (OSError, RuntimeError, KeyError, EOFError, TypeError) as error:  # TypeError: not a plain model
        reason = " ".join(str(error).split())[:200]
        raise PipelineError(f"{shown(checkpoint)}: not a whole checkpoint ({reason})") from None
    names = tuple(detector.yolo.names.values())
    if names != classes:
        raise PipelineError(f"{shown(checkpoint)}: trained on classes {names}, expected {classes}")
    return detector
