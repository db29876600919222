"""YOLOv5 and its successors through ultralytics (AGPL-3.0).

The framework rewrites photos in place, caches labels beside them and drops bad ones silently. So each run
gets its own tree of links and labels below run/work, and the number of photos it took is compared with ours.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.backends import ultralytics_setup

ultralytics_setup.install()  # before anything imports ultralytics

import ultralytics
from ultralytics.cfg import get_cfg
from ultralytics.nn import tasks
from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel, yaml_model_load
from ultralytics.utils import torch_utils

from pipeline.backends import ultralytics_trainer
from pipeline.backends.ultralytics_detector import detector_of
from pipeline.backends.ultralytics_trainer import read_checkpoint
from pipeline.data.models import ModelConfig, Overrides, merge_layers, read_layers
from pipeline.data.photos import refuse_small
from pipeline.errors import PipelineError, reason
from pipeline.inference.detector import Detector
from pipeline.paths import shown, weights_dir
from pipeline.training.backend import Backend, Resolved, SavedModel, WantedWeights
from pipeline.training.checkpoints import save_tensors
from pipeline.training.job import TrainJob
from pipeline.training.pretrained import GivenWeights, given_weights
from pipeline.training.recipe import (
    FrameworkKeys,
    Parts,
    Recipe,
    check_words,
    closed_epochs,
    parts_at_top,
    with_recipe,
)
from pipeline.training.session import Session
from pipeline.training.staging import data_folder, write_yolo

tasks.SAFE_LOAD = True  # it reads the environment once, when somebody first imports it
# It would take one thread less than there are cores, whatever OMP_NUM_THREADS says.
torch_utils.NUM_THREADS = torch.get_num_threads()
LEAST_SIDE = 10  # pixels; the framework leaves out photos with a shorter side
RTDETR_LEAST = 128  # pixels; its 300 queries are chosen among 336 cells of three maps there
# Arguments of the framework that the pipeline sets itself.
OURS = re.compile(
    "batch|data|deterministic|device|epochs|exist_ok|imgsz|model|name|plots|project|resume|save|save_dir|seed"
    "|verbose|workers"
)
WORDS = ("sampling", "ema", "freeze")  # of a recipe, that are no arguments of the framework
KEYS = ("model", "weights", "epochs", "image_size", "batch", "resources", "train", *WORDS)
HSV = {"hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4}  # the framework's own photometric changes


def recipe_parts(recipe: Recipe) -> Parts:
    """A recipe in the framework's arguments; what it does not name of the framework's own is off."""
    parts: Parts = {}
    if augment := recipe.augment:
        jitter = HSV if augment.photometric else dict.fromkeys(HSV, 0.0)
        parts["augment.flip"] = {"train": {"fliplr": augment.flip}}
        parts["augment.scale"] = {"train": {"scale": list(augment.scale), "translate": 0.0}}
        parts["augment.photometric"] = {"train": jitter}
        parts["augment.mosaic"] = {"train": {"mosaic": augment.mosaic}}
        parts["augment.mixup"] = {"train": {"mixup": augment.mixup}}
        mixes = augment.mosaic or augment.mixup
        parts["augment.close"] = {"train": {"close_mosaic": float(augment.close if mixes else 0)}}
    if recipe.schedule:
        parts["schedule"] = {"train": {"cos_lr": recipe.schedule == "cosine"}}
    for word, key in (("amp", "amp"), ("patience", "patience"), ("nominal_batch", "nbs")):
        if (value := getattr(recipe, word)) is not None:
            parts[word] = {"train": {key: value}}
    return parts | parts_at_top(recipe, WORDS)


KEYS_OF_RECIPES = FrameworkKeys("ultralytics", recipe_parts)


class Ultralytics(Backend):
    """See the module."""

    suffix = ".pt"
    # It takes the number of processes from its list of GPUs, all of which it looks for on each machine.
    several_nodes = False

    def versions(self) -> dict[str, str]:
        return {"ultralytics": ultralytics.__version__, "torch": torch.__version__}

    def resolve(self, model: ModelConfig, overrides: Overrides) -> Resolved:
        layers, chosen = with_recipe(read_layers(model.path), overrides, KEYS_OF_RECIPES)
        values = merge_layers(layers, KEYS)
        if chosen:
            values["recipe"] = chosen.note(values, model.path)
        at_top = WORDS[:2]  # `freeze` is an argument of the framework, too
        values |= overrides.sizes() | {key: v for key, v in overrides.options.items() if key in at_top}
        check_words(values, WORDS, shown(model.path))
        options = {key: value for key, value in overrides.options.items() if key not in at_top}
        train = values["train"] = values.get("train", {}) | options
        closed = train.get("close_mosaic")
        if isinstance(closed, float) and closed <= 1:  # a recipe's share of the epochs
            train["close_mosaic"] = closed_epochs(closed, int(values["epochs"]))
        if taken := sorted(filter(OURS.fullmatch, train)):
            raise PipelineError(
                f"{shown(model.path)}: option '{taken[0]}' is set by the pipeline; use EPOCHS=, IMAGE_SIZE=, "
                "BATCH=, SEED=, DEVICE= or WORKERS="
            )
        automatic = str(train.get("optimizer", "auto")).lower() == "auto"
        if automatic and (taken := sorted({"lr0", "momentum"} & set(train))):
            raise PipelineError(
                f"{shown(model.path)}: option '{taken[0]}': optimizer=auto ignores it; "
                "add optimizer=AdamW or SGD"
            )
        try:
            get_cfg(overrides=train)
        except (SyntaxError, TypeError, ValueError) as error:
            raise PipelineError(f"{shown(model.path)}: {reason(error)}") from None
        epochs, image_size, batch = (int(values[key]) for key in ("epochs", "image_size", "batch"))
        if image_size < RTDETR_LEAST and values["model"].startswith("rtdetr"):
            raise PipelineError(
                f"{shown(model.path)}: image size {image_size}: expected {RTDETR_LEAST} pixels or more"
            )
        return Resolved(values, epochs, image_size, batch, image_size, values.get("resources", {}))

    def stage(self, job: TrainJob) -> None:
        refuse_small(job.train.photos, LEAST_SIDE, "ultralytics")
        write_yolo(job)

    def wanted_weights(self, job: TrainJob) -> WantedWeights:
        values = self.resolve(job.model, job.overrides).values
        stated = values["train"].get("pretrained", True)  # false, or the name of a file
        return WantedWeights(stated if isinstance(stated, str) else values.get("weights") if stated else None)

    def download(self, wanted: str) -> str:
        from ultralytics.utils.downloads import attempt_download_asset

        weights_dir().mkdir(parents=True, exist_ok=True)
        path = Path(attempt_download_asset(weights_dir() / wanted))
        if not path.is_file():
            raise OSError("no connection")
        return str(path)

    def fit(self, job: TrainJob, session: Session) -> None:
        values = self.resolve(job.model, job.overrides).values
        session.patience = values["train"].get("patience")
        frozen: dict[str, Any] = {}
        if values.get("freeze") and any(job.weights.values()):
            frozen = {"freeze": len(yaml_model_load(values["model"])["backbone"])}
        arguments = (frozen | values["train"]) | {
            "patience": 0,  # the session ends it
            "data": str(data_folder(job) / "data.yaml"),
            "device": _devices(job),
            "workers": job.workers,
            "model": values["model"],
            "pretrained": False,  # see _Trainer.get_model
            "epochs": values["epochs"],
            "imgsz": values["image_size"],
            "batch": values["batch"] * job.gpus,  # the framework's is of all GPUs
            "seed": job.seed,
            "plots": False,
            "verbose": False,
            "save_dir": str(job.work / "train"),
        }
        ultralytics_trainer.run(arguments, session, detector_of, values)

    def load(self, model: SavedModel, device: str) -> Detector:
        network = read_checkpoint(model.checkpoint)["model"].float()
        return detector_of(network, int(model.config["image_size"]), device)

    def untrained(self, model: ModelConfig, overrides: Overrides, n_classes: int, device: str) -> Detector:
        values = self.resolve(model, overrides).values
        kind = RTDETRDetectionModel if values["model"].startswith("rtdetr") else DetectionModel
        network = kind(values["model"], nc=n_classes, verbose=False)
        network.args = values["train"]
        return detector_of(network, values["image_size"], device)

    def read_checkpoint(self, path: Path) -> dict[str, Any]:
        return read_checkpoint(path)

    def read_detector(self, path: Path) -> GivenWeights:
        checkpoint = read_checkpoint(path)
        network = (checkpoint.get("ema") or checkpoint["model"]).float()
        return given_weights(network.state_dict(), list(network.names.values()))

    def exported(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        return ultralytics_trainer.without_optimizer(checkpoint)

    def read_weights(self, path: Path) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = read_checkpoint(path)["model"].state_dict()
        return weights

    def write_weights(self, path: Path, weights: Mapping[str, Tensor], target: Path) -> None:
        checkpoint = read_checkpoint(path)
        checkpoint["model"].load_state_dict(weights)
        save_tensors(checkpoint, target)


def _devices(job: TrainJob) -> str:
    """The framework's `device`; it decides by it whether several processes train together."""
    if job.gpus > 1 and job.device == "cpu":
        raise PipelineError(f"{job.model.name}: ultralytics trains in several processes on GPUs only")
    return ",".join(map(str, range(job.gpus))) if job.gpus > 1 else job.device.removeprefix("cuda:")
