"""ultralytics' trainer as the pipeline runs it: our checkpoints, progress, random states and recovery.

The framework's own checkpoint to go on from holds the averaged weights alone, in half precision, and
goes on training from those. Ours holds the weights, their average and the optimizer as they are, so that a
resumed training is the undisturbed one, but for what lives in memory alone: gradients not yet applied where
several batches make a step (batch < nbs). Mosaic draws its partners from all photos.
"""

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from pipeline.backends import ultralytics_setup

ultralytics_setup.install()  # before anything imports ultralytics

from ultralytics.data import base
from ultralytics.data.augment import Mosaic
from ultralytics.models.rtdetr.train import RTDETRTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import torch_safe_load
from ultralytics.utils import DEFAULT_CFG_DICT, DEFAULT_CFG_KEYS, LOCAL_RANK, LOGGER, SETTINGS
from ultralytics.utils.callbacks import raytune
from ultralytics.utils.torch_utils import get_torch_device_backend, unwrap_model

from pipeline.data.run_card import RecoveryNote
from pipeline.errors import PipelineError, reason
from pipeline.inference.detector import Detector
from pipeline.paths import shown
from pipeline.training.pretrained import take_detector
from pipeline.training.sampling import RepeatingSampler, repeats_of
from pipeline.training.seeds import Places, take_places
from pipeline.training.session import Session
from pipeline.training.staging import check_counts
from pipeline.training.validation import validate

EMA_STEPS = 2000  # over which the decay of the weights' average rises, as the framework has it


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's dictionary, built from known classes only; raises PipelineError."""
    try:
        checkpoint: dict[str, Any] = torch_safe_load(path, safe_only=True)[0]
        network = checkpoint.get("ema") or checkpoint.get("model")
    except Exception as error:  # whatever its unpickler makes of damaged or foreign bytes
        raise PipelineError(
            f"{shown(path)}: not a whole checkpoint of plain weights ({reason(error)})"
        ) from None
    if not isinstance(network, nn.Module):
        raise PipelineError(f"{shown(path)}: not a checkpoint of ultralytics: it holds no network")
    return checkpoint


def without_optimizer(held: Mapping[str, Any]) -> dict[str, Any]:
    """What is needed to predict: the averaged weights in half precision (fp16, clamped to its range)."""
    model = copy.deepcopy(held["ema"]).half().requires_grad_(False)
    for value in model.state_dict().values():
        if value.is_floating_point():
            torch.nan_to_num_(value)
    arguments = {k: v for k, v in (DEFAULT_CFG_DICT | held["train_args"]).items() if k in DEFAULT_CFG_KEYS}
    model.args = dict(arguments)
    none = dict.fromkeys(("ema", "optimizer", "scaler", "weights", "updates"))
    return {**held, **none, "epoch": -1, "model": model, "train_args": arguments}


