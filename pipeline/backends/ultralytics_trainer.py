"""ultralytics' trainer as the pipeline runs it: our checkpoints, progress, random states and recovery.

The framework's own checkpoint to go on from holds the averaged weights alone, in half precision, and
goes on training from those. Ours holds the weights, their average and the optimizer as they are, so that a
resumed training is the undisturbed one, but for what lives in memory alone: gradients not yet applied where
several batches make a step (batch < nbs), mosaic's list of recently read photos, and the random states of
processes that read photos (WORKERS > 0).
"""

import contextlib
import copy
import gc
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from pipeline.backends import ultralytics_setup

ultralytics_setup.install()  # before anything imports ultralytics

from ultralytics import __version__
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import torch_safe_load
from ultralytics.utils import DEFAULT_CFG_DICT, DEFAULT_CFG_KEYS, LOGGER, RANK, SETTINGS
from ultralytics.utils.torch_utils import unwrap_model

from pipeline.backends.base import TrainTask
from pipeline.backends.checkpoints import BEST, LAST, Checkpoints, save_tensors
from pipeline.backends.progress import Progress
from pipeline.backends.recovery import LossNotFiniteError, Recovery, check_weights, scaled_lr
from pipeline.backends.seeds import reseed
from pipeline.errors import PipelineError
from pipeline.paths import shown


class BadArgumentError(PipelineError):
    """An argument that the framework does not take."""


def checkpoints(work: Path) -> Checkpoints:
    return Checkpoints(work / "checkpoints", ".pt")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's dictionary, built from known classes only."""
    return torch_safe_load(path, safe_only=True)[0]


def without_optimizer(held: dict[str, Any]) -> dict[str, Any]:
    """What is needed to predict: the averaged weights in half precision (fp16, clamped to its range)."""
    model = copy.deepcopy(held["ema"]).half()
    for value in model.state_dict().values():
        if value.is_floating_point():
            torch.nan_to_num_(value)
    for parameter in model.parameters():
        parameter.requires_grad = False
    arguments = {k: v for k, v in (DEFAULT_CFG_DICT | held["train_args"]).items() if k in DEFAULT_CFG_KEYS}
    model.args = dict(arguments)
    return {
        "epoch": -1,
        "model": model,
        "ema": None,
        "optimizer": None,
        "train_args": arguments,
        "train_metrics": held["train_metrics"],
        "date": held["date"],
        "version": __version__,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
    }


class _Trainer(DetectionTrainer):  # type: ignore[misc]
    """The framework's trainer: best epoch by mAP50, checkpoints of our own, no recovery but ours."""

    task: TrainTask
    store: Checkpoints
    recovery: Recovery
    progress: Progress
    # The framework's own, None until the training is set up.
    model: Any
    ema: Any
    optimizer: Any
    metrics: Any
    loss: Any
    tloss: Any

    def validate(self) -> tuple[dict[str, float] | None, float | None]:
        before = self.best_fitness
        metrics, _ = super().validate()
        if metrics is None:  # not the leading one of several processes
            return None, None
        fitness = float(metrics["metrics/mAP50(B)"])
        self.best_fitness: Any = fitness if before is None else max(before, fitness)
        return metrics, fitness

    def set_model_attributes(self) -> None:
        # Called right after the model was moved to its device. The framework does this on a GPU only;
        # oneDNN's convolutions like it too.
        if self.device.type == "cpu":
            self.model = self.model.to(memory_format=torch.channels_last)
        super().set_model_attributes()

    def optimizer_step(self) -> None:
        with scaled_lr(self.optimizer, self.recovery.lr_factor):
            super().optimizer_step()

    def save_model(self) -> bool:
        epoch, losses = self.epoch + 1, self.tloss
        model, average = unwrap_model(self.model), self.ema.ema
        check_weights(self.task.label, epoch, model.state_dict() | average.state_dict())
        self.progress.end_epoch(float(sum(losses.values())), self.fitness)
        average = copy.deepcopy(average).to(memory_format=torch.contiguous_format)
        average.criterion = None
        held = {
            "epoch": self.epoch,
            "best_fitness": self.best_fitness,
            "stopper": {"best_fitness": self.stopper.best_fitness, "best_epoch": self.stopper.best_epoch},
            "model": None,
            "ema": average,
            "updates": self.ema.updates,
            "weights": model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "train_args": vars(self.args),
            "train_metrics": {**self.metrics, "fitness": self.fitness},
            "date": datetime.now().astimezone().isoformat(),
            "version": __version__,
        }
        if self.best_fitness == self.fitness:
            slim = held | dict.fromkeys(("weights", "optimizer", "scaler"))
            with self.store.write(BEST, epoch) as path:
                save_tensors(slim, path)
        with self.store.write(LAST, epoch) as path:
            save_tensors(held, path)
        return True

    def _load_checkpoint_state(self, ckpt: dict[str, Any]) -> None:
        super()._load_checkpoint_state(ckpt)
        unwrap_model(self.model).load_state_dict(ckpt["weights"])

    def final_eval(self) -> None:
        """Nothing: the best epoch was validated when it ran, and predict makes the tables."""


