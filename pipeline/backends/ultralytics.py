"""YOLOv5 and its successors through ultralytics (AGPL-3.0).

The framework rewrites photos in place, caches labels beside them and drops bad ones silently. So each run
gets its own tree of links and labels below run/work, and the number of photos it took is compared with ours.
"""

import copy
import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
import torchvision
from torch import Tensor

from pipeline.backends import ultralytics_setup

ultralytics_setup.install()  # before anything imports ultralytics

import ultralytics
from ultralytics.cfg import get_cfg
from ultralytics.nn import tasks
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import nms, torch_utils
from ultralytics.utils.ops import xywh2xyxy

from pipeline.backends import ultralytics_trainer
from pipeline.backends.ultralytics_trainer import read_checkpoint
from pipeline.data.models import ModelConfig, Overrides, read_yaml_config
from pipeline.data.photos import refuse_small
from pipeline.errors import PipelineError, reason
from pipeline.inference.detector import MAX_BOXES, SCORE_FLOOR, Detections, Detector, batch_on, has_half
from pipeline.inference.threads import sharing_weights
from pipeline.paths import shown, weights_dir
from pipeline.training.backend import Backend, Resolved, SavedModel, WantedWeights
from pipeline.training.checkpoints import save_tensors
from pipeline.training.job import TrainJob
from pipeline.training.session import Session
from pipeline.training.staging import data_folder, write_yolo

tasks.SAFE_LOAD = True  # it reads the environment once, when somebody first imports it
# It would take one thread less than there are cores, whatever OMP_NUM_THREADS says.
torch_utils.NUM_THREADS = torch.get_num_threads()
LEAST_SIDE = 10  # pixels; the framework leaves out photos with a shorter side
NMS_IOU = 0.7
CLASS_OFFSET = 7680  # pixels
# Arguments of the framework that the pipeline sets itself.
OURS = re.compile(
    "batch|data|deterministic|device|epochs|exist_ok|imgsz|model|name|plots|project|resume|save|save_dir|seed"
    "|verbose|workers"
)
KEYS = ("model", "weights", "epochs", "image_size", "batch", "resources", "train")


class Ultralytics(Backend):
    """See the module."""

    suffix = ".pt"
    # It takes the number of processes from its list of GPUs, all of which it looks for on each machine.
    several_nodes = False

    def versions(self) -> dict[str, str]:
        return {"ultralytics": ultralytics.__version__, "torch": torch.__version__}

    def resolve(self, model: ModelConfig, overrides: Overrides) -> Resolved:
        values = read_yaml_config(model.path, KEYS) | overrides.sizes()
        train = values["train"] = values.get("train", {}) | overrides.options
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
        weights = next((path for path in job.weights.values() if path), False)
        arguments = values["train"] | {
            "data": str(data_folder(job) / "data.yaml"),
            "device": _devices(job),
            "workers": job.workers,
            "model": values["model"],
            "pretrained": weights,
            "epochs": values["epochs"],
            "imgsz": values["image_size"],
            "batch": values["batch"] * job.gpus,  # the framework's is of all GPUs
            "seed": job.seed,
            "plots": False,
            "verbose": False,
            "save_dir": str(job.work / "train"),
        }
        ultralytics_trainer.run(arguments, session, YoloDetector)

    def load(self, model: SavedModel, device: str) -> "YoloDetector":
        network = read_checkpoint(model.checkpoint)["model"].float()
        return YoloDetector(network, int(model.config["image_size"]), device)

    def untrained(self, model: ModelConfig, overrides: Overrides, n_classes: int, device: str) -> Detector:
        values = self.resolve(model, overrides).values
        network = DetectionModel(values["model"], nc=n_classes, verbose=False)
        return YoloDetector(network, values["image_size"], device)

    def read_checkpoint(self, path: Path) -> dict[str, Any]:
        return read_checkpoint(path)

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
        return AutoBackend(model, device, fp16=self.half, fuse=True, verbose=False, end2end=False).eval()

    def clone(self) -> Self:
        other = copy.copy(self)
        vars(other)["network"] = sharing_weights(self.network, self.network.backend.model)
        return other

    @torch.inference_mode()
    def detect(self, pixels: Tensor) -> Detections:
        network = self.network
        outputs = network((pixels.half() if network.fp16 else pixels.float()).div_(255))
        outputs = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
        if getattr(network, "end2end", False) or outputs.shape[-1] == 6:  # it has suppressed already
            rows = nms.non_max_suppression(outputs, SCORE_FLOOR, max_det=MAX_BOXES, end2end=True)
            return Detections.of([(r[:, :4], r[:, 4], r[:, 5].long()) for r in rows])
        return suppressed(outputs.float())


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