class _Trainer(DetectionTrainer):  # type: ignore[misc]
    """The framework's trainer: best epoch by mAP50, checkpoints of our session, no recovery but ours."""

    session: Session
    config: Mapping[str, Any]  # of the model, resolved
    detector: Callable[[Any, int, str], Detector]  # of a network, an image size and a device
    # The framework's own, None until the training is set up.
    model: Any
    ema: Any
    optimizer: Any
    loss_items: Any
    places: Places

    def _setup_ddp(self) -> None:
        """The process group is there already; only the device is chosen."""
        self.device = torch.device("cuda", LOCAL_RANK)
        self.accelerator = get_torch_device_backend(self.device)
        self.accelerator.set_device(LOCAL_RANK)

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        model = super().get_model(cfg, weights, verbose)
        if not self.resume:
            take_detector(self.session.job, model)
        return model

    def get_dataloader(self, path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """The held-out photos are read by our own validation."""
        if mode == "val":
            return self.train_loader
        loader, job = super().get_dataloader(path, batch_size, rank), self.session.job
        if repeats := repeats_of(job.train.boxes(), self.config.get("sampling", "plain")):
            LOGGER.info(str(repeats))
            rank, batches = self.session.rank, loader.batch_sampler.sampler
            batches.sampler = RepeatingSampler(loader.dataset, repeats, job.seed, rank, job.gpus)
        return loader

    def validate(self) -> tuple[dict[str, float], float]:
        """The averaged weights on the held-out photos, by our own scoring."""
        if self.world_size > 1:  # each process has noted its own batch norms' statistics
            for buffer in self.ema.ema.buffers():
                dist.broadcast(buffer, 0)
        job = self.session.job
        detector = self.detector(self.ema.ema, self.args.imgsz, job.device)
        return {}, validate(detector, job.held_out, len(job.classes)) or 0.0

    def set_model_attributes(self) -> None:
        # The framework does this on a GPU only; oneDNN's convolutions like it too.
        if self.device.type == "cpu":
            self.model = self.model.to(memory_format=torch.channels_last)
        super().set_model_attributes()

    def save_model(self) -> bool:
        networks = [unwrap_model(self.model), self.ema.ema]
        self.session.end_epoch(self.fitness, networks, self._state)
        self.stop |= self.session.ends_early
        return True

    def _state(self, whole: bool) -> dict[str, Any]:
        average = copy.deepcopy(self.ema.ema).to("cpu", memory_format=torch.contiguous_format)
        average.criterion, average.names = None, dict(enumerate(self.session.job.classes))
        state = {
            "epoch": self.epoch,
            "stopper": {"best_fitness": self.stopper.best_fitness, "best_epoch": self.stopper.best_epoch},
            "model": None,
            "ema": average,
            "updates": self.ema.updates,
            "train_args": vars(self.args),
        }
        parts = {"weights": unwrap_model(self.model), "optimizer": self.optimizer, "scaler": self.scaler}
        return state | {key: part.state_dict() if whole else None for key, part in parts.items()}

    def _close_dataloader_mosaic(self) -> None:
        """Before its last epochs, which its loader then begins anew."""
        super()._close_dataloader_mosaic()
        self.places.epoch = self.epoch

    def _load_checkpoint_state(self, ckpt: dict[str, Any]) -> None:
        super()._load_checkpoint_state(ckpt)
        unwrap_model(self.model).load_state_dict(ckpt["weights"])

    def final_eval(self) -> None:
        """Nothing: the best epoch was validated when it ran, and predict makes the tables."""

    def run_callbacks(self, event: str) -> None:
        super().run_callbacks(event)
        if event == "on_train_start":
            self._start()
        elif event == "on_train_epoch_start":
            self._oom_retries = 3  # its own answer, in the first epoch only, is used up: ours is for all
            self.session.begin_epoch()
        elif event == "on_train_batch_end":
            self.session.step(self.loss_items)

    def _start(self) -> None:
        dataset, sampler = self.train_loader.dataset, self.train_loader.batch_sampler
        job = self.session.job
        check_counts(job, len(dataset), sum(len(labels["cls"]) for labels in dataset.labels))
        if (decay := self.config.get("ema")) is not None:
            self.ema.decay = lambda updates: decay * (1 - math.exp(-updates / EMA_STEPS))
        take_places(dataset, job.seed)
        draw_from_all(dataset.transforms)
        self.places = sampler.sampler = Places(sampler.sampler, job.seed)
        self.places.epoch = self.start_epoch
        self.session.begin(self.epochs, len(self.train_loader), self.optimizer)


class _StretchedTrainer(_Trainer, RTDETRTrainer):  # type: ignore[misc]
    """RT-DETR's: its network and its dataset, which stretches photos, are those of RTDETRTrainer."""


def draw_from_all(step: Any) -> None:
    """Let every mosaic in a transform draw its partners from all photos."""
    if isinstance(step, Mosaic):
        step.buffer_enabled = False
    for part in (*getattr(step, "transforms", ()), getattr(step, "pre_transform", None)):
        if part is not None:
            draw_from_all(part)


def run(
    arguments: dict[str, Any],
    session: Session,
    detector: Callable[[Any, int, str], Detector],
    config: Mapping[str, Any],
) -> None:
    """Train in this process to the last epoch, from the newest checkpoint if there is one.

    arguments: the framework's own, for a training from the start; its batch is that of all GPUs.
    config: of the model, resolved.
    """
    SETTINGS.update(sync=False)
    raytune.callbacks.clear()  # at each epoch it asks for Ray's session, which warns that there is none
    session.take_log(LOGGER)
    if cache := session.job.cache:  # photos come from there, also in the processes that the framework starts
        decode: Any = base.imread
        base.imread = lambda file, **flags: cache.read(Path(file).name, lambda: decode(file, **flags))
        session.ending.callback(setattr, base, "imread", decode)
    last = session.last()
    arguments = arguments | in_parts(arguments, session.recovery, session.job.gpus)
    if last:
        session.resume(read_checkpoint(last), "weights", "optimizer", "train_args")
        if session.epoch >= arguments["epochs"] or session.ends_early:
            return
        kept = ("data", "device", "workers", "save_dir", "batch")
        resumed = {key: arguments[key] for key in kept} | {"resume": str(last)}
    kind = _StretchedTrainer if str(arguments["model"]).startswith("rtdetr") else _Trainer
    trainer: Any = kind(overrides=resumed if last else arguments)
    for key in ("nbs", "weight_decay"):  # resuming takes them from the checkpoint
        if key in arguments:
            setattr(trainer.args, key, arguments[key])
    trainer.session, trainer.detector, trainer.config = session, detector, config
    trainer.train()


def in_parts(arguments: dict[str, Any], recovery: RecoveryNote, gpus: int = 1) -> dict[str, Any]:
    """The arguments that let a batch go through in parts with the same step.

    The framework adds up gradients until `nbs` photos (64) make a step, and scales weight decay by the
    photos of a step over nbs: a smaller batch alone is right up to there. For larger ones nbs becomes the
    batch, and weight decay takes the factor that it loses by that.
    """
    batch = arguments["batch"]
    if recovery.parts == 1:
        return {}
    nbs = arguments.get("nbs", DEFAULT_CFG_DICT["nbs"])
    decay = arguments.get("weight_decay", DEFAULT_CFG_DICT["weight_decay"])
    changed: dict[str, Any] = {"batch": recovery.photos_at_once(batch // gpus) * gpus}
    if batch > nbs:
        changed |= {"nbs": batch, "weight_decay": decay * batch / nbs}
    return changed