def _check_counts(trainer: _Trainer, counts: list[list[int]]) -> None:
    """counts: [photos, boxes] of the train and the held-out part as they were staged."""
    loaders = (trainer.train_loader, trainer.test_loader)
    for part, loader, ours in zip(("train", "held-out"), loaders, counts, strict=True):
        taken, boxes = len(loader.dataset), sum(len(x["cls"]) for x in loader.dataset.labels)
        if [taken, boxes] != ours:
            raise PipelineError(
                f"ultralytics took {taken} of {ours[0]} {part} photos and {boxes} of {ours[1]} boxes; "
                f"see {shown(trainer.task.run / 'train.log')}"
            )


def _attach(trainer: _Trainer, counts: list[list[int]]) -> None:
    """Report to our progress bar and set the random states, through the framework's callbacks."""
    task, leads = trainer.task, RANK in (-1, 0)

    def start(trainer: _Trainer) -> None:
        _check_counts(trainer, counts)
        if leads:
            trainer.progress = Progress(
                task.run,
                task.label,
                trainer.epochs,
                len(trainer.train_loader),
                trainer.start_epoch,
                device=task.device,
            )

    def start_epoch(trainer: _Trainer) -> None:
        trainer._oom_retries = 3  # its own answer, in the first epoch only, is used up: ours is for all
        mixed = reseed(task.seed, trainer.epoch, max(RANK, 0))
        loader = trainer.train_loader
        # Reading processes have the next epoch's photos under way already: theirs are seeded once.
        if loader.num_workers == 0 or trainer.epoch == trainer.start_epoch:
            loader.generator.manual_seed(mixed)
            loader.reset()

    def step(trainer: _Trainer) -> None:
        if not torch.isfinite(trainer.loss):
            loss = float(trainer.loss)
            raise LossNotFiniteError(f"{task.label}: loss is {loss} at epoch {trainer.epoch + 1}")
        if leads:
            trainer.progress.step(float(sum(trainer.tloss.values())))

    trainer.add_callback("on_train_start", start)
    trainer.add_callback("on_train_epoch_start", start_epoch)
    trainer.add_callback("on_train_batch_end", step)
    trainer.add_callback("on_train_end", lambda t: t.progress.close())


def run(
    arguments: dict[str, Any], counts: list[list[int]], gpus: int, task: TrainTask, recovery: Recovery
) -> None:
    """Train in this process to the last epoch, from the newest checkpoint if there is one.

    arguments: the framework's own, for a training from the start; its batch is that of all GPUs.
    """
    SETTINGS.update(sync=False)
    store = checkpoints(task.work)
    last = store.newest(LAST)
    if store.epoch(LAST) >= arguments["epochs"]:
        return
    arguments = arguments | in_parts(arguments, recovery, gpus)
    if last:
        kept = ("data", "project", "name", "exist_ok", "device", "workers", "save_dir", "batch")
        resumed = {key: arguments[key] for key in kept} | {"resume": str(last)}
    with log_to(task.run / "train.log"):
        try:
            trainer: Any = _Trainer(overrides=resumed if last else arguments)
        except (SyntaxError, TypeError, ValueError) as error:  # what get_cfg raises for a bad key
            raise BadArgumentError(" ".join(str(error).split())[:300]) from None
        for key in ("nbs", "weight_decay"):  # resuming takes them from the checkpoint
            if key in arguments:
                setattr(trainer.args, key, arguments[key])
        trainer.task, trainer.store, trainer.recovery = task, store, recovery
        _attach(trainer, counts)
        trainer.train()
    del trainer
    gc.collect()


def in_parts(arguments: dict[str, Any], recovery: Recovery, gpus: int = 1) -> dict[str, Any]:
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


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Send the framework's messages to a file; of several processes the first says it for all."""
    handlers, level = LOGGER.handlers[:], LOGGER.level
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    LOGGER.handlers[:] = [file]
    LOGGER.setLevel(logging.INFO if RANK in (-1, 0) else logging.ERROR)
    try:
        yield
    finally:
        LOGGER.handlers[:] = handlers
        LOGGER.setLevel(level)
        file.close()
